"""One simulated pulse group: an event heap, a clock, links, and what befalls nodes.

Heap entries are tuples (time, number, target, type and source, data); the number breaks ties, so two entries never compare further. A
datagram under way is one entry and no object of its own; a node has one armed timer, and an entry whose time is not the armed one any more
is passed over. Everything random comes from generators seeded by the simulation's seed and the node's id, nothing from hashes of objects.

Groups do not talk to each other, so a network is simulated group after group and takes the memory of one.
"""

from __future__ import annotations

import heapq
import math
import random
import struct
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial

from srwan.errors import ProtocolError, RemoteProtocolError
from srwan.gossip.core import SelfReborn
from srwan.overlay.frame import FrameType
from srwan.overlay.member_events import MemberLeft, ViewChanged
from srwan.testing.faults import Fault, Faults
from srwan.testing.frames import frame_bytes
from srwan.testing.fuzz import Fuzzer
from srwan.testing.invariants import CONVERGE_S, INBOX_OCTETS_MAX, INTERVAL_S, OUTPUT_MAX, Invariants
from srwan.testing.links import TWICE_S, LinkLatencies, Noise
from srwan.testing.router import RouterSettings, SimRouter
from srwan.testing.trace import Trace
from srwan.testing.weather import Condition, fate_of
from srwan.types import NodeId

__all__ = ["SimGroup", "SimNode"]

BUFFER_OVERHEAD_OCTETS = 512
"""What the kernel counts for a datagram besides its bytes, about."""
JOIN_RETRY_S = 1.0
"""After an introducer could not be asked."""
TIMER_S_MIN = 1e-6
"""A timer that is due at once comes this later, so that time goes on."""
SPINS_MAX = 1_000
"""Calls in a row after which a router's timer may still be due."""
KIND_TIMER = 64
KIND_ACTION = 65
"""Kinds of events in the trace beside the frame types."""


class SimNode:
    """One node: its host's condition, and the run of the router on it, if there is one."""

    __slots__ = (
        "_seed",
        "armed_at",
        "condition",
        "inbox",
        "inbox_octets",
        "index",
        "is_spoilt",
        "number",
        "router",
        "runs",
        "settings",
        "spins",
        "waking_at",
    )

    def __init__(self, index: int, number: int, settings: RouterSettings, seed: bytes) -> None:
        self.index = index
        self.number = number
        self.settings = settings
        self.router: SimRouter | None = None
        self.condition = Condition()
        self.is_spoilt = False
        self.armed_at = math.inf
        self.waking_at = math.inf
        self.inbox: list[tuple[int, bytes, int]] = []
        self.inbox_octets = 0
        self.runs = 0
        self.spins = 0
        self._seed = seed

    def boot(self, now: float) -> SimRouter:
        """Start a run with a new boot id."""
        rng = random.Random(self._seed + struct.pack("<I", self.runs))
        self.runs += 1
        self.armed_at = self.waking_at = math.inf
        self.inbox.clear()
        self.inbox_octets = 0
        self.router = SimRouter(self.settings, rng, now)
        return self.router


