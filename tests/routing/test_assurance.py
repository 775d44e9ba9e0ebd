"""With an SLA the default path is kept while it meets the agreement, and left when it breaks it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from srwan.errors import ConfigError
from srwan.routing.assurance import Assurance
from srwan.routing.clock_reference import ClockReference
from srwan.routing.path import DirectRestored
from srwan.routing.policy import PathPolicy, Sla
from srwan.routing.watch import PathWatch, Sample
from srwan.testing.paths import DIRECT, EAST, VIA_EAST, VIA_WEST, WEST, PathNetwork, between, links_of

KEPT = PathPolicy(sla=Sla(owl_ms_max=120, loss_max=0.02), price_max_microtoken=100)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"owl_ms_max": 0}, r"policy\.sla\.owl_ms_max: is 0; use a number from 0.1 to 10000 ms"),
        ({"owl_ms_max": 5, "loss_max": 1.1}, r"policy\.sla\.loss_max: is 1\.1; use a number from 0 to 1"),
        ({"owl_ms_max": float("nan")}, r"policy\.sla\.owl_ms_max: is nan"),
    ],
)
def test_an_agreement_is_checked(values: dict[str, float], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Sla(**values)


def test_an_agreement_does_not_go_with_forced_relays() -> None:
    with pytest.raises(ConfigError, match=r"policy\.sla: is given beside policy\.via"):
        PathPolicy(sla=Sla(10), via=(EAST,))


def test_a_path_that_meets_the_agreement_is_kept_though_a_free_one_is_faster() -> None:
    net = PathNetwork(links_of(direct=100, east=40), policy=KEPT, spike_share=0.02, loss=0.005).run(60.0)
    assert [] == net.switches()
    assert VIA_EAST in [path.relays for path in net.control.paths]  # kept warm all the same


def test_it_is_left_when_it_breaks_the_agreement_and_taken_again_when_it_keeps_it() -> None:
    links = links_of(direct=100, east=90)
    links[DIRECT].extra_ms = between(120.0, 150.0, 40.0)
    net = PathNetwork(links, policy=KEPT).run(80.0)
    (left_at, left), (back_at, _) = net.switches()
    assert (DIRECT, VIA_EAST) == (left.from_relays, left.to_relays)
    assert 120.0 < left_at < 123.0
    assert "of 120 ms agreed" in left.reason
    assert 150.0 < back_at < 156.0
    assert 1 == len(net.events(DirectRestored))


def test_loss_breaks_it_too() -> None:
    links = links_of(direct=80, east=100)
    links[DIRECT].loss = between(120.0, 160.0, 0.15)
    net = PathNetwork(links, policy=KEPT).run(40.0)
    (_, left), *_ = net.switches()
    assert (VIA_EAST, True) == (left.to_relays, "of 2.0% agreed" in left.reason)


def test_the_cheapest_path_that_meets_it_is_taken_and_not_the_fastest() -> None:
    links = links_of(direct=100, east=40, west=90)
    links[DIRECT].extra_ms = between(120.0, 200.0, 40.0)
    net = PathNetwork(links, policy=KEPT, prices={EAST: 90, WEST: 10}).run(40.0)
    assert [VIA_WEST] == [switch.to_relays for _, switch in net.switches()]


def test_where_no_path_meets_it_a_better_one_is_taken() -> None:
    links = links_of(direct=180, east=140)
    net = PathNetwork(links, policy=KEPT).run(20.0)
    assert [VIA_EAST] == [switch.to_relays for _, switch in net.switches()]


def test_a_spike_does_not_break_it() -> None:
    links = links_of(direct=100, east=40)
    links[DIRECT].extra_ms = between(120.0, 120.3, 400.0)
    assert [] == PathNetwork(links, policy=KEPT).run(40.0).switches()


def test_three_evaluations_in_a_row_break_it_and_no_fewer() -> None:
    reference = ClockReference()
    reference.take(Sample(0.0, 0.2, 1100.0))  # an offset of 1000 ms
    assurance = Assurance(Sla(owl_ms_max=120), reference)
    slow, quick = (cast("PathWatch", SimpleNamespace(live_ms=1000.0 + owl_ms, proved_loss=0.0, loss=0.0)) for owl_ms in (121.0, 120.0))
    assert [False, False, False, False, False, True] == [assurance.look(watch) for watch in (slow, slow, quick, slow, slow, slow)]
    assurance.forget()
    assert not assurance.look(slow)


def test_without_a_clock_reference_only_loss_is_judged() -> None:
    assurance = Assurance(Sla(owl_ms_max=120, loss_max=0.02), ClockReference())
    slow, lossy = (cast("PathWatch", SimpleNamespace(live_ms=10_000.0, proved_loss=loss, loss=loss)) for loss in (0.02, 0.021))
    assert (None, "loses 2.1% of 2.0% agreed") == (assurance.breach(slow), assurance.breach(lossy))
    assert not assurance.is_met(slow)
