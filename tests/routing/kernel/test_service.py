"""The shell of the kernel data plane without a kernel: what it asks for when paths change, and what it says when the kernel cannot."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing

from srwan.errors import ConfigError, RoutingError
from srwan.kernel_config import Circuit, Delivery, KernelPeer, KernelSettings
from srwan.overlay.view import Role
from srwan.routing.kernel.messages import Request, SidCount
from srwan.routing.kernel.plan import TABLE_ROUTES, KernelRoute, KernelState, NextHop, PutRoute, RemoveRoute, delivery_sid, difference
from srwan.routing.kernel.plane import KernelAbilities, KernelAccess, KernelPlane, _probe, open_kernel
from srwan.routing.kernel.service import INHERIT_S, REFRESH_S, KernelService
from srwan.routing.kernel.sysctl import Sysctls
from srwan.routing.path import DirectRestored, PathSwitched
from srwan.routing.service import FlowEvent
from srwan.routing.sid import Function, Sid
from srwan.types import NodeId

A, R, C, STRANGER = (NodeId(bytes([number]) * 32) for number in (1, 2, 3, 9))
DT6 = Delivery("End.DT6", table=255)
SETTINGS = KernelSettings(
    is_enabled=True,
    interfaces=("eth1",),
    peers=(KernelPeer(R, "fd00::2"), KernelPeer(C, "fd00::3")),
    routes=(Circuit("fd99::/64", C, DT6),),
)


@attrs.define
class FakePlane:
    """Holds what a kernel would."""

    abilities: KernelAbilities = attrs.field(
        factory=lambda: KernelAbilities(can_count=True, can_hmac=False, hmac_problem="this kernel has none")
    )
    state: KernelState = attrs.field(factory=KernelState)
    refusal: str = ""
    reached: dict[NodeId, NextHop] = attrs.field(factory=lambda: {R: NextHop("eth1", "fd00::2"), C: NextHop("eth1", "fd00::3")})
    refreshes: int = 0
    sysctls: dict[str, str] = attrs.field(factory=dict)

    async def set_sysctls(self, wanted: dict[str, str]) -> None:
        self.sysctls = wanted

    async def next_hops(self, peers: Iterable[KernelPeer]) -> dict[NodeId, NextHop]:
        return {peer.node: self.reached[peer.node] for peer in peers if peer.node in self.reached}

    async def apply(self, wanted: KernelState) -> tuple[object, ...]:
        if self.refusal:
            raise RoutingError(self.refusal)
        done = difference(self.state, wanted)
        self.state = wanted
        return tuple(done)

    async def read_counts(self) -> dict[Sid, SidCount]:
        return {Sid.of(A, Function.END): SidCount(3, 300, 1)}

    async def refresh(self) -> None:
        self.refreshes += 1


class FakeRouting:
    """Opens one flow and tells what happens to it."""

    def __init__(self) -> None:
        self.tell: Callable[[object], None] = lambda _: None
        self.flow = SimpleNamespace(id=5, is_closed=False, control=SimpleNamespace(active=((), 1)), close=lambda: None)
        self.policies: list[Any] = []

    def on_event(self, callback: Callable[[object], None]) -> None:
        self.tell = callback

    async def open(self, peer: NodeId, policy: Any, *, timeout_s: float) -> Any:
        assert (C, True) == (peer, timeout_s > 0)
        self.policies.append(policy)
        return self.flow

    def switch(self, relays: tuple[NodeId, ...], *, flow: int = 5, peer: NodeId = C) -> None:
        self.tell(FlowEvent(peer, flow, PathSwitched((), relays, 2, "better", 20.0)))


def make(plane: FakePlane, routing: FakeRouting, settings: KernelSettings = SETTINGS) -> KernelService:
    overlay = SimpleNamespace(
        view=type("View", (), {"ids": (A, R, C, STRANGER), "__contains__": lambda _self, node: node in (A, R, C, STRANGER)})()
    )
    return KernelService(
        A,
        settings,
        roles=Role.RELAY | Role.EGRESS,
        plane=cast("KernelPlane", plane),
        tun=None,
        overlay=cast("Any", overlay),
        gossip=cast("Any", None),
        routing=cast("Any", routing),
        clock=cast("Any", None),
        name_of=lambda node: node.hex()[:2],
    )


def segments(plane: FakePlane) -> tuple[Sid, ...] | None:
    route = plane.state.routes.get((TABLE_ROUTES, "fd99::/64"))
    return None if route is None else route.segments


async def test_encapsulation_follows_the_path(autojump_clock: trio.testing.MockClock) -> None:
    plane, routing = FakePlane(), FakeRouting()
    service = make(plane, routing)
    deliver = delivery_sid(C, DT6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.testing.wait_all_tasks_blocked()
        assert (deliver,) == segments(plane)
        before = plane.state
        routing.switch((R,))
        await trio.testing.wait_all_tasks_blocked()
        assert (Sid.of(R, Function.END), deliver) == segments(plane)
        assert ["PutRoute"] == [type(step).__name__ for step in difference(before, plane.state)]
        routing.switch((STRANGER,))
        routing.switch((), flow=6)
        routing.switch((), peer=R)
        await trio.testing.wait_all_tasks_blocked()
        assert (Sid.of(R, Function.END), deliver) == segments(plane)
        routing.tell(FlowEvent(C, 5, DirectRestored((R,), 1, "no gain")))
        await trio.testing.wait_all_tasks_blocked()
        assert (deliver,) == segments(plane)
        nursery.cancel_scope.cancel()
    assert [frozenset({STRANGER})] == [policy.avoid for policy in routing.policies]


async def test_routes_of_a_killed_run_carry_on_until_there_is_a_path_or_it_takes_too_long(autojump_clock: trio.testing.MockClock) -> None:
    over_r = (Sid.of(R, Function.END), delivery_sid(C, DT6))
    left = KernelRoute(TABLE_ROUTES, "fd99::/64", "eth1", segments=over_r)
    elsewhere = KernelRoute(TABLE_ROUTES, "fd98::/64", "eth1", segments=over_r)
    plane, routing = FakePlane(state=KernelState({left.key: left, elsewhere.key: elsewhere})), FakeRouting()
    waiting = trio.Event()

    async def never(*_: Any, **__: Any) -> Any:
        await waiting.wait()

    routing.open = never  # type: ignore[method-assign]
    service = make(plane, routing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.testing.wait_all_tasks_blocked()
        assert (over_r, False) == (segments(plane), elsewhere.key in plane.state.routes)
        await trio.sleep(INHERIT_S + REFRESH_S)
        assert segments(plane) is None
        nursery.cancel_scope.cancel()


def test_a_route_that_led_to_another_egress_is_not_inherited() -> None:
    left = KernelRoute(TABLE_ROUTES, "fd99::/64", "eth1", segments=(delivery_sid(R, DT6),))
    assert {} == make(FakePlane(state=KernelState({left.key: left})), FakeRouting())._inherited


async def test_ways_are_looked_up_and_stock_is_taken_again_and_again(autojump_clock: trio.testing.MockClock) -> None:
    plane, routing = FakePlane(), FakeRouting()
    service = make(plane, routing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.testing.wait_all_tasks_blocked()
        plane.reached[R] = NextHop("eth1", "fd00::77")
        await trio.sleep(REFRESH_S + 0.1)
        assert (1, "fd00::77") == (plane.refreshes, plane.state.routes[TABLE_ROUTES, "fd61:5da8:5f9e:2a36::/64"].gateway)
        nursery.cancel_scope.cancel()


async def test_what_the_kernel_refuses_is_said_and_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    plane, routing = FakePlane(refusal="no memory"), FakeRouting()
    service = make(plane, routing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.testing.wait_all_tasks_blocked()
        assert ("no memory", None) == (service.status()["problem"], segments(plane))
        plane.refusal = ""
        await trio.sleep(REFRESH_S + 0.1)
        assert ("", (delivery_sid(C, DT6),)) == (service.status()["problem"], segments(plane))
        nursery.cancel_scope.cancel()


async def test_status_shows_sids_counters_and_peers(autojump_clock: trio.testing.MockClock) -> None:
    plane, routing = FakePlane(), FakeRouting()
    service = make(plane, routing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.testing.wait_all_tasks_blocked()
        status = service.status()
        nursery.cancel_scope.cancel()
    assert [{"sid": str(Sid.of(A, Function.END)), "action": "End", "packets": 3, "octets": 300, "errors": 1}] == status["sids"]
    assert (["02", "03"], {"fd99::/64": [str(delivery_sid(C, DT6))]}) == (status["peers_reached"], status["routes"])


def test_hmac_that_the_kernel_refuses_is_done_without_unless_it_is_a_must(tmp_path: Path) -> None:
    file = tmp_path / "hmac"
    file.write_text("7 " + "11" * 32)
    wanted = attrs.evolve(SETTINGS, hmac_key_file=file)
    assert ("", "this kernel has none") == tuple(make(FakePlane(), FakeRouting(), wanted).status()[key] for key in ("hmac", "hmac_problem"))
    with pytest.raises(ConfigError, match="this kernel has none"):
        make(FakePlane(), FakeRouting(), attrs.evolve(wanted, is_hmac_required=True))


# --- probing -----------------------------------------------------------------------------------------------------------


class FakeKernel:
    """Refuses requests by what is in them."""

    def __init__(self, refuse: Callable[[Request], int] = lambda _: 0, key_refusal: int = 0) -> None:
        self.routes = self
        self._refuse = refuse
        self._key_refusal = key_refusal

    def ask(self, request: Request) -> list[object]:
        if number := self._refuse(request):
            raise OSError(number, "refused")
        return []

    def put_key(self, _key: object) -> None:
        if self._key_refusal:
            raise OSError(self._key_refusal, "refused")


COUNTERS = struct.pack("=HHQ", 12, 2, 0)
"""The first counter in the attribute."""


def probe(kernel: FakeKernel) -> KernelAbilities:
    return _probe(cast("KernelAccess", kernel), "lo")


def test_a_kernel_that_can_everything_is_found_so() -> None:
    assert KernelAbilities(can_count=True, can_hmac=True, hmac_problem="") == probe(FakeKernel())


def test_a_kernel_without_counters_is_used_without_them() -> None:
    assert not probe(FakeKernel(lambda request: errno.EINVAL if COUNTERS in request[2] else 0)).can_count


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOENT, errno.EOPNOTSUPP, errno.EIO])
def test_a_kernel_that_takes_no_keys_says_why(number: int) -> None:
    found = probe(FakeKernel(key_refusal=number))
    assert (False, True) == (found.can_hmac, len(found.hmac_problem) > 10)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EPERM, "CAP_NET_ADMIN"),
        (errno.EOPNOTSUPP, "CONFIG_IPV6_SEG6_LWTUNNEL"),
        (errno.ENETDOWN, "ip link set lo up"),
        (errno.EIO, "refuses"),
    ],
)
def test_a_kernel_that_cannot_is_a_configuration_error_with_its_remedy(number: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        probe(FakeKernel(lambda _: number))


async def test_without_an_underlay_nothing_is_opened() -> None:
    with pytest.raises(ConfigError, match="names no underlay interface"):
        async with open_kernel(()):
            pass


async def test_a_refused_operation_stops_the_batch_and_the_state_says_how_far_it_came() -> None:
    class Refusing:
        def perform(self, operation: object) -> None:
            if isinstance(operation, RemoveRoute):
                raise OSError(errno.EBUSY, "busy")

    first, second = (KernelRoute(TABLE_ROUTES, prefix, "eth1", "fd00::2") for prefix in ("fd01::/64", "fd02::/64"))
    present = KernelState({first.key: first})
    plane = KernelPlane(
        cast("KernelAccess", Refusing()),
        Sysctls(Path("/nonexistent")),
        KernelAbilities(can_count=True, can_hmac=True, hmac_problem=""),
        present,
    )
    wanted = KernelState({second.key: second})
    with pytest.raises(RoutingError, match="busy"):
        await plane.apply(wanted)
    assert {first.key: first, second.key: second} == plane.state.routes
    assert [RemoveRoute(first)] == difference(plane.state, wanted)
    assert PutRoute(second) not in difference(plane.state, wanted)


# --- sysctls -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc/sys/net in which writing forwarding of "all" also writes it for each interface."""
    root = tmp_path / "net"
    for name in ("all", "eth1", "eth2"):
        for key in ("forwarding", "seg6_enabled"):
            path = root / "ipv6/conf" / name / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("0\n")
    (root / "ipv6/conf/eth2/forwarding").write_text("1\n")
    monkeypatch.setattr("srwan.routing.kernel.sysctl.PROC_SYS", root)
    plain = Path.write_text

    def write_text(self: Path, text: str, *more: Any, **options: Any) -> int:
        if self == root / "ipv6/conf/all/forwarding":
            for name in ("eth1", "eth2"):
                plain(root / "ipv6/conf" / name / "forwarding", text)
        return plain(self, text, *more, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    return root


def values(proc: Path) -> dict[str, str]:
    return {str(path.relative_to(proc)): path.read_text().strip() for path in sorted(proc.rglob("*")) if path.is_file()}


WANTED = {"ipv6/conf/all/forwarding": "1", "ipv6/conf/eth1/seg6_enabled": "1"}


def test_sysctls_are_put_back_also_those_that_changed_by_themselves(proc: Path, tmp_path: Path) -> None:
    before = values(proc)
    sysctls = Sysctls(tmp_path / "journal")
    sysctls.set(WANTED)
    assert {"1"} == {value for name, value in values(proc).items() if name.endswith("forwarding")}
    sysctls.restore()
    assert (before, False) == (values(proc), (tmp_path / "journal").exists())


def test_after_a_crash_the_next_run_restores_what_was_before_the_first(proc: Path, tmp_path: Path) -> None:
    before = values(proc)
    Sysctls(tmp_path / "journal").set(WANTED)
    second = Sysctls(tmp_path / "journal")
    second.recover()
    second.set(WANTED)
    second.restore()
    assert before == values(proc)


def test_a_journal_of_another_boot_or_a_damaged_one_is_void(proc: Path, tmp_path: Path) -> None:
    for text in ('{"namespace": "other", "originals": {"ipv6/conf/eth1/seg6_enabled": "7"}}', "{", "[]"):
        (tmp_path / "journal").write_text(text)
        sysctls = Sysctls(tmp_path / "journal")
        sysctls.recover()
        sysctls.set(WANTED)
        sysctls.restore()
        assert "0" == values(proc)["ipv6/conf/eth1/seg6_enabled"]


def test_what_somebody_else_changed_since_is_left_alone(proc: Path, tmp_path: Path) -> None:
    sysctls = Sysctls(tmp_path / "journal")
    sysctls.set(WANTED)
    (proc / "ipv6/conf/eth1/seg6_enabled").write_text("5")
    sysctls.restore()
    assert "5" == values(proc)["ipv6/conf/eth1/seg6_enabled"]


def test_a_sysctl_that_is_not_there_is_a_configuration_error(proc: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CONFIG_IPV6_SEG6_LWTUNNEL"):
        Sysctls(tmp_path / "journal").set({"ipv6/conf/eth9/seg6_enabled": "1"})
