"""A simulated network for one `PathControl`: keep-alives, answers and data over paths with latency, jitter, loss and faults.

Virtual time on an event heap; no sockets, no clock, one seed a run. What is not here: routers. A path is one line with a latency, because
what decides is what the egress measures of the whole path. The egress's clock is 11 days ahead and drifts, so that nothing can depend on
absolute latencies.

    links = links_of(direct=81, east=158)
    links[DIRECT].extra_ms = between(110.0, 140.0, 150.0)     # the run starts at 100 s
    network = PathNetwork(links, seed=7).run(60.0)
    network.switches()

Invariant: the same seed gives the same history.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from srwan.routing.control import PathControl
from srwan.routing.finder import PathFinder, Relays
from srwan.routing.path import PathSwitched
from srwan.routing.payload import Ack, KeepAlive
from srwan.routing.policy import PathPolicy
from srwan.routing.sid import locator_of
from srwan.routing.watch import PathPacket
from srwan.types import NodeId

__all__ = ["Delivery", "Matrix", "PathLink", "PathNetwork", "between", "down", "links_of", "matrix_of"]

EAST, WEST, NORTH, SOUTH = (NodeId(bytes([number]) * 32) for number in range(1, 5))
INGRESS, EGRESS = NodeId(b"\xaa" * 32), NodeId(b"\xbb" * 32)
NAMES = {EAST: "us-east-1", WEST: "us-west-2", NORTH: "eu-north-1", SOUTH: "ap-south-1"}
DIRECT: Relays = ()
VIA_EAST, VIA_WEST, VIA_NORTH, VIA_SOUTH = (EAST,), (WEST,), (NORTH,), (SOUTH,)
CLOCK_OFFSET_MS = 1e9
"""Egress clock less ingress clock: 11 days. Nothing may depend on it."""
DRIFT = 50e-6
"""And it gains on the ingress's, s/s."""
START_S = 100.0
"""Monotonic time at which a run starts."""
UPDATE_S = 10.0
"""Between two matrices."""
SPIKE_MS = 40.0
"""Mean of a spike."""
DATA_BYTES = 1000
"""Body of each DATA packet."""


@attrs.frozen(slots=True)
class Matrix:
    """What `PathFinder` reads of an OwlSnapshot: raw one-way latencies, shape (n, n), ms; loss 0..1."""

    members: tuple[NodeId, ...]
    mean_ms: npt.NDArray[np.float64]
    dev_ms: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]


def matrix_of(one_way_ms: dict[Relays, float]) -> Matrix:
    """Return a matrix in which each path costs what the table says; the first leg of a relayed one is half of it."""
    members = (INGRESS, EGRESS, *(relays[0] for relays in one_way_ms if relays))
    mean_ms = np.full((len(members), len(members)), np.nan)
    for relays, latency_ms in one_way_ms.items():
        if relays:
            row = members.index(relays[0])
            mean_ms[0, row], mean_ms[row, 1] = latency_ms / 2, latency_ms / 2 + CLOCK_OFFSET_MS
        else:
            mean_ms[0, 1] = latency_ms + CLOCK_OFFSET_MS
    return Matrix(members, mean_ms, np.zeros_like(mean_ms), np.zeros_like(mean_ms))


@attrs.define
class PathLink:
    """One path as the network makes it; every field may be changed while the simulation runs."""

    base_ms: float
    """One-way latency of each direction, ms."""
    extra_ms: Callable[[float], float] = lambda _now: 0.0
    """Congestion by time, forward only, ms."""
    loss: Callable[[float], float] = lambda _now: 0.0
    """Additional loss by time, forward only, 0..1."""
    is_up: Callable[[float], bool] = lambda _now: True
    """False while nothing passes in either direction."""
    is_forward_up: Callable[[float], bool] = lambda _now: True
    """False while nothing passes from ingress to egress."""
    is_back_up: Callable[[float], bool] = lambda _now: True
    """False while nothing passes from egress to ingress."""
    legs: int = 1
    """How often jitter and spikes strike each way."""


@attrs.frozen(slots=True)
class Delivery:
    """One DATA packet that arrived."""

    sent_at: float
    """Monotonic s."""
    latency_ms: float
    """True one-way latency, ms."""
    relays: Relays
    """The path it took."""
    seq: int = 0
    """Per flow, from 0."""


@attrs.define
class _Reception:
    """What the egress knows of one path tag."""

    packets: int = 0
    answered_at: float = -math.inf
    answer_s: float = math.inf
    back: Relays | None = None


