"""What becomes of sessions, as `Sessions.next_event` tells it."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from srwan.types import NodeId, PeerMisbehaved, UdpAddress

__all__ = ["HandshakeUnanswered", "SessionEstablished", "SessionEvent", "SessionExpired", "SessionFailed", "SessionRekeyed"]


@attrs.frozen(slots=True)
class SessionEstablished:
    """There was no session with this peer, now there is: `Sessions.current(peer)`."""

    peer: NodeId
    local_index: int
    """The index of the session, u32."""
    is_initiator: bool
    """We called."""
    address: UdpAddress | None
    """Where the peer is; None if it was reached over relays only."""


@attrs.frozen(slots=True)
class SessionRekeyed:
    """`Sessions.current(peer)` is a new session; packets under the old one are still accepted for a while."""

    peer: NodeId


@attrs.frozen(slots=True)
class HandshakeUnanswered:
    """A handshake goes on without an answer so far: the direct way may be blocked. `Sessions.connect` with a `RelayedWay` adds a way."""

    peer: NodeId


@attrs.frozen(slots=True)
class SessionFailed:
    """There is no session with this peer, and none is under way; `Sessions.connect` may try again."""

    peer: NodeId
    problem: str
    """Why, for people."""


@attrs.frozen(slots=True)
class SessionExpired:
    """The session with this peer lapsed, because it was not used or could not be renewed; `Sessions.connect` makes a new one."""

    peer: NodeId


SessionEvent: TypeAlias = SessionEstablished | SessionRekeyed | HandshakeUnanswered | SessionFailed | SessionExpired | PeerMisbehaved
