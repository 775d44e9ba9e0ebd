"""The demonstration's memory of what routers told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from srwan.demo.observer import Observer, StepFailed
from srwan.swarm.supervisor import RouterProcess


def router(index: int) -> RouterProcess:
    return cast("RouterProcess", SimpleNamespace(index=index))


def event(kind: str, t: float, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "t": t, **fields}


async def test_events_with_a_detail_are_shown_with_the_routers_name(autojump_clock: MockClock) -> None:
    shown: list[tuple[float, str, str]] = []
    observer = Observer(100.0, lambda at, kind, detail: shown.append((at, kind, detail)))
    observer.routers[3] = {"name": "tokyo"}
    observer.receive(router(3), event("PathSwitched", 101.5, detail="direct 231 ms"))
    observer.receive(router(3), event("status", 102.0))
    assert [(1.5, "PathSwitched", "tokyo: direct 231 ms")] == shown
    assert [{"at_s": 1.5, "kind": "PathSwitched", "detail": "tokyo: direct 231 ms"}] == observer.events


async def test_waiting_ends_when_the_condition_holds(autojump_clock: MockClock) -> None:
    observer = Observer(0.0, lambda *_: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: observer.wait_for(lambda: "up" in observer.routers.get(1, {}), timeout_s=5, failure="no"))
        await trio.sleep(1)
        observer.receive(router(1), event("up", 1.0))
    assert trio.current_time() < 5 + 1e6


async def test_waiting_in_vain_fails_with_the_sentence(autojump_clock: MockClock) -> None:
    observer = Observer(0.0, lambda *_: None)
    with pytest.raises(StepFailed, match="step 9: nothing"):
        await observer.wait_for(lambda: False, timeout_s=5, failure="step 9: nothing")


async def test_finding_and_counting_look_at_time_kind_and_router(autojump_clock: MockClock) -> None:
    observer = Observer(0.0, lambda *_: None)
    for index, kind, t in ((1, "a", 1.0), (2, "a", 2.0), (1, "b", 3.0), (1, "a", 4.0)):
        observer.receive(router(index), event(kind, t))
    assert (2, event("a", 2.0)) == observer.find(("a",), since=1.5)
    assert (1, event("a", 4.0)) == observer.find(("a",), since=1.5, router=1)
    assert observer.find(("c",), since=0.0) is None
    assert 2 == observer.count(("a",), since=0.0, router=1)
