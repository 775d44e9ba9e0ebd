"""The exchange at work: follows our store, answers other operators' stores, and asks those it was told of, every few seconds. A shell.

Theory of operation. One task fills the digest tree from the store and follows its revisions, so that a session costs what differs and
not what is held. One task per peer runs a session, waits about `period_s`, and backs off where sessions fail or lead to nothing. All that
comes in goes through `put_many` and `put_proof`, which verify. Sets are compared as of the next full EXPIRY_STEP_S of wall time, so
that two servers whose clocks agree to some tens of milliseconds leave out the same expired records nearly always.

A handler of the control channel stays registered when `run` ends: it then refuses.

Use it in any process that has a store and a control channel: make it, then run `run` in a nursery. `srwan ditex serve` is one such
process, a node may be another.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
import trio

from srwan.clock import Clock
from srwan.errors import OverlayError, RemoteProtocolError, StoreUnavailable
from srwan.ledger_client.exchange.answers import WorkBudgets, WorkRates, answers_to, fitting
from srwan.ledger_client.exchange.digest_tree import DigestTree
from srwan.ledger_client.exchange.messages import (
    PROTOCOL,
    Compare,
    Fetch,
    Item,
    Push,
    Taken,
    decode_question,
    encode_busy,
    encode_items,
    encode_ranges,
)
from srwan.ledger_client.exchange.session import Ask, Done, Memory, Put, SyncLimits, SyncOutcome, SyncSession
from srwan.ledger_client.record import Key, Record
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.store import PAGE_RECORDS_MAX, EquivocationProof, Query, RecordStore, StoredRecord
from srwan.overlay.transport import ControlAddress, ControlChannel
from srwan.types import NodeId

__all__ = ["ExchangeConfig", "ExchangeService", "PeerSynced", "RecordsReceived", "SyncFailed"]

log = logging.getLogger("srwan.ledger_client")

PEERS_MAX = 64
REQUEST_TIMEOUT_S = 20.0
EXPIRY_STEP_S = 30
"""Sets are compared as of the next full multiple of this wall time."""
BACKOFF_S_MAX = 300.0
STORE_RETRY_S = 5.0
SESSIONS_AT_ONCE = 2
"""With more, the same records come from several peers at once, to be verified several times."""
LOADED_AT_ONCE = 64
"""Items read from the store at a time for an answer that may be full before all are."""
PROOFS_EVERY_S = 30.0
PRUNE_EVERY_S = 60.0
BUSY_AT_START_S = 2


@attrs.frozen(slots=True, kw_only=True)
class ExchangeConfig:
    """How often, and how much."""

    period_s: float = 10.0
    """Mean time between two sessions with a peer, s; each wait is drawn from 75..125 % of it."""
    session_s_max: float = 300.0
    """Longest session, s; what it did not get to is left to the next one."""
    is_pruning: bool = True
    """Remove expired records every minute."""
    limits: SyncLimits = attrs.field(factory=SyncLimits)
    rates: WorkRates = attrs.field(factory=WorkRates)


@attrs.frozen(slots=True)
class PeerSynced:
    """A session came to its end."""

    peer: NodeId
    outcome: SyncOutcome


@attrs.frozen(slots=True)
class SyncFailed:
    """A session broke off. What was stored before stays."""

    peer: NodeId
    reason: str
    """A short word: "unreachable", "timeout", "store", or as in the counters of dropped input."""
    retry_s: float
    """Until the next attempt, s."""


@attrs.frozen(slots=True)
class RecordsReceived:
    """Somebody else's session brought us something new."""

    peer: NodeId
    stored: int
    """Records and proofs that were new."""


Event: TypeAlias = PeerSynced | SyncFailed | RecordsReceived


class _Peer:
    """What is remembered of one peer we ask."""

    def __init__(self, address: ControlAddress) -> None:
        self.address = address
        self.memory = Memory()
        self.failures = 0
        self.counts: Counter[str] = Counter()
        self.last = "not asked yet"


