"""What the demonstration has seen so far: every router's events, and the questions the script asks of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import trio

from srwan.swarm.supervisor import Event, RouterProcess

__all__ = ["Observer", "StepFailed"]

EVENTS_KEPT_MAX = 5_000


class StepFailed(Exception):
    """A step of the demonstration did not happen. The message is the sentence shown to the user."""


class Observer:
    """Collects router events and wakes who waits for one of them.

    Args:
        start_s: monotonic time that counts as zero.
        on_line: called with (seconds since the start, kind, detail) for every event worth showing.
    """

    def __init__(self, start_s: float, on_line: Callable[[float, str, str], None]) -> None:
        self.start_s = start_s
        self.routers: dict[int, dict[str, Any]] = {}
        """Last known facts per router: "up", "view", "matrix", ..."""
        self.events: list[dict[str, Any]] = []
        """What is shown and reported: at_s, kind, detail."""
        self.raw: list[tuple[int, Event]] = []
        """Path and reporter events with the router they came from, in order of arrival."""
        self._on_line = on_line
        self._changed = trio.Event()

    def receive(self, router: RouterProcess, event: Event) -> None:
        """Take one event line of a router."""
        facts = self.routers.setdefault(router.index, {})
        kind = event["kind"]
        facts[kind] = event
        if len(self.raw) < EVENTS_KEPT_MAX:
            self.raw.append((router.index, event))
        detail = event.get("detail")
        if detail is not None and event.get("node_id", facts.get("name")) == facts.get("name"):  # not what it heard of others
            self.note(kind, f"{self.name(router.index)}: {detail}", event["t"])
        self._changed.set()
        self._changed = trio.Event()

    def note(self, kind: str, detail: str, at: float | None = None) -> None:
        """Record and show something that happened, now or at monotonic time `at`."""
        at_s = round((time.monotonic() if at is None else at) - self.start_s, 3)
        if len(self.events) < EVENTS_KEPT_MAX:
            self.events.append({"at_s": at_s, "kind": kind, "detail": detail})
        self._on_line(at_s, kind, detail)

    def name(self, index: int) -> str:
        """Return the router's region name once known."""
        return str(self.routers.get(index, {}).get("name", f"router {index}"))

    async def wait_for(self, condition: Callable[[], bool], *, timeout_s: float, failure: str) -> None:
        """Wait until `condition` holds; it is asked after every event.

        Raises:
            StepFailed: it did not hold within timeout_s; says `failure`.
        """
        with trio.move_on_after(timeout_s):
            while not condition():
                await self._changed.wait()
            return
        raise StepFailed(failure)

    def find(self, kinds: tuple[str, ...], *, since: float, router: int | None = None) -> tuple[int, Event] | None:
        """Return the first event of one of the kinds at or after monotonic time `since`, with its router, or None."""
        for index, event in self.raw:
            if event["kind"] in kinds and event["t"] >= since and router in (None, index):
                return index, event
        return None

    def count(self, kinds: tuple[str, ...], *, since: float, router: int) -> int:
        """Count a router's events of some kinds since a monotonic time."""
        return sum(1 for index, event in self.raw if index == router and event["kind"] in kinds and event["t"] >= since)
