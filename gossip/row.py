"""What a member signs each round: what it measured of every other member, and what it carried.

A row is one column of the group's latency matrix (everybody -> the signer) with loss and jitter, counters, the digest of the roster, and
what its signer believes of its own clock. It is a fixed struct followed by the entries, not msgpack: 9,900 of them pass through a group of
100 per round. Latencies are told in 10 us, because paths are chosen by their differences; loss and jitter share one byte, because no
pulse can tell them finer: 16 steps each, a factor of two apart for jitter.

Two forms, told apart by the low half of the first byte. In *slot order* entry i speaks of the i-th member of the roster, in rising NodeId
order, and means nothing to a reader whose roster has another digest. In the *described* form each entry is named by the low 32 bits
of its member's short id, so that it can be read while rosters still differ. Ids that two members share are read as neither.

Invariants: one row has one encoding; both forms fit one datagram for 128 members, the signer's own (empty) entry included; a content of
the wrong length, form or range is refused before it is used. The signer's NodeId and the group are under the signature but do not travel:
every carrier (frame, report, proof) names them, and a row of one group proves nothing in another.

Layout of the body, little endian, 72 bytes: u8 version << 4 | form, u8 clock epoch, u8 health, u8 count, u32 boot, u32 seq, i64 stamp (ns
of group time), 8 B roster digest, i64 base (us), u64 octets in, u64 octets out, u64 octets relayed, i32 clock offset (us), i32 clock
drift (ppb), u16 error of the offset (us), u16 error of the drift (ppb). Then u32 ids[count] if described, u16 owl[count], u8 jitter << 4 |
loss [count]. The content is signature 64 B || body: 436 B for 100 members in slot order. Source: pulse layout of docs/decisions.md;
RFC 3550 section 6.4.1 for interarrival jitter.
"""

from __future__ import annotations

import functools
import struct
from typing import Any, TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from srwan.errors import DecodeError
from srwan.identity import Identity, is_signed_by
from srwan.types import NodeId

__all__ = [
    "ClockClaim",
    "Row",
    "SignedRow",
    "decode_owl_ms",
    "encode_jitter",
    "encode_loss",
    "encode_owl",
    "entry_id",
    "jitter_ms",
    "loss_share",
    "open_row",
    "seal_row",
    "version_of_row",
]

Floats: TypeAlias = npt.NDArray[np.float64]
Codes16: TypeAlias = npt.NDArray[np.uint16]
Codes8: TypeAlias = npt.NDArray[np.uint8]
Ids: TypeAlias = npt.NDArray[np.uint32]

ENTRIES_MAX = 128
"""Entries of a row; 64 + 72 + 7 * 128 = 1,032 of the 1,156 bytes that one frame carries."""
OWL_NONE = 65535
"""Code of an edge that is not measured."""
OWL_OUTSIDE = 65534
"""Code of an edge that is measured, but lies outside the 655.33 ms above the row's base."""
OWL_UNIT_US = 10
"""Unit of an OWL code: the kernel's receive stamps are good to about that."""
RAW_MS_MAX = 3_600_000.0
"""A raw latency beyond one hour, either sign, is a broken or lying clock and counts as not measured."""

_DOMAIN = b"srwan/row/1"
_VERSION = 1
_SLOT_ORDER = 0
_DESCRIBED = 1
_HEADER = struct.Struct("<BBBBIIq8sqQQQiiHH")
_ENTRY_BYTES = 3
_ENTRY_BYTES_DESCRIBED = 7
_SIGNATURE_BYTES = 64
_CONTENT_BYTES_MIN = _SIGNATURE_BYTES + _HEADER.size
_BASE_US_MAX = int(RAW_MS_MAX * 1000)
_OWL_SPAN_MS = (OWL_OUTSIDE - 1) * OWL_UNIT_US / 1000
_JITTER_UNIT_MS = 1 / 32
_CODES = 16
_JITTER_MS: Floats = np.array([0.0, *(_JITTER_UNIT_MS * 2.0**code for code in range(_CODES - 1))])
_LOSSES = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
_LOSS_SHARE: Floats = np.array(_LOSSES)
_LOSS_EDGES: Floats = (_LOSS_SHARE[1:] + _LOSS_SHARE[:-1]) / 2
_CLOCK_UNKNOWN = 65535
_ROWS_CACHED = 4096
"""Parsed rows remembered per process, about 5 MB: the same row reaches all routers of a process, and many of them twice."""


