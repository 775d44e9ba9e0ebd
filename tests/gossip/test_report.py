"""What a reporter hands over."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from srwan.gossip.report import Report
from srwan.gossip.row import Row, SignedRow, seal_row
from srwan.identity import Identity

GROUP = bytes(range(32))
IDENTITIES = sorted((Identity(bytes([index]) * 32) for index in range(1, 11)), key=lambda identity: identity.node_id)
ROSTER = tuple(identity.node_id for identity in IDENTITIES)


def signed_row(index: int) -> SignedRow:
    n = len(ROSTER)
    small = np.zeros(n, np.uint8)
    entries = Row.pack_entries(None, np.arange(n, dtype=np.uint16), small, small)
    return seal_row(
        Row(ROSTER[index], 1, 2, 3, b"roster-8", 0, 0, 0, 0, 0, 0, n, is_described=False, entries=entries),
        IDENTITIES[index],
        GROUP,
    )


def report_of(*present: int) -> Report:
    rows = tuple(signed_row(index) for index in present)
    return Report(GROUP, 5, 10, ROSTER[0], ROSTER, b"roster-8", rows)


def test_the_bitmap_says_who_has_a_row() -> None:
    assert bytes([0b1000_0101, 0b10]) == report_of(0, 2, 7, 9).present
    assert bytes(2) == report_of().present


def test_the_digest_covers_every_field() -> None:
    report = report_of(0, 1)
    changes: list[dict[str, Any]] = [
        {"group": bytes(32)},
        {"epoch": 6},
        {"sequence": 11},
        {"reporter": ROSTER[1]},
        {"roster": ROSTER[:9]},
        {"roster_digest": b"roster-9"},
        {"rows": report.rows[:1]},
    ]
    digests = {report.digest, *(attrs.evolve(report, **change).digest for change in changes)}
    assert 1 + len(changes) == len(digests)
    assert report.digest == report_of(0, 1).digest
