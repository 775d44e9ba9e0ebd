"""A node as a whole: what applications see, over real sockets and in memory; how it fails; what it leaves behind."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio
from trio.testing import MockClock

import srwan
from srwan.ledger_client.sqlite import SqliteStore
from srwan.overlay.memory import MemoryNetwork
from srwan.swarm.in_memory import open_memory_node

HERE: dict[str, Any] = {"udp": "127.0.0.1:0", "control": "127.0.0.1:0"}


def open_sockets_count() -> int:
    return len(psutil.Process().net_connections())


async def test_two_nodes_exchange_datagrams_both_ways_and_leave_no_socket() -> None:
    before = open_sockets_count()
    with trio.fail_after(60):
        async with (
            srwan.open_node(name="paris", **HERE) as paris,
            srwan.open_node(name="tokyo", bootstrap=paris.multiaddr, **HERE) as tokyo,
            tokyo.open_path("paris") as path,
        ):
            await path.send(b"question")
            incoming = await paris.accept_path()
            assert b"question" == await incoming.receive()
            assert tokyo.id == incoming.remote
            await incoming.send(b"answer")
            assert b"answer" == await path.receive()
            assert () == path.relays
            assert ["paris", "tokyo"] == sorted(member.name for member in tokyo.view())
            json.dumps(tokyo.status())
    assert before == open_sockets_count()


async def test_closing_a_path_ends_the_other_sides_iteration(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with open_memory_node(network, "10.0.0.1", name="a") as a, open_memory_node(network, "10.0.0.2", name="b") as b:
        async with a.open_path("b") as path:
            await path.send(b"1")
            await path.send(b"2")
        incoming = await b.accept_path()
        assert [b"1", b"2"] == [data async for data in incoming]
        with pytest.raises(srwan.PathClosed):
            await path.send(b"3")


async def test_a_relayed_path_can_be_forced_and_carries_data(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with (
        open_memory_node(network, "10.0.0.1", name="a") as a,
        open_memory_node(network, "10.0.0.2", name="b") as b,
        open_memory_node(network, "10.0.0.3", name="c") as c,
        a.open_path("c", srwan.PathPolicy(via=(b.id,))) as path,
    ):
        await path.send(b"by b")
        assert b"by b" == await (await c.accept_path()).receive()
        assert (b.id,) == path.relays
        relayed = b.routing.forwarder.counters().relayed
        assert sum(count.packets for count in relayed.values()) > 0


async def test_datagrams_of_the_greatest_length_pass_and_longer_ones_are_refused(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with (
        open_memory_node(network, "10.0.0.1", name="a") as a,
        open_memory_node(network, "10.0.0.2", name="b") as b,
        a.open_path(b.id) as path,
    ):
        await path.send(bytes(1200))
        assert bytes(1200) == await (await b.accept_path()).receive()
        with pytest.raises(ValueError, match="1201"):
            await path.send(bytes(1201))
        await path.send(b"")
        assert b.id == path.remote


async def test_unknown_destinations_are_refused_by_name(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    async with (
        open_memory_node(network, "10.0.0.1", name="same") as a,
        open_memory_node(network, "10.0.0.2", name="same"),
    ):
        for destination, words in (
            ("nowhere", "no member"),
            ("same", "2 members"),
            (str(a.id), "this node itself"),
            ("00" * 32, "no member"),
        ):
            with pytest.raises(srwan.UnknownNode, match=words):
                async with a.open_path(destination):
                    raise AssertionError


async def test_events_tell_what_happens_and_describe_makes_json(autojump_clock: MockClock) -> None:
    network = MemoryNetwork()
    seen: list[dict[str, Any]] = []
    async with open_memory_node(network, "10.0.0.1", name="a") as a:

        async def watch() -> None:
            async for event in a.events():
                seen.append(a.describe(event))  # noqa: PERF401 - it is read while it grows

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            async with open_memory_node(network, "10.0.0.2", name="b"):
                await trio.sleep(20)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    kinds = {event["event"] for event in seen}
    assert {"MemberJoined", "ViewChanged", "MatrixFilled", "ReporterElected", "MemberLeft"} <= kinds
    json.dumps(seen)
    assert "b joined" in [event.get("detail") for event in seen]


async def test_the_report_of_the_group_is_in_the_store_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "ditex.sqlite"
    with trio.fail_after(60):
        network = MemoryNetwork()
        async with (
            open_memory_node(network, "10.0.0.1", name="a", ditex=str(store)) as a,
            open_memory_node(network, "10.0.0.2", name="b", ditex=str(store)),
        ):
            async for event in a.events():
                described = a.describe(event)
                if described["event"] == "ReportPublished" and described["rows"] == 2:
                    break
    from srwan.cli import main

    shown = await trio.to_thread.run_sync(main, ["ditex", "show", str(store), "--json"])
    contents = json.loads(capsys.readouterr().out)
    assert (0, 5, 5) == (shown, contents["records"], contents["verified"])
    assert ["a", "b"] == sorted(contents["groups"][0]["names"])


async def test_what_one_router_lists_comes_to_the_store_of_another_that_names_it_as_peer(tmp_path: Path) -> None:
    free = {"price_microtoken_per_gb": 0}
    with trio.fail_after(60):
        async with (
            srwan.open_node(name="a", network="one", state_dir=tmp_path / "a", is_ditex_served=True, offer=free, **HERE) as a,
            srwan.open_node(name="b", network="two", state_dir=tmp_path / "b", ditex_peers=a.multiaddr, **HERE),
            await SqliteStore.open(tmp_path / "b" / "ditex.sqlite", is_read_only=True) as store,
        ):
            revision, subjects = 0, set[bytes]()
            while a.id not in subjects:
                for stored in await store.watch(revision):
                    revision = stored.revision
                    subjects.add(stored.record.subject)


async def test_a_taken_port_is_one_clear_sentence() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        before = open_sockets_count()
        with pytest.raises(srwan.ConfigError, match=f"udp: .*{port}.*port is taken"):
            async with srwan.open_node(udp=f"127.0.0.1:{port}", control="127.0.0.1:0"):
                raise AssertionError
        assert before == open_sockets_count()


async def test_a_taken_control_port_is_one_clear_sentence_and_closes_the_udp_socket() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        before = open_sockets_count()
        with pytest.raises(srwan.ConfigError, match=str(port)):
            async with srwan.open_node(udp="127.0.0.1:0", control=f"127.0.0.1:{port}"):
                raise AssertionError
        assert before == open_sockets_count()


async def test_no_reachable_introducer_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srwan.node.JOIN_TIMEOUT_S", 1.0)
    dead = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWDHMJPaSWq8VmeazubdKveRU5Hm3gDYb9gV9CHRtepspi"
    with pytest.raises(srwan.OverlayError, match=r"none of .*/tcp/1/.* could be reached within 1 s; check"):
        async with srwan.open_node(bootstrap=dead, **HERE):
            raise AssertionError


@pytest.mark.parametrize("content", [b"not a database, but longer than a header" * 100, b"SQLite format 3\x00" + bytes(4000)])
async def test_a_corrupt_store_stops_the_start_with_one_sentence(tmp_path: Path, content: bytes) -> None:
    store = tmp_path / "ditex.sqlite"
    store.write_bytes(content)
    before = open_sockets_count()
    with pytest.raises(srwan.StoreUnavailable, match=r"ditex\.sqlite: "):
        async with srwan.open_node(ditex=str(store), **HERE):
            raise AssertionError
    assert content == store.read_bytes()
    assert before == open_sockets_count()


async def test_the_users_own_error_comes_out_of_the_block_unwrapped(autojump_clock: MockClock) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_memory_node(MemoryNetwork(), "10.0.0.1"):
            raise KeyError("mine")


async def test_settings_beside_a_configuration_are_refused() -> None:
    with pytest.raises(srwan.ConfigError, match="name"):
        async with srwan.open_node(srwan.make_config(), name="x"):
            raise AssertionError
