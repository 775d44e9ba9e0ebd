"""One wait for all the sockets and timers of the routers that run in one process. A shell.

Theory of operation. A Trio task that waits is woken through epoll, the run loop, and its own coroutine; that costs several times what
handling a beat or a pulse does (docs/decisions.md), and a router that waits for its socket in one task and for each of its timers in others
pays it for each. So there is one task that waits, in one epoll descriptor, for all sockets that are watched in this Trio run, with the
earliest of all alarms as its deadline; what is ready is handled by plain calls, one after the other. Routers that share a process share the
wake-ups, and one router alone has one task instead of three.

Whoever watches or has an alarm waits in `until_failure`: an exception that its callback raises is raised there, and nowhere else. The task
is started with the first watch or alarm of a Trio run and ends with the last.

Invariants: a callback is never called after its watch or alarm was closed; an alarm is called once for each time it was set, not before
its time, and setting it again replaces the time; no callback may wait. Sockets are watched level-triggered, so one that is not drained is
called again at the next turn: who reads a bounded batch starves nobody. Times are monotonic seconds of the owner's clock.

Without epoll (other systems than Linux) every socket has a task of its own here, and alarms stay shared.
"""

from __future__ import annotations

import heapq
import math
import select
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

import trio

__all__ = ["Alarm", "Reactor", "Watch", "current_reactor"]

HEAP_SPARE = 64
"""Replaced times that are kept beyond four for each alarm, before they are cleared away."""


class MonotonicClock(Protocol):
    """What an alarm needs of a clock."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...


class _Owned:
    """What an owner holds while its callback may be called. A context; closing twice does nothing."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._error: Exception | None = None
        self._has_failed = trio.Event()
        self.is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop being called."""
        if not self.is_closed:
            self.is_closed = True
            self._reactor._forget(self)

    async def until_failure(self) -> None:
        """Wait until the callback raised or `fail` was called, and raise that here."""
        await self._has_failed.wait()
        assert self._error is not None
        raise self._error

    def fail(self, error: Exception) -> None:
        """Close it, and have the owner get `error`."""
        self._error = error
        self._has_failed.set()
        self.close()


class Watch(_Owned):
    """Calls its callback with a descriptor whenever that can be read. Made by `Reactor.watch`."""

    def __init__(self, reactor: Reactor, filenos: Sequence[int], callback: Callable[[int], None]) -> None:
        super().__init__(reactor)
        self.filenos = tuple(filenos)
        self._callback = callback
        self._scopes: list[trio.CancelScope] = []

    def _call(self, fileno: int) -> None:
        try:
            self._callback(fileno)
        except Exception as error:  # noqa: BLE001 - raised where the owner waits
            self.fail(error)

    async def _poll(self, fileno: int) -> None:
        """Without epoll: wait for this descriptor alone."""
        with trio.CancelScope() as scope:
            self._scopes.append(scope)
            while not self.is_closed:
                try:
                    await trio.lowlevel.wait_readable(fileno)
                except (trio.ClosedResourceError, OSError) as error:
                    self.fail(error)
                    return
                self._call(fileno)


class Alarm(_Owned):
    """Calls its callback once at a time. Made by `Reactor.alarm`."""

    def __init__(self, reactor: Reactor, callback: Callable[[], None], clock: MonotonicClock) -> None:
        super().__init__(reactor)
        self._callback = callback
        self._clock = clock
        self.at = math.inf
        """When it will be called, monotonic seconds of the owner's clock; inf: not set."""
        self._trio_at = math.inf

    def set(self, at: float) -> None:
        """Be called at a time, instead of the one set before; a time that is past means at once, inf never. Cost: 1 us if it changes."""
        if at == self.at or self.is_closed:
            return
        self.at = at
        if at == math.inf:
            self._trio_at = at
            return
        wait_s = at - self._clock.now()  # read first: the alarm must not come early
        self._trio_at = trio.current_time() + wait_s
        self._reactor._arm(self, self._trio_at)

    def _call(self) -> None:
        self.at = self._trio_at = math.inf
        try:
            self._callback()
        except Exception as error:  # noqa: BLE001 - raised where the owner waits
            self.fail(error)


