"""The options of a simulation, and the file that holds them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from srwan.errors import ConfigError
from srwan.testing.faults import KINDS, Fault, Faults, choose_nodes, load_faults, parse_faults


def file_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "faults.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_file_sets_weather_clocks_and_faults(tmp_path: Path) -> None:
    faults = load_faults(
        file_of(
            tmp_path,
            "[network]\nhas_join = true\n[links]\nloss = 0.05\n[clocks]\noffset_s = 2\n"
            '[[fault]]\nkind = "crash"\nat_s = 120.0\nnodes = 10\n'
            '[[fault]]\nkind = "cut"\nat_s = 1\nnodes = [3]\ntowards = "1%"\nfor_s = 60\nperiod_s = 20\n',
        )
    )
    crash = Fault(kind="crash", at_s=120.0, nodes=10)
    cut = Fault(kind="cut", at_s=1, nodes=(3,), towards="1%", for_s=60, period_s=20)
    assert Faults(has_join=True, loss=0.05, offset_s=2.0, faults=(crash, cut)) == faults


@pytest.mark.parametrize(
    ("table", "key", "words"),
    [
        ({"link": {}}, "link", "did you mean links"),
        ({"links": {"lost": 0.1}}, "links.lost", "did you mean links.loss"),
        ({"links": {"loss": 1.5}}, "links.loss", "1.5 is out of range; give a number in 0..1"),
        ({"links": {"loss": "much"}}, "links.loss", "'much' is out of range"),
        ({"links": {"loss": True}}, "links.loss", "True is out of range"),
        ({"links": {"loss": float("nan")}}, "links.loss", "nan is out of range"),
        ({"links": 3}, "links", "there is no such setting"),
        ({"network": {"has_join": 1}}, "network.has_join", "true or false"),
        ({"fault": {"kind": "crash"}}, "fault", r"\[\[fault\]\]"),
        ({"fault": [{"kind": "crash"}]}, "fault.at_s", "is missing"),
        ({"fault": [{"kind": "crsh", "at_s": 1}]}, "fault.kind", "did you mean crash"),
        ({"fault": [{"kind": 3, "at_s": 1}]}, "fault.kind", "known are"),
        ({"fault": [{"kind": "crash", "at_s": -1}]}, "fault.at_s", "-1 is out of range"),
        ({"fault": [{"kind": "crash", "at_s": 1, "nodes": 0}]}, "fault.nodes", "names no nodes"),
        ({"fault": [{"kind": "crash", "at_s": 1, "nodes": "many"}]}, "fault.nodes", "names no nodes"),
        ({"fault": [{"kind": "crash", "at_s": 1, "nodes": [1, -2]}]}, "fault.nodes", "names no nodes"),
        ({"fault": [{"kind": "crash", "at_s": 1, "share": 0.5}]}, "fault.share", "crash does not read it"),
        ({"fault": [{"kind": "crash", "at_s": 1, "node": 3}]}, "fault.node", "did you mean fault.nodes"),
        ({"fault": [{"kind": "pause", "at_s": 1}]}, "fault.for_s", "without an end"),
        ({"fault": [{"kind": "leave", "at_s": 1, "for_s": 3}]}, "fault.for_s", "does not come back"),
        ({"network": {"stretch_min": 3.0, "stretch_max": 2.0}}, "network.stretch_max", "less than stretch_min"),
    ],
)
def test_what_is_wrong_is_named_with_its_value_and_range(table: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_faults(table)
    assert key == caught.value.key


@pytest.mark.parametrize("text", ["loss = ", "\x00", "[links]\nloss = 0.1\nloss = 0.2\n"])
def test_what_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is not TOML"):
        load_faults(file_of(tmp_path, text))


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_faults(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="too large"):
        load_faults(file_of(tmp_path, "#" * 300_000))


def test_every_kind_can_be_written_with_the_settings_it_reads() -> None:
    for kind, settings in KINDS.items():
        table: dict[str, Any] = {"kind": kind, "at_s": 1.0, **({} if kind == "leave" else {"for_s": 2.0})}
        table |= {name: 1 if name == "towards" else 0.5 for name in settings}
        assert kind == parse_faults({"fault": [table]}).faults[0].kind


def test_a_flip_flop_is_on_for_the_first_half_of_each_period() -> None:
    fault = Fault(kind="cut-in", at_s=10.0, for_s=50.0, period_s=20.0)
    assert [(10.0, True), (20.0, False), (30.0, True), (40.0, False), (50.0, True), (60.0, False)] == fault.changes(1000.0)
    assert [(10.0, True), (20.0, False), (30.0, True)] == fault.changes(35.0)
    assert [False, True, False, True, False] == [fault.is_on(now) for now in (9.9, 10.0, 20.0, 59.9, 60.0)]
    assert [20.0, 60.0] == [fault.end_after(now) for now in (11.0, 55.0)]


def test_nodes_are_counted_shared_or_named() -> None:
    rng = random.Random(1)
    assert (1, 7) == choose_nodes((7, 1, 7), 8, rng, "nodes")
    assert 3 == len(set(choose_nodes(3, 8, rng, "nodes")))
    assert 10 == len(choose_nodes("1%", 1000, rng, "nodes"))
    assert 1 == len(choose_nodes("1%", 8, rng, "nodes"))
    with pytest.raises(ConfigError, match="no node 8"):
        choose_nodes((8,), 8, rng, "nodes")
    with pytest.raises(ConfigError, match="9 nodes of 8"):
        choose_nodes(9, 8, rng, "nodes")
