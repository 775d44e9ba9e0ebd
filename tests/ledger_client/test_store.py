"""The contract of record stores, over both implementations, and the state machine against a plain model."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
import trio
import trio.testing
from hypothesis import settings, stateful
from hypothesis import strategies as st

from srwan.errors import BadSignature, Equivocation, LimitExceeded, StaleRecord
from srwan.gossip.row import Row, SignedRow, seal_row
from srwan.identity import Identity
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.record import Key, Kind, Record, Version, report_of
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.store import BATCH_RECORDS_MAX, EquivocationProof, Query, RecordStore, StoredRecord, Verdict, judge
from srwan.types import GeoAsn

Make = Callable[..., Record]
_T = TypeVar("_T")


async def open_store(kind: str, folder: Path) -> RecordStore:
    return MemoryStore() if kind == "memory" else await SqliteStore.open(folder / "ditex.db")


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    opened = await open_store(request.param, tmp_path)
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


# ---- the state machine

NOW_NS = 1_780_000_000 * NS_PER_S
SIGNERS = tuple(Identity(bytes([number]) * 32) for number in (1, 2))
GROUPS = (bytes(32), bytes([1]) * 32)
PLACES = (GeoAsn("LT", 0, 0, 10), GeoAsn("LT", 0, 0, 20), GeoAsn("DE", 0, 0, 10))


def small_row(signer: int, group: int, seq: int, octets: int, expires_s: int, place: int) -> Record:
    empty = Row(SIGNERS[signer].node_id, 1, seq, 0, bytes(8), 0, 0, octets, 0, 0, 0, 0, is_described=False, entries=b"")
    content = seal_row(empty, SIGNERS[signer], GROUPS[group]).content
    expires_ns = NOW_NS + expires_s * NS_PER_S
    return Record.of_row(SIGNERS[signer].node_id, content, group=GROUPS[group], expires_ns=expires_ns, place=PLACES[place])


rows = st.builds(
    small_row,
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(0, 4),
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([0, 10, 20, 30]),
    st.integers(0, 2),
)
keys = st.builds(lambda group, signer: Key(Kind.ROW, GROUPS[group], SIGNERS[signer].node_id), st.integers(0, 1), st.integers(0, 1))


class StoreMachine(stateful.RuleBasedStateMachine):
    """Puts, reads, prunes and reopens a store, and keeps a dict beside it: (key, version) -> (revision, record)."""

    kind = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = self.run(lambda: open_store(self.kind, Path(self.folder.name)))
        self.model: dict[tuple[Key, Version], tuple[int, Record]] = {}
        self.revision = 0
        self.proofs: dict[Key, tuple[bytes, bytes]] = {}

    def run(self, call: Callable[[], Awaitable[_T]]) -> _T:
        async def main() -> _T:
            return await call()

        return trio.run(main)

    def newest(self, key: Key) -> Version | None:
        return max((version for held, version in self.model if held == key), default=None)

    def expect(self, record: Record) -> int | str:
        """What a put must give, and its effect on the model: a revision or a reason."""
        place, newest = (record.key, record.version), self.newest(record.key)
        if record.expires_ns <= NOW_NS:
            return "expired"
        if place in self.model and self.model[place][1].envelope != record.envelope:
            self.proofs.setdefault(record.key, (self.model[place][1].envelope, record.envelope))
            return "equivocation"
        if place in self.model and record.version == newest:
            return self.model[place][0]
        if newest is not None and record.version <= newest:
            return "stale"
        self.revision += 1
        self.model[place] = (self.revision, record)
        return self.revision

    @stateful.rule(batch=st.lists(rows, max_size=6))
    def put(self, batch: list[Record]) -> None:
        before = self.revision
        expected = [self.expect(record) for record in batch]
        outcome = self.run(lambda: self.store.put_many(batch, NOW_NS))
        reasons = {refusal.index: refusal.error.reason for refusal in outcome.refused}

        assert expected == [reasons.get(index, outcome.revisions[index]) for index in range(len(batch))]
        assert (self.revision, self.revision - before) == (outcome.revision, outcome.stored)
        assert len(batch) == outcome.stored + outcome.unchanged + len(outcome.refused)
        assert expected.count("equivocation") == len(outcome.equivocations)

    @stateful.rule(after_s=st.sampled_from([0, 10, 20, 30]))
    def prune(self, after_s: int) -> None:
        limit_ns = NOW_NS + after_s * NS_PER_S
        newest = {key: self.newest(key) for key, _ in self.model}
        dead = {key for key, version in newest.items() if version is not None and self.model[key, version][1].expires_ns <= limit_ns}
        gone = [place for place, (_, record) in self.model.items() if place[0] in dead or record.expires_ns <= limit_ns]
        for place in gone:
            del self.model[place]

        assert len(gone) == self.run(lambda: self.store.prune(limit_ns))

    @stateful.rule(key=keys)
    def read_one_key(self, key: Key) -> None:
        held = sorted(((version, *self.model[each, version]) for each, version in self.model if each == key), reverse=True)
        history = self.run(lambda: self.store.history(key))
        newest = self.run(lambda: self.store.get(key))

        assert [StoredRecord(revision, record) for _, revision, record in held] == history
        assert newest == (history[0] if history else None)
        for each in history:
            assert each == self.run(lambda each=each: self.store.get(key, each.record.version))  # type: ignore[misc]

    @stateful.rule(
        group=st.sampled_from([None, *GROUPS]),
        place=st.sampled_from([{}, {"country": "LT"}, {"country": "LT", "asn_min": 11}, {"country": "DE", "asn_max": 9}]),
        unexpired_s=st.sampled_from([None, 10, 20]),
        after=st.integers(0, 5),
        limit=st.integers(1, 5),
    )
    def read_a_range(self, group: bytes | None, place: dict[str, Any], unexpired_s: int | None, after: int, limit: int) -> None:
        unexpired_ns = None if unexpired_s is None else NOW_NS + unexpired_s * NS_PER_S
        query = Query(group=group, unexpired_ns=unexpired_ns, after=after, limit=limit, **place)
        newest = sorted(self.model[key, version] for key, version in self.model if version == self.newest(key))
        expected = [
            StoredRecord(revision, record)
            for revision, record in newest
            if revision > after
            and group in (None, record.group)
            and place.get("country") in (None, record.country)
            and place.get("asn_min", 0) <= record.asn <= place.get("asn_max", 2**32)
            and (unexpired_ns is None or record.expires_ns > unexpired_ns)
        ]

        assert expected[:limit] == self.run(lambda: self.store.range(query))

    @stateful.rule()
    def reopen(self) -> None:
        if self.kind == "sqlite":
            self.run(self.store.aclose)
            self.store = self.run(lambda: open_store(self.kind, Path(self.folder.name)))

    @stateful.invariant()
    def everything_is_there(self) -> None:
        above = sorted(StoredRecord(*held).revision for held in self.model.values())
        proofs = self.run(self.store.equivocations)

        assert self.revision == self.run(self.store.revision)
        assert self.proofs == {proof.key: (proof.held.envelope, proof.other.envelope) for proof in proofs}
        assert all(proof.is_proven() for proof in proofs)
        if above:
            assert above == [each.revision for each in self.run(lambda: self.store.watch(0))]

    def teardown(self) -> None:
        self.run(self.store.aclose)
        self.folder.cleanup()


class MemoryMachine(StoreMachine):
    kind = "memory"


class SqliteMachine(StoreMachine):
    kind = "sqlite"


@pytest.mark.parametrize("machine", [MemoryMachine, SqliteMachine])
def test_a_store_behaves_as_a_dict_whatever_is_done_to_it(machine: type[StoreMachine]) -> None:
    examples = min(settings.default.max_examples if settings.default else 100, 5000) // 4  # each has dozens of steps on a real file
    stateful.run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=25))
