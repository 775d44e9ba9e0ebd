"""The data plane benchmark: what it makes of samples, what it reads of programs and of /proc, and one short run of the kernel's rows."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import dataplane  # noqa: E402
from dataplane_peers import cpu, failover_part, figures, iperf, load, measures, report  # noqa: E402
from dataplane_peers.aims import AIMS  # noqa: E402
from dataplane_peers.chain import find_program  # noqa: E402
from dataplane_peers.figures import Aim, Figure, Outcome  # noqa: E402
from dataplane_peers.roster import BY_NAME  # noqa: E402
from dataplane_peers.srwan_tun import parse_event, toml  # noqa: E402

from srwan.config import load_config  # noqa: E402
from srwan.testing.namespaces import Lab, LabError  # noqa: E402

TCP = {
    "start": {"tcp_mss": 1360},
    "end": {"sum_sent": {"retransmits": 3}, "sum_received": {"bytes": 1_400_000, "bits_per_second": 2.5e9}},
}
IPERF_BLOCK = 128 * 1024
"""What iperf3 writes and counts at a time, octets."""
FASTER = Aim("ours / theirs", "ours", "gbps", 2.0, is_most=False, other="theirs")


# --- figures ----------------------------------------------------------------------------------------------------------


def test_a_figure_is_the_median_with_its_spread() -> None:
    summary = figures.summarize({"one": [{"gbps": 1.0}, {"gbps": 9.0, "us": 4.0}, {}, {"gbps": 2.0}]})

    assert {"one": {"gbps": Figure(2.0, 1.0, 9.0, 3), "us": Figure(4.0, 4.0, 4.0, 1)}} == summary


def test_a_ratio_is_taken_within_a_repetition() -> None:
    """The machine was slow in the second one, for both alike; the ratio of the medians would be 1.5."""
    samples = {"ours": [{"gbps": 8.0}, {"gbps": 2.0}, {"gbps": 3.0}], "theirs": [{"gbps": 2.0}, {"gbps": 1.0}, {"gbps": 3.0}]}

    assert Figure(2.0, 1.0, 4.0, 3) == figures.compare(samples, FASTER)


def test_a_repetition_that_lacks_either_side_gives_no_ratio() -> None:
    samples = {"ours": [{"gbps": 8.0}, {}, {"gbps": 3.0}], "theirs": [{"gbps": 2.0}, {"gbps": 1.0}, {"gbps": 0.0}]}

    assert Figure(4.0, 4.0, 4.0, 1) == figures.compare(samples, FASTER)
    assert figures.compare({"ours": [{"gbps": 8.0}]}, FASTER) is None
    assert figures.compare({}, FASTER) is None


def test_a_difference_is_subtracted_and_a_lone_figure_stands_for_itself() -> None:
    added = Aim("added", "ours", "us", 20.0, is_most=True, other="kernel", is_difference=True, unit="us")
    lost = Aim("lost", "ours", "lost", 0.0, is_most=True, unit="packets")
    samples = {"ours": [{"us": 50.0, "lost": 0.0}, {"us": 31.0, "lost": 2.0}], "kernel": [{"us": 20.0}, {"us": 21.0}]}

    assert Figure(20.0, 10.0, 30.0, 2) == figures.compare(samples, added)
    assert Figure(1.0, 0.0, 2.0, 2) == figures.compare(samples, lost)


def test_all_measured_pairs_are_compared() -> None:
    samples: dict[str, list[dict[str, float]]] = {"ours": [{"gbps": 8.0, "us": 5.0}], "mine": [{}], "theirs": [{"gbps": 2.0, "us": 4.0}]}
    samples["kernel"] = [{"gbps": 16.0}]

    assert {"ours": {"theirs": {"gbps": Figure(4.0, 4.0, 4.0, 1)}, "kernel": {"gbps": Figure(0.5, 0.5, 0.5, 1)}}} == figures.ratios(
        samples, ["ours", "mine"], ["theirs", "kernel", "absent"], ["gbps"]
    )
    assert {"ours": {"us": Figure(1.0, 1.0, 1.0, 1)}} == figures.differences(samples, ["ours", "mine"], "theirs", ["us", "none"])


@pytest.mark.parametrize(
    ("value", "is_most", "expected"), [(2.0, False, "met"), (1.9, False, "missed"), (2.0, True, "met"), (2.1, True, "missed")]
)
def test_an_aim_is_met_up_to_its_bound(value: float, is_most: bool, expected: str) -> None:
    aim = Aim("aim", "ours", "gbps", 2.0, is_most=is_most)
    (outcome,) = figures.judge({"ours": [{"gbps": value}]}, [aim])

    assert expected == outcome.verdict
    assert "not measured" == Outcome(aim, None).verdict


def test_every_aim_names_systems_that_exist() -> None:
    known = {*BY_NAME, "relay-kernel", "relay-portable", "relay-native", *(f"failover-{fault}" for fault in failover_part.FAULTS)}

    assert set() == {name for aim in AIMS for name in (aim.ours, aim.other) if name} - known


def test_what_is_not_measured_is_in_the_table_with_its_reason_and_no_figure() -> None:
    titles = {"ours": "our plane", "theirs": "their plane"}
    lines = report.table(
        report.CHAIN, titles, {"ours": {"tcp1_gbps": Figure(1.25, 1.0, 1.5, 3)}}, {"theirs": "not installed; apt-get install them"}
    )

    assert ["our", "plane", "1.250", *"--------"] == lines[1].split()
    assert ["1.000..1.500"] == lines[2].split()
    assert "their plane" + " " * 19 + "not installed; apt-get install them" == lines[3]
    assert 4 == len(lines)


def test_verdicts_show_bound_value_and_spread() -> None:
    (line,) = report.verdicts([Outcome(FASTER, Figure(2.5, 2.0, 3.0, 3))])

    assert ["ours", "/", "theirs", ">=", "2", "x", "met", "2.5", "x", "(2", "..", "3)"] == line.split()


def test_json_has_plain_values_only() -> None:
    value = {"figures": {"gbps": Figure(1.23456, 1.0, 2.0, 3)}, "aims": [Outcome(FASTER, None)], "left_out": ("a",)}

    expected = {
        "figures": {"gbps": {"median": 1.235, "least": 1.0, "greatest": 2.0, "repetitions": 3}},
        "aims": [{"aim": "ours / theirs", "bound": 2.0, "unit": "x", "value": None, "verdict": "not measured"}],
        "left_out": ["a"],
    }
    assert expected == json.loads(json.dumps(figures.as_json(value)))


# --- what is read -----------------------------------------------------------------------------------------------------


def test_iperf_is_read_as_the_receiver_saw_it() -> None:
    assert iperf.TcpResult(2.5e9, 1_400_000, 3) == iperf.parse(json.dumps(TCP))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"end": {"sum_received": {}}}', '{"error": "unable to connect"}'])
def test_iperf_that_failed_is_an_error_and_no_figure(text: str) -> None:
    with pytest.raises(LabError):
        iperf.parse(text)


def test_the_report_of_the_failover_benchmark_is_read() -> None:
    gap, home = {"median": 0.4, "p99": 0.5, "max": 0.5}, {"median": 1.5, "max": 2.0}
    kill = {"trials": 2, "gap_s": gap, "duplicates": 1, "home_s": home, "flaps": 0, "errors": ["one"]}
    result = failover_part.parse(json.dumps({"faults": {"kill": kill, "loss": {"trials": 0, "errors": ["two"]}}}))

    assert {"failover-kill", "failover-loss"} == set(result.samples)
    assert (0.4, 0.5, 1.0, 1.0) == tuple(
        result.samples["failover-kill"][0][name] for name in ("gap_median_s", "gap_p99_s", "duplicates", "failed_trials")
    )
    assert [{}] == result.samples["failover-loss"]
    with pytest.raises(LabError):
        failover_part.parse('{"faults": {"kill": {}}}')


def test_the_stat_of_a_process_with_an_odd_name_is_read() -> None:
    name = "(a) b) R 1"
    text = f"42 ({name}) S " + " ".join(str(number) for number in range(4, 53))

    assert cpu.ProcessTime(14 / cpu.TICKS_PER_S, 15 / cpu.TICKS_PER_S) == cpu.parse_process_stat(text)


def test_the_stat_of_the_machine_is_read() -> None:
    text = "cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"
    ticks = cpu.TICKS_PER_S

    expected = pytest.approx((163 / ticks, 7 / ticks, 8 / ticks))
    assert expected == attrs.astuple(cpu.parse_machine_stat(text))


def test_the_clock_of_a_process_counts_what_it_used() -> None:
    own, before = time.process_time(), cpu.process_s(os.getpid())
    while time.process_time() < own + 0.02:
        pass

    assert 0.019 <= cpu.process_s(os.getpid()) - before <= time.process_time() - own
    with pytest.raises(OSError, match="Invalid"):
        cpu.process_s(2**22 + 1)


def test_lines_of_a_router_that_are_no_events_are_left_out() -> None:
    assert {"kind": "up"} == parse_event('{"kind": "up"}')
    assert [{}, {}, {}] == [parse_event(line) for line in ("", "Traceback", '{"kind')]


def test_settings_become_a_file_that_srwan_reads(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        toml({"name": 'a "b"', "udp": ["127.0.0.1:4710"], "roles.relay": False, "pulse.period_s": 2.0, "roles.introducer": True})
    )
    config = load_config(path)

    assert ('a "b"', (("127.0.0.1", 4710),), False, 2.0) == (config.name, config.udp, config.is_relay, config.pulse_period_s)


# --- load -------------------------------------------------------------------------------------------------------------


def test_the_sink_counts_each_number_once_and_reads_stamps() -> None:
    sink = load.Sink(0, socket.AF_INET)
    with sink.sock, load.connected("127.0.0.1", sink.sock.getsockname()[1]) as sender:
        now = time.time_ns()
        for number in (0, 1, 1, 5):
            sender.send(load._HEAD.pack(number, now, load.MAGIC) + bytes(40))
        sender.send(b"not ours, but as long as a packet of ours")
        sender.send(b"short")
        while sink.received + sink.foreign < 6:
            sink.drain()
        result = sink.result()

    assert (4, 3, 2) == (result["received"], result["distinct"], result["foreign"])
    assert 0 <= result["latency_us"]["min"] <= result["latency_us"]["p99"] < 5e6


def test_a_batch_is_seen_by_numpy_where_the_kernel_reads_it() -> None:
    batch = load.Batch(32, has_control=True)
    batch.lengths[3] = 77
    batch.control_lengths[63] = 9

    assert 77 == batch.headers[3].length
    assert 9 == batch.headers[63].header.control_length
    assert batch.data.ctypes.data + 3 * 32 == batch.headers[3].header.vectors[0].base


def test_a_flood_arrives_and_is_numbered() -> None:
    sink = load.Sink(0, socket.AF_INET)
    with sink.sock:
        sent = load.flood("127.0.0.1", sink.sock.getsockname()[1], 0.02, 64)
        while sink.drain():
            pass

    assert 0 < sink.distinct == sink.received <= sent["sent"]
    assert np.array_equal(np.arange(sink.distinct), np.flatnonzero(sink._seen))


# --- the program ------------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_refused_with_those_that_are_known(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["dataplane.py", "--only", "kernel,nonsense"])

    with pytest.raises(SystemExit, match="2"):
        dataplane.main()
    assert "nebula" in capsys.readouterr().err


def test_without_what_it_needs_it_says_so_and_succeeds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["dataplane.py", "--json"])

    assert 0 == dataplane.main()
    assert "not installed (Debian package" in json.loads(capsys.readouterr().out)["problem"]


def test_a_system_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane_peers.chain.find_program", lambda _name: None)

    assert "not installed; on Debian: apt-get install wireguard-go wireguard-tools" == BY_NAME["wireguard"].missing()
    assert "" == BY_NAME["wireguard"].version()


@pytest.mark.needs("netns")
def test_the_kernel_carries_what_is_measured(tmp_path: Path) -> None:
    skip_without_programs()
    with Lab("test") as lab:
        system = BY_NAME["kernelnooff"](lab, tmp_path)
        system.start()
        tcp = iperf.run_tcp(system.ingress, system.egress, system.target, seconds=1.0, flows=1, octets=2_000_000)
        flood = measures.flood(system, 0.1)
        latency = measures.latency(system, 50)
        mtu = system.overlay_mtu()

    assert IPERF_BLOCK < tcp.octets <= 2_000_000 + IPERF_BLOCK  # iperf3 ends without counting what is still under way
    assert tcp.bits_per_s > 0
    assert 0 < flood["udp64_pps"] <= flood["udp64_sent_pps"] * 1.5
    assert {"sender64_us", "hop64_us"} <= set(flood)
    assert 0 < latency["owl_min_us"] <= latency["owl_p50_us"] <= latency["owl_p99_us"]
    assert 1600 == mtu


def skip_without_programs() -> None:
    lacking = [program for program in dataplane.PROGRAMS if find_program(program) is None]
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}")


@pytest.mark.slow
@pytest.mark.needs("netns")
def test_the_kernel_is_measured_and_what_is_not_installed_is_named(tmp_path: Path) -> None:
    skip_without_programs()
    done = run_benchmark("kernelnooff,nebula", PATH=str(_path_without(tmp_path, "nebula")))

    measured = done["systems"]["kernelnooff"]["figures"]
    assert "not installed; on Debian: apt-get install nebula" == done["absent"]["nebula"]
    assert {"tcp1_gbps", "tcp4_gbps", "udp64_pps", "owl_p50_us", "hop64_us"} <= set(measured)
    assert 0 < measured["owl_p50_us"]["median"]
    assert "relay_us" not in measured
    assert {"not measured"} == {aim["verdict"] for aim in done["aims"]}


@pytest.mark.slow
@pytest.mark.needs("netns")
def test_routers_of_srwan_carry_what_is_measured() -> None:
    done = run_benchmark("srwanportable")

    assert {} == done["absent"]
    assert [] == done["notes"]
    assert {"tcp1_gbps", "relay_us", "ingress_us", "egress_us", "udp64_pps", "owl_p50_us"} <= set(
        done["systems"]["srwanportable"]["figures"]
    )


@pytest.mark.slow
@pytest.mark.needs("netns")
def test_a_lone_router_is_measured_and_loses_nothing_while_things_change() -> None:
    done = run_benchmark("relay")
    figures_found = done["systems"]["relay-portable"]["figures"]

    assert [] == done["notes"]
    assert [0, 0, 0] == [figures_found[f"{what}_lost"]["median"] for what in ("rekey", "roam", "switch")]
    assert figures_found["rekeys"]["median"] >= 3
    assert {"owl_p50_us"} <= set(done["systems"]["relay-barec"]["figures"]) & set(done["systems"]["relay-barepython"]["figures"])


def run_benchmark(only: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / "dataplane.py"), "--quick", "--json", "--only", only]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=os.environ | environment)
    assert 0 == done.returncode, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _path_without(tmp_path: Path, *left_out: str) -> Path:
    """A folder with links to all programs but some."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for source in (Path("/usr/sbin"), Path("/usr/bin"), Path("/sbin"), Path("/bin")):
        for program in source.iterdir():
            if program.name not in left_out and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    return folder
