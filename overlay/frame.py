"""The outer header of every control datagram between group members, and the pairwise tag that authenticates it.

A frame is a 44-byte header and a content of at most 1,156 bytes. The tag is a keyed BLAKE2b-128 over the header and the BLAKE2b-256
of the content, under a key that only the two ends can compute (static X25519, both ids, group): 0.5 us instead of 44 us for a
signature, so hostile bytes cost almost nothing. What must convince third parties is signed inside the content; this layer is
deniable on purpose. The transmit stamp lies under the tag and is taken per datagram; the content is hashed once for all receivers.

Replay: every directed pair has its own rising 32-bit sequence and a window of 64. It starts at the sender's boot id (tenths of a second
since 1970), so that it keeps rising over restarts as long as a pair exchanges fewer than 10 frames a second on average (pulse and beats:
1.1). How far a peer had come is remembered when it is removed, so that frames recorded before cannot be replayed once it is back; only
our own restart forgets. Unknown senders are dropped before any cryptography; a JOIN alone may introduce a new sender, and joins are
rate-limited.

Layout, little endian: u8 plane and version (0x31), u8 type, u16 flags, u32 group tag, u64 sender's short id, u32 pair sequence,
u64 transmit stamp (ns of the sender's stamp clock), 16 B tag. Measured in docs/decisions.md.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
from typing import NamedTuple

from srwan.errors import BadSignature, DecodeError, LimitExceeded, RemoteProtocolError, StaleRecord
from srwan.identity import Identity
from srwan.types import NodeId

__all__ = ["DATAGRAM_BYTES_MAX", "FRAME_PLANE", "Frame", "FrameCodec", "FrameType", "content_digest"]

DATAGRAM_BYTES_MAX = 1200
"""No control datagram is longer, so none is ever fragmented: IPv6 minimum MTU 1280 less headers (RFC 8200 section 5)."""

FRAME_PLANE = 0x3
"""Upper half of the first byte of a frame; sessions have 0x1, SR packets 0x2."""

_MAGIC = FRAME_PLANE << 4 | 1
_HEADER = struct.Struct("<BBHIQIQ")
_TAG_BYTES = 16
HEADER_BYTES = _HEADER.size + _TAG_BYTES
CONTENT_BYTES_MAX = DATAGRAM_BYTES_MAX - HEADER_BYTES
REPLAY_WINDOW = 64
_WINDOW_MASK = (1 << REPLAY_WINDOW) - 1
PEERS_MAX = 1024
"""Bound of pair states held: a group has up to 100 members, the rest is room for churn."""
JOINS_PER_S_MAX = 20.0
"""New senders admitted to a key agreement per second: 20 x 80 us = 0.2 % of a core."""
JOIN_BURST_MAX = 120
RETIRED_MAX = 4096
"""Removed peers whose highest sequence is remembered, 150 B each; the one removed longest ago is forgotten first."""


class FrameType(enum.IntEnum):
    """What a frame carries. Values are wire format."""

    PULSE = 1
    BEAT = 2
    PROBE = 3
    ECHO = 4
    ACCUSE = 5
    PULL = 6
    ROWS = 7
    JOIN = 8
    LEAVE = 9
    MEMBERS = 10
    REPORTED = 11
    VOTE = 12


class Frame(NamedTuple):
    """An authenticated frame: `sender` knows the pair key, and this is no replay. A tuple, because one is made for every datagram."""

    sender: NodeId
    type: FrameType
    flags: int
    sequence: int
    """Pair sequence; gaps are datagrams lost or reordered."""
    tx_ns: int
    """Transmit stamp, ns of the sender's stamp clock."""
    content: bytes


class _Pair:
    __slots__ = ("highest", "is_wanted", "key", "next_sequence", "node", "window")

    def __init__(self, node: NodeId, key: bytes, next_sequence: int) -> None:
        self.node = node
        self.key = key
        self.next_sequence = next_sequence
        self.highest = -1
        self.window = 0
        self.is_wanted = False  # we asked for it; otherwise a JOIN did


