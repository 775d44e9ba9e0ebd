"""The state machine: whatever is done to a store, it behaves as a dict beside it does."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from hypothesis import settings, stateful
from hypothesis import strategies as st

from srwan.gossip.row import Row, seal_row
from srwan.identity import Identity
from srwan.ledger_client.etcd import EtcdStore
from srwan.ledger_client.etcd_gateway import EtcdSettings
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.record import Key, Kind, Record, Version
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.store import Query, RecordStore, StoredRecord
from srwan.types import GeoAsn

_T = TypeVar("_T")


async def open_store(kind: str, folder: Path) -> RecordStore:
    return MemoryStore() if kind == "memory" else await SqliteStore.open(folder / "ditex.db")


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
    endpoints: tuple[str, ...] = ()
    store: RecordStore

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        if self.kind != "etcd":
            self.store = self.run(lambda: open_store(self.kind, Path(self.folder.name)))
        self.model: dict[tuple[Key, Version], tuple[int, Record]] = {}
        self.revision = 0
        self.proofs: dict[Key, tuple[bytes, bytes]] = {}

    def run(self, call: Callable[[], Awaitable[_T]]) -> _T:
        async def main() -> _T:
            if self.kind != "etcd":
                return await call()
            async with await EtcdStore.open(EtcdSettings(self.endpoints, prefix=f"{self.folder.name}/")) as self.store:  # connections
                return await call()  # do not outlive an event loop

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

    @stateful.rule(after_s=st.sampled_from([0, 10, 20, 30]), versions_max=st.integers(1, 4))
    def prune(self, after_s: int, versions_max: int) -> None:
        limit_ns = NOW_NS + after_s * NS_PER_S
        newest = {key: self.newest(key) for key, _ in self.model}
        dead = {key for key, version in newest.items() if version is not None and self.model[key, version][1].expires_ns <= limit_ns}
        gone = [place for place, (_, record) in self.model.items() if place[0] in dead or record.expires_ns <= limit_ns]
        for key in newest.keys() - dead:
            rising = sorted(place for place in self.model if place[0] == key and place not in gone)
            gone += rising[:-versions_max]
        for place in gone:
            del self.model[place]

        assert len(gone) == self.run(lambda: self.store.prune(limit_ns, versions_max=versions_max))

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
        proofs = self.run(lambda: self.store.equivocations())  # noqa: PLW0108 (`run` opens the store)

        assert self.revision == self.run(lambda: self.store.revision())  # noqa: PLW0108
        assert self.proofs == {proof.key: (proof.held.envelope, proof.other.envelope) for proof in proofs}
        assert all(proof.is_proven() for proof in proofs)
        if above:
            assert above == [each.revision for each in self.run(lambda: self.store.watch(0))]

    def teardown(self) -> None:
        if self.kind != "etcd":
            self.run(self.store.aclose)
        self.folder.cleanup()


class MemoryMachine(StoreMachine):
    kind = "memory"


class SqliteMachine(StoreMachine):
    kind = "sqlite"


class EtcdMachine(StoreMachine):
    kind = "etcd"


@pytest.mark.needs("etcd")
def test_a_cluster_behaves_as_a_dict_whatever_is_done_to_it(etcd_cluster: Any) -> None:
    EtcdMachine.endpoints = etcd_cluster.endpoints
    stateful.run_state_machine_as_test(EtcdMachine, settings=settings(max_examples=4, stateful_step_count=12))


@pytest.mark.parametrize("machine", [MemoryMachine, SqliteMachine])
def test_a_store_behaves_as_a_dict_whatever_is_done_to_it(machine: type[StoreMachine]) -> None:
    examples = min(settings.default.max_examples if settings.default else 100, 5000) // 4  # each has dozens of steps on a real file
    stateful.run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=25))
