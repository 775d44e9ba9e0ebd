from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import apsw
import attrs
import numpy as np
import pytest

from srwan.gossip.report import Report
from srwan.gossip.row import Row, SignedRow, encode_owl, entry_id, seal_row
from srwan.identity import Identity
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.publish import records_of_report
from srwan.ledger_client.read import read_file, read_matrix
from srwan.ledger_client.record import Kind, Record
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.store import Query, StoredRecord

Make = Callable[..., Record]
MakeRow = Callable[..., SignedRow]
Publish = Callable[..., Sequence[Record]]

EXPECTED_MS = np.array([[10.0 * sender + receiver for receiver in range(4)] for sender in range(4)])
np.fill_diagonal(EXPECTED_MS, np.nan)


@pytest.fixture
def publish(
    make_gossip_report: Callable[..., Report], make_certificate: Callable[..., bytes], identities: tuple[Identity, ...], wall_ns: int
) -> Publish:
    """Returns the batch for some rows."""
    certificates = {identity.node_id: make_certificate(index) for index, identity in enumerate(identities)}

    def records(rows: Sequence[SignedRow], *, reporter: int = 0, epoch: int = 5, sequence: int = 0) -> Sequence[Record]:
        report = make_gossip_report(rows, reporter=reporter, epoch=epoch, sequence=sequence)
        return records_of_report(report, identities[reporter], certificates=certificates, wall_ns=wall_ns).records

    return records


async def store_of(*batches: Sequence[Record], wall_ns: int) -> MemoryStore:
    store = MemoryStore()
    for batch in batches:
        await store.put_many(batch, wall_ns)
    return store


async def test_what_was_published_is_read_as_one_matrix(publish: Publish, make_signed_row: MakeRow, tmp_path: Path, wall_ns: int) -> None:
    path = tmp_path / "ditex.db"
    async with await SqliteStore.open(path) as store:
        await store.put_many(publish([make_signed_row(index) for index in range(4)]), wall_ns)
    contents = await read_file(path, wall_ns=wall_ns)

    assert (9, 9, 9, {}, 0) == (contents.revision, contents.records, contents.verified, contents.refused, contents.equivocations)
    (group,) = contents.groups
    assert (9, False, ()) == (group.revision, group.is_expired, group.missing)
    assert {"LT", "DE", "SG"} == {record.country for record in group.nodes.values()}
    assert all(row.is_attested for row in group.rows.values())
    matrix = group.matrix()
    assert group.report.roster == matrix.roster
    assert () == matrix.unreadable
    np.testing.assert_allclose(matrix.owl_ms, EXPECTED_MS, atol=0.006)


async def test_absent_members_are_unknown_columns(publish: Publish, make_signed_row: MakeRow, wall_ns: int) -> None:
    store = await store_of(publish([make_signed_row(index) for index in (0, 3)]), wall_ns=wall_ns)
    (group,) = (await read_matrix(store, wall_ns=wall_ns)).groups
    owl_ms = group.matrix().owl_ms

    assert np.isnan(owl_ms[:, 1:3]).all()
    np.testing.assert_allclose(owl_ms[:, [0, 3]], EXPECTED_MS[:, [0, 3]], atol=0.006)


async def test_the_newest_report_of_any_reporter_counts(publish: Publish, make_signed_row: MakeRow, wall_ns: int) -> None:
    rows = [make_signed_row(index) for index in range(4)]
    store = await store_of(
        publish(rows, reporter=0, epoch=5, sequence=9),
        publish(rows, reporter=1, epoch=6, sequence=1),
        publish(rows, reporter=2, epoch=6, sequence=0),
        publish(rows[:3], reporter=3, epoch=6, sequence=1),
        wall_ns=wall_ns,
    )
    (group,) = (await read_matrix(store, wall_ns=wall_ns)).groups

    assert (6, 1, group.report.roster[1]) == (group.report.epoch, group.report.sequence, group.report.reporter)


