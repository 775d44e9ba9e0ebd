"""What membership says happened. Values only; `Membership.next_event` returns them."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from srwan.overlay.view import Member
from srwan.types import NodeId, PeerMisbehaved

__all__ = [
    "IdentityConflict",
    "MemberAccused",
    "MemberJoined",
    "MemberLeft",
    "MemberUpdated",
    "MembershipEvent",
    "SelfBuried",
    "ViewChanged",
]


@attrs.frozen(slots=True)
class MemberJoined:
    """A node became a member; frames to it can be sealed."""

    member: Member


@attrs.frozen(slots=True)
class MemberUpdated:
    """A member renewed its certificate, restarted, or changed what it says about itself."""

    member: Member


@attrs.frozen(slots=True)
class MemberLeft:
    """A node is no longer a member."""

    node_id: NodeId
    reason: str
    """"left" (it said so), "expired" (it stopped renewing) or "failed" (a quorum of its observers accused it)."""


@attrs.frozen(slots=True)
class MemberAccused:
    """An accusation was taken up. About this node itself: send something signed to all now, or be buried."""

    subject: NodeId
    observer: NodeId
    accusers: int
    """Ring observers of the subject who accuse it now."""
    needed: int
    """Ring observers that make a verdict."""


@attrs.frozen(slots=True)
class SelfBuried:
    """The others buried this node's run though it lives; comes once per run. `Membership.rejoin` with a greater boot brings it back."""

    boot: int
    """Boot of the certificates that are dead now."""


@attrs.frozen(slots=True)
class ViewChanged:
    """Ids or boots of the living changed; comes once after a batch of changes."""

    digest: bytes
    """The view's new digest, 8 bytes."""
    size: int
    """Living members, this node included."""


@attrs.frozen(slots=True)
class IdentityConflict:
    """A certificate of this node's own id with a later boot was seen: another run uses the same identity, or our clock was set back."""

    boot: int
    """The other run's boot id."""


MembershipEvent: TypeAlias = (
    MemberJoined | MemberUpdated | MemberLeft | MemberAccused | SelfBuried | ViewChanged | IdentityConflict | PeerMisbehaved
)
