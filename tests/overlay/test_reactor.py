"""One wait for the sockets and timers of a process: who is called when, whose errors go where, and that nothing is left."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from srwan.clock import Clock
from srwan.overlay.reactor import Alarm, current_reactor


class TrioClock:
    """The mock clock's seconds, with an offset, as a node's clock has one."""

    def now(self) -> float:
        return trio.current_time() + 1000.0


CLOCK = TrioClock()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    a.setblocking(False)
    b.setblocking(False)
    with a, b:
        yield a, b


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0


async def test_alarms_ring_once_in_the_order_of_their_times_and_not_before(autojump_clock: MockClock) -> None:
    reactor, rung = current_reactor(), list[tuple[str, float]]()
    with (
        reactor.alarm(lambda: rung.append(("late", CLOCK.now())), CLOCK) as late,
        reactor.alarm(lambda: rung.append(("soon", CLOCK.now())), CLOCK) as soon,
    ):
        start = CLOCK.now()
        late.set(start + 20.0)
        soon.set(start + 10.0)
        assert start + 10.0 == soon.at
        await trio.sleep(60.0)
        assert ["soon", "late"] == [name for name, _ in rung]
        assert [0.0, 0.0] == pytest.approx([at - start - wait for (_, at), wait in zip(rung, (10.0, 20.0), strict=True)], abs=0.01)
        assert all(at >= start + wait for (_, at), wait in zip(rung, (10.0, 20.0), strict=True))
        assert (math.inf, math.inf) == (soon.at, late.at)


async def test_a_new_time_replaces_the_old_one_earlier_later_or_never(autojump_clock: MockClock) -> None:
    rung: list[float] = []
    with current_reactor().alarm(lambda: rung.append(CLOCK.now() - start), CLOCK) as alarm:
        start = CLOCK.now()
        alarm.set(start + 10.0)
        await trio.sleep(1.0)
        alarm.set(start + 5.0)
        await trio.sleep(5.0)
        alarm.set(start + 8.0)
        alarm.set(start + 30.0)
        await trio.sleep(10.0)
        assert [pytest.approx(5.0)] == rung
        alarm.set(math.inf)
        await trio.sleep(100.0)
        assert 1 == len(rung)
        alarm.set(start)  # past: at once
        await wait_all_tasks_blocked()
        assert 2 == len(rung)


async def test_an_alarm_that_sets_itself_anew_lets_others_have_their_turn(autojump_clock: MockClock) -> None:
    turns: list[str] = []

    def again() -> None:
        turns.append("busy")
        if len(turns) < 50:
            busy.set(CLOCK.now())

    with current_reactor().alarm(again, CLOCK) as busy, current_reactor().alarm(lambda: turns.append("other"), CLOCK) as other:
        busy.set(CLOCK.now())
        other.set(CLOCK.now())
        await wait_all_tasks_blocked()
        assert turns.index("other") <= 2
        assert 50 <= len(turns)


async def test_replaced_times_do_not_pile_up(autojump_clock: MockClock) -> None:
    reactor = current_reactor()
    with reactor.alarm(lambda: None, CLOCK) as alarm:
        for step in range(10_000):
            alarm.set(CLOCK.now() + 100.0 + step)
        assert len(reactor._heap) < 200


async def test_an_error_is_raised_where_the_owner_waits_and_others_go_on(autojump_clock: MockClock) -> None:
    rung: list[int] = []

    def fail() -> None:
        raise KeyError("mine")

    async def own(alarm: Alarm) -> None:
        with pytest.raises(KeyError, match="mine"):
            await alarm.until_failure()
        rung.append(1)

    with current_reactor().alarm(fail, CLOCK) as failing, current_reactor().alarm(lambda: rung.append(2), CLOCK) as sound:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(own, failing)
            failing.set(CLOCK.now() + 1.0)
            sound.set(CLOCK.now() + 2.0)
            await trio.sleep(5.0)
    assert [1, 2] == rung
    assert failing.is_closed


async def test_a_closed_alarm_does_not_ring_even_if_it_was_due_in_the_same_turn(autojump_clock: MockClock) -> None:
    rung: list[str] = []

    def close_second() -> None:
        second.close()

    with (
        current_reactor().alarm(close_second, CLOCK) as first,
        current_reactor().alarm(lambda: rung.append("x"), CLOCK) as second,
    ):
        at = CLOCK.now() + 1.0
        first.set(at)
        second.set(at)
        await trio.sleep(3.0)
        second.set(CLOCK.now())
        await trio.sleep(1.0)
    assert [] == rung


async def test_a_socket_is_read_when_there_is_something_and_again_while_there_is(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    read: list[bytes] = []

    def take(fileno: int) -> None:
        assert b.fileno() == fileno
        read.append(b.recv(10))  # one at a time: level-triggered

    with current_reactor().watch([b.fileno()], take):
        await wait_all_tasks_blocked()
        for number in range(5):
            a.send(b"%d" % number)
        with trio.fail_after(5):
            while len(read) < 5:  # noqa: ASYNC110 - nobody tells when the callback was called
                await trio.sleep(0.001)
    a.send(b"after")
    await trio.sleep(0.01)
    assert [b"0", b"1", b"2", b"3", b"4"] == read


async def test_a_busy_socket_does_not_keep_alarms_from_ringing(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    clock, rung = Clock(), trio.Event()
    a.send(b"never read")
    with current_reactor().watch([b.fileno()], lambda _: None), current_reactor().alarm(rung.set, clock) as alarm:
        alarm.set(clock.now() + 0.02)
        with trio.fail_after(5):
            await rung.wait()


async def test_what_a_socket_callback_raises_reaches_its_owner_and_ends_the_watch(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair

    def fail(_: int) -> None:
        raise ValueError("bad datagram handler")

    with current_reactor().watch([b.fileno()], fail) as watch:
        a.send(b"x")
        with pytest.raises(ValueError, match="bad datagram handler"), trio.fail_after(5):
            await watch.until_failure()
        assert watch.is_closed
    with pytest.raises(OSError, match="given up"), current_reactor().watch([b.fileno()], fail) as watch:
        watch.fail(OSError("given up"))
        await watch.until_failure()


async def test_a_descriptor_is_watched_once(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    reactor = current_reactor()
    with reactor.watch([a.fileno(), b.fileno()], lambda _: None), pytest.raises(trio.BusyResourceError):
        reactor.watch([b.fileno()], lambda _: None)
    nobody = os.sysconf("SC_OPEN_MAX") - 1
    with pytest.raises(OSError, match=r"."):
        reactor.watch([a.fileno(), nobody], lambda _: None)
    with current_reactor().watch([a.fileno()], lambda _: None):  # nothing of what failed is left
        pass


def test_the_reactor_ends_with_its_last_user_and_each_run_has_its_own(pair: tuple[socket.socket, socket.socket]) -> None:
    seen: list[object] = []

    async def use() -> None:
        before = current_reactor()
        with before.alarm(lambda: None, CLOCK) as alarm:
            alarm.set(CLOCK.now() + 100)
            with before.watch([pair[0].fileno()], lambda _: None):
                await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        after = current_reactor()
        assert before is not after
        seen.extend([before, after])
        with after.alarm(lambda: None, CLOCK):
            await wait_all_tasks_blocked()

    trio.run(use)
    descriptors = open_descriptors()
    for _ in range(5):
        trio.run(use)
    assert 12 == len(set(map(id, seen)))
    assert descriptors == open_descriptors()


async def test_without_epoll_each_descriptor_has_a_task(pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("select.epoll")
    a, b = pair
    read: list[bytes] = []
    with current_reactor().watch([b.fileno()], lambda _: read.append(b.recv(10))):
        a.send(b"x")
        with trio.fail_after(5):
            while not read:  # noqa: ASYNC110 - as above
                await trio.sleep(0.001)
    await wait_all_tasks_blocked()
    a.send(b"y")
    await trio.sleep(0.01)
    assert [b"x"] == read
