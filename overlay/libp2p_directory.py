"""The directory over libp2p's Kademlia: rendezvous records, published rarely and looked up rarely.

libp2p serves: its DHT handler answers FIND_NODE, GET_VALUE and PUT_VALUE behind the guards of `libp2p_guards.py`. The asking side is
ours, because libp2p's asks and dials everybody (20 replicas, ten at a time, 160-340 ms of CPU an operation), answers from its own
copy, and does not say whether anybody stored a value (traps 8, 10, 11):

- `publish` asks for nodes closer to the key until an answer names no closer one, then stores at the REPLICAS closest and counts who
  acknowledged. `lookup` asks the closest nodes until ANSWERS_WANTED gave a valid value, or REPLICAS were asked and one did, or
  SEARCHED_MAX were asked and none did; it picks the best, our own copy included. At most ALPHA questions are under way at a time.
- `run` joins through the bootstrap addresses, with backoff for ever, looks its own id up once, so that the closest nodes know it, and
  again when it has lost everybody and every REFRESH_S. Every CHECK_S it stores what it published also at nodes that became known
  since and are closer to the key: a record published while the network had two nodes would otherwise stay with those two.
  A node that does not answer is dropped from the routing table.

Distance is XOR of SHA-256 of PeerID and key, as in libp2p. Source: Maymounkov and Mazieres 2002; libp2p specs, kad-dht.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio
import varint
from google.protobuf.message import Error as ProtobufError
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.pb.kademlia_pb2 import Message, Record
from libp2p.kad_dht.utils import maybe_consume_signed_record
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStoreError, env_to_send_in_RPC
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from srwan.errors import DecodeError, OverlayError, RemoteProtocolError
from srwan.identity import node_id_of_peer_id
from srwan.overlay.libp2p_guards import ADDRESS_TTL_S, ADDRESSES_PER_PEER_MAX
from srwan.overlay.libp2p_kad_guards import (
    KAD_MESSAGE_BYTES_MAX,
    KAD_PROTOCOL,
    BestValue,
    IsValidValue,
    new_dht,
    record_key,
    record_validator,
)
from srwan.overlay.libp2p_stream import exchange
from srwan.overlay.transport import DIRECTORY_VALUE_BYTES_MAX

__all__ = ["KadDirectory"]

logger = logging.getLogger("srwan.overlay")

REPLICAS = 6
"""Nodes that keep a value, and neighbours that a joining node makes itself known to. libp2p has 20, for values that live 24 h; ours live
10 min and are renewed before, and a group has three keys, so up to 18 nodes know its introducers."""

ANSWERS_WANTED = 3
"""Valid values after which a lookup stops."""

ALPHA = 3
"""Questions under way at once (Maymounkov and Mazieres)."""

SEARCHED_MAX = 20
"""Nodes asked before a value counts as not there: a small network is searched whole."""

ASKED_MAX = 32
"""Bound of nodes contacted in one walk."""

PUBLISHED_MAX = 64
"""Own keys looked after; the oldest is forgotten first."""

CLOSER_PEERS_MAX = 20
"""Peers believed from one answer: libp2p's bucket size."""

ASK_TIMEOUT_S = 4.0
OPERATION_TIMEOUT_S = 20.0
JOIN_WAIT_S = 5.0
"""How long an operation waits for the first bootstrap node to answer."""

JOIN_BACKOFF_S_MIN = 0.25
JOIN_BACKOFF_S_MAX = 15.0
CHECK_S = 5.0
"""How often a joined node looks whether it still knows anybody, and whether its records are where they belong. Costs microseconds."""

REFRESH_S = 600.0

_UNREACHED = (
    BaseLibp2pError,
    ProtobufError,
    OverlayError,
    RemoteProtocolError,
    OSError,
    ValueError,
    KeyError,
    trio.TooSlowError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)
"""What asking a peer can raise; all mean the same: no answer."""


class Dialer(Protocol):
    """What the directory needs of the host beside streams."""

    async def connect(self, peer: ID, addresses: Sequence[Multiaddr]) -> None:
        """Return once connected. Raises: OverlayError."""
        ...


