"""The reference pages name what the code has: every drop reason, every event, every configuration key."""

from __future__ import annotations

import re
from pathlib import Path

from srwan.config import KEYS

ROOT = Path(__file__).parent.parent
ROOMS = ("overlay", "gossip", "routing", "ledger_client")
FOLDERS = (*ROOMS, "ledger_client/accounting", "ledger_client/market")
"""Whose events a node tells."""
PATTERNS = (
    r'reason="([a-z0-9-]+)"',
    r'(?<![a-z_])reason = "([a-z0-9-]+)"',
    r'_refuse\(\s*"([a-z0-9-]+)"',
    r'(?:\.count|count_quietly|_misbehaved|_blame)\([^)\n]*"([a-z0-9-]+)"',
    r'drops\["([a-z0-9-]+)"\]',
)


def page(name: str) -> str:
    return (ROOT / "docs/reference" / name).read_text("utf-8")


def test_every_drop_reason_in_the_code_is_explained() -> None:
    sources = [path.read_text("utf-8") for room in ROOMS for path in (ROOT / room).glob("*.py") if path.name != "memory.py"]
    sources.append((ROOT / "src/srwan/errors.py").read_text("utf-8"))
    found = {reason for source in sources for pattern in PATTERNS for reason in re.findall(pattern, source)} - {"protocol"}
    assert len(found) > 40
    explained = set(re.findall(r"`([a-z0-9-]+)`", page("drop-reasons.md")))
    assert [] == sorted(found - explained)


def test_every_event_of_the_rooms_is_listed() -> None:
    """Of a union of unions the parts are looked at, not their names. What services keep to themselves need not be listed."""
    unions = {
        name: set(re.findall(r"\b[A-Z]\w+\b", union))
        for folder in FOLDERS
        for path in (ROOT / folder).glob("*.py")
        for name, union in re.findall(r"^(\w+Event): TypeAlias = (.*(?:\n[^\n]+)*)", path.read_text("utf-8"), re.MULTILINE)
    }
    events = set().union(*unions.values()) - set(unions)
    internal = {"AckArrived", "AckDue", "EchoMeasured", "FlowClosed", "FlowInbox", "HandshakeArrived", "NeedSession", "ReportDue"}
    internal.add("NoticeArrived")
    internal |= {"AgreementBroken", "AgreementRestored", "DetourBought"}  # of service agreements, which no node runs by itself
    listed = set(re.findall(r"`([A-Z]\w+)`", page("events.md")))
    assert {"PathSwitched", "MatrixFilled", "MemberJoined", "AccusationDue", "ClockStepped"} <= events
    assert [] == sorted(events - internal - listed)
    assert [] == sorted(listed - events - {"FlowEvent"})


def test_every_configuration_key_is_in_the_table() -> None:
    table = page("configuration.md")
    assert [] == [key for key in KEYS if f"`{key}`" not in table and f"`{key.rpartition('.')[0]}.*`" not in table]
