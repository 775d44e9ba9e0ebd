"""A flock: real services on real sockets, in one process and in several, without libp2p."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from srwan.errors import ConfigError
from srwan.swarm.flock import Event, Flock, Settings
from srwan.swarm.flock_group import FlockGroup
from srwan.swarm.supervisor import SwarmError

ROOT = Path(__file__).parents[2]


class Told:
    """Events of a flock in this process, and a way to wait for some."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = trio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    def count(self, kind: str, **fields: object) -> int:
        return sum(event["kind"] == kind and fields.items() <= event.items() for event in self.events)

    async def until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed = trio.Event()
            await self._changed.wait()


def settings(count: int, *, port: int, first: int = 0) -> Settings:
    return Settings(first=first, count=count, seed=7, subnet=79, port=port, network="test-flock", period_s=1.0)


@asynccontextmanager
async def running(flock: Flock) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(flock.run)
        yield
        nursery.cancel_scope.cancel()


async def test_five_in_one_process_join_by_one_certificate_and_fill_the_matrix() -> None:
    told = Told()
    flock = Flock(settings(5, port=17_001), told)
    with trio.fail_after(30):
        async with running(flock):
            flock.join(flock.routers[0].certificate)
            await told.until(lambda: told.count("joined") == 20)
            await told.until(lambda: told.count("matrix", members=5, edges=20) == 5)
            assert {5} == {router.status()["members"] for router in flock.routers.values()}
            assert {20} == {router.status()["edges"] for router in flock.routers.values()}
    assert 5 == told.count("gone")
    joined = {(event["node"], event["peer"]) for event in told.events if event["kind"] == "joined"}
    assert {(a, b) for a in range(5) for b in range(5) if a != b} == joined


async def test_one_that_leaves_is_missed_by_all_the_others() -> None:
    told = Told()
    flock = Flock(settings(4, port=17_002), told)
    with trio.fail_after(30):
        async with running(flock):
            flock.join(flock.routers[0].certificate)
            await told.until(lambda: told.count("joined") == 12)
            flock.obey({"do": "leave", "node": 2})
            await told.until(lambda: told.count("left", peer=2) == 3 and told.count("gone", node=2) == 1)
            assert 3 == len(flock.routers)
            flock.obey({"do": "status"})
            assert {3} == {node["members"] for node in told.events[-1]["nodes"].values()}


async def test_without_the_word_each_stays_in_a_group_of_its_own() -> None:
    told = Told()
    async with running(Flock(settings(3, port=17_003), told)):
        await trio.sleep(0.3)
        assert 1 == told.count("up")
        assert 0 == told.count("joined")


async def test_a_taken_address_is_said_and_leaves_no_socket() -> None:
    async with running(Flock(settings(1, port=17_004, first=2), Told())):
        with pytest.raises(ConfigError, match="taken"):
            await Flock(settings(3, port=17_004), Told()).run()
        told = Told()
        async with running(Flock(settings(2, port=17_004), told)):  # routers 0 and 1 were closed when 2 failed
            assert 1 == told.count("up")


@pytest.mark.parametrize("command", [{}, {"do": "fly"}, {"do": "join", "certificate": "zz"}, {"do": "leave", "node": 9}])
def test_a_malformed_command_is_refused(command: Event) -> None:
    flock = Flock(settings(1, port=17_005), Told())
    with pytest.raises(ValueError, match=r"unknown command|hexadecimal"):
        flock.obey(command)


@pytest.mark.parametrize(("key", "value"), [("count", 0), ("count", 5000), ("first", -1), ("subnet", 0), ("subnet", 255)])
def test_settings_out_of_range_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError):
        attrs.evolve(settings(1, port=1), **{key: value})


def test_addresses_and_identities_differ_and_stay() -> None:
    these = settings(300, port=1)
    assert ("127.79.1.50", 1) == these.address(299)
    assert 300 == len({these.address(index) for index in range(300)})
    assert these.identity(3).node_id == settings(1, port=2).identity(3).node_id
    assert these.identity(3).node_id != these.identity(4).node_id


def test_a_flock_needs_no_libp2p() -> None:
    program = "import sys, srwan.swarm.flock; print(*{'libp2p', 'srwan.node'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ("\n", "") == (done.stdout, done.stderr)


def test_two_processes_meet_and_end_with_their_group() -> None:
    with FlockGroup(6, victims=0, per_process=3, subnet=80, port=17_006) as group:
        group.start(is_joining=True)
        assert group.pump(time.monotonic() + 30, lambda: group.is_up() and group.is_together())
        group.ask_to_leave(4)
        assert group.pump(time.monotonic() + 10, lambda: all(4 not in group.alive[node] for node in (0, 1, 2, 3, 5)))
        programs = list(group.programs)
        assert [range(3), range(3, 6)] == [program.nodes for program in programs]
        assert all(program.cpu_s() > 0.05 and program.rss_mb() > 15 for program in programs)
        assert 0 == group.false_positives
    assert [-9, -9] == [program.popen.returncode for program in programs]


def test_a_killed_router_comes_back_as_itself() -> None:
    with FlockGroup(5, victims=1, subnet=81, port=17_007) as group:
        group.start(is_joining=True)
        assert group.pump(time.monotonic() + 40, lambda: group.is_up() and group.is_together())
        group.kill(4)
        read = len(group.history)
        group.restart(4)
        assert group.pump(
            time.monotonic() + 30,
            lambda: {seen.observer for seen in group.history[read:] if seen.kind == "joined" and seen.peer == 4} >= {0, 1, 2, 3},
        )


def test_a_program_that_ends_by_itself_is_an_error_with_its_last_words() -> None:
    with FlockGroup(6, subnet=80, port=17_008) as group, pytest.raises(SwarmError, match=r"member 0 ended.*nosuch"):
        group.launch([sys.executable, "-c", "raise SystemExit('nosuch')"], [0])
        group.pump(time.monotonic() + 20)


def test_a_flock_whose_standard_input_ends_stops() -> None:
    process = subprocess.Popen([sys.executable, "-m", "srwan.swarm.flock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write('{"first": 0, "count": 2, "seed": 1, "subnet": 82, "port": 17009}\n')
        process.stdin.flush()
        assert '{"kind":"up"' in process.stdout.readline()
        process.stdin.close()
        assert 0 == process.wait(timeout=10)
