from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from srwan.gossip.pulse import STALE_PERIODS
from srwan.gossip.reporter import EPOCH_S, RANKS, epoch_of, rank
from srwan.gossip.row import OWL_NONE, Row, SignedRow, entry_id, seal_row
from srwan.identity import Identity
from srwan.ledger_client import oversight
from srwan.ledger_client.complaint import complaint_of, omission_of
from srwan.ledger_client.oversight import EPOCHS_UNKNOWN, EVIDENCE_WAIT_S, Oversight
from srwan.ledger_client.record import Record, report_of
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.store import EquivocationProof, StoredRecord

Make = Callable[..., Record]
MakeRow = Callable[..., SignedRow]
Edit = Callable[[Row], Row]

WALL_NS = 1_780_000_000 * NS_PER_S
EPOCH = epoch_of(WALL_NS)
SECOND = WALL_NS // NS_PER_S % EPOCH_S
"""Rows are made at this second of the epoch."""
FIRST, SECOND_REPORT = SECOND - 5, SECOND + 5
"""Sequences of the two reports."""
MEMBER_2 = sorted(Identity(bytes([number]) * 32).node_id for number in range(1, 5))[2]
"""Member 2."""


def later_s(by_s: float) -> Edit:
    """Make a row as if it had been made so much later."""
    return lambda row: attrs.evolve(row, stamp_ns=row.stamp_ns + int(by_s * NS_PER_S))


class Scene:
    """Member 0 reports its own row and member 1's; member 2 is the one that looks."""

    def __init__(self, identities: tuple[Identity, ...], group: bytes, make_report: Make, make_signed_row: MakeRow) -> None:
        self.identities, self.group = identities, group
        self.make_report, self.make_signed_row = make_report, make_signed_row
        self.core = Oversight(identities[2].node_id, group, period_s=10.0, rng=random.Random(1))
        self.core.start_anew(WALL_NS - EPOCHS_UNKNOWN * EPOCH_S * NS_PER_S)
        self.core.own_row_made(self.row_of(2, edit=later_s(-10)))
        self.core.own_row_made(make_signed_row(2))
        self.now = 0.0

    def row_of(self, index: int, seq: int = 1, edit: Edit = lambda row: row) -> SignedRow:
        return seal_row(edit(self.make_signed_row(index, seq).row), self.identities[index], self.group)

    def report(self, sequence: int, *, admission: SignedRow | None = None, others: tuple[int, ...] = (1,), **changes: Any) -> None:
        """Let the core see a report of member 0, which made its row a second before."""
        epoch = changes.pop("epoch", EPOCH)
        own = admission or self.row_of(0, edit=later_s((epoch - EPOCH) * EPOCH_S + sequence - 1 - SECOND))
        record = self.make_report(own, *map(self.make_signed_row, others), epoch=epoch, sequence=sequence)
        told = report_of(record)
        if self.core.admission_of(told) is not None:
            held = changes.pop("held", own)
            filed = Record.of_row(held.node_id, held.content, group=self.group, expires_ns=WALL_NS)
            self.core.omission_seen(record, told, filed)

    def due(self, *, seq: int = 2, edit: Edit = lambda row: row, after_s: float = 0) -> list[oversight.Omitted]:
        """Ask what is due when the reporter was heard again."""
        heard = self.row_of(0, seq, edit)
        return self.core.complaints_due({heard.node_id: heard}, WALL_NS + int(after_s * NS_PER_S), self.now)


@pytest.fixture
def scene(identities: tuple[Identity, ...], group: bytes, make_report: Make, make_signed_row: MakeRow) -> Scene:
    return Scene(identities, group, make_report, make_signed_row)


