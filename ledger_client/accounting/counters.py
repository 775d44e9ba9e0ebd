"""What a router counted, under its own signature: octets in and out, by neighbour, and by session with its part in it.

Theory of operation. A counter is its owner's word and proves nothing alone. Set against each other they show who stretches his: what a
consumer sent, each relay carried and the egress received under one session must agree up to loss, and what leaves one neighbour must come
in at the next. Validators do that (`srwan.ledger_client.validation`).

Totals count since the router's boot and fall to zero with it. Counts of sessions go on through restarts, from the journal of who counts,
so a restart never makes them fall. Relays count whole datagrams, keep-alives among them; sent and received are octets of bodies.
`bodies_in` converts.

Published as COUNTERS statements, topic = session id for the counters about one session, or empty.

Layout, canonical msgpack: [boot, sequence, octets_in, octets_out, [[neighbour, in, out], ...], [[session, role, packets, octets], ...]].

Invariant: an instance is within bounds; neighbours by rising id and sessions by rising (id, role), none twice.
"""

from __future__ import annotations

import enum
from itertools import pairwise
from typing import Any

import attrs

from srwan.errors import DecodeError
from srwan.ledger_client.accounting.plan import are_integers
from srwan.ledger_client.record import CONTENT_BYTES_MAX, Kind, Version
from srwan.ledger_client.settlement.terms import HASH_BYTES
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.types import NodeId
from srwan.wire import pack, unpack

__all__ = [
    "NEIGHBOURS_MAX",
    "SESSIONS_MAX",
    "NeighbourCount",
    "RouterCounters",
    "SessionCount",
    "SessionRole",
    "bodies_in",
    "counters_of_statement",
    "packet_overhead_octets",
]

NEIGHBOURS_MAX = 128
"""Neighbours of one statement, those with most octets: a group has up to 100 members."""
SESSIONS_MAX = 128
"""Sessions of one statement: with 128 neighbours 14 kB of 16."""
COUNT_MAX = 2**63 - 1
_FIXED_OCTETS = 24 + 8 + 16 + 28 + 24
"""Link header, fixed part of the SRH, its tag, end-to-end seal, payload header (`srwan.routing.packet`, `payload`)."""
_SEGMENT_OCTETS = 16


class SessionRole(enum.IntEnum):
    """A router's part in a session. Values are stored."""

    SENT = 1
    """The consumer: octets of bodies."""
    RELAYED = 2
    """A relay: octets of whole datagrams."""
    RECEIVED = 3
    """The egress: octets of bodies that it authenticated."""


def packet_overhead_octets(relays: int) -> int:
    """Return how many octets of a datagram are not body, on a path over so many relays: 132 for one."""
    return _FIXED_OCTETS + _SEGMENT_OCTETS * (relays + 1)


def bodies_in(octets: int, packets: int, relays: int) -> int:
    """Return the octets of bodies in datagrams that a relay counted, keep-alives among them, on a path over so many relays."""
    return max(0, octets - packets * packet_overhead_octets(relays))


@attrs.frozen(slots=True, order=True)
class NeighbourCount:
    """Octets of whole datagrams, without IP and UDP headers, since boot."""

    node: NodeId
    octets_in: int
    """From it."""
    octets_out: int
    """To it."""


@attrs.frozen(slots=True, order=True)
class SessionCount:
    """What a router counted under one session, since the session began."""

    session: bytes
    """Session id, 32 B."""
    role: SessionRole
    packets: int
    octets: int