@functools.lru_cache(maxsize=_ROWS_CACHED)
def entry_id(node: NodeId) -> int:
    """Return the 32-bit id that names a member in a described row: the low half of its short id. The last some are remembered."""
    return node.short & 0xFFFFFFFF


def encode_owl(raw_ms: Floats) -> tuple[int, Codes16]:
    """Return the base (us) and the codes of raw latencies.

    The base is the least latency if all fit above it, else chosen so that most do; a single peer with a wild clock cannot push the others
    out of range.

    Args:
        raw_ms: shape (n,), ms, NaN where not measured.

    Returns:
        The base in microseconds, a multiple of 10, and u16 codes of shape (n,), rounded to 10 us.

    Cost: O(n log n), 15 us for n = 100, 40 us if not all fit.
    """
    is_known = np.abs(raw_ms) <= RAW_MS_MAX  # NaN is not
    known = raw_ms[is_known]
    if not known.size:
        return 0, np.full(len(raw_ms), OWL_NONE, np.uint16)
    least = float(known.min())
    if float(known.max()) - least > _OWL_SPAN_MS - 0.02:
        rising = np.sort(known)
        fitting = np.searchsorted(rising, rising + _OWL_SPAN_MS - 0.02, side="right") - np.arange(len(rising))
        least = float(rising[int(np.argmax(fitting))])
    base_us = int(least * 1000) // OWL_UNIT_US * OWL_UNIT_US
    base_us = max(-_BASE_US_MAX, min(_BASE_US_MAX, base_us))
    steps = np.rint((known * 1000 - base_us) / OWL_UNIT_US)
    codes = np.full(len(raw_ms), OWL_NONE, np.uint16)
    codes[is_known] = np.where((steps >= 0) & (steps < OWL_OUTSIDE), steps, OWL_OUTSIDE)
    return base_us, codes


def decode_owl_ms(codes: Codes16, base_us: int) -> Floats:
    """Return raw latencies in ms, shape as `codes`; NaN where not measured or outside the range."""
    raw_ms: Floats = (codes.astype(np.float64) * OWL_UNIT_US + base_us) / 1000.0
    raw_ms[codes >= OWL_OUTSIDE] = np.nan
    return raw_ms


def encode_jitter(jitter: npt.ArrayLike) -> Codes8:
    """Return 4-bit codes of jitters in ms, shape as `jitter`: 0, then 1/32 ms to 512 ms in factors of two, to the nearest."""
    steps = np.maximum(np.asarray(jitter, np.float64) / _JITTER_UNIT_MS, 0.25)
    return np.where(steps < 0.5, 0, np.clip(np.rint(np.log2(steps)) + 1, 1, _CODES - 1)).astype(np.uint8)


def jitter_ms(codes: Codes8) -> Floats:
    """Return jitters in ms for 4-bit codes, shape as `codes`."""
    return _JITTER_MS[codes]


def encode_loss(loss: npt.ArrayLike) -> Codes8:
    """Return 4-bit codes of loss shares 0..1, shape as `loss`, to the nearest: 0.5 % apart below 2 %, and a third apart above."""
    return np.searchsorted(_LOSS_EDGES, np.asarray(loss, np.float64), side="right").astype(np.uint8)


def loss_share(codes: Codes8) -> Floats:
    """Return loss shares 0..1 for 4-bit codes, shape as `codes`."""
    return _LOSS_SHARE[codes]


@attrs.frozen(slots=True)
class ClockClaim:
    """What a member believes of its own clock, to show one-way latencies by; nothing is decided by it."""

    offset_us: int
    """Its group time less the mean of the group's clocks, us, i32."""
    drift_ppb: int
    """How much faster than the mean of the group's clocks it runs, ppb, i32."""
    offset_error_us: int
    """Bound of the offset's error, us, 0..65534."""
    drift_error_ppb: int
    """Bound of the drift's error, ppb, 0..65534."""