def content_digest(content: bytes) -> bytes:
    """Return the 32-byte digest that the tag covers; compute it once when one content goes to many receivers. Cost: 0.7 us for 600 B."""
    return hashlib.blake2b(content, digest_size=32).digest()


class FrameCodec:
    """Seals and opens frames for one node in one group. A core: no clock, no sockets.

    Args:
        identity: this node's keys.
        group_tag: first four bytes of the group id, as an integer; frames of other groups are dropped before any cryptography.
        boot_id: start of this node's sequences.
    """

    def __init__(self, identity: Identity, group_tag: int, boot_id: int) -> None:
        self._identity = identity
        self._group_tag = group_tag
        self._my_short = identity.node_id.short
        self._pairs: dict[NodeId, _Pair] = {}
        self._by_short: dict[int, _Pair] = {}
        self._retired: dict[NodeId, int] = {}
        self._sequence_floor = boot_id
        self._join_tokens = float(JOIN_BURST_MAX)
        self._join_tokens_at = 0.0

    def add_peer(self, node: NodeId) -> None:
        """Agree on a pair key with `node`; needed before frames to or from it. Cost: 80 us the first time.

        Raises:
            BadSignature: `node` is no usable public key. LimitExceeded: PEERS_MAX pairs are held ("peers"), or another peer has the same
                short id ("short-id"; 2**32 work to make two such of one's own).
        """
        if node != self._identity.node_id:
            self._pair(node).is_wanted = True

    def _pair(self, node: NodeId) -> _Pair:
        pair = self._pairs.get(node)
        if pair is not None:
            return pair
        if len(self._pairs) >= PEERS_MAX:
            raise LimitExceeded(f"{PEERS_MAX} peers are held already", reason="peers")
        short = node.short
        if short in self._by_short:
            raise LimitExceeded(f"{node!r} and {self._by_short[short].node!r} have the same short id", reason="short-id")
        low, high = sorted((self._identity.node_id, node))
        secret = self._identity.shared_secret(node)
        key = hashlib.blake2b(low + high + struct.pack("<I", self._group_tag), key=secret, digest_size=32, person=b"srwan/pair/1").digest()
        pair = self._pairs[node] = self._by_short[short] = _Pair(node, key, self._sequence_floor)
        if node in self._retired:
            pair.highest = self._retired[node]
            pair.window = _WINDOW_MASK  # which of the last ones were seen is not known: none is taken again
        return pair

    def remove_peer(self, node: NodeId) -> None:
        """Forget a pair. Unknown nodes are fine. Should it come back, its sequence goes on above all that were used."""
        pair = self._pairs.pop(node, None)
        if pair is None:
            return
        del self._by_short[node.short]
        if 0 < (pair.next_sequence - self._sequence_floor) & 0xFFFFFFFF < 0x80000000:
            self._sequence_floor = pair.next_sequence
        if pair.is_wanted and pair.highest >= 0:  # a stranger's JOIN must not push members out of this memory
            self._retired.pop(node, None)
            if len(self._retired) >= RETIRED_MAX:
                del self._retired[next(iter(self._retired))]
            self._retired[node] = pair.highest

    @property
    def peers(self) -> frozenset[NodeId]:
        """Those with whom a pair key is agreed."""
        return frozenset(self._pairs)

    def seal(self, receiver: NodeId, kind: FrameType, content: bytes, *, digest: bytes, tx_ns: int, flags: int = 0) -> bytes:
        """Return the datagram for one receiver.

        Args:
            receiver: a node given to `add_peer` before.
            kind: what `content` is.
            content: at most CONTENT_BYTES_MAX bytes.
            digest: `content_digest(content)`.
            tx_ns: the stamp clock, read right before this call.
            flags: 16 bits of meaning private to the type.

        Raises:
            KeyError: no pair key with `receiver`. ValueError: the content is too long.

        Cost: 1.3 us.
        """
        if len(content) > CONTENT_BYTES_MAX:
            raise ValueError(f"content of {len(content)} bytes, at most {CONTENT_BYTES_MAX} fit one datagram")
        pair = self._pairs[receiver]
        sequence = pair.next_sequence
        pair.next_sequence = (sequence + 1) & 0xFFFFFFFF
        header = _HEADER.pack(_MAGIC, kind, flags, self._group_tag, self._my_short, sequence, tx_ns)
        tag = hashlib.blake2b(header + digest, key=pair.key, digest_size=_TAG_BYTES).digest()
        return header + tag + content

    def open(self, data: bytes, now: float) -> Frame:
        """Authenticate a datagram.

        Args:
            data: as received.
            now: monotonic seconds, for the rate limit of unknown senders.

        Raises:
            DecodeError: malformed, another version ("version"), another group ("group"), unknown sender ("unknown-sender").
            BadSignature: the tag does not match. StaleRecord: a replay. LimitExceeded: too many new senders.
        """
        if not HEADER_BYTES <= len(data) <= DATAGRAM_BYTES_MAX:
            raise DecodeError(f"frame of {len(data)} bytes", reason="length")
        magic, kind, _, group_tag, short, _, _ = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise DecodeError(f"frame version {magic:#x}", reason="version")
        if group_tag != self._group_tag:
            raise DecodeError(f"group tag {group_tag:#x} is not ours", reason="group")
        try:
            frame_type = FrameType(kind)
        except ValueError:
            raise DecodeError(f"unknown frame type {kind}", reason="type") from None
        pair = self._by_short.get(short)
        if pair is not None:
            return self._open(pair, frame_type, data)
        pair = self._admit(frame_type, data, short, now)
        try:
            return self._open(pair, frame_type, data)
        except RemoteProtocolError:
            self.remove_peer(pair.node)
            raise

    def _open(self, pair: _Pair, frame_type: FrameType, data: bytes) -> Frame:
        _, _, flags, _, _, sequence, tx_ns = _HEADER.unpack_from(data)
        content = data[HEADER_BYTES:]
        expected = hashlib.blake2b(data[: _HEADER.size] + content_digest(content), key=pair.key, digest_size=_TAG_BYTES).digest()
        if not hmac.compare_digest(expected, data[_HEADER.size : HEADER_BYTES]):
            raise BadSignature(f"bad tag on a frame from {pair.node!r}", reason="mac")
        self._advance(pair, sequence)
        return Frame(pair.node, frame_type, flags, sequence, tx_ns, content)

    def _admit(self, frame_type: FrameType, data: bytes, short: int, now: float) -> _Pair:
        """A JOIN starts with its sender's NodeId: agree on a key with a new sender, within the rate limit."""
        if frame_type is not FrameType.JOIN or len(data) < HEADER_BYTES + 32:
            raise DecodeError(f"unknown sender {short:#x}", reason="unknown-sender")
        node = NodeId(data[HEADER_BYTES : HEADER_BYTES + 32])
        if node.short != short or node == self._identity.node_id:
            raise DecodeError("JOIN with a foreign short id", reason="unknown-sender")
        self._join_tokens = min(float(JOIN_BURST_MAX), self._join_tokens + (now - self._join_tokens_at) * JOINS_PER_S_MAX)
        self._join_tokens_at = now
        if self._join_tokens < 1.0:
            raise LimitExceeded("too many new senders", reason="join-rate")
        self._join_tokens -= 1.0
        return self._pair(node)

    @staticmethod
    def _advance(pair: _Pair, sequence: int) -> None:
        """Sliding window in serial number arithmetic (RFC 1982)."""
        if pair.highest < 0:
            pair.highest, pair.window = sequence, 1
            return
        ahead = (sequence - pair.highest) & 0xFFFFFFFF
        if ahead == 0:
            raise StaleRecord(f"replayed frame {sequence} of {pair.node!r}", reason="replay")
        if ahead < 0x80000000:
            pair.window = (pair.window << ahead | 1) & _WINDOW_MASK if ahead < REPLAY_WINDOW else 1
            pair.highest = sequence
            return
        behind = 0x100000000 - ahead
        if behind >= REPLAY_WINDOW or pair.window >> behind & 1:
            raise StaleRecord(f"replayed or very late frame {sequence} of {pair.node!r}", reason="replay")
        pair.window |= 1 << behind
