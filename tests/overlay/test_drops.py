"""Drop counters and what is reported of them."""

from __future__ import annotations

from srwan.overlay.drops import REPORTED_MAX, DropCounter
from srwan.types import NodeId, PeerMisbehaved

PEER = NodeId(b"\x01" * 32)
SOURCE = ("192.0.2.1", 4710)


def test_every_drop_counts_and_each_reason_and_peer_is_reported_once_in_ten_seconds() -> None:
    drops = DropCounter()
    reports = [drops.count("mac", PEER, SOURCE, now) for now in (0.0, 1.0, 9.9, 10.0, 10.1)]
    report = PeerMisbehaved(PEER, SOURCE, "mac")
    assert [report, None, None, report, None] == reports
    assert drops.count("mac", None, SOURCE, 10.1) == PeerMisbehaved(None, SOURCE, "mac")
    assert drops.count("replay", PEER, SOURCE, 10.1) == PeerMisbehaved(PEER, SOURCE, "replay")
    assert drops.counts == {"mac": 6, "replay": 1}


def test_forged_sources_share_one_report() -> None:
    drops = DropCounter()
    reports = [drops.count("mac", None, (f"192.0.2.{index}", 1), 0.1 * index) for index in range(50)]
    assert sum(report is not None for report in reports) == 1


def test_what_is_nobodys_fault_is_counted_and_not_reported() -> None:
    drops = DropCounter()
    drops.count_quietly("late")
    assert drops.counts == {"late": 1}


def test_what_was_reported_is_remembered_within_bounds() -> None:
    drops = DropCounter()
    for index in range(REPORTED_MAX + 1):
        drops.count("mac", NodeId(index.to_bytes(32, "big")), None, 0.0)
    assert drops.count("mac", NodeId((1).to_bytes(32, "big")), None, 1.0) is None
    assert drops.count("mac", NodeId(bytes(32)), None, 1.0) is not None