class PathNetwork:
    """Carries keep-alives, answers and data between one PathControl and its egress.

    Args:
        links: the paths there are.
        seed: of latencies, losses and the control's own choices.
        policy: the control's.
        jitter_ms: mean of the exponential jitter of each leg, ms.
        spike_share: share of crossings of a leg that get an exponential spike of SPIKE_MS, 0..1.
        loss: of every crossing, 0..1.
        data_pps: DATA packets per second; 0 for none.
        predicted_ms: what the matrix says instead of the truth, ms one way.
        updates: whether the control gets a matrix at all.
        answers_data: whether the egress answers DATA where it is asked to.
        prices: what relays ask for at the start; see the attribute.
    """

    def __init__(
        self,
        links: dict[Relays, PathLink],
        *,
        seed: int = 0,
        policy: PathPolicy | None = None,
        jitter_ms: float = 1.0,
        spike_share: float = 0.0,
        loss: float = 0.0,
        data_pps: float = 50.0,
        predicted_ms: dict[Relays, float] | None = None,
        updates: bool = True,
        answers_data: bool = True,
        prices: dict[NodeId, int | None] | None = None,
    ) -> None:
        self.links = links
        self.now = START_S
        self._rng = random.Random(seed)
        self._jitter_ms, self._spike_share, self._loss = jitter_ms, spike_share, loss
        self.allowed = {node for relays in links for node in relays}
        """Who may relay."""
        self.prices: dict[NodeId, int | None] = dict(prices or {})
        """What relays ask for, microtokens a GB; those that are not named are free, None never carries. May be changed while it runs."""
        self.log: list[tuple[float, Any]] = []
        """Events of the control and when they came."""
        self.deliveries: list[Delivery] = []
        """DATA that arrived."""
        self.keepalives: list[tuple[float, Relays]] = []
        """When keep-alives were sent, and on which path."""
        self._heap: list[tuple[float, int, Callable[[], bool]]] = []
        self._order = itertools.count()
        self._receptions: dict[int, _Reception] = {}  # by path tag
        self._answers_data = answers_data
        self._seq = itertools.count()
        self._by_locator = {locator_of(node): node for relays in links for node in relays}
        self.answers = 0
        """Answers the egress sent, to keep-alives and to data."""
        self._data_pps = data_pps
        tags = itertools.count(1000)
        self.matrix = matrix_of(predicted_ms or {relays: link.base_ms for relays, link in links.items()})
        self.control = PathControl(
            INGRESS,
            EGRESS,
            policy or PathPolicy(),
            rng=random.Random(seed + 1_000_000),
            make_tag=lambda: next(tags),
            now=self.now,
            finder=PathFinder(NAMES.__getitem__, lambda node: self.prices.get(node, 0)),
            relays_allowed=lambda node: node in self.allowed,
        )
        if data_pps:
            self._at(self.now, self._send_data)
        if updates:
            self._at(self.now, self._update)

    def _at(self, when: float, action: Callable[[], bool]) -> None:
        """Do something later; it says whether the control's output must be drained."""
        heapq.heappush(self._heap, (when, next(self._order), action))

    def _update(self) -> bool:
        mean_ms = self.matrix.mean_ms.copy()
        mean_ms[:, 1] += DRIFT * self.now * 1000  # the egress's clock drifts for the matrix as for the keep-alives
        self.control.update(attrs.evolve(self.matrix, mean_ms=mean_ms), self.now)
        self._at(self.now + UPDATE_S, self._update)
        return True

    def _noise_ms(self, legs: int) -> float:
        total = 0.0
        for _ in range(legs):
            total += self._rng.expovariate(1 / self._jitter_ms) if self._jitter_ms else 0.0
            if self._rng.random() < self._spike_share:
                total += self._rng.expovariate(1 / SPIKE_MS)
        return total

    def _cross(self, relays: Relays, forward: bool) -> float | None:
        """Return the latency of one crossing, ms, or None if the packet is lost."""
        link = self.links[relays]
        if not (link.is_up(self.now) and (link.is_forward_up if forward else link.is_back_up)(self.now)):
            return None
        if self._rng.random() < self._loss + (link.loss(self.now) if forward else 0.0):
            return None
        return link.base_ms + (link.extra_ms(self.now) if forward else 0.0) + self._noise_ms(link.legs)

    def _send_data(self) -> bool:
        seq = next(self._seq)
        for relays, tag in self.control.routes():
            self.control.data_sent(self.now, octets=DATA_BYTES, path_tag=tag, seq=seq)
            latency_ms = self._cross(relays, forward=True)
            if latency_ms is not None:
                delivery = Delivery(self.now, latency_ms, relays, seq)
                self._at(self.now + latency_ms / 1000, partial(self._take_data, delivery, tag))
        self._at(self.now + 1 / self._data_pps, self._send_data)
        return False

    def _take_data(self, delivery: Delivery, tag: int) -> bool:
        self.deliveries.append(delivery)
        reception = self._receptions.setdefault(tag, _Reception())
        reception.packets += 1
        if self._answers_data and self.now - reception.answered_at >= reception.answer_s:
            way = delivery.relays if reception.back is None else reception.back
            self._send_answer(way, self._make_ack(tag, reception, delivery.seq, delivery.latency_ms, is_for_data=True))
        return False

    def _send_keepalives(self) -> None:
        for packet in self.control.packets_to_send(self.now):
            self.keepalives.append((self.now, packet.relays))
            latency_ms = self._cross(packet.relays, forward=True)
            if latency_ms is None:
                continue
            self._at(self.now + latency_ms / 1000, partial(self._answer, packet, latency_ms))

    def _answer(self, packet: PathPacket, latency_ms: float) -> bool:
        asked = KeepAlive.decode(packet.body)
        reception = self._receptions.setdefault(packet.path_tag, _Reception())
        reception.answer_s = asked.answer_ms / 1000 if asked.answer_ms else math.inf
        back = None if asked.back is None else tuple(self._by_locator[locator] for locator in asked.back)
        if not asked.is_once:
            reception.back = back
        way = packet.relays if back is None else back
        self._send_answer(way, self._make_ack(packet.path_tag, reception, packet.seq, latency_ms, is_for_data=False))
        return False

    def _make_ack(self, tag: int, reception: _Reception, seq: int, latency_ms: float, *, is_for_data: bool) -> Ack:
        reception.answered_at = self.now
        raw_ns = int((latency_ms + CLOCK_OFFSET_MS + DRIFT * self.now * 1000) * 1e6)
        octets = reception.packets * DATA_BYTES
        return Ack(tag, seq, raw_ns, reception.packets, octets, None, max(0, reception.packets - 1), is_for_data=is_for_data)

    def _send_answer(self, way: Relays, ack: Ack) -> None:
        self.answers += 1
        back_ms = self._cross(way, forward=False)
        if back_ms is not None:
            self._at(self.now + back_ms / 1000, partial(self._take_answer, ack))

    def _take_answer(self, ack: Ack) -> bool:
        self.control.receive_ack(ack, self.now)
        return True

    def drain(self) -> None:
        """Take out what the control wants sent and told."""
        self._send_keepalives()
        while (event := self.control.next_event()) is not None:
            self.log.append((self.now, event))

    def run(self, seconds: float) -> PathNetwork:
        """Let time pass and return self."""
        end = self.now + seconds
        self.drain()
        due = self._due()
        while True:
            if self._heap and self._heap[0][0] <= due:
                when, _, action = self._heap[0]
                if when > end:
                    break
                heapq.heappop(self._heap)
                self.now = max(self.now, when)
                if not action():
                    continue
            elif due <= end:
                self.now = max(self.now, due)
                self.control.handle_timer(self.now)
            else:
                break
            self.drain()
            due = self._due()
        self.now = end
        return self

    def _due(self) -> float:
        timer = self.control.get_timer()
        return math.inf if timer is None else timer

    def forget_schedule(self) -> None:
        """Drop all that is under way: packets, data to come, matrices to come."""
        self._heap.clear()

    def events(self, kind: type[Any]) -> list[Any]:
        """Return the logged events of one kind."""
        return [event for _, event in self.log if isinstance(event, kind)]

    def switches(self) -> list[tuple[float, PathSwitched]]:
        """Return when data moved, and the events."""
        return [(when, event) for when, event in self.log if isinstance(event, PathSwitched)]

    def gap_s(self, after: float) -> float:
        """Longest time between two arrivals of data after a moment."""
        arrivals = sorted(delivery.sent_at + delivery.latency_ms / 1000 for delivery in self.deliveries)
        arrivals = [moment for moment in arrivals if moment >= after - 0.1]
        return max((later - earlier for earlier, later in itertools.pairwise(arrivals)), default=math.inf)


def links_of(**links: float) -> dict[Relays, PathLink]:
    """Return links by name of the relay ("direct" for none) and one-way latency, ms."""
    by_name = {"direct": DIRECT, "east": VIA_EAST, "west": VIA_WEST, "north": VIA_NORTH, "south": VIA_SOUTH}
    return {by_name[name]: PathLink(base_ms, legs=2 if by_name[name] else 1) for name, base_ms in links.items()}


def between(start: float, end: float, value: float) -> Callable[[float], float]:
    """Return a function of time that is `value` from start to end and else 0."""
    return lambda now: value if start <= now < end else 0.0


def down(start: float, end: float = math.inf) -> Callable[[float], bool]:
    """Return an `is_up` that is False from start to end."""
    return lambda now: not start <= now < end
