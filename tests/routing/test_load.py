"""What a relay carries, and whom it asks to leave."""

from __future__ import annotations

from srwan.routing.load import NOTICES_MAX, Excess, RelayLoad
from srwan.routing.traffic import TrafficCount
from srwan.types import NodeId

ONE, TWO = NodeId(b"\x01" * 32), NodeId(b"\x02" * 32)


def test_under_its_cap_a_relay_asks_nobody() -> None:
    load = RelayLoad(1000.0, 10.0)
    assert load.look({(ONE, 1): TrafficCount(100, 125_000)}, 11.0) == []
    assert (1000.0, 12.0) == (load.load_kbps, load.look_at)


def test_over_its_cap_it_asks_for_the_share_that_is_too_much_the_heaviest_first() -> None:
    load = RelayLoad(1000.0, 10.0)
    load.look({(ONE, 1): TrafficCount(1, 1_000_000), (ONE, 2): TrafficCount(1, 500)}, 11.0)
    asked = load.look({(ONE, 1): TrafficCount(1, 1_100_000), (ONE, 2): TrafficCount(1, 500), (TWO, 1): TrafficCount(1, 400_000)}, 12.0)
    assert (4000.0, [Excess(TWO, 1, 750), Excess(ONE, 1, 750)]) == (load.load_kbps, asked)


def test_counters_that_were_evicted_and_looks_at_one_moment_are_harmless() -> None:
    load = RelayLoad(1.0, 10.0)
    load.look({(ONE, 1): TrafficCount(1, 1_000_000)}, 11.0)
    assert load.look({(ONE, 1): TrafficCount(1, 10)}, 12.0) == []
    assert (load.look({(ONE, 1): TrafficCount(1, 10**9)}, 12.0), load.load_kbps) == ([], 0.0)


def test_notices_are_bounded() -> None:
    load = RelayLoad(1.0, 10.0)
    counts = {(ONE, tag): TrafficCount(1, 1000 + tag) for tag in range(500)}
    asked = load.look(counts, 11.0)
    assert (NOTICES_MAX, 499) == (len(asked), asked[0].path_tag)
