"""A small group whose members make real certificates, rows and reports: what the tests of the DITEX put into stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from srwan.gossip.report import Report
from srwan.gossip.row import Row, SignedRow, encode_owl, seal_row
from srwan.identity import Identity
from srwan.ledger_client.record import Record
from srwan.ledger_client.report import NS_PER_S, GroupReport, RowReference, row_digest
from srwan.overlay.view import Member, Role
from srwan.types import GeoAsn

WALL_NS = 1_780_000_000 * NS_PER_S
GROUP = bytes(range(32))
ROSTER_DIGEST = b"roster-1"
BOOT = 7_000
PLACES = (GeoAsn("LT", 5469, 2528, 8764), GeoAsn("DE", 5012, 868, 3320), GeoAsn("DE", 5252, 1340, 24940), GeoAsn("SG", 129, 10385, 16509))
IDENTITIES = tuple(sorted((Identity(bytes([number]) * 32) for number in range(1, 5)), key=lambda identity: identity.node_id))


def certificate_of(
    index: int, seq: int = 1, *, boot: int = BOOT, issued_ns: int = WALL_NS, name: str = "", is_leaving: bool = False
) -> bytes:
    """Member `index`'s certificate, valid for 10 min from issue."""
    identity = IDENTITIES[index]
    member = Member(
        node_id=identity.node_id,
        boot=boot,
        seq=seq,
        name=name,
        udp=(("127.0.0.1", 4000 + index),),
        control=(),
        location=PLACES[index],
        roles=Role.RELAY,
        issued_ns=issued_ns,
        expires_ns=issued_ns + 600 * NS_PER_S,
        is_leaving=is_leaving,
        group=GROUP[:8],
    )
    return member.seal(identity)


def signed_row_of(
    index: int, seq: int = 1, *, boot: int = BOOT, octets: int = 0, group: bytes = GROUP, roster_digest: bytes = ROSTER_DIGEST
) -> SignedRow:
    """Member `index`'s row: member i is heard after 10 i + index ms. `octets` makes another content of the same version."""
    raw_ms = np.array([10.0 * sender + index for sender in range(len(IDENTITIES))])
    base_us, owl = encode_owl(raw_ms)
    zeros = np.zeros(len(IDENTITIES), np.uint8)
    identity = IDENTITIES[index]
    row = Row(
        node_id=identity.node_id,
        boot=boot,
        seq=seq,
        stamp_ns=WALL_NS,
        roster_digest=roster_digest,
        clock_epoch=0,
        health=0,
        octets_in=octets,
        octets_out=0,
        octets_relayed=0,
        base_us=base_us,
        count=len(IDENTITIES),
        is_described=False,
        entries=Row.pack_entries(None, owl, zeros, zeros),
    )
    return seal_row(row, identity, group)


def row_record_of(index: int, seq: int = 1, *, boot: int = BOOT, octets: int = 0, expires_s: float = 900, epoch: int = 0) -> Record:
    """Member `index`'s row as a record."""
    signed = signed_row_of(index, seq, boot=boot, octets=octets)
    expires_ns = WALL_NS + round(expires_s * NS_PER_S)
    return Record.of_row(signed.node_id, signed.content, group=GROUP, expires_ns=expires_ns, epoch=epoch, place=PLACES[index])


def node_record_of(index: int, seq: int = 1, *, name: str = "") -> Record:
    """Member `index`'s certificate as a record."""
    return Record.of_member(certificate_of(index, seq, name=name), group=GROUP, wall_ns=WALL_NS)


def group_report_of(*rows: SignedRow, epoch: int = 5, sequence: int = 0, reporter: int = 0, lifetime_s: int = 900) -> GroupReport:
    """What `reporter` says of these rows, given in roster order."""
    return GroupReport(
        group=GROUP,
        epoch=epoch,
        sequence=sequence,
        reporter=IDENTITIES[reporter].node_id,
        roster=tuple(identity.node_id for identity in IDENTITIES),
        roster_digest=ROSTER_DIGEST,
        rows=tuple(RowReference(row.node_id, row.row.boot, row.row.seq, row_digest(row.content)) for row in rows),
        issued_ns=WALL_NS,
        expires_ns=WALL_NS + lifetime_s * NS_PER_S,
    )


def report_record_of(*rows: SignedRow, epoch: int = 5, sequence: int = 0, reporter: int = 0, lifetime_s: int = 900) -> Record:
    """The same, signed, as a record."""
    report = group_report_of(*rows, epoch=epoch, sequence=sequence, reporter=reporter, lifetime_s=lifetime_s)
    return Record.of_report(report, IDENTITIES[reporter])


def gossip_report_of(rows: Sequence[SignedRow], *, epoch: int = 5, sequence: int = 0, reporter: int = 0) -> Report:
    """What gossip hands over to be published."""
    roster = tuple(identity.node_id for identity in IDENTITIES)
    return Report(GROUP, epoch, sequence, IDENTITIES[reporter].node_id, roster, ROSTER_DIGEST, tuple(rows))


@pytest.fixture
def wall_ns() -> int:
    """The time at which everything here is issued."""
    return WALL_NS


@pytest.fixture
def group() -> bytes:
    """The group's id."""
    return GROUP


@pytest.fixture
def identities() -> tuple[Identity, ...]:
    """Four members by rising NodeId."""
    return IDENTITIES


@pytest.fixture
def make_certificate() -> Callable[..., bytes]:
    """`certificate_of`."""
    return certificate_of


@pytest.fixture
def make_signed_row() -> Callable[..., SignedRow]:
    """`signed_row_of`."""
    return signed_row_of


@pytest.fixture
def make_row() -> Callable[..., Record]:
    """`row_record_of`."""
    return row_record_of


@pytest.fixture
def make_node() -> Callable[..., Record]:
    """`node_record_of`."""
    return node_record_of


@pytest.fixture
def make_group_report() -> Callable[..., GroupReport]:
    """`group_report_of`."""
    return group_report_of


@pytest.fixture
def make_report() -> Callable[..., Record]:
    """`report_record_of`."""
    return report_record_of


@pytest.fixture
def make_gossip_report() -> Callable[..., Report]:
    """`gossip_report_of`."""
    return gossip_report_of
