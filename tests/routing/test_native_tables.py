"""What the native plane keeps: windows, counters and path tags decide as their Python originals do."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.overlay.replay import WINDOW_BITS, ReplayWindow
from srwan.overlay.session import Sessions
from srwan.routing.packet import seal_packet
from srwan.routing.sid import Function, Sid, locator_of
from srwan.routing.srh import Srh
from srwan.routing.traffic import PATH_TAGS_MAX
from srwan.testing.packets import SrNetwork
from srwan.testing.vectors import NODES, VectorRouter
from srwan.types import NodeId

if TYPE_CHECKING:
    from srwan.routing.native._core import Plane, SessionKeys
    from srwan.routing.native.forwarder import NativeForwarder

pytestmark = pytest.mark.needs("native")
KEYS = (bytes(32), bytes(32), bytes(32), bytes(32))
ADDRESS = ("127.0.0.1", 9)


def make_native(node_id: NodeId, sessions: Sessions, **arguments: Any) -> NativeForwarder:
    from srwan.routing.native.forwarder import NativeForwarder

    return NativeForwarder(new_plane(locator_of(node_id)), node_id, sessions, **arguments)


def new_plane(locator: bytes = b"\xfd1234567") -> Plane:
    from srwan.routing.native._core import Plane

    return Plane(locator)


def with_session() -> tuple[Plane, SessionKeys]:
    plane = new_plane()
    assert plane.add_peer(1, b"\xfd7654321")
    return plane, plane.add_session(5, 6, 1, ADDRESS, KEYS, True)


COUNTERS = st.lists(
    st.one_of(
        st.integers(0, 4 * WINDOW_BITS),
        st.integers(2**64 - 3 * WINDOW_BITS, 2**64 - 1),
        st.integers(0, 2**64 - 1),
    ),
    max_size=60,
)


@given(COUNTERS)
def test_the_window_decides_as_the_one_in_python(counters: list[int]) -> None:
    _, keys = with_session()
    window = ReplayWindow()
    for counter in counters:
        assert window.is_fresh(counter) == keys.is_fresh(0, counter)
        assert window.accept(counter) == keys.accept(0, counter)
        assert window.highest == keys.highest(0)
    assert keys.highest(1) == -1


@pytest.mark.parametrize("seed", range(4))
def test_the_window_decides_alike_over_a_long_shuffled_run(seed: int) -> None:
    rng = random.Random(seed)
    _, keys = with_session()
    window = ReplayWindow()
    for number in range(20_000):
        counter = max(0, number + rng.choice((0, 0, 1, -1, 64, -64, -2047, -2048, -2049, rng.randrange(-3000, 300))))
        assert window.accept(counter) == keys.accept(1, counter)


def test_counters_rise_and_never_repeat_whoever_takes_them() -> None:
    _, keys = with_session()
    assert [0, 1, 2] == [keys.take_counter(0) for _ in range(3)]
    assert keys.take_counter(1) == 0
    keys.skip_to(0, 10)
    assert keys.take_counter(0) == 10
    with pytest.raises(ValueError, match="used already"):
        keys.skip_to(0, 10)


def test_a_worn_out_counter_never_runs_on() -> None:
    _, keys = with_session()
    keys.skip_to(0, 2**63 - 1)
    assert 2**63 - 1 == keys.take_counter(0)
    for _ in range(3):
        with pytest.raises(OverflowError):
            keys.take_counter(0)
    assert 2**63 == keys.sealed(0)


def test_sessions_in_python_use_the_counters_and_windows_of_the_plane() -> None:
    from srwan.routing.native.forwarder import NativeForwarder

    network = SrNetwork(0, make_native)
    ingress, relay, egress = network.line()
    session = ingress.sessions.current(relay.node_id)
    assert session is not None
    before = session.link_seal.counter
    path = (relay.sid(), egress.sid(Function.END_APP))
    assert isinstance(ingress.forwarder, NativeForwarder)
    ingress.forwarder.send_payloads(path, 1, egress.node_id, [b"\x01" + bytes(23)] * 3)
    ingress.forwarder.send_payload(path, 1, egress.node_id, b"\x01" + bytes(23))
    assert before + 4 == session.link_seal.counter
    counters = [int.from_bytes(datagram.data[8:16], "little") for datagram in network.queue]
    assert sorted(range(before, before + 4)) == sorted(counters)


def test_who_sprays_path_tags_evicts_its_own() -> None:
    """As test_traffic.py has it for `TagTable`, through packets."""
    router = VectorRouter("first", make_native)
    onward = Srh.for_path((Sid.of(NODES["first"], Function.END), Sid.of(NODES["egress"], Function.END_APP))).encode()
    modest = VectorRouter("second").session("first")
    greedy = VectorRouter("ingress").session("first")
    for tag in range(10):
        router.receive(seal_packet(modest, onward, tag, b"payload"), "second")
    for tag in range(PATH_TAGS_MAX + 500):
        router.receive(seal_packet(greedy, onward, tag, b"payload"), "ingress")
        router.sent.clear()
    relayed = router.forwarder.counters().relayed
    assert PATH_TAGS_MAX == len(relayed)
    assert 10 == sum(owner == NODES["second"] for owner, _ in relayed)
    assert (NODES["ingress"], PATH_TAGS_MAX + 499) in relayed
    assert (NODES["ingress"], 0) not in relayed
    for tag in range(10, 15):
        router.receive(seal_packet(modest, onward, tag, b"payload"), "second")
    relayed = router.forwarder.counters().relayed
    assert (PATH_TAGS_MAX, 15) == (len(relayed), sum(owner == NODES["second"] for owner, _ in relayed))


def test_peers_that_are_needed_stay() -> None:
    plane, keys = with_session()
    assert not plane.remove_peer(1)
    plane.remove_session(keys)
    plane.set_members([(1, False)])
    assert not plane.remove_peer(1)
    plane.set_members([])
    assert plane.remove_peer(1)
    assert not plane.remove_peer(1)


def test_a_removed_session_is_out_of_use_though_python_holds_it() -> None:
    plane, keys = with_session()
    assert plane.set_current(1, keys)
    plane.remove_session(keys)
    plane.remove_session(keys)
    assert not plane.set_current(1, keys)
    assert ([], None) == plane.seal_batch(1, 1, bytes(24), 0, [b"x"])
    assert keys.take_counter(0) == 0
    again = plane.add_session(5, 6, 1, ADDRESS, KEYS, True)
    assert plane.set_current(1, again)


def test_every_reason_of_the_plane_is_explained() -> None:
    root = Path(__file__).parents[2]
    reasons = re.findall(r'X\(\w+, "([a-z-]+)"\)', (root / "routing/native/wire.h").read_text())
    explained = set(re.findall(r"`([a-z0-9-]+)`", (root / "docs/reference/drop-reasons.md").read_text()))
    assert len(reasons) > 20
    assert [] == [reason for reason in reasons if reason not in explained]


def test_what_is_out_of_range_is_refused() -> None:
    plane, keys = with_session()
    other, foreign = with_session()
    assert not plane.add_peer(1, b"\xfd7654321")
    assert not plane.add_peer(0, b"\xfd7654321")
    for call in (
        lambda: new_plane(b"short"),
        lambda: plane.add_peer(3, b"short"),
        lambda: plane.add_session(5, 7, 1, ADDRESS, KEYS, True),
        lambda: plane.add_session(9, 7, 2, ADDRESS, KEYS, True),
        lambda: plane.add_session(9, 7, 1, ("host.name", 9), KEYS, True),
        lambda: plane.add_session(9, 7, 1, ("127.0.0.1", 70000), KEYS, True),
        lambda: plane.add_session(9, 7, 1, ADDRESS, (b"", *KEYS[1:]), True),
        lambda: plane.set_role(True, [1 << 16]),
        lambda: plane.set_role(True, list(range(17))),
        lambda: plane.open([]),
        lambda: plane.seal_batch(1, 1, bytes(8), 0, []),
        lambda: plane.seal_batch(1, 1, bytes(24), 0, [bytes(1400)]),
        lambda: plane.seal_batch(1, 1, bytes(24), 0, [b""] * 257),
        lambda: plane.send_batch(1, 1, bytes(24), 0, [b""]),
        lambda: keys.accept(2, 0),
        lambda: keys.move("nowhere", 1),
    ):
        with pytest.raises(ValueError, match=r".+"):
            call()
    with pytest.raises(TypeError):
        plane.remove_session(foreign)
    assert other is not plane


def test_many_sessions_come_and_go_without_memory() -> None:
    import resource

    plane = new_plane()
    assert plane.add_peer(1, b"\xfd7654321")

    def churn(rounds: int) -> None:
        for number in range(rounds):
            keys = plane.add_session(number, number, 1, ADDRESS, KEYS, True)
            plane.set_current(1, keys)
            plane.remove_session(keys)

    churn(2_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    churn(10_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 << 10  # KiB; a leak would be 100 MiB
