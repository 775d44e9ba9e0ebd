"""What the witness found out: values that leave through `Witness.next_event`, and how a peer stands."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from srwan.gossip.evidence import Kind
from srwan.gossip.standing import Reason
from srwan.types import NodeId, PeerMisbehaved

__all__ = ["EchoWanted", "LieFound", "PeerDistrusted", "PeerQuarantined", "PeerReleased", "PeerTrusted", "Score", "WitnessEvent"]


@attrs.frozen(slots=True)
class PeerDistrusted:
    """This member will not use a peer as a relay."""

    node_id: NodeId
    score: float
    """Sum of the evidence against it, without a unit, above `witness.DISTRUST`; infinite with a proof of equivocation."""
    reasons: tuple[Reason, ...]
    """What the score is made of, greatest first."""


@attrs.frozen(slots=True)
class PeerTrusted:
    """Its score faded: it may be a relay again."""

    node_id: NodeId


@attrs.frozen(slots=True)
class PeerQuarantined:
    """Half of the group accuses a peer, or it is proven to have equivocated."""

    node_id: NodeId
    witnesses: tuple[NodeId, ...]
    """Whose votes stand, rising; for a proof the peer itself, who signed it."""


@attrs.frozen(slots=True)
class PeerReleased:
    """The votes against a peer lapsed or were withdrawn, and no proof stands."""

    node_id: NodeId


@attrs.frozen(slots=True)
class LieFound:
    """New evidence against a peer, once per kind until it faded."""

    kind: Kind
    node_id: NodeId
    by_ms: float
    """How far the claim is from what was measured, ms; 0 where that means nothing."""


@attrs.frozen(slots=True)
class EchoWanted:
    """Fresh echoes of a peer are needed to tell a lie from a shortened route: probe it `probes` times within the next seconds."""

    node_id: NodeId
    probes: int
    """How many."""


@attrs.frozen(slots=True)
class Score:
    """How a peer stands here."""

    score: float
    """Sum of the evidence against it, without a unit; infinite with a proof of equivocation."""
    reasons: tuple[Reason, ...]
    """What it is made of, greatest first."""
    accusers: tuple[NodeId, ...]
    """Living members whose votes stand, rising."""
    is_quarantined: bool


WitnessEvent: TypeAlias = PeerDistrusted | PeerTrusted | PeerQuarantined | PeerReleased | LieFound | EchoWanted | PeerMisbehaved