class ExchangeService:
    """One store's part in the exchange.

    Args:
        store: ours; opened and closed by the caller.
        channel: listening already; stays open.
        clock: tells wall time.
        rng: for jitter.
        peers: whom to ask, up to PEERS_MAX; each also has a budget of its own when it asks us.
        config: see there.

    Raises:
        ValueError: too many peers.
    """

    def __init__(
        self,
        store: RecordStore,
        channel: ControlChannel,
        clock: Clock,
        rng: random.Random,
        *,
        peers: Sequence[ControlAddress] = (),
        config: ExchangeConfig | None = None,
    ) -> None:
        if len(peers) > PEERS_MAX:
            raise ValueError(f"{len(peers)} peers, at most {PEERS_MAX}")
        self._store = store
        self._channel = channel
        self._clock = clock
        self._rng = rng
        self._config = config or ExchangeConfig()
        self._peers = {peer.node_id: _Peer(peer) for peer in peers if peer.node_id != channel.local_address.node_id}
        self._tree = DigestTree()
        self._proofs: dict[Key, EquivocationProof] = {}
        self._budgets = WorkBudgets(tuple(self._peers), self._config.rates, clock.now())
        self._revision = 0
        self._is_filled = trio.Event()
        self._is_running = False
        self._limiter = trio.CapacityLimiter(SESSIONS_AT_ONCE)
        self._callbacks: list[Callable[[Event], None]] = []
        self.drops: Counter[str] = Counter()
        """What others sent and we did not use, by reason."""
        self._answered: Counter[str] = Counter()
        channel.serve(PROTOCOL, self._answer)

    # --- for others

    def on_event(self, callback: Callable[[Event], None]) -> None:
        """Have `callback` called with every event; it is synchronous and quick."""
        self._callbacks.append(callback)

    @property
    def root(self) -> bytes:
        """Digest of what our store holds, as far as followed: stores with equal roots hold the same."""
        self._expire()
        return self._tree.root

    def status(self) -> dict[str, Any]:
        """Return what is known and was done as JSON values."""
        return {
            "records": len(self._tree) - len(self._proofs),
            "proofs": len(self._proofs),
            "revision": self._revision,
            "root": self.root.hex(),
            "answered": dict(sorted(self._answered.items())),
            "drops": dict(sorted(self.drops.items())),
            "peers": [
                {"node_id": str(node), "last": peer.last, **{name: peer.counts[name] for name in sorted(peer.counts)}}
                for node, peer in sorted(self._peers.items())
            ],
        }

    async def wait_filled(self) -> None:
        """Wait until everything that the store held at the start is in the tree; sessions and answers begin then."""
        await self._is_filled.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow, answer and ask until cancelled. A store or a peer that fails is tried again; nothing of that ends it."""
        self._is_running = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow)
                nursery.start_soon(self._follow_proofs)
                if self._config.is_pruning:
                    nursery.start_soon(self._prune)
                for peer in self._peers.values():
                    nursery.start_soon(self._keep_in_sync, peer)
                task_status.started()
        finally:
            self._is_running = False

    # --- following our store

    async def _follow(self) -> None:
        """Take the newest records in pages, then every one that is accepted."""
        while True:
            try:
                if not self._is_filled.is_set():
                    await self._fill()
                    self._is_filled.set()
                self._apply(await self._store.watch(self._revision))
            except StoreUnavailable as error:
                log.warning("the exchange cannot follow the store: %s", error)
                await trio.sleep(STORE_RETRY_S)
            except trio.ClosedResourceError:
                return

    async def _fill(self) -> None:
        self._expire()
        while page := await self._store.range(Query(after=self._revision)):
            self._apply(page)
            if len(page) < PAGE_RECORDS_MAX:
                break
        await self._read_proofs()

    def _apply(self, page: Sequence[StoredRecord]) -> None:
        for stored in page:
            self._tree.put(stored.record)
        self._revision = max(self._revision, page[-1].revision)

    async def _read_proofs(self) -> None:
        for proof in await self._store.equivocations(limit=PAGE_RECORDS_MAX):
            self._note_proof(proof)

    def _note_proof(self, proof: EquivocationProof) -> None:
        if len(self._proofs) < PAGE_RECORDS_MAX and self._proofs.setdefault(proof.key, proof) is proof:
            self._tree.put_proof(proof.key)

    async def _follow_proofs(self) -> None:
        """Other processes that write to our store may find some, too."""
        while True:
            await trio.sleep(PROOFS_EVERY_S)
            try:
                await self._read_proofs()
            except StoreUnavailable as error:
                log.warning("proofs of equivocation cannot be read: %s", error)
            except trio.ClosedResourceError:
                return

    async def _prune(self) -> None:
        while True:
            await trio.sleep(PRUNE_EVERY_S * self._rng.uniform(0.75, 1.25))
            try:
                await self._store.prune(self._clock.wall_ns())
            except StoreUnavailable as error:
                log.warning("the store cannot be pruned: %s", error)
            except trio.ClosedResourceError:
                return

    def _expire(self) -> None:
        step_ns = EXPIRY_STEP_S * NS_PER_S
        self._tree.expire(-(-self._clock.wall_ns() // step_ns) * step_ns)

    # --- the store's side of a step

    async def _put(self, items: Sequence[Item]) -> tuple[list[str | None], int]:
        """Offer items to our store; return for each why it was refused, or None, and how many were new."""
        reasons: list[str | None] = [None] * len(items)
        places = [index for index, item in enumerate(items) if isinstance(item, Record)]
        records = [item for item in items if isinstance(item, Record)]
        outcome = await self._store.put_many(records, self._clock.wall_ns())
        for refusal in outcome.refused:
            reasons[places[refusal.index]] = refusal.error.reason
        for record, revision in zip(records, outcome.revisions, strict=True):
            if revision is not None:
                self._tree.put(record)  # `watch` will bring it again; the next session may come first
        for proof in outcome.equivocations:
            self._note_proof(proof)
        stored = outcome.stored
        for index, item in enumerate(items):
            if isinstance(item, EquivocationProof):
                try:
                    if await self._store.put_proof(item):
                        stored += 1
                        self._note_proof(item)
                except RemoteProtocolError as error:
                    reasons[index] = error.reason
        return reasons, stored

    async def _load(self, positions: Sequence[bytes]) -> list[Item | None]:
        """Return what our store holds at these positions."""
        found = [self._tree.key_at(position) for position in positions]
        keys = [entry[0] for entry in found if entry is not None and not entry[1]]
        held = dict(zip(keys, await self._store.get_many(keys), strict=True)) if keys else {}
        items: list[Item | None] = []
        for entry in found:
            if entry is None:
                items.append(None)
            elif entry[1]:
                items.append(self._proofs.get(entry[0]))
            else:
                stored = held[entry[0]]
                items.append(None if stored is None else stored.record)
        return items

    # --- answering

    async def _answer(self, caller: NodeId, body: bytes) -> bytes:
        """Answer one question of another store. Raises RemoteProtocolError: malformed; counted."""
        try:
            question = decode_question(body)
        except RemoteProtocolError as error:
            self.drops[error.reason] += 1
            raise
        if not (self._is_running and self._is_filled.is_set()):
            return encode_busy(BUSY_AT_START_S)
        retry_s = self._budgets.charge(caller, question, self._clock.now())
        if retry_s:
            self.drops["busy"] += 1
            return encode_busy(min(600, int(retry_s + 1)))
        self._answered[type(question).__name__.lower()] += 1
        self._expire()
        try:
            return await self._answer_question(caller, question)
        except (StoreUnavailable, trio.ClosedResourceError) as error:
            log.warning("a question of %r cannot be answered: %s", caller, error)
            return encode_busy(int(STORE_RETRY_S))

    async def _answer_question(self, caller: NodeId, question: Compare | Fetch | Push) -> bytes:
        if isinstance(question, Compare):
            return encode_ranges(answers_to(self._tree, question))
        if isinstance(question, Fetch):
            items: list[Item | None] = []
            for start in range(0, len(question.positions), LOADED_AT_ONCE):
                items += await self._load(question.positions[start : start + LOADED_AT_ONCE])
                if len(fitting(items)) < len(items):  # what does not fit is not read: claims are 50 times as long as rows
                    break
            return encode_items(fitting(items))
        taken = await self._take(question)
        if taken.stored:
            self._tell(RecordsReceived(caller, taken.stored))
        for _, reason in taken.refused:
            self.drops[reason] += 1
        return taken.encode()

    async def _take(self, push: Push) -> Taken:
        refused = {index: item.reason for index, item in enumerate(push.items) if isinstance(item, RemoteProtocolError)}
        good = [(index, item) for index, item in enumerate(push.items) if not isinstance(item, RemoteProtocolError)]
        reasons, stored = await self._put([item for _, item in good])
        refused |= {index: reason for (index, _), reason in zip(good, reasons, strict=True) if reason is not None}
        return Taken(stored, len(push.items) - stored - len(refused), tuple(sorted(refused.items())))

    # --- asking

    async def sync(self, peer: ControlAddress, *, memory: Memory | None = None) -> SyncOutcome:
        """Run one session with a peer now, whoever it is.

        Raises:
            OverlayError: it cannot be reached, refuses, or the session took too long. RemoteProtocolError: it answered nonsense, or is
            busy. StoreUnavailable: our store failed. In every case what was stored stays.
        """
        await self.wait_filled()
        self._expire()
        session = SyncSession(self._tree, memory or Memory(), self._clock.now(), self._config.limits)
        with trio.move_on_after(self._config.session_s_max):
            while not isinstance(step := session.next_step(), Done):
                if isinstance(step, Ask):
                    session.receive_response(await self._channel.request(peer, PROTOCOL, step.body, timeout_s=REQUEST_TIMEOUT_S))
                elif isinstance(step, Put):
                    session.receive_outcome(*await self._put(step.items))
                else:
                    session.receive_loaded(await self._load(step.positions))
            return step.outcome
        raise OverlayError(f"{PROTOCOL} at {peer.node_id!r}: the session took longer than {self._config.session_s_max:g} s")

    async def _keep_in_sync(self, peer: _Peer) -> None:
        await self.wait_filled()
        await trio.sleep(self._rng.uniform(0.0, self._config.period_s / 10))
        while True:
            async with self._limiter:
                wait_s = await self._sync_once(peer)
            await trio.sleep(wait_s * self._rng.uniform(0.75, 1.25))

    async def _sync_once(self, peer: _Peer) -> float:
        """Run a session; return how long to wait, s."""
        node = peer.address.node_id
        try:
            outcome = await self.sync(peer.address, memory=peer.memory)
        except (OverlayError, RemoteProtocolError, StoreUnavailable, trio.ClosedResourceError) as error:
            reason = _reason_of(error)
            peer.failures += 1
            peer.counts["failures"] += 1
            peer.last = reason
            wait_s = self._backoff_s(peer)
            log.log(logging.INFO if reason in {"unreachable", "busy"} else logging.WARNING, "exchange with %r failed: %s", node, error)
            self._tell(SyncFailed(node, reason, wait_s))
            return wait_s
        is_fruitless = not (outcome.stored or outcome.taken) and (bool(outcome.refused) or not outcome.is_complete)
        peer.failures = peer.failures + 1 if is_fruitless else 0
        peer.last = "fruitless" if is_fruitless else "complete" if outcome.is_complete else "cut"
        peer.counts.update(_counts_of(outcome))
        self._tell(PeerSynced(node, outcome))
        return self._backoff_s(peer)

    def _backoff_s(self, peer: _Peer) -> float:
        return min(self._config.period_s * float(1 << min(peer.failures, 16)), max(BACKOFF_S_MAX, self._config.period_s))

    def _tell(self, event: Event) -> None:
        for callback in self._callbacks:
            callback(event)


def _reason_of(error: Exception) -> str:
    if isinstance(error, RemoteProtocolError):
        return error.reason
    return "unreachable" if isinstance(error, OverlayError) else "store"


def _counts_of(outcome: SyncOutcome) -> Mapping[str, int]:
    return {
        "sessions": 1,
        "fetched": outcome.fetched,
        "stored": outcome.stored,
        "refused": sum(count for _, count in outcome.refused),
        "pushed": outcome.pushed,
        "taken": outcome.taken,
        "sent_bytes": outcome.sent_bytes,
        "received_bytes": outcome.received_bytes,
    }