class Reactor:
    """The watches and alarms of one Trio run. Take it from `current_reactor`."""

    def __init__(self) -> None:
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._watches: dict[int, Watch] = {}
        self._alarms = 0
        self._heap: list[tuple[float, int, Alarm]] = []
        self._serial = 0
        self._scope = trio.CancelScope()
        self._is_ended = False

    def watch(self, filenos: Sequence[int], callback: Callable[[int], None]) -> Watch:
        """Call `callback` with each of some descriptors whenever it can be read, until the watch is closed; close it before they are.

        Raises:
            trio.BusyResourceError: one is watched already. OSError: one is no descriptor that can be waited for.
        """
        if not self._watches.keys().isdisjoint(filenos):
            raise trio.BusyResourceError("the descriptor is watched already")
        watch = Watch(self, filenos, callback)
        try:
            for fileno in watch.filenos:
                if self._epoll is not None:
                    self._epoll.register(fileno, select.EPOLLIN)
                else:
                    trio.lowlevel.spawn_system_task(watch._poll, fileno)
                self._watches[fileno] = watch
        except OSError:
            watch.close()
            raise
        return watch

    def alarm(self, callback: Callable[[], None], clock: MonotonicClock) -> Alarm:
        """Return an alarm, not set yet, whose times are those of `clock`."""
        self._alarms += 1
        return Alarm(self, callback, clock)

    async def _run(self) -> None:
        """Wait and call until nothing is watched and no alarm is left."""
        try:
            while not self._is_ended:
                with trio.CancelScope() as self._scope:
                    self._scope.deadline = self._next_at()
                    await self._serve()
                if not self._is_ended:
                    self._ring(trio.current_time())
        finally:
            self._end()
            if self._epoll is not None:
                self._epoll.close()

    async def _serve(self) -> None:
        """Handle sockets until the scope's deadline."""
        epoll, watches = self._epoll, self._watches
        if epoll is None:
            await trio.sleep_forever()
            return
        while not self._is_ended:
            await trio.lowlevel.wait_readable(epoll)
            for fileno, _ in epoll.poll(0):
                watch = watches.get(fileno)
                if watch is not None:
                    watch._call(fileno)

    def _ring(self, trio_now: float) -> None:
        """Call the alarms that are due now; those set meanwhile have their turn at the next."""
        due: list[Alarm] = []
        while self._heap and self._heap[0][0] <= trio_now:
            trio_at, _, alarm = heapq.heappop(self._heap)
            if alarm._trio_at == trio_at:
                due.append(alarm)
        for alarm in due:
            if alarm._trio_at <= trio_now:  # neither closed nor set anew by one before it
                alarm._call()

    def _arm(self, alarm: Alarm, trio_at: float) -> None:
        if len(self._heap) > HEAP_SPARE + 4 * self._alarms:  # times that were replaced before they came
            self._heap = [entry for entry in self._heap if entry[2]._trio_at == entry[0]]
            heapq.heapify(self._heap)
        self._serial += 1
        heapq.heappush(self._heap, (trio_at, self._serial, alarm))
        self._scope.deadline = min(self._scope.deadline, trio_at)

    def _next_at(self) -> float:
        """When the next alarm is due, on Trio's clock."""
        heap = self._heap
        while heap and heap[0][2]._trio_at != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def _forget(self, owned: _Owned) -> None:
        if isinstance(owned, Watch):
            for fileno in owned.filenos:
                if self._watches.pop(fileno, None) is not None and self._epoll is not None and not self._epoll.closed:
                    self._epoll.unregister(fileno)
            for scope in owned._scopes:
                scope.cancel()
        elif isinstance(owned, Alarm):
            self._alarms -= 1
            owned._trio_at = math.inf
        if not self._watches and not self._alarms:
            self._end()

    def _end(self) -> None:
        """Stop the task; the next watch or alarm of this Trio run gets another reactor."""
        if self._is_ended:
            return
        self._is_ended = True
        if _running.get(None) is self:
            _running.set(None)
        self._scope.cancel()


_running: trio.lowlevel.RunVar[Reactor | None] = trio.lowlevel.RunVar("srwan.overlay.reactor")


def current_reactor() -> Reactor:
    """Return the reactor of this Trio run; it is started if there is none."""
    reactor = _running.get(None)
    if reactor is None:
        reactor = Reactor()
        _running.set(reactor)
        trio.lowlevel.spawn_system_task(reactor._run)
    return reactor