@attrs.frozen(slots=True)
class RouterCounters:
    """One reading of a router's counters.

    Raises:
        ValueError: a field is out of bounds, or the parts are not in order.
    """

    boot: int
    """Of the router."""
    sequence: int
    """Rises within the boot."""
    octets_in: int
    """Of whole datagrams, from all neighbours, since boot."""
    octets_out: int
    """Of whole datagrams, to all neighbours, since boot."""
    neighbours: tuple[NeighbourCount, ...] = ()
    sessions: tuple[SessionCount, ...] = ()

    def __attrs_post_init__(self) -> None:
        if len(self.neighbours) > NEIGHBOURS_MAX or len(self.sessions) > SESSIONS_MAX:
            raise ValueError(f"counters: {len(self.neighbours)} neighbours and {len(self.sessions)} sessions are too many")
        counts = [self.boot, self.sequence, self.octets_in, self.octets_out]
        for neighbour in self.neighbours:
            counts += (neighbour.octets_in, neighbour.octets_out)
        for session in self.sessions:
            counts += (session.packets, session.octets)
        if not all(0 <= count <= COUNT_MAX for count in counts):
            raise ValueError("counters: a count is out of bounds")
        if any(len(session.session) != HASH_BYTES for session in self.sessions):
            raise ValueError("counters: a session id has 32 bytes")
        if any(first.node >= second.node for first, second in pairwise(self.neighbours)):
            raise ValueError("counters: neighbours are not in order")
        if any((first.session, first.role) >= (second.session, second.role) for first, second in pairwise(self.sessions)):
            raise ValueError("counters: sessions are not in order")

    def session(self, session: bytes, role: SessionRole) -> SessionCount | None:
        """Return the count under a session, or None."""
        return next((count for count in self.sessions if count.session == session and count.role is role), None)

    def encode(self) -> bytes:
        """Return it as bytes, up to 16 KiB."""
        neighbours = [[count.node, count.octets_in, count.octets_out] for count in self.neighbours]
        sessions = [[count.session, int(count.role), count.packets, count.octets] for count in self.sessions]
        return pack([self.boot, self.sequence, self.octets_in, self.octets_out, neighbours, sessions])

    @classmethod
    def decode(cls, data: bytes) -> RouterCounters:
        """Parse counters. For hostile input.

        Raises:
            LimitExceeded, DecodeError: too long or malformed.
        """
        match unpack(data, bytes_max=CONTENT_BYTES_MAX[Kind.COUNTERS]):
            case [*numbers, list(neighbours), list(sessions)] if len(numbers) == 4 and are_integers(numbers):
                pass
            case _:
                raise DecodeError("no counters")
        if len(neighbours) > NEIGHBOURS_MAX or len(sessions) > SESSIONS_MAX:
            raise DecodeError("counters of too many neighbours or sessions")
        try:
            boot, sequence, octets_in, octets_out = numbers
            parts = (tuple(map(_neighbour_of, neighbours)), tuple(map(_session_of, sessions)))
            return cls(boot, sequence, octets_in, octets_out, *parts)
        except ValueError as error:
            raise DecodeError(f"malformed counters: {error}") from None

    def statement(self, node: NodeId, topic: bytes, *, issued_ns: int, expires_ns: int) -> Statement:
        """Return the COUNTERS statement in which `node` publishes them.

        Args:
            node: whose they are.
            topic: id of the session they are about, or empty.
            issued_ns: wall time, ns since 1970.
            expires_ns: until when they count.
        """
        version = Version(self.boot, self.sequence)
        return Statement(Kind.COUNTERS, MARKET_GROUP, node, topic, version, issued_ns, expires_ns, self.encode())


def counters_of_statement(statement: Statement) -> RouterCounters:
    """Return what a verified COUNTERS statement says.

    Raises:
        LimitExceeded, DecodeError: it is none, or its version is not that of the counters.
    """
    if statement.kind is not Kind.COUNTERS:
        raise DecodeError(f"a {statement.kind} statement holds no counters")
    counters = RouterCounters.decode(statement.content)
    if statement.version != (counters.boot, counters.sequence):
        raise DecodeError("counters under another version than their own")
    return counters


def _neighbour_of(value: Any) -> NeighbourCount:
    match value:
        case [bytes(node), *numbers] if len(numbers) == 2 and are_integers(numbers):
            return NeighbourCount(NodeId(node), *numbers)
        case _:
            raise ValueError("not the count of a neighbour")


def _session_of(value: Any) -> SessionCount:
    match value:
        case [bytes(session), int(role), *numbers] if len(numbers) == 2 and are_integers([role, *numbers]):
            return SessionCount(session, SessionRole(role), *numbers)
        case _:
            raise ValueError("not the count of a session")