def test_a_reporter_that_says_it_heard_and_twice_omits_is_complained_of_and_the_complaint_proves_it(scene: Scene, make_row: Make) -> None:
    scene.report(FIRST)
    assert [] == scene.due()
    scene.report(SECOND_REPORT)
    assert [] == scene.due(seq=1)
    (case,) = scene.due()

    assert (EPOCH, scene.make_signed_row(2).content) == (case.epoch, case.own.content)
    complaint = complaint_of(case.report, make_row(2), wall_ns=WALL_NS).record(scene.identities[2])
    assert scene.identities[0].node_id == omission_of(complaint).reporter


def test_there_is_one_complaint_for_each_epoch_and_reporter(scene: Scene) -> None:
    scene.report(FIRST)
    scene.report(SECOND_REPORT)
    assert 1 == len(scene.due())
    scene.report(SECOND_REPORT + 10)
    assert [] == scene.due()


def test_complaints_in_an_hour_are_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene.core, "_complaints", oversight._Budget(1))
    found: list[int] = []
    for at_s, epoch in ((0.0, EPOCH), (60.0, EPOCH + 1), (4000.0, EPOCH + 2)):
        scene.now = at_s
        scene.core.own_row_made(scene.row_of(2, edit=later_s((epoch - EPOCH) * EPOCH_S)))
        for sequence in (FIRST, SECOND_REPORT):
            scene.report(sequence, epoch=epoch)
        found.append(len(scene.due()))
    assert [1, 0, 1] == found


def told_nothing(row: Row) -> Row:
    """No latency from member 2 in slot order."""
    owl = row.owl.copy()
    owl[2] = OWL_NONE
    return attrs.evolve(row, entries=Row.pack_entries(None, owl, row.jitter, row.loss))


def described(row: Row, *, is_twin: bool = False) -> Row:
    """Member 2 named, once or twice, among entries of nobody."""
    ids = row.owl.astype("u4")
    ids[2] = entry_id(MEMBER_2)
    if is_twin:
        ids[1] = ids[2]
    return attrs.evolve(row, is_described=True, entries=Row.pack_entries(ids, row.owl, row.jitter, row.loss))


@pytest.mark.parametrize(
    "edit",
    [
        told_nothing,
        later_s(-6),
        lambda row: attrs.evolve(row, roster_digest=b"roster-2"),
        lambda row: described(row, is_twin=True),
    ],
    ids=["it tells no latency", "it was made before the first omission", "it is in the order of another roster", "two are named alike"],
)
def test_a_row_of_the_reporter_that_shows_nothing_leads_to_no_complaint(scene: Scene, edit: Edit) -> None:
    scene.report(FIRST)
    scene.report(SECOND_REPORT, admission=scene.row_of(0, edit=edit))
    assert [] == scene.due()


def test_a_described_row_of_the_reporter_shows_it_too(scene: Scene) -> None:
    scene.report(FIRST)
    scene.report(SECOND_REPORT, admission=scene.row_of(0, edit=described))
    assert 1 == len(scene.due())


def test_a_single_omission_or_one_in_between_or_long_ago_is_no_ground(scene: Scene) -> None:
    scene.report(SECOND_REPORT)
    assert [] == scene.due()
    scene.report(SECOND_REPORT + 5, others=(1, 2))
    scene.report(SECOND_REPORT + 10)
    assert [] == scene.due()
    later = SECOND_REPORT + 10 + int(STALE_PERIODS * 10) + 1
    scene.report(later)
    assert [] == scene.due()
    scene.report(later + 10)
    assert 1 == len(scene.due())


def test_another_row_than_the_report_quotes_shows_nothing(scene: Scene) -> None:
    scene.report(FIRST)
    scene.report(SECOND_REPORT, held=scene.row_of(0, edit=later_s(4.5)))
    assert [] == scene.due()


