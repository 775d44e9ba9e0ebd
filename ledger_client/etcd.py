"""The record store of an operator's cluster: etcd, through its JSON gateway. Same contract as the embedded stores, under the same tests.

Theory of operation. The layout is in `etcd_keys.py`. A batch is verified first, then merged in chunks that fit one transaction each.
A chunk is judged by what is known of its keys and committed on condition that nothing was written since; if something was, the same
round trip brings what must be known, and the chunk is judged again. Where this process is the only writer, a put is one round trip.
A transaction whose answer got lost may have been executed: it is sent again, finds that something was written, and recognises its own
records by revision and bytes.

A watcher lists what is above the revision it was given, else streams from just that point of etcd's history; whatever ends the stream (the
death of a node, compaction, silence) makes it list again. Nothing is missed, because the list goes by our own revisions.

What differs from the embedded stores: a large batch is several transactions, in order, so that a reader who sees the report at its end
sees all of it; where the cluster fails in the midst the first chunks stay, and putting the batch again completes it. A call that is
cancelled may have stored such a part, too. Times of leases are the cluster's. Removal of what expired is by `prune` and not by leases of
etcd, since a key must go whole.

A cluster is trusted for nothing but being there: what it returns is parsed strictly and is the reader's to verify, as from a file
(`read.py`). etcd survives crashes of a minority, not writers that lie: one with access can delete or withhold.

etcd's own history of all changes is the operator's to bound (`--auto-compaction-mode=periodic --auto-compaction-retention=10m`): a
compaction would hit others on the cluster, too.

Shell: the network. Source: etcd.io/docs/v3.4; figures by benchmarks/ledger_stores.py.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Self

import attrs
import trio

from srwan.ledger_client.etcd_batch import OPERATIONS_MAX, Batch, Plan, chunks_of
from srwan.ledger_client.etcd_gateway import (
    DEADLINE_S,
    PAUSE_S,
    Answer,
    Compare,
    EtcdGateway,
    EtcdSettings,
    Json,
    KeyValue,
    delete_op,
    put_op,
    range_op,
)
from srwan.ledger_client.etcd_keys import (
    Layout,
    Newest,
    after_prefix,
    key_and_version_of,
    key_bytes,
    key_of,
    number,
    number_of,
    proof_bytes,
    proof_of,
    stored_of,
)
from srwan.ledger_client.record import Key, Kind, Record, Version
from srwan.ledger_client.store import (
    BATCH_RECORDS_MAX,
    EQUIVOCATIONS_MAX,
    HISTORY_VERSIONS_MAX,
    PAGE_RECORDS_MAX,
    BatchOutcome,
    EquivocationProof,
    Query,
    StoredRecord,
    Verdict,
    judge,
    refusal_of,
    require_lease,
    require_page,
    require_versions,
    sole_revision,
)
from srwan.ledger_client.verify_batch import refusals_in_threads
from srwan.types import NodeId

__all__ = ["EtcdStore"]

KEYS_MAX = 2000
"""Keys listed in one request, about 0.5 MB."""
KNOWN_KEYS_MAX = 20_000
"""Keys of which the newest version is remembered, about 10 MB: what one publisher renews again and again."""
WATCH_QUIET_S = 5.0
"""A stream that says nothing for so long is looked after by listing: a node that hangs keeps its connections open."""
CONFLICT_PAUSE_S = 0.02
"""Longest first pause after another writer was quicker, s; doubled up to 16 times that."""
_STEP_VERSIONS = (OPERATIONS_MAX - 6) // 3
CONFLICT_S_MAX = 30.0
"""How long a transaction is tried again because others write, s."""


class EtcdStore:
    """Implements `RecordStore` on a cluster. Made by `open`; close it with `aclose` or use it as an async context manager."""

    def __init__(self, gateway: EtcdGateway, layout: Layout, rng: random.Random) -> None:
        self._gateway = gateway
        self._layout = layout
        self._rng = rng
        self._turn = trio.Lock()
        self._is_closed = False
        self._watches: set[trio.CancelScope] = set()
        self._head: tuple[int, int] | None = None  # our last revision, and etcd's of when it was written
        self._known: OrderedDict[Key, Newest] = OrderedDict()  # valid as long as nobody else writes the head

    @classmethod
    async def open(cls, settings: EtcdSettings, *, deadline_s: float = DEADLINE_S) -> Self:
        """Connect, and see that the cluster answers.

        Args:
            settings: where it is and how to get in.
            deadline_s: how long every request is tried at one member after the other, s.

        Raises:
            StoreUnavailable: httpx is missing, a file of the settings cannot be used, or the cluster does not answer.
        """
        gateway = EtcdGateway.open(settings, deadline_s=deadline_s)
        store = cls(gateway, Layout(settings.prefix.encode()), random.Random())
        try:
            await store.revision()
        except BaseException:
            await store.aclose()
            raise
        return store

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """See `RecordStore.aclose`."""
        self._is_closed = True
        for scope in self._watches:
            scope.cancel()
        with trio.CancelScope(shield=True):
            await self._gateway.aclose()
        await trio.lowlevel.checkpoint()

    def _require_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("the record store is closed")

    @contextmanager
    def _refusing_malformed(self) -> Generator[None]:
        """What this store wrote is well-formed; anything else was written by somebody else, or damaged on the way."""
        try:
            yield
        except (ValueError, TypeError) as error:
            raise self._gateway.unavailable(
                f"a record in the cluster is malformed ({error})", "give the DITEX a prefix of its own, or restore a copy"
            ) from error

    # ---- writing

    async def put(self, record: Record, wall_ns: int) -> int:
        """See `RecordStore.put`."""
        return sole_revision(await self.put_many([record], wall_ns))

    async def put_many(self, records: Sequence[Record], wall_ns: int) -> BatchOutcome:
        """See `RecordStore.put_many`; a large batch is several transactions. Cost: benchmarks/ledger_stores.py."""
        if len(records) > BATCH_RECORDS_MAX:
            raise ValueError(f"a batch has up to {BATCH_RECORDS_MAX} records, not {len(records)}")
        self._require_open()
        batch = Batch(tuple(records), await refusals_in_threads(records, wall_ns))
        async with self._turn:
            self._require_open()
            head = await self._current_head() if not batch.open_indexes else None
            for chunk in chunks_of(batch):
                await self._put_chunk(batch, chunk)
            revision = head if head is not None else self._head[0] if self._head else 0
        return batch.outcome(revision)

    async def _current_head(self) -> int:
        (found,) = (await self._gateway.transact((), [range_op(self._layout.head)])).found
        with self._refusing_malformed():
            return number_of(found[0].value) if found else 0

    async def _put_chunk(self, batch: Batch, chunk: Sequence[int]) -> None:
        """Judge and commit the records of a chunk, as often as somebody else is quicker, up to CONFLICT_S_MAX."""
        pause_s, give_up_at = CONFLICT_PAUSE_S, trio.current_time() + CONFLICT_S_MAX
        is_fresh = self._head is None
        if is_fresh:
            await self._learn(batch, chunk)
        while trio.current_time() < give_up_at:
            plan = await self._plan(batch, chunk)
            if plan is None or not (plan.puts or is_fresh):  # what was known is, or may be, no longer so
                await self._learn(batch, chunk)
                is_fresh = True
                continue
            if not plan.puts or await self._commit(batch, chunk, plan):
                batch.apply(plan)
                return
            is_fresh = True
            await trio.sleep(self._rng.uniform(0, pause_s))
            pause_s = min(2 * pause_s, 16 * CONFLICT_PAUSE_S)
        raise self._gateway.unavailable(
            f"others were quicker to write for {CONFLICT_S_MAX:g} s", "let fewer nodes write, in larger batches"
        )

    async def _plan(self, batch: Batch, chunk: Sequence[int]) -> Plan | None:
        """Decide what becomes of each record, given what is known; None if what is known turns out wrong."""
        assert self._head is not None
        plan = Plan(self._head[0])
        for index in chunk:
            record = batch.records[index]
            newest = plan.newest.get(record.key) or self._known.get(record.key)
            held: StoredRecord | None = None
            if newest is not None and record.version <= newest.version:
                held = plan.held.get((record.key, record.version)) or await self._get_version(record.key, record.version)
                if held is None and record.version == newest.version:
                    return None
            verdict = judge(record.version, record.envelope, newest.version if newest else None, held.record.envelope if held else None)
            if verdict is Verdict.NEW:
                plan.add(index, record, newest, self._layout)
            elif held is not None and verdict is Verdict.UNCHANGED:
                plan.revisions[index] = held.revision
                plan.own += batch.attempted.get(index) == held.revision  # our own transaction, whose answer got lost
            elif held is not None and verdict is Verdict.EQUIVOCATION:
                proof = EquivocationProof.of(held.record, record)
                await self._add_proof(proof)
                plan.equivocations.append(proof)
                plan.refused[index] = refusal_of(record, held.record)
            else:
                plan.refused[index] = refusal_of(record, None)
        return plan

    async def _commit(self, batch: Batch, chunk: Sequence[int], plan: Plan) -> bool:
        """Say whether the plan was carried out; if not, what stood against it is known now."""
        assert self._head is not None
        guessed = [key for key in plan.newest if key not in self._known]  # that nothing is held under them is confirmed with the rest
        compares = [Compare(self._layout.head, self._head[1])] + [Compare(self._layout.newest(key), 0) for key in guessed]
        operations = [put_op(self._layout.head, number(plan.revision)), *(put_op(*each) for each in plan.puts.items())]
        operations += [delete_op(key) for key in sorted(plan.deletes - plan.puts.keys())]
        batch.attempted.update(plan.stored)
        answer = await self._gateway.transact(compares, operations, self._questions(batch, chunk))
        if not answer.is_done:
            self._take_answers(batch, chunk, answer)
            return False
        self._head = (plan.revision, answer.revision)
        for key, newest in plan.newest.items():
            self._remember(key, newest)
        return True

    def _questions(self, batch: Batch, chunk: Sequence[int]) -> list[Json]:
        return [range_op(self._layout.head), *(range_op(self._layout.newest(key)) for key in batch.keys(chunk))]

    async def _learn(self, batch: Batch, chunk: Sequence[int]) -> None:
        self._head = None
        self._take_answers(batch, chunk, await self._gateway.transact((), self._questions(batch, chunk)))

    def _take_answers(self, batch: Batch, chunk: Sequence[int], answer: Answer) -> None:
        keys = batch.keys(chunk)
        with self._refusing_malformed():
            heads, *found = answer.found
            if len(found) != len(keys):
                raise ValueError(f"{len(found)} answers to {len(keys)} questions")
            head = (number_of(heads[0].value), heads[0].mod_revision) if heads else (0, 0)
            if head != self._head:
                self._known.clear()
            self._head = head
            for key, values in zip(keys, found, strict=True):
                self._known.pop(key, None)
                if values:
                    self._remember(key, Newest.decode(values[0].value))

    def _remember(self, key: Key, newest: Newest) -> None:
        self._known[key] = newest
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_KEYS_MAX:
            self._known.popitem(last=False)

    async def _add_proof(self, proof: EquivocationProof) -> bool:
        """Keep it unless there is one of this key, or EQUIVOCATIONS_MAX in all; say whether it was kept."""
        start = self._layout.proofs
        if len(await self._list(start, after_prefix(start), EQUIVOCATIONS_MAX)) >= EQUIVOCATIONS_MAX:
            return False
        key = start + key_bytes(proof.key)
        return (await self._gateway.transact([Compare(key, 0)], [put_op(key, proof_bytes(proof))])).is_done

    async def put_proof(self, proof: EquivocationProof) -> bool:
        """See `RecordStore.put_proof`."""
        self._require_open()
        await trio.to_thread.run_sync(proof.require_proven)
        return await self._add_proof(EquivocationProof.of(proof.held, proof.other))

    # ---- reading

    async def get(self, key: Key, version: Version | None = None) -> StoredRecord | None:
        """See `RecordStore.get`."""
        self._require_open()
        if version is not None:
            return await self._get_version(key, version)
        while found := await self._gateway.read(range_op(self._layout.newest(key))):
            with self._refusing_malformed():
                revision = Newest.decode(found[0].value).revision
            if stored := await self._fetch([revision]):  # else it was pruned between the two questions
                return stored[0]
        return None

    async def get_many(self, keys: Sequence[Key]) -> list[StoredRecord | None]:
        """See `RecordStore.get_many`. Cost: two round trips for every OPERATIONS_MAX keys."""
        require_page(max(1, len(keys)))
        self._require_open()
        revisions: list[int] = []
        for start in range(0, len(keys), OPERATIONS_MAX):
            operations = [range_op(self._layout.newest(key)) for key in keys[start : start + OPERATIONS_MAX]]
            answer = await self._gateway.transact((), operations)
            with self._refusing_malformed():
                revisions += [Newest.decode(each.value).revision for found in answer.found for each in found]
        held = {stored.record.key: stored for stored in await self._fetch(revisions)}
        return [held.get(key) for key in keys]

    async def _get_version(self, key: Key, version: Version) -> StoredRecord | None:
        found = await self._gateway.read(range_op(self._layout.version(key, version)))
        with self._refusing_malformed():
            revisions = [number_of(each.value) for each in found]
        stored = await self._fetch(revisions)
        return stored[0] if stored else None

    async def _fetch(self, revisions: Sequence[int]) -> list[StoredRecord]:
        """Return the records of these revisions as far as they are held, in this order."""
        stored: list[StoredRecord] = []
        for start in range(0, len(revisions), OPERATIONS_MAX):
            operations = [range_op(self._layout.record(each)) for each in revisions[start : start + OPERATIONS_MAX]]
            answer = await self._gateway.transact((), operations)
            stored += self._parse(each for found in answer.found for each in found)
        return stored

    def _parse(self, found: Iterable[KeyValue]) -> list[StoredRecord]:
        prefix = self._layout.record(0)[:-8]
        with self._refusing_malformed():
            return [stored_of(each.key.removeprefix(prefix), each.value) for each in found]

    async def _list(self, start: bytes, end: bytes, keys_max: int, *, is_keys_only: bool = True) -> list[KeyValue]:
        """Return up to `keys_max` keys from `start` to before `end`, asking for KEYS_MAX at a time."""
        listed: list[KeyValue] = []
        while start < end and len(listed) < keys_max:
            page = await self._gateway.read(range_op(start, end, limit=min(KEYS_MAX, keys_max - len(listed)), is_keys_only=is_keys_only))
            listed += page
            if len(page) < KEYS_MAX:
                break
            start = page[-1].key + b"\0"
        return listed

    async def range(self, query: Query) -> list[StoredRecord]:
        """See `RecordStore.range`. Cost: by place, subject, topic or group as many keys as the index has, else a page of each kind."""
        self._require_open()
        found: list[StoredRecord] = []
        after = query.after
        while len(found) < query.limit:
            revisions = await self._candidates(attrs.evolve(query, after=after, limit=PAGE_RECORDS_MAX))
            for start in range(0, len(revisions), OPERATIONS_MAX):
                stored = await self._fetch(revisions[start : start + OPERATIONS_MAX])
                found += filter(query.matches, stored)
                if len(found) >= query.limit:
                    break
            if len(revisions) < PAGE_RECORDS_MAX:
                break
            after = revisions[-1]
        return found[: query.limit]

    async def _candidates(self, query: Query) -> list[int]:
        """Return the first PAGE_RECORDS_MAX revisions above `query.after` that may match, rising."""
        layout = self._layout
        if query.topic:
            return await self._indexed(query, prefix := layout.of_topic(query.topic), prefix, after_prefix(prefix))
        if query.subject is not None:
            return await self._indexed(query, prefix := layout.of_subject(query.subject), prefix, after_prefix(prefix))
        if query.country is not None:
            first, last = layout.of_place(query.country, query.asn_min), layout.of_place(query.country, query.asn_max + 1)
            return await self._indexed(query, first, first, last)
        if query.group is not None:
            prefix = layout.newest_of_group(query.group, query.kind)
            return await self._of_group(query, prefix)
        kinds = [query.kind] if query.kind is not None else list(Kind)
        operations = [range_op(layout.of_kind(kind, query.after + 1), layout.of_kind(kind, 2**63), limit=query.limit) for kind in kinds]
        answer = await self._gateway.transact((), operations)
        with self._refusing_malformed():
            return sorted(number_of(each.key[-8:]) for found in answer.found for each in found)[: query.limit]

    async def _indexed(self, query: Query, prefix: bytes, start: bytes, end: bytes) -> list[int]:
        revisions: list[int] = []
        while page := await self._list(start, end, KEYS_MAX, is_keys_only=False):
            with self._refusing_malformed():
                told = [(key_of(each.key[len(prefix) :]), number_of(each.value)) for each in page]
            revisions += [revision for key, revision in told if revision > query.after and _may_match(query, key)]
            if len(page) < KEYS_MAX:
                break
            start = page[-1].key + b"\0"
        return sorted(revisions)[: query.limit]

    async def _of_group(self, query: Query, prefix: bytes) -> list[int]:
        revisions: list[int] = []
        start, end = prefix, after_prefix(prefix)
        while page := await self._list(start, end, KEYS_MAX, is_keys_only=False):
            with self._refusing_malformed():
                told = [Newest.decode(each.value).revision for each in page]
            revisions += [revision for revision in told if revision > query.after]
            if len(page) < KEYS_MAX:
                break
            start = page[-1].key + b"\0"
        return sorted(revisions)[: query.limit]

    async def history(self, key: Key, *, limit: int = PAGE_RECORDS_MAX) -> list[StoredRecord]:
        """See `RecordStore.history`."""
        require_page(limit)
        self._require_open()
        prefix = self._layout.versions(key)
        found = await self._gateway.read(range_op(prefix, after_prefix(prefix), limit=limit, is_descending=True))
        with self._refusing_malformed():
            revisions = [number_of(each.value) for each in found]
        return await self._fetch(revisions)

    async def equivocations(self, *, limit: int = PAGE_RECORDS_MAX) -> list[EquivocationProof]:
        """See `RecordStore.equivocations`."""
        require_page(limit)
        self._require_open()
        start = self._layout.proofs
        proofs: list[EquivocationProof] = []
        for each in await self._gateway.read(range_op(start, after_prefix(start), limit=limit, is_by_age=True)):
            with self._refusing_malformed():
                proofs.append(proof_of(each.value))
        return proofs

    async def revision(self) -> int:
        """See `RecordStore.revision`."""
        self._require_open()
        return await self._current_head()

    # ---- watching

    async def watch(self, after: int, *, limit: int = PAGE_RECORDS_MAX) -> list[StoredRecord]:
        """See `RecordStore.watch`. Goes on at another member when one dies, and by listing when etcd forgot where it was."""
        require_page(limit)
        self._require_open()
        async with self._cancelled_by_closing():
            while True:
                first, end = self._layout.record(after + 1), self._layout.records_end
                answer = await self._gateway.transact((), [range_op(first, end, limit=min(limit, OPERATIONS_MAX))])
                if found := self._parse(answer.found[0]):
                    return await self._fill(found, end, limit)
                streamed = await self._gateway.watch(first, end, answer.revision + 1, quiet_s=WATCH_QUIET_S)
                if streamed:
                    return self._parse(streamed)[:limit]
                await trio.sleep(PAUSE_S)  # lest a cluster that ends every stream is asked without end
        raise trio.ClosedResourceError("the record store was closed")

    async def _fill(self, found: list[StoredRecord], end: bytes, limit: int) -> list[StoredRecord]:
        """Go on listing, OPERATIONS_MAX records at a time, until there are `limit` of them or no more."""
        while len(found) % OPERATIONS_MAX == 0 and len(found) < limit:
            start = self._layout.record(found[-1].revision + 1)
            page = self._parse(await self._gateway.read(range_op(start, end, limit=min(limit - len(found), OPERATIONS_MAX))))
            if not page:
                break
            found += page
        return found

    @asynccontextmanager
    async def _cancelled_by_closing(self) -> AsyncGenerator[None]:
        with trio.CancelScope() as scope:
            self._watches.add(scope)
            try:
                yield
            finally:
                self._watches.discard(scope)

    # ---- removing

    async def prune(self, expired_ns: int, *, versions_max: int = HISTORY_VERSIONS_MAX) -> int:
        """See `RecordStore.prune`. Works in transactions of few records, between which others get their turn."""
        require_versions(versions_max)
        self._require_open()
        removed = 0
        start, end = self._layout.expiry(0, 0), self._layout.expiry(expired_ns + 1, 0)
        while found := await self._list(start, end, KEYS_MAX, is_keys_only=False):
            for each in found:
                with self._refusing_malformed():
                    key, version = key_and_version_of(each.value)
                removed += await self._remove(key, [version])
            start = found[-1].key + b"\0"
        return removed + await self._prune_history(versions_max)

    async def _prune_history(self, versions_max: int) -> int:
        """Walk all versions in order of key and age, and remove what is too old under its key."""
        removed = 0
        start, end = self._layout.all_versions, after_prefix(self._layout.all_versions)
        key: Key | None = None
        versions: list[Version] = []
        while page := await self._list(start, end, KEYS_MAX):
            for each in page:
                with self._refusing_malformed():
                    its_key, version = key_and_version_of(each.key[len(self._layout.all_versions) :])
                if its_key != key:
                    removed += await self._remove_superfluous(key, versions[:-versions_max])
                    key, versions = its_key, []
                versions.append(version)
            start = page[-1].key + b"\0"
        return removed + await self._remove_superfluous(key, versions[:-versions_max])

    async def _remove_superfluous(self, key: Key | None, versions: Sequence[Version]) -> int:
        return await self._remove(key, versions) if key is not None and versions else 0

    async def _remove(self, key: Key, versions: Sequence[Version]) -> int:
        """Remove these versions of a key, given rising, and all of it where the newest is among them; return how many went."""
        removed = 0
        while versions:
            async with self._turn:
                step = await self._remove_step(key, versions)
            if step is None:  # somebody else wrote
                continue
            removed += step[0]
            versions = versions if step[1] else versions[_STEP_VERSIONS:]
        return removed

    async def _remove_step(self, key: Key, versions: Sequence[Version]) -> tuple[int, bool] | None:
        """Remove some, the oldest first, so that the newest goes last and its indexes with it.

        Returns:
            How many went, and whether more of the whole key is to go; None if somebody else wrote.
        """
        layout = self._layout
        heads, found = (await self._gateway.transact((), [range_op(layout.head), range_op(layout.newest(key))])).found
        if not heads or not found:
            return 0, False
        with self._refusing_malformed():
            newest = Newest.decode(found[0].value)
        is_whole = newest.version in versions
        if is_whole:
            start = layout.versions(key)
            held = list(await self._gateway.read(range_op(start, after_prefix(start), limit=_STEP_VERSIONS + 1)))
        else:
            asked = [range_op(layout.version(key, each)) for each in versions[:_STEP_VERSIONS]]
            held = [each for answer in (await self._gateway.transact((), asked)).found for each in answer]
        with self._refusing_malformed():
            step = await self._fetch([number_of(each.value) for each in held[:_STEP_VERSIONS]])
        deletes = [each for stored in step for each in layout.version_puts(stored.revision, stored.record)]
        is_more = is_whole and len(held) > _STEP_VERSIONS
        if is_whole and not is_more:
            deletes += layout.index_puts(key, newest)
        if not deletes:
            return 0, False
        operations = [put_op(layout.head, heads[0].value), *map(delete_op, deletes)]
        answer = await self._gateway.transact([Compare(layout.head, heads[0].mod_revision)], operations)
        self._head = None
        return (len(step), is_more) if answer.is_done else None

    # ---- leases

    async def lease(self, name: str, holder: NodeId, lease_s: int, wall_ns: int) -> bool:  # noqa: ARG002 (the cluster has a clock)
        """See `RecordStore.lease`. The time is the cluster's."""
        require_lease(name, lease_s)
        self._require_open()
        key = self._layout.lease(name)
        lease = await self._gateway.grant(lease_s)
        found: tuple[KeyValue, ...] = ()
        for _ in range(2):  # free, or held by the one who asks
            compares = [Compare(key, found[0].mod_revision if found else 0)]
            answer = await self._gateway.transact(compares, [put_op(key, holder, lease)], [range_op(key)])
            if answer.is_done:
                return True
            found = answer.found[0]
            if found and found[0].value != holder:
                break
        await self._gateway.revoke(lease)
        return False

    async def release(self, name: str, holder: NodeId) -> None:
        """See `RecordStore.release`."""
        self._require_open()
        key = self._layout.lease(name)
        found = await self._gateway.read(range_op(key))
        if found and found[0].value == holder:
            await self._gateway.transact([Compare(key, found[0].mod_revision)], [delete_op(key)])


def _may_match(query: Query, key: Key) -> bool:
    """Say whether a record of this key can belong into the answer, before it is fetched."""
    return (
        query.kind in (None, key.kind)
        and query.group in (None, key.group)
        and query.subject in (None, key.subject)
        and query.topic in (None, key.topic)
    )