async def test_a_reporter_that_is_not_trusted_is_passed_over_and_counted(publish: Publish, make_signed_row: MakeRow, wall_ns: int) -> None:
    rows = [make_signed_row(0)]
    store = await store_of(publish(rows, reporter=0), publish(rows, reporter=1, epoch=2**40), wall_ns=wall_ns)
    contents = await read_matrix(store, wall_ns=wall_ns, is_trusted=lambda report: report.reporter == report.roster[0])

    assert {"untrusted": 1} == contents.refused
    assert [5] == [group.report.epoch for group in contents.groups]


async def test_rows_of_the_reports_version_are_found_in_history(
    publish: Publish, make_signed_row: MakeRow, make_row: Make, wall_ns: int
) -> None:
    store = await store_of(publish([make_signed_row(0, seq=1)]), [make_row(0, seq=2)], wall_ns=wall_ns)
    contents = await read_matrix(store, wall_ns=wall_ns)
    (row,) = contents.groups[0].rows.values()

    assert (True, 1) == (row.is_attested, row.record.version.sequence)
    assert 7 == contents.records == contents.verified  # four nodes, the report, both rows


async def test_a_newer_row_stands_in_for_one_that_was_not_stored(
    publish: Publish, make_signed_row: MakeRow, make_row: Make, wall_ns: int
) -> None:
    """As when two reporters differ by a round: the store refuses the older row, the report that names it comes later."""
    store = await store_of([make_row(0, seq=2)], publish([make_signed_row(0, seq=1)]), wall_ns=wall_ns)
    (group,) = (await read_matrix(store, wall_ns=wall_ns)).groups
    (row,) = group.rows.values()

    assert (False, 2, ()) == (row.is_attested, row.record.version.sequence, group.missing)


async def test_a_row_the_store_leaves_out_is_missing(publish: Publish, make_signed_row: MakeRow, wall_ns: int) -> None:
    batch = [record for record in publish([make_signed_row(0), make_signed_row(1)]) if record.key != (Kind.ROW, *record.key[1:])]
    (group,) = (await read_matrix(await store_of(batch, wall_ns=wall_ns), wall_ns=wall_ns)).groups

    assert group.report.roster[:2] == group.missing
    assert {} == group.rows


async def test_an_expired_report_is_shown_and_marked(publish: Publish, make_signed_row: MakeRow, wall_ns: int) -> None:
    store = await store_of(publish([make_signed_row(0)]), wall_ns=wall_ns)

    for after_s, expected in ((899, False), (900, True)):
        (group,) = (await read_matrix(store, wall_ns=wall_ns + after_s * NS_PER_S)).groups
        assert expected == group.is_expired


async def test_only_one_group_is_read_if_wanted(publish: Publish, make_signed_row: MakeRow, group: bytes, wall_ns: int) -> None:
    store = await store_of(publish([make_signed_row(0)]), wall_ns=wall_ns)

    assert 6 == (await read_matrix(store, wall_ns=wall_ns, group=group)).records
    assert 0 == (await read_matrix(store, wall_ns=wall_ns, group=bytes(32))).records


async def test_equivocations_are_counted_if_they_are_proven(make_row: Make, wall_ns: int) -> None:
    store = await store_of([make_row(0), make_row(0, octets=1), make_row(1)], wall_ns=wall_ns)

    assert 1 == (await read_matrix(store, wall_ns=wall_ns)).equivocations


async def test_a_proof_that_the_store_made_up_is_not_counted(make_row: Make, tmp_path: Path, wall_ns: int) -> None:
    """It shows two contents of a signer as of one version, but they were signed as two."""
    path = tmp_path / "ditex.db"
    async with await SqliteStore.open(path) as store:
        await store.put_many([make_row(0), make_row(0, octets=1), make_row(0, seq=2)], wall_ns)
    assert 1 == (await read_file(path, wall_ns=wall_ns)).equivocations
    connection = apsw.Connection(str(path))
    list(connection.execute("UPDATE equivocations SET other = (SELECT envelope FROM records WHERE sequence = 2)"))
    connection.close()

    assert 0 == (await read_file(path, wall_ns=wall_ns)).equivocations


