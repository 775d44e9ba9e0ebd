"""How the overlay hands a batch of datagrams to their planes: control first, data together, joined ones taken apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import trio

from srwan.clock import Clock
from srwan.errors import DecodeError, LocalProtocolError
from srwan.identity import Identity
from srwan.overlay.memory import MemoryNetwork
from srwan.overlay.service import OverlayConfig, OverlayService
from srwan.overlay.trains import Train
from srwan.overlay.transport import TrainTransport
from srwan.overlay.udp import UdpTransport, open_udp
from srwan.types import Datagram, UdpAddress

SOURCE: UdpAddress = ("192.0.2.1", 7)
DATA, CONTROL = 0x2, 0x7


class Seen:
    """An overlay with a plane that takes batches and one that does not, and what they got."""

    def __init__(self, make_transport: Callable[[MemoryNetwork, Clock], object]) -> None:
        network, clock = MemoryNetwork(), Clock()
        identity = Identity(bytes(32))
        self.transport = make_transport(network, clock)
        self.overlay = OverlayService(
            identity,
            clock,
            OverlayConfig(name="n"),
            self.transport,  # type: ignore[arg-type]
            network.control_channel(identity.node_id),
            network.directory(),
            random.Random(1),
        )
        self.calls: list[tuple[str, object]] = []
        self.overlay.on_plane_batch(DATA, lambda trains: self.calls.append(("data", trains)))
        self.overlay.on_plane(CONTROL, lambda data, source, rx_ns: self.calls.append(("control", (data, source, rx_ns))))
        self.overlay.after_batch(lambda: self.calls.append(("after", None)))


def in_memory(network: MemoryNetwork, clock: Clock) -> object:
    return network.datagram_transport(("127.0.0.1", 0), clock)


def data(number: int) -> bytes:
    return b"\x21" + bytes([number])


def control(number: int) -> bytes:
    return b"\x70" + bytes([number])


def test_control_waits_for_no_data_and_data_comes_in_one_piece() -> None:
    seen = Seen(in_memory)
    first: Train = (data(1) + data(2) + data(3), 2, SOURCE, 10)
    second: Train = (data(4), 2, SOURCE, 12)
    seen.overlay._handle_trains([first, (control(1), 2, SOURCE, 11), second, (control(2), 2, SOURCE, 13)])
    assert [
        ("control", (control(1), SOURCE, 11)),
        ("control", (control(2), SOURCE, 13)),
        ("data", [first, second]),
        ("after", None),
    ] == seen.calls


def test_planes_that_the_kernel_joined_are_taken_apart() -> None:
    seen = Seen(in_memory)
    seen.overlay._handle_trains([(data(1) + control(1) + data(2) + control(2)[:1], 2, SOURCE, 10)])
    assert [
        ("control", (control(1), SOURCE, 10)),
        ("control", (control(2)[:1], SOURCE, 10)),
        ("data", [(data(1), 2, SOURCE, 10), (data(2), 2, SOURCE, 10)]),
        ("after", None),
    ] == seen.calls


def test_datagrams_of_no_plane_and_empty_ones_are_counted_and_the_rest_is_handled() -> None:
    seen = Seen(in_memory)
    seen.overlay._handle_trains([(b"", 1, SOURCE, 1), (b"\x91?\x92?" + data(1), 2, SOURCE, 1)])
    assert {"plane": 3} == seen.overlay.drops
    assert [("data", [(data(1), 2, SOURCE, 1)]), ("after", None)] == seen.calls


def test_batch_without_trains_is_one_of_single_datagrams() -> None:
    seen = Seen(in_memory)
    batch: list[Datagram] = [(data(1), SOURCE, 1), (control(1), SOURCE, 2), (b"", SOURCE, 3)]
    seen.overlay._handle_batch(batch)
    assert [("control", (control(1), SOURCE, 2)), ("data", [(data(1), 2, SOURCE, 1)]), ("after", None)] == seen.calls


def test_handler_that_fails_takes_nothing_else_with_it(caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen(in_memory)

    def fail(_trains: Sequence[Train]) -> None:
        raise RuntimeError("a bug")

    def refuse(_data: bytes, _source: UdpAddress, _rx_ns: int) -> None:
        raise DecodeError("hostile", reason="hostile")

    seen.overlay.on_plane_batch(0x8, fail)
    seen.overlay.on_plane(0x6, refuse)
    seen.overlay._handle_trains([(b"\x80", 1, SOURCE, 1), (b"\x60\x60", 1, SOURCE, 1), (data(1), 2, SOURCE, 1)])
    assert [("data", [(data(1), 2, SOURCE, 1)]), ("after", None)] == seen.calls
    assert {"hostile": 2, "internal": 1} == seen.overlay.drops
    assert "a bug" in caplog.text


def test_plane_has_one_handler_of_either_kind() -> None:
    seen = Seen(in_memory)
    with pytest.raises(LocalProtocolError):
        seen.overlay.on_plane(DATA, lambda *_: None)
    for taken in (DATA, CONTROL):
        with pytest.raises(LocalProtocolError):
            seen.overlay.on_plane_batch(taken, lambda _: None)


async def test_several_datagrams_leave_together_where_the_transport_can_and_singly_elsewhere() -> None:
    plain = Seen(in_memory)
    assert not isinstance(plain.transport, TrainTransport)
    sent: list[tuple[bytes, UdpAddress]] = []
    plain.transport.send = lambda data, destination: sent.append((data, destination))  # type: ignore[attr-defined]
    plain.overlay.send_many([b"1", b"2"], SOURCE)
    assert [(b"1", SOURCE), (b"2", SOURCE)] == sent

    real = Seen(lambda _, clock: open_udp([("127.0.0.1", 0)], clock))
    assert isinstance(real.transport, UdpTransport)
    assert isinstance(real.transport, TrainTransport)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(real.transport.serve_trains, real.overlay._handle_trains)
        real.overlay.send_many([data(1), data(2), control(1)], real.transport.local_addresses[0])
        with trio.fail_after(10):
            while len([name for name, _ in real.calls if name != "after"]) < 2:  # noqa: ASYNC110 -- handlers are synchronous
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    payloads = [b"".join(train[0] for train in trains) for name, trains in real.calls if name == "data"]  # type: ignore[attr-defined]
    assert data(1) + data(2) == b"".join(payloads)
    assert control(1) in [details[0] for name, details in real.calls if name == "control"]  # type: ignore[index]
    await real.transport.aclose()