class KadDirectory:
    """Implements `Directory`. Made and run by `Libp2pHost`; all its times are monotonic seconds of trio's clock."""

    def __init__(
        self, host: BasicHost, dialer: Dialer, bootstrap: Sequence[PeerInfo], is_valid_value: IsValidValue, best_value: BestValue
    ) -> None:
        self._host = host
        self._dialer = dialer
        self._bootstrap = tuple(peer for peer in bootstrap if peer.peer_id != host.get_id())
        self._is_valid_value = is_valid_value
        self._best_value = best_value
        validator = record_validator(is_valid_value, best_value)
        self._kad = new_dht(host, validator)
        self._validator = validator
        self._placed: OrderedDict[bytes, set[ID]] = OrderedDict()  # own DHT keys, and who acknowledged the present value
        self._joined = trio.Event()
        if not self._bootstrap:
            self._joined.set()

    @property
    def peers_known(self) -> int:
        """Nodes in the routing table."""
        return self._kad.routing_table.size()

    @property
    def is_joined(self) -> bool:
        """Whether a bootstrap node answered at least once; True from the start if there is none to ask."""
        return self._joined.is_set()

    async def wait_joined(self) -> None:
        """Wait until `is_joined`."""
        await self._joined.wait()

    async def publish(self, key: bytes, value: bytes) -> int:
        """Store `value` here and at the REPLICAS nodes closest to `key`; return how many others acknowledged.

        A node that holds a better value keeps that and does not count; if this one does, nothing is sent. Publishing the same value
        again renews it.

        Raises:
            ValueError: key is not 32 bytes, or value is empty, too long or not valid. Nothing is stored.
            OverlayError: no bootstrap node answered, or nodes are known and none of them did. The value is kept here all the same.

        Cost: ALPHA + REPLICAS streams to known nodes.
        """
        text = record_key(key)
        if not 0 < len(value) <= DIRECTORY_VALUE_BYTES_MAX or not self._is_valid_value(key, value):
            raise ValueError(f"a directory value of {len(value)} bytes that is not valid cannot be published")
        kad_key = text.encode("ascii")
        held = self._kad.value_store.get(kad_key)
        if held is not None and self._validator.select(text, [held.value, value]) == 0:
            return 0
        self._kad.value_store.put(kad_key, value)
        await self._require_joined()
        self._placed.pop(kad_key, None)
        self._placed[kad_key] = set()
        while len(self._placed) > PUBLISHED_MAX:
            self._placed.popitem(last=False)
        with trio.move_on_after(OPERATION_TIMEOUT_S):
            reached = await self._walk(kad_key, self._find_node_of(kad_key), _few_suffice)
            return await self._store(kad_key, reached[:REPLICAS])
        raise OverlayError(f"publishing took longer than {OPERATION_TIMEOUT_S} s")

    async def lookup(self, key: bytes) -> bytes | None:
        """Return the best valid value under `key` that is held here or at the nodes closest to it, or None.

        Raises:
            ValueError: key is not 32 bytes.
            OverlayError: no bootstrap node answered, or nodes are known and none of them did, and nothing is held here.

        Cost: up to REPLICAS streams to known nodes, 15-40 ms of CPU here.
        """
        kad_key = record_key(key).encode("ascii")
        values: list[bytes] = []
        held = self._kad.value_store.get(kad_key)
        own = [held.value] if held is not None else []

        async def ask(peer: ID) -> list[ID]:
            answer = await self._ask(peer, Message.MessageType.GET_VALUE, kad_key)
            if answer.HasField("record") and answer.record.key == kad_key and self._is_usable(key, answer.record.value):
                values.append(answer.record.value)
            return self._learn(answer)

        await self._require_joined(is_local_enough=bool(own))
        with trio.move_on_after(OPERATION_TIMEOUT_S):
            try:
                await self._walk(kad_key, ask, lambda _: _horizon_of_lookup(len(values)))
            except OverlayError:
                if not own:
                    raise
        candidates = [value for value in own + values if self._is_usable(key, value)]
        return candidates[self._best_value(key, candidates)] if candidates else None

    async def run(self) -> None:
        """Join, and stay joined, until cancelled."""
        backoff_s = JOIN_BACKOFF_S_MIN
        next_refresh = trio.current_time() + REFRESH_S
        while True:
            if self._bootstrap and not self.peers_known:
                if await self._join():
                    backoff_s = JOIN_BACKOFF_S_MIN
                else:
                    await trio.sleep(backoff_s * random.uniform(0.5, 1.0))
                    backoff_s = min(2 * backoff_s, JOIN_BACKOFF_S_MAX)
                    continue
            await trio.sleep(CHECK_S)
            await self._place()
            if trio.current_time() >= next_refresh:
                next_refresh = trio.current_time() + REFRESH_S
                self._kad.value_store.cleanup_expired()
                await self._announce()

    async def admit(self, peer: ID, addresses: Sequence[Multiaddr]) -> None:
        """Trap 8: connecting alone leaves the routing table empty, and libp2p looks again only after 600 s."""
        await self._kad.routing_table.add_peer(PeerInfo(peer, list(addresses)), skip_server_mode_check=True)

    async def _join(self) -> bool:
        """Connect to the bootstrap nodes in turn until one answers; look our own id up through it."""
        for peer in random.sample(self._bootstrap, len(self._bootstrap)):
            try:
                await self._dialer.connect(peer.peer_id, peer.addrs)
            except OverlayError as error:
                logger.info("bootstrap node %s does not answer: %s", peer.peer_id, error)
                continue
            await self._announce()
            self._joined.set()
            return True
        return False

    async def _announce(self) -> None:
        """Ask the nodes closest to us for still closer ones: they learn of us by being asked, we of them."""
        own_id = self._host.get_id().to_bytes()
        with trio.move_on_after(OPERATION_TIMEOUT_S):
            try:
                await self._walk(own_id, self._find_node_of(own_id), lambda _: REPLICAS)
            except OverlayError as error:
                logger.info("looking for neighbours failed: %s", error)

    async def _require_joined(self, *, is_local_enough: bool = False) -> None:
        with trio.move_on_after(JOIN_WAIT_S):
            await self._joined.wait()
        if not self._joined.is_set() and not self.peers_known and not is_local_enough:
            raise OverlayError("no bootstrap node has answered yet; it is tried again in the background, check the bootstrap addresses")

    def _is_usable(self, key: bytes, value: bytes) -> bool:
        return 0 < len(value) <= DIRECTORY_VALUE_BYTES_MAX and self._is_valid_value(key, value)

    async def _place(self) -> None:
        """Store own records at those of the closest known nodes that have not acknowledged them."""
        for kad_key, holders in list(self._placed.items()):
            if self._kad.value_store.get(kad_key) is None:  # expired
                self._placed.pop(kad_key, None)
                continue
            closest = self._kad.routing_table.find_local_closest_peers(kad_key, REPLICAS)
            await self._store(kad_key, [peer for peer in closest if peer not in holders])

    async def _walk(self, target: bytes, ask: Callable[[ID], Awaitable[list[ID]]], horizon: Callable[[int], int]) -> list[ID]:
        """Ask ever closer nodes; return known nodes by rising distance, those that did not answer left out.

        Args:
            target: where to go.
            ask: puts the question to one node and returns nodes it names.
            horizon: given how many answered, how many of the closest nodes have to be asked before the walk ends.

        Raises:
            OverlayError: nodes are known and none answered.
        """
        known = set(self._kad.routing_table.find_local_closest_peers(target, ASKED_MAX))
        asked: set[ID] = set()
        answered = 0

        async def ask_one(peer: ID) -> None:
            nonlocal answered
            try:
                with trio.fail_after(ASK_TIMEOUT_S):
                    closer = await ask(peer)
            except _UNREACHED as error:
                logger.debug("directory node %s does not answer: %s", peer, type(error).__name__)
                known.discard(peer)
                self._forget(peer)
            else:
                answered += 1
                known.update(named for named in closer if named not in asked)

        while len(asked) < ASKED_MAX:
            closest = _by_distance(target, known)[: horizon(answered)]
            batch = [peer for peer in closest if peer not in asked][:ALPHA]
            if not batch:
                break
            asked.update(batch)
            async with trio.open_nursery() as nursery:
                for peer in batch:
                    nursery.start_soon(ask_one, peer)
        if asked and not answered:
            raise OverlayError(f"none of {len(asked)} known directory nodes answers")
        return _by_distance(target, known)

    async def _store(self, kad_key: bytes, peers: Sequence[ID]) -> int:
        """Trap 11: `put_value` says nothing when nobody stored the value. Put what is held here, return the acknowledgements."""
        acknowledged = 0
        limiter = trio.CapacityLimiter(ALPHA)
        record = self._kad.value_store.get(kad_key)
        holders = self._placed.get(kad_key, set())

        async def put(peer: ID) -> None:
            nonlocal acknowledged
            async with limiter:
                try:
                    with trio.fail_after(ASK_TIMEOUT_S):
                        answer = await self._ask(peer, Message.MessageType.PUT_VALUE, kad_key, record)
                except _UNREACHED as error:
                    logger.debug("directory node %s did not store: %s", peer, type(error).__name__)
                    return
                if answer.key == kad_key:
                    acknowledged += 1
                    holders.add(peer)

        if record is not None:
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    nursery.start_soon(put, peer)
        return acknowledged

    def _find_node_of(self, target: bytes) -> Callable[[ID], Awaitable[list[ID]]]:
        async def ask(peer: ID) -> list[ID]:
            return self._learn(await self._ask(peer, Message.MessageType.FIND_NODE, target))

        return ask

    async def _ask(self, peer: ID, kind: Message.MessageType, key: bytes, record: Record | None = None) -> Message:
        """One question, one answer, on a stream of its own that is gone afterwards in any case."""
        await self._dialer.connect(peer, self._addresses(peer))
        question = Message(type=kind, key=key)
        question.senderRecord, _ = env_to_send_in_RPC(self._host)
        if record is not None:
            question.record.CopyFrom(record)
            question.record.ClearField("timeReceived")
        data = question.SerializeToString()
        answer = Message()
        async with exchange(self._host, peer, KAD_PROTOCOL, varint.encode(len(data)) + data) as reader:
            answer.ParseFromString(await reader.read_delimited(KAD_MESSAGE_BYTES_MAX))
        if answer.type != kind:
            raise ValueError(f"answer of type {answer.type}")
        await self.admit(peer, self._addresses(peer))
        return answer

    def _learn(self, answer: Message) -> list[ID]:
        """Return the peers an answer names whose addresses we know now. A signed address beats a claimed one; ours beats both."""
        found: list[ID] = []
        for entry in answer.closerPeers[:CLOSER_PEERS_MAX]:
            try:
                node_id_of_peer_id(entry.id)
            except DecodeError:
                continue
            peer = ID(entry.id)
            if peer == self._host.get_id():
                continue
            if not self._addresses(peer):
                maybe_consume_signed_record(entry, self._host)
            if not self._addresses(peer):
                self._host.get_peerstore().add_addrs(peer, _parse(entry.addrs), ADDRESS_TTL_S)
            if self._addresses(peer):
                found.append(peer)
        return found

    def _addresses(self, peer: ID) -> list[Multiaddr]:
        try:
            return list(self._host.get_peerstore().addrs(peer))
        except PeerStoreError:
            return []

    def _forget(self, peer: ID) -> None:
        """Drop a node that does not answer; if it is merely busy, it comes back with its own next question."""
        self._kad.routing_table.remove_peer(peer)


def _parse(addresses: Sequence[bytes]) -> list[Multiaddr]:
    parsed = []
    for address in addresses[:ADDRESSES_PER_PEER_MAX]:
        try:
            parsed.append(Multiaddr(address))
        except (MultiaddrError, ValueError):
            continue
    return parsed


def _by_distance(target: bytes, peers: set[ID]) -> list[ID]:
    goal = int.from_bytes(hashlib.sha256(target).digest(), "big")
    return sorted(peers, key=lambda peer: goal ^ int.from_bytes(hashlib.sha256(peer.to_bytes()).digest(), "big"))


def _few_suffice(answered: int) -> int:
    """Horizon of a publication: the ALPHA closest must confirm that they know none closer; more only while these fail."""
    return ALPHA if answered >= ALPHA else REPLICAS


def _horizon_of_lookup(values: int) -> int:
    """Horizon of a lookup that has found so many values."""
    if values >= ANSWERS_WANTED:
        return 0
    return REPLICAS if values else SEARCHED_MAX