def test_a_reporter_that_restarted_or_moved_its_clock_or_is_gone_is_excused(scene: Scene) -> None:
    excuses: list[dict[str, Any]] = [
        {"edit": lambda row: attrs.evolve(row, clock_epoch=1)},
        {"edit": lambda row: attrs.evolve(row, boot=row.boot + 1)},
        {"after_s": 2 * EPOCH_S},
    ]
    for excuse in excuses:
        scene.core.start_anew(WALL_NS - EPOCHS_UNKNOWN * EPOCH_S * NS_PER_S)
        scene.core.own_row_made(scene.row_of(2))
        scene.report(FIRST)
        scene.report(SECOND_REPORT)
        assert [] == scene.due(**excuse)
        assert [] == scene.due()


def test_a_node_that_came_lately_or_had_no_row_by_then_does_not_complain(scene: Scene) -> None:
    for epochs_ago in range(EPOCHS_UNKNOWN):
        scene.core.start_anew(WALL_NS - epochs_ago * EPOCH_S * NS_PER_S)
        scene.core.own_row_made(scene.row_of(2))
        scene.report(FIRST)
        scene.report(SECOND_REPORT)
        assert [] == scene.due()
    for by_s in (5, -2 * EPOCH_S):
        scene.core.start_anew(WALL_NS - EPOCHS_UNKNOWN * EPOCH_S * NS_PER_S)
        scene.core.own_row_made(scene.row_of(2, edit=later_s(by_s)))
        scene.report(FIRST)
        scene.report(SECOND_REPORT)
        assert [] == scene.due()


def test_only_reports_of_candidates_in_this_group_that_know_this_node_matter(scene: Scene, make_group_report: Callable[..., Any]) -> None:
    told = make_group_report(scene.row_of(0), epoch=EPOCH, sequence=FIRST)
    assert scene.core.admission_of(told) is not None
    me, reporter = scene.identities[2].node_id, scene.identities[0].node_id
    assert scene.core.admission_of(attrs.evolve(told, group=bytes(32))) is None
    assert scene.core.admission_of(attrs.evolve(told, roster=tuple(node for node in told.roster if node != me))) is None
    assert scene.core.admission_of(attrs.evolve(told, rows=())) is None
    crowd = [Identity(bytes([number]) * 32).node_id for number in range(100, 160)]
    order = rank((*crowd, reporter), scene.group, EPOCH)
    roster = tuple(sorted([me, reporter, *order[: order.index(reporter)]]))
    assert order.index(reporter) >= RANKS
    assert scene.core.admission_of(attrs.evolve(told, roster=roster)) is None


def test_reports_of_those_in_charge_now_and_at_the_look_before_are_read_once(scene: Scene, make_report: Make) -> None:
    nodes = [identity.node_id for identity in scene.identities]
    assert nodes[:2] == [key.subject for key in scene.core.keys_to_read(nodes[:3])]
    assert [nodes[3], nodes[0], nodes[1]] == [key.subject for key in scene.core.keys_to_read(nodes[3:])]
    stored = StoredRecord(7, make_report(scene.row_of(0), epoch=EPOCH))
    assert [True, False, True] == [scene.core.is_news(each) for each in (stored, stored, attrs.evolve(stored, revision=8))]


def test_contradictions_are_due_once_after_a_random_wait_and_bounded_in_an_hour(scene: Scene, make_row: Make) -> None:
    proofs = [EquivocationProof.of(make_row(index), make_row(index, octets=1)) for index in range(4)]
    core = scene.core
    core._evidence = oversight._Budget(2)
    assert [] == core.proofs_due(proofs, 0.0)
    assert [] == core.proofs_due(proofs, EVIDENCE_WAIT_S[0] - 1)
    due = core.proofs_due(proofs, EVIDENCE_WAIT_S[1])
    assert 2 == len(due)
    for proof in due:
        core.proof_settled(proof.key, 200.0, is_filed=True)
    assert [] == core.proofs_due(proofs, 201.0)
    rest = core.proofs_due(proofs, 3801.0)
    assert {proof.key for proof in proofs} == {proof.key for proof in (*due, *rest)}
    for proof in rest:
        core.proof_settled(proof.key, 3801.0, is_filed=False)
    assert [] == core.proofs_due(proofs, 9000.0)
