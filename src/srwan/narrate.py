"""Events as JSON values and as sentences, the same for the command line, the demonstration and programs."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from srwan.routing.service import FlowEvent
from srwan.types import NodeId

__all__ = ["describe"]

BYTES_SHOWN_MAX = 64
"""Longer byte strings (certificates, proofs) are given by their length."""


def describe(event: object, name_of: Callable[[NodeId], str]) -> dict[str, Any]:
    """Return an event's fields as JSON values, NodeIds as names, with "event" and, where there is one, a sentence under "detail"."""
    extra: dict[str, Any] = {}
    if isinstance(event, FlowEvent):
        extra = {"peer": name_of(event.peer), "flow": event.flow}
        event = event.event
    fields = _fields(event, name_of)
    described = {"event": type(event).__name__, **fields, **extra}
    sentence = _SENTENCES.get(type(event).__name__)
    if sentence is not None:
        described["detail"] = sentence.format(**described)
    return described


def _fields(instance: object, name_of: Callable[[NodeId], str]) -> dict[str, Any]:
    kind: Any = type(instance)
    return {field.name: _plain(getattr(instance, field.name), name_of) for field in attrs.fields(kind)}


def _plain(value: Any, name_of: Callable[[NodeId], str]) -> Any:
    """Return a value that JSON can carry."""
    if isinstance(value, NodeId):
        return name_of(value)
    if isinstance(value, bytes):
        return value.hex() if len(value) <= BYTES_SHOWN_MAX else f"{len(value)} bytes"
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, float):
        return round(value, 3) if np.isfinite(value) else None
    if isinstance(value, (tuple, list, frozenset, set)):
        return [_plain(item, name_of) for item in value]
    if attrs.has(type(value)):
        return _fields(value, name_of)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


_SENTENCES = {
    "MemberJoined": "{member[name]} joined",
    "MemberLeft": "{node_id} left ({reason})",
    "ViewChanged": "the view has {size} members",
    "MatrixFilled": "{edges} one-way latencies, the full matrix of {members} members",
    "ReporterElected": "{node_id} is the reporter of epoch {epoch}",
    "ReporterTookOver": "{node_id} reports instead, it is standby {rank}",
    "ReportPublished": "published {rows} rows, epoch {epoch}, report {sequence}",
    "ClockRealigned": "moved its group time by {by_ms} ms",
    "EquivocationSeen": "{node_id} signed two rows for one round",
    "PathDegraded": "{reason}",
    "PathSwitched": "{reason}",
    "PathDied": "{reason}",
    "DirectRestored": "{reason}",
    "PathVetoed": "{reason}",
    "SessionOpened": "pays up to {cap_microtoken} microtokens, {price_microtoken} for a GB, for the way over {relays} to {egress}",
    "SessionRefused": "a session was refused: {reason}",
    "ComplaintFiled": "complains that {reporter} left its row out, epoch {epoch}",
    "EvidenceFiled": "files evidence that {node_id} signed two contents under one version of its {kind}",
    "TicketSigned": "owes {amount_microtoken} microtokens for {octets} octets",
    "TicketReceived": "is owed {amount_microtoken} microtokens for {octets} octets by {consumer}",
    "DebtThrottled": "carries packets of {node} at the free rate: {owed_octets} octets are not acknowledged",
    "DebtCleared": "carries packets of {node} at full speed again",
    "ClaimFiled": "claims {amount_microtoken} microtokens for {octets} octets",
}