class SimGroup:
    """Nodes, links and the heap.

    Args:
        nodes: in any order; `index` counts them.
        latency: one-way latencies between them.
        faults: the weather, and what befalls nodes; `targets` says whom.
        targets: for each of `faults.faults` the indices of nodes that have it, and those it is towards.
        seed: 32 bytes for all that is drawn here.
        until_s: when the simulation ends at the latest.
    """

    def __init__(
        self,
        nodes: list[SimNode],
        latency: LinkLatencies,
        faults: Faults,
        targets: list[tuple[tuple[int, ...], tuple[int, ...]]],
        seed: bytes,
        until_s: float,
    ) -> None:
        self.nodes = nodes
        self.now = 0.0
        self.rng = random.Random(seed)
        self.trace = Trace({node.settings.identity.node_id: node.index for node in nodes})
        self.invariants = Invariants()
        self.sent: dict[int, list[int]] = {kind: [0, 0] for kind in FrameType}
        """By frame type: datagrams and bytes handed to the network."""
        self._unknown = [0, 0]
        self.lost: Counter[str] = Counter()
        """Datagrams that the network or a socket buffer lost, by cause."""
        self._faults = faults
        self._latency = latency
        self._latency_s: list[list[float]] = []
        self._by_id: dict[NodeId, SimNode] = {node.settings.identity.node_id: node for node in nodes}
        self._by_address = {node.settings.address: node for node in nodes}
        self._noise = iter(Noise(self.rng, faults))
        self._heap: list[tuple[float, int, int, int, bytes | Callable[[], None] | None]] = []
        self._number = 0
        self._has_weather = False
        self._blocked: Counter[tuple[int, int]] = Counter()
        self._events: list[object] = []
        self._changed_at = 0.0
        self._checked_at = 0.0
        self._fuzzer = Fuzzer(random.Random(self.rng.getrandbits(64))) if faults.is_fuzzed else None
        self._change_latency(0)
        self._plan(targets, until_s)

    # running

    def run(self, until: float) -> None:
        """Go on to a time.

        Raises:
            InvariantViolated: something did not hold; the group is as it was then.
        """
        heap, nodes, pop = self._heap, self.nodes, heapq.heappop
        note_time, note_code = self.trace.note_time, self.trace.note_code
        steps = 0
        while heap and heap[0][0] <= until:
            at, _, target, code, data = pop(heap)
            if at < self.now:
                raise self.invariants.violated("time-rises", at, target, f"an event at {at} comes after {self.now}")
            self.now = at
            steps += 1
            if data is None:
                node = nodes[target]
                if node.armed_at != at:
                    continue
                note_time(at)
                note_code(KIND_TIMER << 40 | target)
                self._fire(node, at)
            elif code >= 0:
                note_time(at)
                note_code(code | target)
                self._deliver(nodes[target], code >> 20 & 0xFFFFF, data, at)  # type: ignore[arg-type]
            else:
                note_time(at)
                note_code(KIND_ACTION << 40)
                data()  # type: ignore[operator]
        self.now = until
        self.trace.flush()
        self.invariants.note_steps(steps)
        while self._checked_at + INTERVAL_S <= until:
            self._checked_at += INTERVAL_S
            is_settled = until - max(self._changed_at, self._faults.start_s) > CONVERGE_S
            self.invariants.check_interval(until, self.nodes, is_settled=is_settled)

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do something at a time."""
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, -1, -1, action))

    @property
    def fuzzed(self) -> int:
        """Hostile datagrams made."""
        return 0 if self._fuzzer is None else self._fuzzer.made

    def _fire(self, node: SimNode, now: float) -> None:
        router = node.router
        node.armed_at = math.inf
        if router is None:
            return
        if node.condition.can_freeze:
            frozen_until = node.condition.frozen_until(now)
            if frozen_until > now:
                self._sleep(node, frozen_until)
                return
        try:
            router.handle_timer(now)
            self._settle(node, router, now)
        except (ProtocolError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise self._raised(node, error) from error

    def _deliver(self, node: SimNode, source: int, data: bytes, now: float) -> None:
        router = node.router
        if router is None:
            self.lost["down"] += 1
            return
        if node.condition.can_freeze:
            frozen_until = node.condition.frozen_until(now)
            if frozen_until > now:
                self._enqueue(node, source, data, now, frozen_until)
                return
        try:
            if router.receive(data, self.nodes[source].settings.address, node.settings.clock.stamp_ns(now), now):
                self._settle(node, router, now)
        except (ProtocolError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise self._raised(node, error) from error

    def _settle(self, node: SimNode, router: SimRouter, now: float) -> None:
        """Send what there is to send, note what happened, arm the timer."""
        events = self._events
        out = router.drain(now, events)
        if out:
            self._send(node, out, now)
        if events:
            self._note(node, now)
        timer_at = router.get_timer()
        if timer_at > now:
            node.spins = 0
        else:
            node.spins += 1
            if node.spins > SPINS_MAX:
                raise self.invariants.violated("timers-advance", now, node.number, f"its timer is still due after {SPINS_MAX} calls")
        if timer_at < node.armed_at:
            node.armed_at = timer_at = max(timer_at, now + TIMER_S_MIN)
            self._number += 1
            heapq.heappush(self._heap, (timer_at, self._number, node.index, -1, None))

    def _send(self, node: SimNode, out: list[tuple[bytes, tuple[str, int]]], now: float) -> None:
        if len(out) > OUTPUT_MAX:
            raise self.invariants.violated("output-bounded", now, node.number, f"{len(out)} datagrams at once")
        heap, push, noise, by_address, sent = self._heap, heapq.heappush, self._noise, self._by_address, self.sent
        source, latency_s, number = node.index, self._latency_s[node.index], self._number
        has_weather, unknown = self._has_weather, self._unknown
        if self._fuzzer is not None:
            self._fuzzer.overhear(out)
        for data, address in out:
            kind, size = frame_bytes(data)
            count = sent.get(kind, unknown)
            count[0] += 1
            count[1] += size
            delay_s = next(noise)
            if delay_s < 0:
                self.lost["loss"] += 1
                continue
            target = by_address.get(address)
            if target is None:
                self.lost["no-address"] += 1
                continue
            is_twice = delay_s >= TWICE_S
            arrival = now + latency_s[target.index] + (delay_s - TWICE_S if is_twice else delay_s)
            if has_weather:
                arrival = fate_of(node.condition, target.condition, arrival, now, self.rng)
                if arrival < 0 or self._blocked[source, target.index]:
                    self.lost["fault"] += 1
                    continue
            number += 1
            code = kind << 40 | source << 20
            push(heap, (arrival, number, target.index, code, data))
            if is_twice:
                number += 1
                push(heap, (arrival, number, target.index, code, data))
        self._number = number

    def _note(self, node: SimNode, now: float) -> None:
        for event in self._events:
            self.trace.note_event(now, node.index, event)
            if isinstance(event, MemberLeft):
                self._changed_at = now
                subject = self._by_id.get(event.node_id)
                if subject is not None and not node.is_spoilt:
                    self.invariants.require_reason_to_remove(now, node.number, subject, event.reason)
            elif isinstance(event, SelfReborn):
                self._changed_at = now
            elif isinstance(event, ViewChanged) and event.size == 1 and now > self._faults.start_s:
                self.at(now + JOIN_RETRY_S, partial(self._ask_to_join, node))
        self._events.clear()

    def _raised(self, node: SimNode, error: Exception) -> Exception:
        place = traceback.extract_tb(error.__traceback__)[-1]
        detail = f"{type(error).__name__}: {error}, in {place.name} at {place.filename.rpartition('/')[2]}:{place.lineno}"
        return self.invariants.violated("core-raised-nothing", self.now, node.number, detail)

    # hosts

    def _enqueue(self, node: SimNode, source: int, data: bytes, now: float, wake_at: float) -> None:
        """The process does not run: the kernel stamps the datagram and keeps it, as far as there is room."""
        octets = frame_bytes(data)[1] + BUFFER_OVERHEAD_OCTETS
        if node.inbox_octets + octets > INBOX_OCTETS_MAX:
            self.lost["socket-buffer"] += 1
            return
        node.inbox_octets += octets
        node.inbox.append((source, data, node.settings.clock.stamp_ns(now)))
        self._sleep(node, wake_at)

    def _sleep(self, node: SimNode, wake_at: float) -> None:
        if wake_at < node.waking_at:
            node.waking_at = wake_at
            self.at(wake_at, partial(self._wake, node, wake_at))

    def _wake(self, node: SimNode, at: float) -> None:
        """The process runs again: first what waits in the socket, then timers."""
        if node.waking_at != at:
            return
        now, router = self.now, node.router
        node.waking_at = math.inf
        if router is None:
            return
        frozen_until = node.condition.frozen_until(now)
        if frozen_until > now:
            self._sleep(node, frozen_until)
            return
        waiting, node.inbox, node.inbox_octets = node.inbox, [], 0
        if waiting:
            router.note_lag((node.settings.clock.stamp_ns(now) - waiting[0][2]) / 1e9, now)
        try:
            for source, data, rx_ns in waiting:
                router.receive(data, self.nodes[source].settings.address, rx_ns, now)
                self._settle(node, router, now)
            router.get_timer()
            router.handle_timer(now)
            self._settle(node, router, now)
        except (ProtocolError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise self._raised(node, error) from error

    def _start(self, node: SimNode) -> None:
        """Start a run, alone."""
        self._changed_at = self.now
        router = node.boot(self.now)
        router.start(self.now)
        self._settle(node, router, self.now)

    def _introduce_all(self) -> None:
        """Give all nodes the certificates of all."""
        routers = [(node, node.router) for node in self.nodes if node.router is not None]
        certificates = [router.view.certificate(router.node_id) for _, router in routers]
        for node, router in routers:
            router.join(certificates, self.now)
            self._settle(node, router, self.now)

    def _boot(self, node: SimNode) -> None:
        """Start a run; the first of the group founds it, others ask somebody."""
        is_first = all(other.router is None for other in self.nodes)
        self._start(node)
        if not is_first:
            self._ask_to_join(node)

    def _ask_to_join(self, node: SimNode) -> None:
        """Ask a random introducer for the roster, over the control channel: one round trip, and again after a while if that fails."""
        router = node.router
        if router is None or len(router.view) > 1:
            return
        others = [other for other in self.nodes if other is not node and other.router is not None and other.runs and len(other.router.view)]
        if not others:
            return
        other = self.rng.choice(others)
        there_s, back_s = self._latency_s[node.index][other.index], self._latency_s[other.index][node.index]
        is_blocked = self._has_weather and (
            fate_of(node.condition, other.condition, self.now, self.now, self.rng) != self.now
            or fate_of(other.condition, node.condition, self.now, self.now, self.rng) != self.now
            or bool(self._blocked[node.index, other.index] + self._blocked[other.index, node.index])
        )
        if is_blocked or other.condition.frozen_until(self.now) > self.now or node.condition.frozen_until(self.now) > self.now:
            self.at(self.now + JOIN_RETRY_S, partial(self._ask_to_join, node))
        else:
            self.at(self.now + there_s, partial(self._admit, node, router, other, back_s))

    def _admit(self, node: SimNode, router: SimRouter, other: SimNode, back_s: float) -> None:
        introducer = other.router
        if introducer is None or node.router is not router:
            return
        certificate = router.view.certificate(router.node_id)
        try:
            roster = introducer.admit(router.node_id, certificate, self.now)
        except RemoteProtocolError:
            self.at(self.now + JOIN_RETRY_S, partial(self._ask_to_join, node))
            return
        self._settle(other, introducer, self.now)
        self.at(self.now + back_s, partial(self._join, node, router, roster))

    def _join(self, node: SimNode, router: SimRouter, roster: list[bytes]) -> None:
        if node.router is router:
            met = router.join(roster, self.now)
            self._settle(node, router, self.now)
            if not met:
                self.at(self.now + JOIN_RETRY_S, partial(self._ask_to_join, node))

    # plans

    def _plan(self, targets: list[tuple[tuple[int, ...], tuple[int, ...]]], until_s: float) -> None:
        for node in self.nodes:
            when = self.rng.uniform(0, self._faults.start_s)
            if self._faults.has_join:
                self.at(when, partial(self._boot, node))
            else:
                self.at(0.0, partial(self._start, node))
        if not self._faults.has_join:
            self.at(0.0, self._introduce_all)
        for fault, (having, towards) in zip(self._faults.faults, targets, strict=True):
            if having:
                for when, is_on in fault.changes(until_s):
                    self.at(when, partial(self._change, fault, having, towards, is_on=is_on))

    def _change(self, fault: Fault, having: tuple[int, ...], towards: tuple[int, ...], *, is_on: bool) -> None:
        """A fault begins or ends."""
        self._changed_at = self.now
        self._has_weather = True
        by = 1 if is_on else -1
        if fault.kind == "cut":
            for source in having:
                for target in towards:
                    self._blocked[source, target] += by
        for index in having:
            node = self.nodes[index]
            node.is_spoilt = True
            node.condition.change(fault, self.now, by)
            self._change_node(fault, node, is_on=is_on)
        for index in towards if fault.kind == "cut" else ():
            self.nodes[index].is_spoilt = True

    def _change_node(self, fault: Fault, node: SimNode, *, is_on: bool) -> None:
        router = node.router
        match fault.kind:
            case "crash" if is_on:
                node.router = None
            case "crash":
                self._boot(node)
            case "leave" if is_on and router is not None:
                router.leave(self.now)
                self._settle(node, router, self.now)
                self.at(self.now + 1.0, partial(self._stop, node, router))
            case "clock-step":
                node.settings.clock.step(fault.step_s if is_on else -fault.step_s)
            case "pause" | "starve" if router is not None and node.condition.frozen_until(self.now) <= self.now:
                self.at(self.now, partial(self._wake_now, node))
            case "hostile" if is_on:
                self._be_hostile(node, fault)
            case _:
                pass

    def _wake_now(self, node: SimNode) -> None:
        node.waking_at = self.now
        self._wake(node, self.now)

    def _stop(self, node: SimNode, router: SimRouter) -> None:
        if node.router is router:
            node.router = None

    def _be_hostile(self, node: SimNode, fault: Fault) -> None:
        fuzzer, router = self._fuzzer, node.router
        if fuzzer is None or not fault.is_on(self.now):
            return
        if router is not None:
            out = fuzzer.attack(router, [other.settings.address for other in self.nodes if other is not node], self.now)
            self._send(node, out, self.now)
        self.at(self.now + self.rng.expovariate(fault.rate_per_s), partial(self._be_hostile, node, fault))

    def _change_latency(self, slice_index: int) -> None:
        self._latency_s = (self._latency.at(slice_index) / 1e3).tolist()
        if slice_index + 1 < self._latency.slices:
            self.at((slice_index + 1) * self._latency.slice_s, partial(self._change_latency, slice_index + 1))