CHANGES = {
    "UPDATE records SET envelope = CAST(substr(envelope, 1, length(envelope) - 1) || x'00' AS BLOB) WHERE kind = 'row'": {"signature": 2},
    "UPDATE records SET envelope = zeroblob(2000) WHERE kind = 'row'": {"limit": 2},
    "UPDATE records SET envelope = zeroblob(20) WHERE kind = 'report'": {"decode": 1},
    "UPDATE records SET sequence = sequence + 1 WHERE kind <> 'node'": {"filed-wrong": 3},
    "UPDATE records SET expires_ns = expires_ns + 1 WHERE kind = 'report'": {"filed-wrong": 1},
    "UPDATE records SET expires_ns = expires_ns + 1 WHERE kind = 'node'": {"expired": 4},
    "UPDATE records SET country = 'US' WHERE kind = 'node'": {"filed-wrong": 4},
    "UPDATE records SET grp = zeroblob(32) WHERE kind = 'row'": {"filed-wrong": 2},
    "UPDATE records SET envelope = (SELECT envelope FROM records WHERE kind = 'row') WHERE kind = 'report'": {"decode": 1},
}


@pytest.mark.parametrize("change", CHANGES)
async def test_whatever_a_store_alters_is_refused_and_counted(
    publish: Publish, make_signed_row: MakeRow, tmp_path: Path, wall_ns: int, change: str
) -> None:
    path = tmp_path / "ditex.db"
    async with await SqliteStore.open(path) as store:
        await store.put_many(publish([make_signed_row(0), make_signed_row(1)]), wall_ns)
    connection = apsw.Connection(str(path))
    list(connection.execute(change))
    connection.close()
    contents = await read_file(path, wall_ns=wall_ns)

    assert CHANGES[change] == contents.refused
    assert contents.verified == contents.records - sum(contents.refused.values())
    assert 7 == contents.records


class LyingStore(MemoryStore):
    """Answers a question for one version with another one."""

    async def get(self, key: object, version: object = None) -> StoredRecord | None:
        return (await super().range(Query(kind=Kind.ROW)))[0]


async def test_a_row_with_another_content_than_the_report_names_is_not_taken_for_it(
    publish: Publish, make_signed_row: MakeRow, make_row: Make, wall_ns: int
) -> None:
    """The report names seq 1 of octets 0; the store holds seq 1 with octets 1, which its signer signed as well."""
    store = LyingStore()
    await store.put_many([make_row(0, seq=1, octets=1), *publish([make_signed_row(0, seq=1), make_signed_row(1)])], wall_ns)
    (group,) = (await read_matrix(store, wall_ns=wall_ns)).groups

    assert group.report.roster[:1] == group.missing
    assert [group.report.roster[1]] == list(group.rows)


async def test_described_rows_are_read_by_id_and_rows_of_another_roster_are_not(
    publish: Publish, make_signed_row: MakeRow, identities: tuple[Identity, ...], group: bytes, wall_ns: int
) -> None:
    base_us, owl = encode_owl(np.array([7.0, 8.0, 9.0]))
    zeros = np.zeros(3, np.uint8)
    ids = np.array([entry_id(identities[2].node_id), 12345, entry_id(identities[0].node_id)], np.uint32)
    described = attrs.evolve(
        make_signed_row(1).row, base_us=base_us, count=3, is_described=True, entries=Row.pack_entries(ids, owl, zeros, zeros)
    )
    rows = [make_signed_row(0, roster_digest=b"another."), seal_row(described, identities[1], group)]
    (contents,) = (await read_matrix(await store_of(publish(rows), wall_ns=wall_ns), wall_ns=wall_ns)).groups
    matrix = contents.matrix()

    assert (identities[0].node_id,) == matrix.unreadable
    np.testing.assert_allclose(matrix.owl_ms[:, 1], [9.0, np.nan, 7.0, np.nan], atol=0.006)
    assert 2 == np.isfinite(matrix.owl_ms).sum()


async def test_more_than_a_page_is_read(make_signed_row: MakeRow, make_report: Make, wall_ns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srwan.ledger_client.read.PAGE_RECORDS_MAX", 2)
    store = await store_of([make_report(make_signed_row(0), reporter=reporter) for reporter in range(4)], wall_ns=wall_ns)
    assert 4 == (await read_matrix(store, wall_ns=wall_ns)).records