@attrs.frozen(slots=True)
class Row:
    """One member's measurements of one round."""

    node_id: NodeId
    """Who measured; signed, not sent."""
    boot: int
    """Start of the signer's run, `Clock.boot_id`; it stays when the member was buried and starts a new run of membership."""
    seq: int
    """Round of that run; of two rows of a member the greater (boot, seq) is the newer."""
    stamp_ns: int
    """When the row was made, ns of group time."""
    roster_digest: bytes
    """8 bytes: the roster the signer had; slot order refers to it."""
    clock_epoch: int
    """u8, rises when the signer moved its group time: older stamps of it compare with nothing."""
    health: int
    """u8, 0 = well; the signer's doubt in itself."""
    octets_in: int
    """Octets of data plane packets received since boot."""
    octets_out: int
    """Octets of data plane packets sent since boot."""
    octets_relayed: int
    """Octets relayed for others since boot; a claim, nothing is paid by it."""
    base_us: int
    """What OWL code 0 means, us."""
    count: int
    """Number of entries."""
    is_described: bool
    """True: entries are named; False: slot order."""
    entries: bytes
    """The entries as on the wire."""
    clock: ClockClaim | None = None
    """None: the signer does not know yet."""
    known: int = attrs.field(init=False, eq=False, repr=False)
    """Entries that hold a latency."""

    def __attrs_post_init__(self) -> None:
        """Count once what every receiver asks."""
        object.__setattr__(self, "known", int(np.count_nonzero(self.owl < OWL_OUTSIDE)) if self._is_whole else 0)

    @property
    def _is_whole(self) -> bool:
        return len(self.entries) == self.count * (_ENTRY_BYTES_DESCRIBED if self.is_described else _ENTRY_BYTES)

    @property
    def ids(self) -> Ids | None:
        """32-bit ids of the entries, shape (count,); None in slot order."""
        return np.frombuffer(self.entries, "<u4", self.count) if self.is_described else None

    @property
    def owl(self) -> Codes16:
        """OWL codes, shape (count,)."""
        return np.frombuffer(self.entries, "<u2", self.count, 4 * self.count if self.is_described else 0)

    @property
    def jitter(self) -> Codes8:
        """Jitter codes, shape (count,)."""
        return np.right_shift(self._quality, 4, dtype=np.uint8)

    @property
    def loss(self) -> Codes8:
        """Loss codes, shape (count,)."""
        return np.bitwise_and(self._quality, 15, dtype=np.uint8)

    @property
    def _quality(self) -> Codes8:
        return np.frombuffer(self.entries, np.uint8, self.count, len(self.entries) - self.count)

    @staticmethod
    def pack_entries(ids: Ids | None, owl: Codes16, jitter: Codes8, loss: Codes8) -> bytes:
        """Return `entries` from vectors of equal length; `ids` None means slot order; jitter and loss are 4-bit codes."""
        named = b"" if ids is None else ids.astype("<u4").tobytes()
        return named + owl.astype("<u2").tobytes() + (jitter << 4 | loss).astype(np.uint8).tobytes()

    def encode(self) -> bytes:
        """Return the body.

        Raises:
            ValueError: a field does not fit its width, or entries do not fit count and form.
        """
        if not 0 <= self.count <= ENTRIES_MAX or not self._is_whole:
            raise ValueError(f"{len(self.entries)} bytes of entries do not hold {self.count} members")
        try:
            header = _HEADER.pack(
                _VERSION << 4 | (_DESCRIBED if self.is_described else _SLOT_ORDER),
                self.clock_epoch,
                self.health,
                self.count,
                self.boot,
                self.seq,
                self.stamp_ns,
                self.roster_digest,
                self.base_us,
                self.octets_in,
                self.octets_out,
                self.octets_relayed,
                *_pack_clock(self.clock),
            )
        except struct.error as error:
            raise ValueError(f"a row field is out of range: {error}") from None
        return header + self.entries

    @classmethod
    def decode(cls, node_id: NodeId, body: bytes) -> Row:
        """Parse a body that claims to be `node_id`'s. Cost: 7 us.

        Raises:
            DecodeError: another version or form, a length that does not fit the count, a base out of range.
        """
        (first, epoch, health, count, boot, seq, stamp, roster, base_us, octets_in, octets_out, relayed), clock = _checked_header(body)
        return cls(
            node_id,
            boot,
            seq,
            stamp,
            roster,
            epoch,
            health,
            octets_in,
            octets_out,
            relayed,
            base_us,
            count,
            first & 15 == _DESCRIBED,
            body[_HEADER.size :],
            clock,
        )


