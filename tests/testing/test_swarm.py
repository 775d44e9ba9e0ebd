"""Whole simulations: the same seed gives the same run, faults do what they say, and what must hold is looked at."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import attrs
import numpy as np
import pytest

from srwan.errors import ConfigError
from srwan.testing.faults import Fault, Faults
from srwan.testing.links import LinkLatencies
from srwan.testing.result import SimulationResult
from srwan.testing.router import SimRouter
from srwan.testing.swarm import Simulation, SimulationOptions, simulate


def run(*faults: Fault, nodes: int = 8, minutes: float = 0.5, seed: int = 1, **options: Any) -> SimulationResult:
    weather = options.pop("weather", {})
    return simulate(SimulationOptions(nodes=nodes, minutes=minutes, seed=seed, faults=Faults(faults=faults, **weather), **options))


def test_the_same_seed_gives_the_same_trace_and_another_another() -> None:
    first, again, other = run(minutes=0.2), run(minutes=0.2), run(minutes=0.2, seed=2)
    assert first.trace_hash == again.trace_hash
    assert first.trace_hash != other.trace_hash
    assert first.events == again.events


def test_two_processes_with_different_hash_seeds_give_the_same_trace() -> None:
    script = (
        "from srwan.testing.faults import *; from srwan.testing.swarm import *\n"
        "crash, starve = Fault(kind='crash', at_s=6, nodes=2), Fault(kind='starve', at_s=5, nodes=2)\n"
        "faults = Faults(has_join=True, duplicate=0.02, faults=(crash, starve))\n"
        "print(simulate(SimulationOptions(nodes=9, minutes=0.3, faults=faults)).trace_hash)"
    )
    hashes = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "77")
    ]
    assert 33 == len(hashes[0])
    assert hashes[0] == hashes[1]


def test_with_reviews_and_every_kind_of_fault_two_processes_give_the_same_trace() -> None:
    script = (
        "from srwan.testing.faults import *; from srwan.testing.swarm import *\n"
        "kinds = [kind for kind in KINDS if kind not in ('hostile', 'leave', 'crash')]\n"
        "faults = [Fault(kind=kind, at_s=4 + 2 * turn, for_s=9, nodes=1, towards=2, share=0.8) for turn, kind in enumerate(kinds)]\n"
        "faults += [Fault(kind='crash', at_s=20, for_s=8, nodes=2), Fault(kind='leave', at_s=40)]\n"
        "faults = Faults(has_join=True, duplicate=0.02, reorder=0.02, faults=tuple(faults))\n"
        "result = simulate(SimulationOptions(nodes=9, minutes=1.7, faults=faults, has_reviews=True))\n"
        "print(result.trace_hash, result.violation, sorted(result.conclusions.items()))"
    )
    printed = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "77")
    ]
    assert printed[0] == printed[1]
    assert "EchoWanted" in printed[0]
    assert "SelfBuried" in printed[0]


def test_a_quiet_group_agrees_fills_its_matrices_and_removes_nobody() -> None:
    result = run()
    assert ("", 0) == (result.violation, result.removals)
    assert result.agreed_s is not None
    assert result.agreed_s < 1.0
    assert result.filled_s is not None
    assert result.filled_s < 10.0
    assert {"PULSE", "BEAT", "PROBE", "ECHO", "JOIN"} <= set(result.traffic)
    assert 0.6 * 7 / 10 < result.traffic["PULSE"][0] < 6 * 7 / 10
    assert result.lost["loss"] > 0


def test_nodes_find_each_other_through_introducers() -> None:
    result = run(weather={"has_join": True})
    assert "" == result.violation
    assert result.agreed_s is not None
    assert result.filled_s is not None


@pytest.mark.parametrize(
    ("nodes", "seed"), [(40, 1), (40, 10), *(pytest.param(100, seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 8))]
)
def test_many_who_start_at_once_and_know_one_random_other_each_find_all_within_seconds(nodes: int, seed: int) -> None:
    """A few that agreed used to take themselves for all: 5 s until all knew all, and no full matrix after 10, for their clocks moved.

    In two seeds of ten (4, 10) some still settle too early and move: docs/decisions.md.
    """
    result = run(weather={"has_join": True}, nodes=nodes, minutes=0.1, seed=seed)
    assert "" == result.violation
    assert result.agreed_s is not None
    assert result.agreed_s <= 2.5
    assert result.filled_s is not None
    assert result.filled_s <= 5.0
    assert result.traffic["PULSE"][0] * 6.0 <= 4.5 * (nodes - 1)
    assert result.traffic["PULL"][0] * 6.0 <= 15


def test_those_who_crash_are_removed_by_all_and_nobody_else() -> None:
    result = run(Fault(kind="crash", at_s=12.0, nodes=2), nodes=12)
    (outcome,) = result.faults
    assert "" == result.violation
    assert (2, 2, 0) == (outcome.removed, outcome.removed_by_all, outcome.false_removals)
    assert outcome.first_after_s is not None
    assert outcome.last_after_s is not None
    assert 1.0 < outcome.first_after_s <= outcome.last_after_s < 10.0


def test_one_who_restarts_comes_back_with_a_new_boot_id() -> None:
    simulation = Simulation(
        SimulationOptions(nodes=8, minutes=1.0, faults=Faults(faults=(Fault(kind="crash", at_s=12.0, for_s=10.0, nodes=(3,)),)))
    )
    group = simulation.make_group(0)
    node = next(node for node in group.nodes if node.number == 3)
    group.run(11.0)
    assert node.router is not None
    boot = node.router.boot
    group.run(13.0)
    assert node.router is None
    group.run(45.0)
    assert node.router is not None
    assert node.router.boot > boot
    assert [8] * 8 == [len(other.router.view) for other in group.nodes if other.router is not None]


def test_one_who_leaves_is_gone_within_a_second() -> None:
    result = run(Fault(kind="leave", at_s=12.0), weather={"loss": 0.0})
    (outcome,) = result.faults
    assert 1 == outcome.removed_by_all
    assert outcome.last_after_s is not None
    assert outcome.last_after_s < 1.0
    assert 1 == outcome.view_changes


@pytest.mark.parametrize("kind", ["cut-in", "cut-out", "partition", "loss", "pause", "clog"])
def test_who_cannot_be_reached_is_removed(kind: str) -> None:
    fault = Fault(kind=kind, at_s=8.0, for_s=15.0, nodes=1, share=1.0)
    (outcome,) = run(fault, nodes=10).faults
    assert (1, 0) == (outcome.removed, outcome.false_removals)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="pause", at_s=8.0, for_s=1.0),
        Fault(kind="starve", at_s=8.0, share=0.3, slice_s=0.5),
        Fault(kind="delay", at_s=8.0, extra_ms=100.0),
        Fault(kind="clock-step", at_s=8.0, step_s=3.0),
        Fault(kind="cut", at_s=8.0, nodes=(2,), towards=(5,)),
    ],
    ids=lambda fault: fault.kind,
)
def test_what_is_no_death_removes_nobody(fault: Fault) -> None:
    result = run(fault, nodes=10)
    assert (0, "") == (result.removals, result.violation)


def test_a_paused_process_finds_its_datagrams_with_the_stamps_of_their_arrival() -> None:
    simulation = Simulation(
        SimulationOptions(nodes=4, minutes=1, faults=Faults(faults=(Fault(kind="pause", at_s=10.0, for_s=2.0, nodes=(1,)),)))
    )
    group = simulation.make_group(0)
    node = next(node for node in group.nodes if node.number == 1)
    group.run(11.9)
    assert len(node.inbox) > 3
    stamps = [rx_ns for _, _, rx_ns in node.inbox]
    assert sorted(stamps) == stamps
    assert stamps[-1] - stamps[0] > 5e8
    group.run(12.1)
    assert [] == node.inbox


def test_groups_have_at_most_a_hundred_members_and_each_node_one_group() -> None:
    simulation = Simulation(SimulationOptions(nodes=250))
    sizes = [len(members) for _, members in simulation.groups]
    assert 250 == sum(sizes)
    assert max(sizes) <= 100
    assert 250 == len({node for _, members in simulation.groups for node in members})


def test_given_latencies_are_measured() -> None:
    latency_ms = np.array([[0.0, 10.0, 80.0], [20.0, 0.0, 30.0], [90.0, 40.0, 0.0]])
    faults = attrs.evolve(Faults.none(), loss=0.0)
    simulation = Simulation(SimulationOptions(nodes=3, minutes=1, faults=faults, latency=LinkLatencies(latency_ms)))
    group = simulation.make_group(0)
    group.run(10.0)
    router = group.nodes[0].router
    assert router is not None
    raw_ms = router.pulse.snapshot(10.0).last_ms
    order = [node.number for node in group.nodes]
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        true_ms = latency_ms[order[i], order[k]] + latency_ms[order[k], order[j]] - latency_ms[order[i], order[j]]
        assert true_ms == pytest.approx(raw_ms[i, k] + raw_ms[k, j] - raw_ms[i, j], abs=0.1)


def test_a_violated_invariant_ends_the_run_and_names_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    handle_timer = SimRouter.handle_timer

    def broken(self: SimRouter, now: float) -> None:
        if now > 5:
            raise KeyError("lost")
        handle_timer(self, now)

    monkeypatch.setattr(SimRouter, "handle_timer", broken)
    result = run()
    assert result.violation.startswith("core-raised-nothing was violated at 5.")
    assert "KeyError: 'lost', in broken" in result.violation
    assert (1, 0) == (result.invariants["core-raised-nothing"][1], result.invariants["time-rises"][1])


def test_a_timer_that_stays_due_is_a_violation_and_no_endless_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimRouter, "handle_timer", lambda _self, _now: None)
    assert run().violation.startswith("timers-advance was violated at 0.")


def test_removing_a_healthy_member_is_a_violation() -> None:
    simulation = Simulation(SimulationOptions(nodes=6, minutes=1))
    group = simulation.make_group(0)
    group.run(10.0)
    for node in group.nodes[1:]:
        node.router = None  # behind the back of the faults
    with pytest.raises(Exception, match=r"healthy-stays was violated"):
        group.run(700.0)


def test_real_crypto_runs_and_its_datagrams_are_bytes() -> None:
    result = run(nodes=4, minutes=0.15, has_real_crypto=True)
    assert ("", True) == (result.violation, result.filled_s is not None)


def test_fuzzed_datagrams_raise_nothing_and_are_counted() -> None:
    result = run(Fault(kind="hostile", at_s=4.0, rate_per_s=800.0), nodes=4, minutes=0.5)
    assert "" == result.violation
    assert result.fuzzed > 20_000
    assert sum(result.drops.values()) > result.fuzzed / 2
    assert {"mac", "decode", "version", "length", "replay"} <= set(result.drops)


@pytest.mark.parametrize("until_s", [9.9, 9.95])
def test_views_may_differ_while_a_member_that_was_buried_comes_back(until_s: float) -> None:
    # It comes back 60 s after it learned of its burial, that is just before the views of all are compared again; a second is too short.
    result = run(Fault(kind="pause", at_s=3.0, for_s=until_s - 3.0, nodes=1), nodes=12, minutes=2.3)
    assert 1 == result.conclusions["SelfReborn"]
    assert "" == result.violation
    assert result.invariants["views-converge"][0] > 0


@pytest.mark.slow
def test_a_million_fuzzed_datagrams_raise_nothing() -> None:
    result = run(Fault(kind="hostile", at_s=4.0, nodes=2, rate_per_s=5_000.0), nodes=8, minutes=1.75)
    assert "" == result.violation
    assert result.fuzzed > 1_000_000
    assert sum(result.drops.values()) > result.fuzzed / 2


@pytest.mark.parametrize(
    ("options", "key"), [({"nodes": 0}, "nodes"), ({"nodes": 10**6}, "nodes"), ({"minutes": 0.0}, "minutes"), ({"seed": 2**63}, "seed")]
)
def test_options_out_of_range_are_refused(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SimulationOptions(**options)
    assert key == caught.value.key


def test_one_and_two_nodes_can_be_simulated() -> None:
    assert ("", 0.0) == (run(nodes=1).violation, run(nodes=1).filled_s)
    assert run(nodes=2).filled_s is not None
