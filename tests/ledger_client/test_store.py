"""The contract of record stores, over both implementations, and the state machine against a plain model."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from srwan.errors import BadSignature, Equivocation, LimitExceeded, StaleRecord
from srwan.gossip.row import SignedRow
from srwan.identity import Identity
from srwan.ledger_client.etcd import EtcdStore
from srwan.ledger_client.etcd_gateway import EtcdSettings
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.record import CONTENT_BYTES_MAX, Kind, Record, Version, report_of
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.store import (
    BATCH_RECORDS_MAX,
    HISTORY_VERSIONS_MAX,
    EquivocationProof,
    Query,
    RecordStore,
    StoredRecord,
    Verdict,
    judge,
)

Make = Callable[..., Record]


async def open_store(kind: str, folder: Path, endpoints: tuple[str, ...] = ()) -> RecordStore:
    if kind == "memory":
        return MemoryStore()
    if kind == "sqlite":
        return await SqliteStore.open(folder / "ditex.db")
    return await EtcdStore.open(EtcdSettings(endpoints, prefix=f"{folder}/"))


@pytest.fixture(params=["memory", "sqlite", pytest.param("etcd", marks=pytest.mark.needs("etcd"))])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    endpoints = request.getfixturevalue("etcd_cluster").endpoints if request.param == "etcd" else ()
    opened = await open_store(request.param, tmp_path, endpoints)
    yield opened
    await opened.aclose()


def records_of(stored: list[StoredRecord]) -> list[Record]:
    return [each.record for each in stored]


async def test_what_was_put_is_got(store: RecordStore, make_row: Make, make_node: Make, make_report: Make, wall_ns: int) -> None:
    for number, record in enumerate((make_node(0), make_row(0), make_report(), make_row(1, epoch=3)), start=1):
        assert number == await store.put(record, wall_ns)
        assert StoredRecord(number, record) == await store.get(record.key)
    assert 4 == await store.revision()


async def test_an_empty_store_has_nothing(store: RecordStore, make_row: Make) -> None:
    assert await store.get(make_row(0).key) is None
    assert await store.get(make_row(0).key, Version(0, 0)) is None
    assert [] == await store.range(Query())
    assert [] == await store.history(make_row(0).key)
    assert [] == await store.equivocations()
    assert 0 == await store.revision()
    assert 0 == await store.prune(2**63 - 1)


async def test_the_newest_version_wins_and_the_older_ones_are_its_history(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    versions = [make_row(0, seq=5), make_row(0, seq=6), make_row(0, boot=7001, seq=1)]
    for record in versions:
        await store.put(record, wall_ns)

    held = await store.get(versions[0].key)
    assert held is not None
    assert versions[2] == held.record
    assert versions[::-1] == records_of(await store.history(versions[0].key))
    assert versions[:0:-1] == records_of(await store.history(versions[0].key, limit=2))
    assert [versions[2]] == records_of(await store.range(Query()))
    older = await store.get(versions[0].key, versions[0].version)
    assert older is not None
    assert versions[0] == older.record


async def test_an_older_version_is_refused_whether_it_was_held_before_or_not(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    await store.put_many([make_row(0, seq=5), make_row(0, seq=7)], wall_ns)

    for seq in (5, 6):
        with pytest.raises(StaleRecord) as refused:
            await store.put(make_row(0, seq=seq), wall_ns)
        assert refused.value.reason == "stale"
    assert 2 == await store.revision()


async def test_putting_again_changes_nothing(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    batch = [make_row(0), make_row(1)]
    await store.put_many(batch, wall_ns)
    outcome = await store.put_many([batch[1], batch[0]], wall_ns)

    assert (2, 0, 2, (2, 1)) == (outcome.revision, outcome.stored, outcome.unchanged, outcome.revisions)
    assert 1 == await store.put(batch[0], wall_ns)


async def test_two_contents_under_one_version_are_kept_as_proof_and_the_first_stays(
    store: RecordStore, make_row: Make, wall_ns: int
) -> None:
    first, second, third = (make_row(0, octets=octets) for octets in (0, 1, 2))
    await store.put(first, wall_ns)
    outcome = await store.put_many([second, make_row(1), third], wall_ns)

    held = await store.get(first.key)
    assert held is not None
    assert first == held.record
    proof, other = outcome.equivocations
    assert EquivocationProof.of(first, second) == proof
    assert EquivocationProof.of(first, third) == other
    assert proof.is_proven()
    assert (None, 2, None) == outcome.revisions
    assert ["equivocation", "equivocation"] == [refusal.error.reason for refusal in outcome.refused]
    assert isinstance(outcome.refused[0].error, Equivocation)
    assert (first.envelope, second.envelope) == (outcome.refused[0].error.first, outcome.refused[0].error.second)
    assert [proof] == await store.equivocations()


async def test_history_convicts_too(store: RecordStore, make_node: Make, wall_ns: int) -> None:
    await store.put_many([make_node(0, seq=1), make_node(0, seq=2)], wall_ns)

    with pytest.raises(Equivocation):
        await store.put(make_node(0, seq=1, name="other"), wall_ns)
    (proof,) = await store.equivocations()
    assert proof.is_proven()
    assert (make_node(0).key, Version(7000, 1)) == (proof.key, proof.version)


async def test_proofs_survive_pruning(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    await store.put_many([make_row(0), make_row(0, octets=1)], wall_ns)

    assert 1 == await store.prune(2**63 - 1)
    assert 1 == len(await store.equivocations())


def test_what_does_not_contradict_is_no_proof(make_row: Make, make_node: Make) -> None:
    row = make_row(0)

    assert not EquivocationProof.of(row, row).is_proven()
    assert not EquivocationProof.of(row, make_row(0, seq=2)).is_proven()
    assert not EquivocationProof.of(row, attrs.evolve(make_row(0, seq=2), version=row.version)).is_proven()
    assert not EquivocationProof.of(row, make_row(1)).is_proven()
    assert not EquivocationProof.of(row, make_node(0)).is_proven()
    assert EquivocationProof.of(row, make_row(0, octets=1)).is_proven()


async def test_bad_records_are_refused_one_by_one_and_the_good_ones_stored(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    forged = attrs.evolve(make_row(1), envelope=make_row(1).envelope[:-1] + bytes([make_row(1).envelope[-1] ^ 1]))
    expired = make_row(2, expires_s=0)
    eternal = make_row(3, expires_s=90_000)
    outcome = await store.put_many([forged, make_row(0), expired, eternal], wall_ns)

    assert (None, 1, None, None) == outcome.revisions
    assert (1, 0) == (outcome.stored, outcome.unchanged)
    assert [(0, "signature"), (2, "expired"), (3, "lifetime")] == [(each.index, each.error.reason) for each in outcome.refused]
    with pytest.raises(BadSignature):
        await store.put(forged, wall_ns)
    with pytest.raises(LimitExceeded):
        await store.put(eternal, wall_ns)
    assert 1 == await store.revision()


async def test_bad_records_of_a_large_batch_keep_their_places(store: RecordStore, make_statement_record: Make, wall_ns: int) -> None:
    """Large batches are checked in slices by several threads."""
    records = [make_statement_record(0, topic=number.to_bytes(2, "big")) for number in range(150)]
    bad: dict[int, dict[str, Any]] = {0: {"asn": 1}, 74: {"expires_ns": wall_ns}, 75: {"version": Version(1, 1)}, 149: {"topic": b""}}
    spoiled = [attrs.evolve(record, **bad.get(index, {})) for index, record in enumerate(records)]
    outcome = await store.put_many(spoiled, wall_ns)

    reasons = [(refusal.index, refusal.error.reason) for refusal in outcome.refused]
    assert [(0, "filed-wrong"), (74, "expired"), (75, "filed-wrong"), (149, "filed-wrong")] == reasons
    assert [record for index, record in enumerate(records) if index not in bad] == records_of(await store.watch(0))


async def test_a_batch_over_the_bound_is_refused_whole(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    with pytest.raises(ValueError, match="a batch has up to"):
        await store.put_many([make_row(0)] * (BATCH_RECORDS_MAX + 1), wall_ns)
    assert (await store.put_many([], wall_ns)).revision == 0


async def test_range_filters_by_kind_group_place_and_expiry(
    store: RecordStore, make_row: Make, make_node: Make, make_report: Make, wall_ns: int
) -> None:
    rows = [make_row(index, expires_s=100 + index) for index in range(4)]
    nodes = [make_node(index) for index in range(4)]
    report = make_report()
    await store.put_many([*rows, *nodes, report], wall_ns)

    async def found(**query: Any) -> list[Record]:
        return records_of(await store.range(Query(**query)))

    assert [*rows, *nodes, report] == await found()
    assert rows == await found(kind=Kind.ROW)
    assert [report] == await found(kind=Kind.REPORT)
    assert [*rows, *nodes, report] == await found(group=report.group)
    assert nodes == await found(group=report.group, kind=Kind.NODE)
    assert [] == await found(group=bytes(32))
    assert [rows[1], rows[2], nodes[1], nodes[2]] == await found(country="DE")
    assert [nodes[2]] == await found(country="DE", asn_min=3321, kind=Kind.NODE)
    assert [rows[1], nodes[1]] == await found(country="DE", asn_max=24_939)
    assert [nodes[1]] == await found(country="DE", asn_min=3320, asn_max=3320, kind=Kind.NODE, group=report.group)
    assert [] == await found(country="DE", group=bytes(32))
    assert [] == await found(country="FR")
    assert rows[2:] == await found(kind=Kind.ROW, unexpired_ns=wall_ns + 101 * NS_PER_S)


async def test_pages_follow_each_other_by_revision(store: RecordStore, make_row: Make, make_node: Make, wall_ns: int) -> None:
    records = [make_row(0), make_node(0), make_row(1), make_node(1), make_row(2)]
    await store.put_many(records, wall_ns)
    for group in (None, records[0].group):
        pages: list[list[Record]] = []
        after = 0
        while page := await store.range(Query(group=group, after=after, limit=2)):
            after = page[-1].revision
            pages.append(records_of(page))

        assert [records[:2], records[2:4], records[4:]] == pages
    assert [records[2], records[4]] == records_of(await store.range(Query(kind=Kind.ROW, after=1)))
    assert [records[1], records[3]] == records_of(await store.range(Query(kind=Kind.NODE, limit=2)))


@pytest.mark.parametrize(
    "wrong", [{"limit": 0}, {"limit": 1001}, {"asn_min": 1}, {"asn_max": 1}, {"country": "DE", "asn_min": 2, "asn_max": 1}]
)
def test_a_query_out_of_bounds_cannot_be_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Query(**wrong)


@pytest.mark.parametrize("limit", [0, 1001])
async def test_page_sizes_are_bounded(store: RecordStore, make_row: Make, limit: int) -> None:
    with pytest.raises(ValueError, match="a page has"):
        await store.history(make_row(0).key, limit=limit)
    with pytest.raises(ValueError, match="a page has"):
        await store.watch(0, limit=limit)
    with pytest.raises(ValueError, match="a page has"):
        await store.equivocations(limit=limit)


async def test_watch_gives_everything_above_a_revision_at_once(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    records = [make_row(0, seq=1), make_row(0, seq=2), make_row(1)]
    await store.put_many(records, wall_ns)

    assert records == records_of(await store.watch(0))
    assert records[1:] == records_of(await store.watch(1))
    assert records[1:2] == records_of(await store.watch(1, limit=1))


async def test_watch_waits_for_what_comes(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    seen: list[StoredRecord] = []

    async def watch() -> None:
        while len(seen) < 3:
            seen.extend(await store.watch(seen[-1].revision if seen else 0))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            await store.put_many([make_row(0), make_row(1)], wall_ns)
            await store.put_many([make_row(0)], wall_ns)
            await store.put(make_row(2), wall_ns)
    assert [1, 2, 3] == [each.revision for each in seen]
    assert [make_row(0), make_row(1), make_row(2)] == records_of(seen)


async def test_a_cancelled_watch_leaves_the_store_usable(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.watch, 0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert 1 == await store.put(make_row(0), wall_ns)


async def test_closing_wakes_watchers_and_ends_use(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    async def watch() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await store.watch(0)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            await store.aclose()
    await store.aclose()
    for use in (store.put(make_row(0), wall_ns), store.get(make_row(0).key), store.range(Query()), store.revision(), store.prune(0)):
        with pytest.raises(trio.ClosedResourceError):
            await use


async def test_pruning_removes_what_expired_and_never_revives_an_older_version(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    short_history = [make_row(0, seq=1, expires_s=10), make_row(0, seq=2, expires_s=100)]
    long_history = [make_row(1, seq=1, expires_s=100), make_row(1, seq=2, expires_s=10)]
    await store.put_many([*short_history, *long_history], wall_ns)

    assert 3 == await store.prune(wall_ns + 10 * NS_PER_S)
    assert [short_history[1]] == records_of(await store.range(Query()))
    assert [short_history[1]] == records_of(await store.history(short_history[0].key))
    assert [] == await store.history(long_history[0].key)
    assert [short_history[1]] == records_of(await store.watch(0))
    assert 0 == await store.prune(wall_ns + 10 * NS_PER_S)


async def test_pruning_leaves_the_newest_versions_of_every_key(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    long_history = [make_row(0, seq=seq) for seq in range(1, 60)]
    await store.put_many([*long_history, make_row(1, seq=1), make_row(1, seq=2)], wall_ns)

    assert 59 - HISTORY_VERSIONS_MAX == await store.prune(0)
    assert long_history[-1 : -HISTORY_VERSIONS_MAX - 1 : -1] == records_of(await store.history(long_history[0].key))
    assert HISTORY_VERSIONS_MAX - 2 == await store.prune(0, versions_max=2)
    assert [59, 58] == [each.record.version.sequence for each in await store.history(long_history[0].key)]
    assert 2 == await store.prune(0, versions_max=1)
    assert [long_history[-1], make_row(1, seq=2)] == records_of(await store.watch(0))
    with pytest.raises(ValueError, match="newest version stays"):
        await store.prune(0, versions_max=0)


async def test_statements_live_side_by_side_under_their_topics(store: RecordStore, make_statement_record: Make, wall_ns: int) -> None:
    first, second = (make_statement_record(0, kind=Kind.CLAIM, topic=topic) for topic in (b"one", b"two"))
    renewed = make_statement_record(0, 2, kind=Kind.CLAIM, topic=b"one", content=b"\x02")
    await store.put_many([first, second, renewed], wall_ns)

    assert [second, renewed] == records_of(await store.range(Query(kind=Kind.CLAIM)))
    assert [renewed, first] == records_of(await store.history(first.key))
    with pytest.raises(Equivocation):
        await store.put(make_statement_record(0, kind=Kind.CLAIM, topic=b"two", content=b"\x02"), wall_ns)
    (proof,) = await store.equivocations()
    assert proof.is_proven()
    assert second.key == proof.key


async def test_range_filters_by_subject_and_topic(store: RecordStore, make_statement_record: Make, make_row: Make, wall_ns: int) -> None:
    offers = [make_statement_record(index, kind=Kind.OFFER) for index in range(3)]
    verdicts = [make_statement_record(index, kind=Kind.VERDICT, topic=b"claim") for index in range(2)]
    batch = make_statement_record(0, kind=Kind.BATCH, topic=b"claim")
    row = make_row(0)
    await store.put_many([*offers, *verdicts, batch, row], wall_ns)
    subject = row.subject

    async def found(**query: Any) -> list[Record]:
        return records_of(await store.range(Query(**query)))

    assert [offers[0], verdicts[0], batch, row] == await found(subject=subject)
    assert [row] == await found(subject=subject, group=row.group)
    assert [*verdicts, batch] == await found(topic=b"claim")
    assert verdicts == await found(topic=b"claim", kind=Kind.VERDICT)
    assert [verdicts[0]] == await found(topic=b"claim", kind=Kind.VERDICT, subject=subject)
    assert [] == await found(topic=b"clai")
    assert [offers[0], row] == await found(topic=b"", subject=subject)
    assert [offers[1]] == await found(kind=Kind.OFFER, country="DE", asn_max=24_939)


async def test_a_large_batch_of_large_records_is_stored_whole(store: RecordStore, make_statement_record: Make, wall_ns: int) -> None:
    size = CONTENT_BYTES_MAX[Kind.CLAIM]
    records = [make_statement_record(0, kind=Kind.CLAIM, topic=bytes([number]), content=bytes(size)) for number in range(60)]
    outcome = await store.put_many(records, wall_ns)

    assert (60, tuple(range(1, 61))) == (outcome.stored, outcome.revisions)
    assert records == records_of(await store.range(Query(kind=Kind.CLAIM)))
    assert records == records_of(await store.watch(0))


async def test_a_lease_has_one_holder_until_it_is_given_back(store: RecordStore, identities: tuple[Identity, ...], wall_ns: int) -> None:
    one, other = (identity.node_id for identity in identities[:2])

    assert await store.lease("prune", one, 60, wall_ns)
    assert not await store.lease("prune", other, 60, wall_ns)
    assert await store.lease("prune", one, 60, wall_ns)
    assert await store.lease("report", other, 60, wall_ns)
    await store.release("prune", other)
    assert not await store.lease("prune", other, 60, wall_ns)
    await store.release("prune", one)
    assert await store.lease("prune", other, 60, wall_ns)
    await store.release("nobody's", one)


@pytest.mark.parametrize(("name", "lease_s"), [("", 1), ("x" * 65, 1), ("\n", 1), ("ä", 1), ("x", 0), ("x", 3601)])
async def test_leases_are_bounded(store: RecordStore, identities: tuple[Identity, ...], wall_ns: int, name: str, lease_s: int) -> None:
    with pytest.raises(ValueError, match="a lease"):
        await store.lease(name, identities[0].node_id, lease_s, wall_ns)


async def test_revisions_are_never_given_twice(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    await store.put_many([make_row(0), make_row(1)], wall_ns)
    await store.prune(2**63 - 1)

    assert 2 == await store.revision()
    assert 3 == await store.put(make_row(0), wall_ns)


async def test_calls_of_many_tasks_take_turns(store: RecordStore, make_row: Make, wall_ns: int) -> None:
    async def put(seq: int) -> None:
        with contextlib.suppress(StaleRecord):
            await store.put(make_row(seq % 4, seq=seq), wall_ns)

    async with trio.open_nursery() as nursery:
        for seq in range(20):
            nursery.start_soon(put, seq)

    assert {16, 17, 18, 19} == {each.record.version.sequence for each in await store.range(Query(kind=Kind.ROW))}
    assert await store.revision() == len(await store.watch(0))


async def test_reports_of_two_reporters_stand_beside_each_other(
    store: RecordStore, make_report: Make, make_signed_row: Callable[..., SignedRow], wall_ns: int
) -> None:
    reports = [make_report(make_signed_row(0), reporter=reporter) for reporter in (0, 1)]
    await store.put_many(reports, wall_ns)

    assert reports == records_of(await store.range(Query(kind=Kind.REPORT)))
    assert [each.subject for each in reports] == [report_of(each).reporter for each in reports]


@pytest.mark.parametrize(
    ("version", "newest", "held", "expected"),
    [
        (1, None, None, Verdict.NEW),
        (2, 1, None, Verdict.NEW),
        (1, 2, None, Verdict.STALE),
        (2, 2, b"same", Verdict.UNCHANGED),
        (2, 2, b"other", Verdict.EQUIVOCATION),
        (1, 2, b"same", Verdict.STALE),
        (1, 2, b"other", Verdict.EQUIVOCATION),
    ],
)
def test_the_merge_rule(version: int, newest: int | None, held: bytes | None, expected: Verdict) -> None:
    newest_version = None if newest is None else Version(0, newest)

    assert expected is judge(Version(0, version), b"same", newest_version, held)
