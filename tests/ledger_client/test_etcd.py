"""What only the cluster's store does: members that die, lie, hang or forget; other writers; credentials. All on a real etcd."""

from __future__ import annotations

import builtins
import json
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from srwan.errors import StaleRecord, StoreUnavailable
from srwan.ledger_client import etcd
from srwan.ledger_client.etcd import EtcdStore
from srwan.ledger_client.etcd_gateway import EtcdGateway, EtcdSettings, delete_op, put_op
from srwan.ledger_client.etcd_keys import Layout
from srwan.ledger_client.read import read_matrix
from srwan.ledger_client.record import Kind, Record
from srwan.ledger_client.store import Query

pytestmark = pytest.mark.needs("etcd")
Make = Callable[..., Record]


class FaultProxy:
    """Stands before a member and spoils what it answers, one fault a request, as `faults` says; then it is faithful."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.removeprefix("http://").partition(":")
        self._upstream = host, int(port)
        self.faults: list[str] = []
        self.always = ""
        self.requests = 0
        self.endpoint = ""

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.endpoint = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        task_status.started()
        await trio.serve_listeners(self._handle, listeners)

    async def _handle(self, client: trio.SocketStream) -> None:
        """One request a connection."""
        try:
            request = b""
            while b"\r\n\r\n" not in request or len(request.partition(b"\r\n\r\n")[2]) < content_length(request):
                if not (part := await client.receive_some()):
                    return
                request += part
            self.requests += 1
            fault = self.faults.pop(0) if self.faults else self.always
            await self._answer(client, request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1), fault)
        except trio.BrokenResourceError:
            pass
        finally:
            await client.aclose()

    async def _answer(self, client: trio.SocketStream, request: bytes, fault: str) -> None:
        if fault == "hang":
            await trio.sleep_forever()
        if fault == "refuse":
            return
        async with await trio.open_tcp_stream(*self._upstream) as upstream:
            await upstream.send_all(request)
            if not fault:
                async for part in upstream:
                    await client.send_all(part)
                return
            answer = b"".join([part async for part in upstream])
        if fault == "lose":
            return
        status, content = spoiled(fault, answer.partition(b"\r\n\r\n")[2])
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content) + (10 if fault == 'truncate' else 0)}\r\nConnection: close\r\n\r\n"
        await client.send_all(head.encode() + content)


def content_length(request: bytes) -> int:
    for line in request.partition(b"\r\n\r\n")[0].lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def spoiled(fault: str, content: bytes) -> tuple[int, bytes]:
    """What a bad member makes of a good answer."""
    if fault == "500":
        return 500, b"internal error"
    if fault == "unavailable":
        return 503, json.dumps({"error": "etcdserver: no leader", "code": 14}).encode()
    if fault in ("truncate", "half-json"):
        return 200, content[: len(content) // 2]
    if fault == "stale":
        told = json.loads(content)
        told["header"]["revision"] = "1"
        return 200, json.dumps(told).encode()
    if fault == "other-cluster":
        told = json.loads(content)
        told["header"]["cluster_id"] = "1"
        return 200, json.dumps(told).encode()
    if fault == "bad-base64":
        return 200, content.replace(b'"value":"', b'"value":"%%%')
    return 200, {"array": b"[]", "number": b"7", "empty": b"{}", "wrong-shape": b'{"header":{"revision":"9999999"},"responses":7}'}[fault]


FAULTS = [
    "500",
    "unavailable",
    "truncate",
    "half-json",
    "stale",
    "other-cluster",
    "array",
    "number",
    "empty",
    "wrong-shape",
    "refuse",
    "lose",
]


@asynccontextmanager
async def proxied(upstream: str) -> AsyncIterator[FaultProxy]:
    proxy = FaultProxy(upstream)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        yield proxy
        nursery.cancel_scope.cancel()


@pytest.fixture
def settings_of(etcd_cluster: Any, tmp_path: Path) -> Callable[..., EtcdSettings]:
    """Settings with a prefix for this test."""

    def make(*endpoints: str) -> EtcdSettings:
        return EtcdSettings(endpoints or etcd_cluster.endpoints, prefix=f"{tmp_path}/")

    return make


# ---- members that lie, hang or refuse


@pytest.mark.parametrize("fault", FAULTS)
async def test_one_bad_answer_is_passed_over(
    settings_of: Callable[..., EtcdSettings], etcd_cluster: Any, make_row: Make, wall_ns: int, fault: str
) -> None:
    async with proxied(etcd_cluster.endpoints[0]) as proxy, await EtcdStore.open(settings_of(proxy.endpoint)) as store:
        await store.put(make_row(0, seq=1), wall_ns)
        proxy.faults = [fault]
        outcome = await store.put_many([make_row(0, seq=2), make_row(1)], wall_ns)
        assert ((2, 3), 2, 0) == (outcome.revisions, outcome.stored, outcome.unchanged)
        proxy.faults = [fault]
        held = await store.get(make_row(0).key)
        assert held is not None
        assert make_row(0, seq=2) == held.record
        assert [] == proxy.faults


@pytest.mark.parametrize("fault", ["500", "half-json", "stale", "wrong-shape", "refuse", "hang"])
async def test_a_cluster_that_only_answers_badly_is_one_clear_error(
    settings_of: Callable[..., EtcdSettings], etcd_cluster: Any, make_row: Make, wall_ns: int, fault: str
) -> None:
    async with proxied(etcd_cluster.endpoints[0]) as proxy, await EtcdStore.open(settings_of(proxy.endpoint)) as store:
        await store.put(make_row(0), wall_ns)
        proxy.always, store._gateway._deadline_s = fault, 0.15  # now, for what works may take longer on a busy machine
        for use in (store.put(make_row(1), wall_ns), store.range(Query()), store.prune(0)):
            with pytest.raises(StoreUnavailable, match="no endpoint gave a usable answer") as error:
                await use
            assert error.value.remedy == "check that the cluster is up and that this host can reach it"


async def test_the_error_says_what_was_wrong_and_not_that_the_deadline_cut_the_last_attempt_short(
    settings_of: Callable[..., EtcdSettings], etcd_cluster: Any, make_row: Make, wall_ns: int
) -> None:
    async with proxied(etcd_cluster.endpoints[0]) as proxy, await EtcdStore.open(settings_of(proxy.endpoint)) as store:
        await store.put(make_row(0), wall_ns)
        proxy.faults, proxy.always, store._gateway._deadline_s = ["500"], "hang", 0.6
        with pytest.raises(StoreUnavailable, match="500") as error:
            await store.range(Query())
        assert "did not answer" not in str(error.value)


async def test_a_good_member_is_used_where_another_is_bad(
    settings_of: Callable[..., EtcdSettings], etcd_cluster: Any, make_row: Make, wall_ns: int
) -> None:
    async with proxied(etcd_cluster.endpoints[0]) as bad:
        settings = settings_of(bad.endpoint, etcd_cluster.endpoints[0])
        async with await EtcdStore.open(settings) as store:
            for number, fault in enumerate(("500", "stale", "hang", "half-json")):
                bad.always = fault
                assert number + 1 == await store.put(make_row(0, seq=number), wall_ns)


async def test_closing_ends_what_is_under_way(
    settings_of: Callable[..., EtcdSettings], etcd_cluster: Any, make_row: Make, wall_ns: int
) -> None:
    async with proxied(etcd_cluster.endpoints[0]) as proxy, await EtcdStore.open(settings_of(proxy.endpoint)) as store:
        proxy.always = "hang"

        async def put() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await store.put(make_row(0), wall_ns)

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(put)
                await trio.testing.wait_all_tasks_blocked(0.05)
                await store.aclose()


async def test_an_answer_without_bounds_is_cut_off(
    settings_of: Callable[..., EtcdSettings], make_row: Make, wall_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await EtcdStore.open(settings_of(), deadline_s=1) as store:
        await store.put_many([make_row(0), make_row(1)], wall_ns)
        monkeypatch.setattr("srwan.ledger_client.etcd_gateway.ANSWER_BYTES_MAX", 1000)
        with pytest.raises(StoreUnavailable, match="an answer of more than 1000 bytes"):
            await store.range(Query())


async def test_a_watch_goes_on_whatever_ends_its_stream(
    settings_of: Callable[..., EtcdSettings], etcd_cluster: Any, make_row: Make, wall_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd, "WATCH_QUIET_S", 0.2)
    told, seen = trio.open_memory_channel[int](20)
    faults = ["", "refuse", "500", "lose", "truncate", "array", "", "hang", "half-json", "empty", "stale", ""]
    async with proxied(etcd_cluster.endpoints[0]) as proxy, await EtcdStore.open(settings_of(proxy.endpoint)) as watcher:

        async def watch() -> None:
            last = 0
            while last < len(faults):
                for stored in await watcher.watch(last):
                    last = stored.revision
                    await told.send(last)

        async with await EtcdStore.open(settings_of()) as store, trio.open_nursery() as nursery:
            with trio.fail_after(20):
                nursery.start_soon(watch)
                for seq, fault in enumerate(faults):
                    proxy.faults = [fault] * 2
                    await store.put(make_row(0, seq=seq), wall_ns)
                    assert seq + 1 == await seen.receive()


async def test_compaction_makes_a_watcher_list_and_go_on(
    settings_of: Callable[..., EtcdSettings], etcd_cluster: Any, make_row: Make, wall_ns: int
) -> None:
    settings = settings_of()
    async with await EtcdStore.open(settings) as store:
        for seq in range(5):
            await store.put(make_row(0, seq=seq), wall_ns)
        revision = int(etcd_cluster.post(0, "/v3/maintenance/status", {})["header"]["revision"])
        etcd_cluster.post(0, "/v3/kv/compaction", {"revision": str(revision)})
        gateway = EtcdGateway.open(settings)
        start = Layout(settings.prefix.encode()).record(1)
        assert [] == await gateway.watch(start, start + b"\xff", revision - 3, quiet_s=5)  # etcd has forgotten
        await gateway.aclose()
        assert [1, 2, 3, 4, 5] == [stored.revision for stored in await store.watch(0)]
        assert [4, 5] == [stored.revision for stored in await store.watch(3)]


# ---- what lies in the cluster


@pytest.mark.parametrize("value", [b"", b"\x90", bytes(100), b"\xff" * 40])
async def test_a_malformed_value_is_one_clear_error(
    settings_of: Callable[..., EtcdSettings], make_row: Make, wall_ns: int, value: bytes
) -> None:
    settings = settings_of()
    layout = Layout(settings.prefix.encode())
    async with await EtcdStore.open(settings) as store:
        await store.put(make_row(0), wall_ns)
        gateway = EtcdGateway.open(settings)
        for key in (layout.record(1), layout.newest(make_row(0).key)):
            await gateway.transact((), [put_op(key, value)])
            with pytest.raises(StoreUnavailable, match="a record in the cluster is malformed"):
                await store.get(make_row(0).key)
        await gateway.transact((), [put_op(layout.head, value)])
        for use in (store.revision(), store.put(make_row(1), wall_ns)):
            with pytest.raises(StoreUnavailable, match="malformed"):
                await use
        await gateway.aclose()


async def test_a_record_altered_in_the_cluster_is_refused_by_the_reader(
    settings_of: Callable[..., EtcdSettings], make_node: Make, make_row: Make, wall_ns: int
) -> None:
    settings = settings_of()
    layout = Layout(settings.prefix.encode())
    async with await EtcdStore.open(settings) as store:
        await store.put_many([make_node(0), make_row(0)], wall_ns)
        gateway = EtcdGateway.open(settings)
        (held,) = (await gateway.transact((), [{"request_range": put_op(layout.record(1), b"")["request_put"]}])).found[0]
        await gateway.transact((), [put_op(layout.record(1), held.value[:-1] + bytes([held.value[-1] ^ 1]))])
        await gateway.aclose()
        contents = await read_matrix(store, wall_ns=wall_ns)

    assert (2, 1, {"signature": 1}) == (contents.records, contents.verified, contents.refused)


async def test_a_key_whose_newest_version_vanished_does_not_keep_a_put_for_ever(
    settings_of: Callable[..., EtcdSettings], make_row: Make, wall_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd, "CONFLICT_S_MAX", 0.2)
    settings = settings_of()
    layout = Layout(settings.prefix.encode())
    async with await EtcdStore.open(settings) as store:
        await store.put(make_row(0), wall_ns)
        gateway = EtcdGateway.open(settings)
        await gateway.transact((), [delete_op(layout.version(make_row(0).key, make_row(0).version))])
        await gateway.aclose()
        with pytest.raises(StoreUnavailable, match="others were quicker"):
            await store.put(make_row(0), wall_ns)
        assert 2 == await store.put(make_row(0, seq=2), wall_ns)


# ---- other writers


async def test_several_writers_give_no_revision_twice_and_lose_nothing(
    settings_of: Callable[..., EtcdSettings], make_row: Make, wall_ns: int
) -> None:
    stored: list[int] = []

    async def write(member: int) -> None:
        async with await EtcdStore.open(settings_of()) as store:
            for seq in range(1, 16):
                outcome = await store.put_many([make_row(member, seq=seq), make_row(3, seq=seq)], wall_ns)
                stored.extend([outcome.stored] * 1)

    async with trio.open_nursery() as nursery:
        for member in range(3):
            nursery.start_soon(write, member)
    async with await EtcdStore.open(settings_of()) as store:
        revision = await store.revision()
        assert sum(stored) == revision
        assert list(range(1, revision + 1)) == [each.revision for each in await store.watch(0)]
        assert [15] * 4 == [each.record.version.sequence for each in await store.range(Query(kind=Kind.ROW))]


async def test_what_another_wrote_is_not_judged_by_what_was_known(
    settings_of: Callable[..., EtcdSettings], make_row: Make, wall_ns: int
) -> None:
    async with await EtcdStore.open(settings_of()) as one, await EtcdStore.open(settings_of()) as other:
        await one.put(make_row(0, seq=5), wall_ns)
        await other.put(make_row(0, seq=6), wall_ns)
        with pytest.raises(StaleRecord):
            await one.put(make_row(0, seq=5), wall_ns)
        await other.prune(2**63 - 1)
        assert 3 == await one.put(make_row(0, seq=5), wall_ns)


async def test_what_was_known_of_other_keys_is_forgotten_when_somebody_wrote(
    settings_of: Callable[..., EtcdSettings], make_row: Make, wall_ns: int
) -> None:
    async with await EtcdStore.open(settings_of()) as one, await EtcdStore.open(settings_of()) as other:
        await one.put(make_row(0, seq=5), wall_ns)
        await other.put(make_row(0, seq=7), wall_ns)
        await one.put(make_row(1), wall_ns)
        with pytest.raises(StaleRecord):
            await one.put(make_row(0, seq=6), wall_ns)


async def test_a_lease_ends_with_its_time(settings_of: Callable[..., EtcdSettings], make_row: Make, wall_ns: int) -> None:
    one, other = make_row(0).subject, make_row(1).subject
    async with await EtcdStore.open(settings_of()) as store:
        assert await store.lease("job", one, 1, wall_ns)
        with trio.fail_after(10):
            while not await store.lease("job", other, 60, wall_ns):  # noqa: ASYNC110 (only the cluster knows when)
                await trio.sleep(0.1)


# ---- getting in


async def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no endpoint gave a usable answer within") as error:
        await EtcdStore.open(EtcdSettings(("http://127.0.0.1:9", "http://127.0.0.1:10")), deadline_s=0.2)
    assert "etcd at http://127.0.0.1:9 and 1 more" == error.value.where
    with pytest.raises(StoreUnavailable, match="cannot be read as a user file"):
        await EtcdStore.open(EtcdSettings(("http://127.0.0.1:9",), user_file=tmp_path / "none"))
    with pytest.raises(StoreUnavailable, match="a certificate or key cannot be used"):
        await EtcdStore.open(EtcdSettings(("https://127.0.0.1:9",), ca_file=tmp_path / "none"))


@pytest.mark.parametrize("endpoints", [(), ("127.0.0.1:2379",)])
def test_endpoints_are_urls(endpoints: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        EtcdSettings(endpoints)


async def test_without_httpx_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def import_all_but_httpx(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "srwan.ledger_client.http_client":
            raise ImportError(name)
        return real_import(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", import_all_but_httpx)
    with pytest.raises(StoreUnavailable, match=r'pip install "srwan\[etcd\]"'):
        await EtcdStore.open(EtcdSettings(("http://127.0.0.1:9",)))


async def test_users_and_passwords(start_etcd: Callable[[int], Any], make_row: Make, wall_ns: int, tmp_path: Path) -> None:
    cluster = start_etcd(1)
    cluster.post(0, "/v3/auth/user/add", {"name": "root", "password": "open sesame"})
    cluster.post(0, "/v3/auth/user/grant", {"user": "root", "role": "root"})
    cluster.post(0, "/v3/auth/enable", {})
    user_file = tmp_path / "user"

    async def refused() -> str:
        with pytest.raises(StoreUnavailable) as error:
            await EtcdStore.open(EtcdSettings(cluster.endpoints, user_file=user_file if user_file.exists() else None), deadline_s=2)
        assert "sesame" not in str(error.value)
        return error.value.problem

    assert "wants a user" in await refused()
    user_file.write_text("root\nopen barley\n")
    assert "does not accept user or password" in await refused()
    user_file.write_text("root\nopen sesame\n")
    async with await EtcdStore.open(EtcdSettings(cluster.endpoints, user_file=user_file)) as store:
        assert 1 == await store.put(make_row(0), wall_ns)
        store._gateway._token = "forgotten.1"
        assert 2 == await store.put(make_row(1), wall_ns)
        assert [1, 2] == [each.revision for each in await store.watch(0)]


@pytest.fixture
def settings_of_tls_member(tmp_path: Path, own_certificate: tuple[Path, Path]) -> Iterator[EtcdSettings]:
    """A member that shows a certificate and asks for one."""
    certificate, key = own_certificate
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    client, peer = (f"//127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    arguments = ["--data-dir", str(tmp_path / "etcd"), "--cert-file", str(certificate), "--key-file", str(key), "--client-cert-auth"]
    arguments += ["--trusted-ca-file", str(certificate), "--initial-cluster", f"default=http:{peer}"]
    arguments += ["--listen-client-urls", f"https:{client}", "--advertise-client-urls", f"https:{client}"]
    arguments += ["--listen-peer-urls", f"http:{peer}", "--initial-advertise-peer-urls", f"http:{peer}"]
    process = subprocess.Popen(["etcd", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield EtcdSettings((f"https:{client}",), ca_file=certificate, certificate_file=certificate, key_file=key)
    finally:
        process.kill()
        process.wait()


async def test_members_and_clients_show_certificates(settings_of_tls_member: EtcdSettings, make_row: Make, wall_ns: int) -> None:
    known = settings_of_tls_member
    async with await EtcdStore.open(known, deadline_s=20) as store:
        assert 1 == await store.put(make_row(0), wall_ns)
        assert [1] == [each.revision for each in await store.watch(0)]
    for stranger in (attrs.evolve(known, ca_file=None), attrs.evolve(known, certificate_file=None, key_file=None)):
        with pytest.raises(StoreUnavailable, match="no endpoint gave a usable answer"):
            await EtcdStore.open(stranger, deadline_s=0.5)


# ---- three members


@pytest.mark.slow
async def test_the_leader_dies_under_puts_and_nothing_acknowledged_is_lost(
    start_etcd: Callable[[int], Any], make_row: Make, wall_ns: int, record_property: Callable[[str, object], None]
) -> None:
    cluster = start_etcd(3)
    settings = EtcdSettings(cluster.endpoints)
    seqs = range(1, 301)
    gap_s = 0.0
    seen: list[int] = []

    async def watch() -> None:
        async with await EtcdStore.open(EtcdSettings(cluster.endpoints[::-1])) as watcher:
            while len(seen) < len(seqs):
                seen.extend(stored.record.version.sequence for stored in await watcher.watch(len(seen)))

    async with await EtcdStore.open(settings) as store:
        with trio.fail_after(50):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                last_s = time.monotonic()
                for seq in seqs:
                    if seq == 100:
                        cluster.kill(cluster.leader())
                    await store.put(make_row(0, seq=seq), wall_ns)
                    gap_s, last_s = max(gap_s, time.monotonic() - last_s), time.monotonic()
        held = {stored.record.version.sequence for stored in await store.history(make_row(0).key)}
    record_property("gap_s", round(gap_s, 2))
    assert [] == [seq for seq in seqs if seq not in held]
    assert list(seqs) == seen