def version_of_row(body: bytes) -> tuple[int, int]:
    """Return (boot, seq) of a body that `Row.decode` would take, without making the row. Cost: 2 us.

    Raises:
        DecodeError: as `Row.decode`.
    """
    (_, _, _, _, boot, seq, *_), _ = _checked_header(body)
    return boot, seq


def _checked_header(body: bytes) -> tuple[tuple[Any, ...], ClockClaim | None]:
    """Return the fields before the clock as they lie in the header, and the clock, of a body that is well-formed."""
    if len(body) < _HEADER.size:
        raise DecodeError(f"row of {len(body)} bytes")
    fields = _HEADER.unpack_from(body)
    first, count, stamp, base_us = fields[0], fields[3], fields[6], fields[8]
    if first >> 4 != _VERSION or first & 15 > _DESCRIBED:
        raise DecodeError(f"row version and form {first:#x}", reason="version")
    entries_bytes = len(body) - _HEADER.size
    if count > ENTRIES_MAX or entries_bytes != count * (_ENTRY_BYTES_DESCRIBED if first & 15 == _DESCRIBED else _ENTRY_BYTES):
        raise DecodeError(f"{entries_bytes} bytes of entries for {count} members")
    if abs(base_us) > _BASE_US_MAX or stamp < 0:
        raise DecodeError(f"row base {base_us} us, stamp {stamp} ns")
    return fields[:12], _unpack_clock(*fields[12:])


def _pack_clock(claim: ClockClaim | None) -> tuple[int, int, int, int]:
    if claim is None:
        return 0, 0, _CLOCK_UNKNOWN, _CLOCK_UNKNOWN
    return claim.offset_us, claim.drift_ppb, claim.offset_error_us, claim.drift_error_ppb


def _unpack_clock(offset_us: int, drift_ppb: int, offset_error_us: int, drift_error_ppb: int) -> ClockClaim | None:
    """One of the two errors unknown would be a second encoding of "unknown"."""
    if (offset_error_us == _CLOCK_UNKNOWN) != (drift_error_ppb == _CLOCK_UNKNOWN):
        raise DecodeError("half a clock claim")
    if offset_error_us != _CLOCK_UNKNOWN:
        return ClockClaim(offset_us, drift_ppb, offset_error_us, drift_error_ppb)
    if offset_us or drift_ppb:
        raise DecodeError("an unknown clock with an offset")
    return None


@attrs.frozen(slots=True)
class SignedRow:
    """A row with the bytes that were signed. Parsed is not proven: `is_authentic` says whether the signature is good."""

    row: Row
    content: bytes
    """signature || body, as it travels, is relayed and is published."""

    @property
    def node_id(self) -> NodeId:
        """The claimed signer."""
        return self.row.node_id

    def is_authentic(self, group: bytes) -> bool:
        """Say whether `row.node_id` signed this row for `group`. Cost: 44 us the first time in this process."""
        return _is_signed(group, self.row.node_id, self.content)


@functools.lru_cache(maxsize=_ROWS_CACHED)
def _is_signed(group: bytes, node_id: NodeId, content: bytes) -> bool:
    message = group + node_id + content[_SIGNATURE_BYTES:]
    return is_signed_by(node_id, _DOMAIN, message, content[:_SIGNATURE_BYTES])


def seal_row(row: Row, identity: Identity, group: bytes) -> SignedRow:
    """Sign a row of `identity` for `group` (the 32-byte group id). Cost: 20 us.

    Raises:
        ValueError: as `Row.encode`, or the row is another node's.
    """
    if row.node_id != identity.node_id:
        raise ValueError(f"a row of {row.node_id!r} cannot be signed by {identity.node_id!r}")
    body = row.encode()
    return SignedRow(row, identity.sign(_DOMAIN, group + row.node_id + body) + body)


@functools.lru_cache(maxsize=_ROWS_CACHED)
def open_row(node_id: NodeId, content: bytes) -> SignedRow:
    """Parse a content that claims to be `node_id`'s, without checking the signature. A pure function; rows parsed lately are remembered.

    Raises:
        DecodeError: as `Row.decode`.
    """
    if len(content) < _CONTENT_BYTES_MIN:
        raise DecodeError(f"row content of {len(content)} bytes")
    return SignedRow(Row.decode(node_id, content[_SIGNATURE_BYTES:]), content)
