"""PathControl against a simulated network: the beginning, steadiness, congestion, forced relays, the end."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from srwan.errors import PathClosed
from srwan.routing import control as control_module
from srwan.routing.control import PathControl
from srwan.routing.finder import Relays
from srwan.routing.path import (
    DirectRestored,
    PathActivated,
    PathDegraded,
    PathDied,
    PathProbing,
    PathState,
    PathVetoed,
)
from srwan.routing.payload import Ack
from srwan.routing.policy import PathPolicy
from srwan.testing.paths import (
    DIRECT,
    EAST,
    EGRESS,
    INGRESS,
    VIA_EAST,
    VIA_NORTH,
    VIA_WEST,
    PathLink,
    PathNetwork,
    between,
    down,
    links_of,
    matrix_of,
)
from srwan.types import PeerMisbehaved


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def congested(
    seed: int, *, links: dict[Relays, PathLink] | None = None, end: float = math.inf, **options: Any
) -> tuple[PathNetwork, float]:
    """A network whose direct path gets +150 ms and 5 % loss at the returned moment, about 10 s after the start."""
    start = 110.0 + random.Random(seed).random()
    links = links or links_of(direct=81, east=158, west=171)
    links[DIRECT].extra_ms = between(start, end, 150.0)
    links[DIRECT].loss = between(start, end, 0.05)
    return PathNetwork(links, seed=seed, loss=0.01, **options), start


# -- the beginning


def test_data_take_the_direct_path_at_once_and_it_is_activated_by_its_first_answer() -> None:
    net = PathNetwork(links_of(direct=50, east=60, west=70))
    assert (DIRECT, 1000) == net.control.active
    assert not net.control.is_alive
    net.run(1.0)
    assert [PathProbing(DIRECT, 1000), PathProbing(VIA_EAST, 1001), PathProbing(VIA_WEST, 1002)] == net.events(PathProbing)
    (activated,) = net.events(PathActivated)
    assert (DIRECT, 1000) == (activated.relays, activated.path_tag)
    assert net.control.is_alive
    assert [PathState.ACTIVE, PathState.STANDBY, PathState.STANDBY] == [path.state for path in net.control.paths]


def test_without_a_matrix_only_the_direct_path_is_watched() -> None:
    net = PathNetwork(links_of(direct=50, east=60), updates=False).run(5.0)
    assert [DIRECT] == [path.relays for path in net.control.paths]


def test_a_relay_that_is_better_from_the_start_is_taken_within_three_seconds() -> None:
    net = PathNetwork(links_of(direct=90, east=50), jitter_ms=0.5).run(5.0)
    ((when, switch),) = net.switches()
    assert when - 100.0 < 3.0
    assert (DIRECT, VIA_EAST) == (switch.from_relays, switch.to_relays)
    assert pytest.approx(40.0, abs=2.0) == switch.gain_ms


def test_a_prediction_alone_never_moves_data() -> None:
    net = PathNetwork(links_of(direct=50, east=60), predicted_ms={DIRECT: 50, VIA_EAST: 5}).run(60.0)
    assert [] == net.switches()


def test_a_silent_direct_path_is_left_though_it_never_answered() -> None:
    links = links_of(direct=50, east=60)
    links[DIRECT].is_up = lambda _now: False
    net = PathNetwork(links).run(2.0)
    assert [VIA_EAST] == [switch.to_relays for _, switch in net.switches()]


# -- steadiness


@pytest.mark.parametrize("east_ms", [76.0, pytest.param(80.0, marks=pytest.mark.slow), pytest.param(95.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_ten_minutes_of_steady_noise_never_switch(east_ms: float, seed: int) -> None:
    links = links_of(direct=80, east=east_ms, west=east_ms + 1)
    net = PathNetwork(links, seed=seed, jitter_ms=1.5, spike_share=0.02, loss=0.01, data_pps=0).run(600.0)
    assert [] == net.switches()
    assert [] == net.events(PathDied)


def test_a_single_spike_of_half_a_second_never_switches() -> None:
    spikes = 0
    for seed in range(25):
        start = 105.0 + random.Random(seed).random()
        links = links_of(direct=80, east=80, west=82)
        links[DIRECT].extra_ms = between(start, start + 0.17, 500.0)
        net = PathNetwork(links, seed=seed, loss=0.0, data_pps=0).run(10.0)
        spikes += sum(start <= when < start + 0.17 and relays == DIRECT for when, relays in net.keepalives)
        assert [] == net.switches()
    assert spikes >= 17


def test_a_lost_keepalive_or_two_never_switch(seeds: Callable[[int], range]) -> None:
    for seed in seeds(25):
        start = 105.0 + random.Random(seed).random()
        links = links_of(direct=80, east=80, west=82)
        links[DIRECT].loss = between(start, start + 0.38, 1.0)
        net = PathNetwork(links, seed=seed, data_pps=0).run(10.0)
        assert [] == net.switches()
        assert [] == net.events(PathDied)


def test_congestion_that_all_paths_share_never_switches(seeds: Callable[[int], range]) -> None:
    for seed in seeds(10):
        links = links_of(direct=80, east=90, west=180)
        for link in links.values():
            link.extra_ms = between(110.0, 130.0, 150.0)
        assert [] == PathNetwork(links, seed=seed, loss=0.01, data_pps=0).run(40.0).switches()


def test_a_gain_between_leave_and_enter_changes_nothing_either_way() -> None:
    links = links_of(direct=80, east=60)
    net = PathNetwork(links, seed=3, data_pps=0).run(20.0)
    assert [VIA_EAST] == [switch.to_relays for _, switch in net.switches()]
    links[VIA_EAST].base_ms = 72.0
    net.run(60.0)
    assert 1 == len(net.switches())


# -- congestion


def test_congestion_on_direct_moves_data_within_one_and_a_half_seconds(
    seeds: Callable[[int], range], record_testsuite_property: Callable[[str, object], None]
) -> None:
    reactions, latencies, gaps = [], [], []
    for seed in seeds(20):
        net, start = congested(seed)
        net.run(30.0)
        ((when, switch),) = net.switches()
        assert (DIRECT, VIA_EAST) == (switch.from_relays, switch.to_relays)
        degraded = [moment for moment, event in net.log if isinstance(event, PathDegraded) and moment >= start]
        assert degraded[0] <= when
        reactions.append(when - start)
        gaps.append(net.gap_s(start))
        latencies += [delivery.latency_ms for delivery in net.deliveries if delivery.sent_at >= start]
    for name, figure in (
        ("reaction_s_p50", quantile(reactions, 0.5)),
        ("reaction_s_max", max(reactions)),
        ("latency_ms_p99_first_19s", quantile(latencies, 0.99)),
        ("gap_s_max", max(gaps)),
    ):
        record_testsuite_property(name, round(figure, 3))
    assert max(reactions) <= 1.5
    assert quantile(reactions, 0.5) <= 1.2


def test_the_reason_of_a_switch_says_what_was_measured() -> None:
    net, _ = congested(1, links=links_of(direct=81, east=158, west=171), jitter_ms=0.01)
    net.run(20.0)
    ((_, switch),) = net.switches()
    assert switch.reason.startswith("direct 231 ms")
    assert "via us-east-1 158 ms, via us-west-2 171 ms" in switch.reason
    assert pytest.approx(73.0, abs=15.0) == switch.gain_ms


def test_data_return_to_direct_once_within_five_seconds_of_the_end_of_congestion(
    seeds: Callable[[int], range],
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    returns = []
    for seed in seeds(20):
        end = 122.0 + random.Random(-seed).random()
        net, _ = congested(seed, end=end, data_pps=0)
        net.run(50.0)
        assert [VIA_EAST, DIRECT] == [switch.to_relays for _, switch in net.switches()]
        (restored,) = net.events(DirectRestored)
        assert VIA_EAST == restored.from_relays
        assert [] == net.events(PathVetoed)
        returns.append(net.switches()[1][0] - end)
    record_testsuite_property("return_s_p50", round(quantile(returns, 0.5), 3))
    record_testsuite_property("return_s_max", round(max(returns), 3))
    assert max(returns) <= 5.0


def test_data_leave_a_relay_that_congests_though_only_direct_remains() -> None:
    links = links_of(direct=80, east=50)
    links[VIA_EAST].extra_ms = between(110.0, 200.0, 150.0)
    net = PathNetwork(links, seed=1).run(15.0)
    (_, _), (when, switch) = net.switches()
    assert (VIA_EAST, DIRECT) == (switch.from_relays, switch.to_relays)
    assert when - 110.0 <= 1.5


def test_data_move_between_relays_when_the_one_in_use_congests() -> None:
    links = links_of(direct=200, east=80, west=90)
    links[VIA_EAST].extra_ms = between(110.0, 200.0, 150.0)
    net = PathNetwork(links, seed=1).run(15.0)
    assert [VIA_EAST, VIA_WEST] == [switch.to_relays for _, switch in net.switches()]


def test_loss_alone_moves_data(seeds: Callable[[int], range]) -> None:
    for seed in seeds(5):
        links = links_of(direct=80, east=82, west=84)
        links[DIRECT].loss = between(110.0, 300.0, 0.08)
        net = PathNetwork(links, seed=seed, data_pps=100).run(50.0)
        assert DIRECT not in net.control.active
        assert {"loss"} == {event.problem for event in net.events(PathDegraded) if event.relays == DIRECT}
        assert "lost" in net.switches()[0][1].reason


def test_a_direct_path_that_congests_again_and_again_is_returned_to_ever_more_slowly() -> None:
    links = links_of(direct=60, east=90, west=92)
    links[DIRECT].extra_ms = lambda now: 150.0 if now > 105.0 and now % 8.0 < 4.0 else 0.0
    net = PathNetwork(links, seed=4, data_pps=0).run(300.0)
    moments = [when for when, _ in net.switches()]
    assert len(moments) <= 8
    assert sum(when > 250.0 for when in moments) <= 1


def test_among_equals_the_choice_is_random() -> None:
    chosen = []
    for seed in range(40):
        net, _ = congested(seed, links=links_of(direct=80, east=90, west=91), data_pps=0)
        chosen.append(net.run(15.0).control.active[0])
    assert 10 < chosen.count(VIA_EAST) < 30


def test_decisions_of_routers_that_see_the_same_event_are_spread() -> None:
    moments = []
    for seed in range(40):
        links = links_of(direct=81, east=158)
        links[DIRECT].extra_ms = between(110.0, math.inf, 150.0)
        moments.append(PathNetwork(links, seed=seed, data_pps=0, jitter_ms=0).run(15.0).switches()[0][0])
    assert max(moments) - min(moments) > 0.15


# -- standbys


def test_standbys_are_replaced_only_by_what_two_updates_predict_to_be_better() -> None:
    links = links_of(direct=50, east=80, west=90, north=60)
    net = PathNetwork(links, predicted_ms={DIRECT: 50, VIA_EAST: 80, VIA_WEST: 90, VIA_NORTH: 99}).run(9.0)
    net.matrix = matrix_of({DIRECT: 50, VIA_EAST: 80, VIA_WEST: 90, VIA_NORTH: 60})
    net.run(2.0)
    assert VIA_NORTH not in [path.relays for path in net.control.paths]
    net.run(10.0)
    assert [DIRECT, VIA_EAST, VIA_NORTH] == [path.relays for path in net.control.paths]


def test_a_standby_that_disappointed_does_not_come_back_on_its_prediction() -> None:
    links = links_of(direct=50, east=80, west=85)
    net = PathNetwork(links, predicted_ms={DIRECT: 50, VIA_EAST: 60, VIA_WEST: 66}, policy=PathPolicy(standbys=1)).run(120.0)
    opened = [event.relays for event in net.events(PathProbing)]
    assert [DIRECT, VIA_EAST, VIA_WEST] == opened


def test_no_standbys_are_kept_when_relays_are_not_wanted() -> None:
    net = PathNetwork(links_of(direct=90, east=50), policy=PathPolicy(relays_max=0)).run(20.0)
    assert ([DIRECT], []) == ([path.relays for path in net.control.paths], net.switches())


# -- forced relays


def test_forced_relays_carry_data_from_the_start_though_direct_is_better() -> None:
    net = PathNetwork(links_of(direct=50, east=90, west=60), policy=PathPolicy(via=(EAST,)))
    assert VIA_EAST == net.control.active[0]
    net.run(30.0)
    assert ([], VIA_EAST) == (net.switches(), net.control.active[0])
    assert [VIA_EAST, DIRECT] == [path.relays for path in net.control.paths]


def test_a_dead_forced_path_falls_back_to_direct_and_is_returned_to() -> None:
    links = links_of(direct=50, east=90)
    links[VIA_EAST].is_up = down(110.0, 120.0)
    net = PathNetwork(links, policy=PathPolicy(via=(EAST,))).run(40.0)
    assert [DIRECT, VIA_EAST] == [switch.to_relays for _, switch in net.switches()]
    assert [] == net.events(PathVetoed)


def test_without_fallback_a_dead_forced_path_keeps_the_data() -> None:
    links = links_of(direct=50, east=90)
    links[VIA_EAST].is_up = down(110.0)
    net = PathNetwork(links, policy=PathPolicy(via=(EAST,), fallback=False)).run(20.0)
    assert (VIA_EAST, False, []) == (net.control.active[0], net.control.is_alive, net.switches())
    assert [True] == [died.is_last for died in net.events(PathDied)]


# -- hostile and late input, the end


def test_answers_that_fit_nothing_are_counted_and_change_nothing() -> None:
    net = PathNetwork(links_of(direct=50)).run(1.0)
    before = repr(net.control.paths)
    net.control.receive_ack(Ack(4711, 0, 0, 0, 0, None, 0), net.now)
    net.control.receive_ack(Ack(1000, 0, 0, 0, 0, None, 0), net.now)
    net.control.receive_ack(Ack(1000, 2**63, 0, 0, 0, None, 0), net.now)
    assert {"ack-unknown-tag": 1, "ack-late": 1, "ack-unsent": 1} == net.control.drops
    assert before == repr(net.control.paths)
    net.drain()
    assert [PeerMisbehaved(EGRESS, None, "ack-unsent")] == net.events(PeerMisbehaved)


def test_undrained_events_are_bounded() -> None:
    net = PathNetwork(links_of(direct=50), data_pps=0).run(1.0)
    for _ in range(2 * control_module.EVENTS_MAX):
        net.control.receive_ack(Ack(1000, 2**63, 0, 0, 0, None, 0), net.now)
    net.log.clear()
    net.drain()
    assert control_module.EVENTS_MAX == len(net.log)


def test_a_closed_path_does_nothing_more() -> None:
    net = PathNetwork(links_of(direct=50, east=60), data_pps=0).run(1.0)
    net.control.close(net.now)
    net.control.close(net.now)
    net.control.update(net.matrix, net.now)
    net.control.handle_timer(net.now)
    net.control.relay_failed(EAST, net.now)
    net.control.receive_ack(Ack(1000, 1, 0, 0, 0, None, 0), net.now)
    assert (None, None, [], ()) == (
        net.control.get_timer(),
        net.control.next_event(),
        list(net.control.packets_to_send(net.now)),
        net.control.paths,
    )
    assert not net.control.is_alive
    with pytest.raises(PathClosed):
        _ = net.control.active


def test_a_path_to_oneself_is_refused() -> None:
    with pytest.raises(ValueError, match="this node"):
        PathControl(INGRESS, INGRESS, PathPolicy(), rng=random.Random(1), make_tag=lambda: 1, now=0.0)


def test_the_same_seed_gives_the_same_history() -> None:
    first, second = (congested(5)[0].run(40.0) for _ in range(2))
    assert first.log == second.log
    assert len(first.log) > 5


def test_keepalives_cost_little_and_do_not_grow_under_loss() -> None:
    calm = PathNetwork(links_of(direct=50, east=60, west=70), data_pps=0).run(60.0)
    lossy = PathNetwork(links_of(direct=50, east=60, west=70), data_pps=0, loss=0.3).run(60.0)
    assert len(calm.keepalives) <= 3 * 60 * 5.3
    assert len(lossy.keepalives) <= 2 * len(calm.keepalives)
