"""Who lies: the echo floor, places, paths, proofs, votes, and coming back."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest

from srwan.gossip.ballot import SUBJECTS_PER_WITNESS_MAX, VOTE_LIFETIME_S, votes_needed
from srwan.gossip.evidence import Kind, cast_vote, frames_of_votes
from srwan.gossip.owl import OwlSnapshot
from srwan.gossip.row import Row, seal_row
from srwan.gossip.standing import CLEAN_S
from srwan.gossip.witness import (
    EVENTS_MAX,
    RECORDS_MAX,
    EchoWanted,
    LieFound,
    PeerDistrusted,
    PeerQuarantined,
    PeerReleased,
    PeerTrusted,
    Witness,
    WitnessEvent,
)
from srwan.identity import Identity
from srwan.overlay.frame import Frame, FrameCodec, FrameType
from srwan.types import GeoAsn, NodeId, PeerMisbehaved, UdpAddress

GROUP = b"g" * 32
WALL_S = 1_780_000_000
N = 9
IDENTITIES = sorted((Identity(bytes([index]) * 32) for index in range(1, N + 1)), key=lambda identity: identity.node_id)
IDS = tuple(identity.node_id for identity in IDENTITIES)
ME, LIAR = 0, 4
ROUND_TRIP_MS = 30.0
NOWHERE = GeoAsn()


class PlainFrames:
    """Seals nothing."""

    def seal(self, receiver: NodeId, kind: int, content: bytes, *, digest: bytes, tx_ns: int) -> bytes:
        return content


class Bench:
    """One witness among N members with true round trips of 30 ms."""

    def __init__(self, n: int = N, places: dict[int, GeoAsn] | None = None) -> None:
        self.n, self.now = n, 1000.0
        self.witness = Witness(IDENTITIES[ME], GROUP, cast("FrameCodec", PlainFrames()), rng=random.Random(1))
        self.members: dict[NodeId, tuple[UdpAddress, GeoAsn]] = {
            IDS[index]: (("10.0.0.1", index), (places or {}).get(index, NOWHERE)) for index in range(n)
        }
        self.mean_ms = np.full((n, n), ROUND_TRIP_MS / 2 + 1.0)
        self.age_s = np.full((n, n), 1.0)
        self.last_ms: np.ndarray | None = None
        self.echo_ms = dict.fromkeys(range(1, n), ROUND_TRIP_MS)
        self.held_ms = dict.fromkeys(range(1, n), 0.0)
        self.events: list[WitnessEvent] = []
        self.sent: list[bytes] = []
        self.witness.set_members(self.members, self.now)
        self.witness.handle_timer(self.now, self.wall_ns)

    @property
    def wall_ns(self) -> int:
        return (WALL_S + int(self.now)) * 10**9

    def lie(self, by_ms: float = 40.0, node: int = LIAR) -> None:
        self.mean_ms[node, :] -= by_ms
        self.mean_ms[:, node] -= by_ms

    def rounds(self, count: int, *, echoes: bool = True) -> None:
        for _ in range(count):
            self.now += 10.0
            offsets = np.linspace(-50, 50, self.n)
            clocks = offsets[None, :] - offsets[:, None]
            mean = self.mean_ms + clocks
            last = mean if self.last_ms is None else self.last_ms + clocks
            np.fill_diagonal(mean, np.nan)
            if echoes:
                for node in range(1, self.n):
                    self.echo(node)
            zeros = np.zeros((self.n, self.n))
            self.witness.check(OwlSnapshot(IDS[: self.n], mean, last, zeros + 0.5, zeros, self.age_s), self.now)
            self.witness.handle_timer(self.now, self.wall_ns)
            self.drain()

    def echo(self, node: int, count: int = 1) -> None:
        for _ in range(count):
            self.witness.echo_measured(IDS[node], self.echo_ms[node], self.now, held_ms=self.held_ms[node])

    def drain(self) -> list[WitnessEvent]:
        fresh: list[WitnessEvent] = []
        while (event := self.witness.next_event()) is not None:
            fresh.append(event)
            if isinstance(event, EchoWanted) and event.node_id in IDS:
                self.echo(IDS.index(event.node_id), event.probes)
        self.events += fresh
        self.sent += [data for data, _ in self.witness.datagrams_to_send(self.now, lambda: 0)]
        return fresh

    def vote(self, voter: int, subject: int, *, is_withdrawn: bool = False, sender: int | None = None) -> None:
        vote = cast_vote(IDENTITIES[voter], GROUP, IDS[subject], Kind.ECHO, WALL_S + int(self.now), is_withdrawn=is_withdrawn)
        self.receive(frames_of_votes([vote])[0], voter if sender is None else sender)

    def receive(self, content: bytes, sender: int) -> None:
        self.witness.receive_frame(Frame(IDS[sender], FrameType.VOTE, 0, 0, 0, content), self.now, self.wall_ns)
        self.drain()

    def wait(self, seconds: float, step: float = 600.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            self.witness.handle_timer(self.now, self.wall_ns)
            self.drain()

    def trusted(self) -> list[int]:
        return [index for index in range(1, self.n) if self.witness.is_trusted(IDS[index])]

    def of(self, kind: Callable[..., WitnessEvent]) -> list[WitnessEvent]:
        return [event for event in self.events if isinstance(event, cast("type", kind))]


HONEST = [index for index in range(1, N) if index != LIAR]


def content_of(stamp_ns: int, signer: int = LIAR) -> bytes:
    row = Row(
        node_id=IDS[signer],
        boot=1,
        seq=7,
        stamp_ns=stamp_ns,
        roster_digest=bytes(8),
        clock_epoch=0,
        health=0,
        octets_in=0,
        octets_out=0,
        octets_relayed=0,
        base_us=0,
        count=0,
        is_described=False,
        entries=b"",
    )
    return seal_row(row, IDENTITIES[signer], GROUP).content


def test_honest_members_stay_trusted() -> None:
    bench = Bench()
    bench.rounds(30)
    assert list(range(1, N)) == bench.trusted()
    assert [] == bench.events
    assert {} == bench.witness.scores(bench.now)


def test_a_claim_below_the_echoes_is_found_within_three_checks_and_named() -> None:
    bench = Bench()
    bench.rounds(2)
    bench.lie()
    bench.rounds(3)
    assert HONEST == bench.trusted()
    score = bench.witness.scores(bench.now)[IDS[LIAR]]
    assert [(Kind.ECHO, (IDS[ME],))] == [(reason.kind, reason.witnesses) for reason in score.reasons]
    assert ROUND_TRIP_MS - (ROUND_TRIP_MS + 2.0 - 80.0) == pytest.approx(score.reasons[0].by_ms)
    assert [LieFound(Kind.ECHO, IDS[LIAR], score.reasons[0].by_ms)] == bench.of(LieFound)


def test_a_lie_within_the_noise_is_no_evidence() -> None:
    bench = Bench()
    bench.lie(2.0)
    bench.rounds(20)
    assert list(range(1, N)) == bench.trusted()


def test_one_constant_shift_of_all_stamps_is_harmless_and_not_seen() -> None:
    bench = Bench()
    bench.mean_ms[LIAR, :] -= 500.0
    bench.mean_ms[:, LIAR] += 500.0
    bench.rounds(20)
    assert list(range(1, N)) == bench.trusted()


def test_a_route_that_became_shorter_is_cleared_by_fresh_echoes() -> None:
    bench = Bench()
    bench.rounds(10)
    bench.lie(8.0)  # the sum of both directions falls by 16 ms
    bench.echo_ms[LIAR] = ROUND_TRIP_MS - 16.0
    bench.rounds(20, echoes=False)  # only what the witness asks for
    assert [EchoWanted(IDS[LIAR], 5)] == bench.of(EchoWanted)
    assert list(range(1, N)) == bench.trusted()


def test_without_fresh_echoes_nobody_is_accused() -> None:
    bench = Bench()
    bench.rounds(3)
    bench.lie()
    bench.echo = lambda node, count=1: None  # type: ignore[method-assign]
    bench.rounds(10)
    assert list(range(1, N)) == bench.trusted()
    assert 10 == len(bench.of(EchoWanted))


def test_a_clock_step_shows_in_last_and_mean_at_different_times_and_accuses_nobody() -> None:
    bench = Bench()
    bench.rounds(5)
    honest = bench.mean_ms.copy()
    bench.last_ms = honest.copy()
    bench.last_ms[ME, LIAR] -= 200.0
    bench.rounds(1)
    bench.last_ms = honest
    bench.rounds(2)
    bench.mean_ms[ME, LIAR] -= 200.0
    bench.rounds(1)
    bench.mean_ms = honest
    bench.rounds(5)
    assert list(range(1, N)) == bench.trusted()


def test_two_short_claims_among_good_ones_are_chance() -> None:
    bench = Bench()
    bench.rounds(3)
    honest = bench.mean_ms.copy()
    for _ in range(2):
        bench.lie(10.0)
        bench.rounds(1)
        bench.mean_ms = honest.copy()
        bench.rounds(2)
    assert list(range(1, N)) == bench.trusted()
    assert 1 <= len(bench.of(EchoWanted))


def test_a_liar_in_one_row_of_three_is_caught() -> None:
    bench = Bench()
    honest = bench.mean_ms.copy()
    bench.lie()
    lying = bench.mean_ms.copy()
    for number in range(12):
        bench.last_ms = lying if number % 3 == 0 else honest
        bench.rounds(1)
    assert HONEST == bench.trusted()


def test_a_claimed_hold_makes_distrust_but_no_vote() -> None:
    bench = Bench()
    bench.held_ms[LIAR] = 200.0
    bench.lie(8.0)
    bench.rounds(30)
    assert HONEST == bench.trusted()
    assert [Kind.CONDUCT] == [reason.kind for reason in bench.witness.scores(bench.now)[IDS[LIAR]].reasons]
    assert [] == bench.sent


def test_who_pulses_but_never_echoes_is_not_used() -> None:
    bench = Bench()
    bench.echo = lambda node, count=1: None if node == LIAR else Bench.echo(bench, node, count)  # type: ignore[method-assign]
    bench.rounds(60)
    assert HONEST == bench.trusted()
    assert [] == bench.sent


def test_a_witness_whose_own_clock_errs_accuses_nobody() -> None:
    bench = Bench()
    bench.rounds(2)
    for node in range(1, N):
        bench.echo_ms[node] = ROUND_TRIP_MS
    bench.mean_ms -= 20.0  # its own stamps: all sums are too small at once
    bench.rounds(10)
    assert list(range(1, N)) == bench.trusted()


def test_stale_claims_are_not_compared() -> None:
    bench = Bench()
    bench.rounds(2)
    bench.lie()
    bench.age_s[:, LIAR] = 31.0
    bench.rounds(10)
    assert list(range(1, N)) == bench.trusted()


def places_around(odd: int) -> dict[int, GeoAsn]:
    """All are in Frankfurt; one says it is in Tokyo."""
    places = {index: GeoAsn("DE", 5011 + index, 868) for index in range(N)}
    return places | {odd: GeoAsn("JP", 3568, 13969)}


def test_a_position_that_light_cannot_reach_is_found() -> None:
    bench = Bench(places=places_around(LIAR))
    bench.rounds(4)
    assert HONEST == bench.trusted()
    assert [Kind.PLACE] == [reason.kind for reason in bench.witness.scores(bench.now)[IDS[LIAR]].reasons]
    assert not bench.witness.is_misplaced


def test_a_misplaced_witness_blames_nobody_but_itself() -> None:
    bench = Bench(places=places_around(ME))
    bench.rounds(20)
    assert list(range(1, N)) == bench.trusted()
    assert bench.witness.is_misplaced


def test_a_late_path_makes_distrust_but_never_a_vote() -> None:
    bench = Bench()
    for second in range(40):
        for far in (1, 2, 3, 5, 6):
            bench.witness.path_measured(IDS[far], (IDS[LIAR],), 500.0, 580.0, bench.now + second)
    bench.now += 40.0
    for _ in range(30):
        bench.witness.misbehaved(IDS[LIAR], "omitted", bench.now)
    bench.rounds(10)
    assert HONEST == bench.trusted()
    assert [Kind.PATH, Kind.CONDUCT] == [reason.kind for reason in bench.witness.scores(bench.now)[IDS[LIAR]].reasons]
    assert [] == bench.sent


def test_trust_comes_back_as_the_score_fades() -> None:
    bench = Bench()
    for second in range(40):
        bench.witness.path_measured(IDS[1], (IDS[LIAR],), 500.0, 580.0, bench.now + second)
    bench.now += 40.0
    bench.rounds(1)
    assert HONEST == bench.trusted()
    bench.now += 2 * 3600.0
    bench.rounds(1)
    assert [PeerTrusted(IDS[LIAR])] == bench.of(PeerTrusted)
    assert list(range(1, N)) == bench.trusted()


def test_a_proof_of_equivocation_quarantines_at_once_and_is_shown_to_all() -> None:
    bench = Bench()
    bench.witness.equivocation_seen(IDS[LIAR], content_of(1), content_of(2), bench.now)
    bench.drain()
    assert [PeerQuarantined(IDS[LIAR], (IDS[LIAR],))] == bench.of(PeerQuarantined)
    assert float("inf") == bench.witness.scores(bench.now)[IDS[LIAR]].score
    other = Bench()
    other.receive(next(content for content in bench.sent if content[0] == 2), 2)
    assert (IDS[LIAR],) == other.witness.quarantined


def test_a_proof_is_served_after_a_day_and_does_not_count_twice() -> None:
    bench = Bench()
    bench.witness.equivocation_seen(IDS[LIAR], content_of(1), content_of(2), bench.now)
    bench.wait(CLEAN_S + VOTE_LIFETIME_S)
    assert () == bench.witness.quarantined
    assert [PeerReleased(IDS[LIAR])] == bench.of(PeerReleased)
    bench.witness.equivocation_seen(IDS[LIAR], content_of(1), content_of(2), bench.now)
    assert () == bench.witness.quarantined
    assert 1 == bench.witness.drops["proof-known"]


def test_what_is_no_proof_hurts_only_who_brought_it() -> None:
    bench = Bench()
    forged = b"\x02" + IDS[1] + len(content_of(1)).to_bytes(2, "little") + content_of(1) + content_of(2)
    bench.receive(forged, 2)
    assert (1, ()) == (bench.witness.drops["proof"] + bench.witness.drops["decode"], bench.witness.quarantined)
    assert IDS[2] in [event.peer for event in bench.events if isinstance(event, PeerMisbehaved)]


@pytest.mark.parametrize(("others", "needed"), [(1, 3), (3, 3), (4, 3), (6, 3), (7, 4), (8, 4), (98, 49), (99, 50)])
def test_half_of_the_others_are_needed_and_three_at_least(others: int, needed: int) -> None:
    assert needed == votes_needed(others)


def test_votes_of_half_of_the_group_quarantine_and_one_withdrawn_releases() -> None:
    bench = Bench()
    for voter in (1, 2, 3):
        bench.vote(voter, LIAR)
    assert (True, ()) == (bench.witness.is_trusted(IDS[LIAR]), bench.witness.quarantined)
    bench.vote(5, LIAR)
    assert [PeerQuarantined(IDS[LIAR], tuple(IDS[voter] for voter in (1, 2, 3, 5)))] == bench.of(PeerQuarantined)
    assert not bench.witness.is_trusted(IDS[LIAR])
    bench.vote(5, LIAR, is_withdrawn=True)
    assert [PeerReleased(IDS[LIAR])] == bench.of(PeerReleased)
    assert bench.witness.is_trusted(IDS[LIAR])


def test_slander_below_half_changes_nothing() -> None:
    bench = Bench()
    for voter in (1, 2, 3):
        for subject in (5, 6, 7, 8):
            bench.vote(voter, subject)
    bench.rounds(5)
    assert list(range(1, N)) == bench.trusted()
    assert [] == bench.events
    assert 0.0 == bench.witness.scores(bench.now)[IDS[5]].score


def test_votes_of_strangers_and_of_the_gone_do_not_count() -> None:
    bench = Bench()
    for voter in (1, 2, 3, 5):
        bench.vote(voter, LIAR)
    assert (IDS[LIAR],) == bench.witness.quarantined
    bench.witness.set_members({node: bench.members[node] for node in IDS if node not in (IDS[1], IDS[2])}, bench.now)
    bench.drain()
    assert [PeerReleased(IDS[LIAR])] == bench.of(PeerReleased)
    bench.vote(1, LIAR, sender=3)
    assert 1 == bench.witness.drops["vote-stranger"]


def test_votes_lapse_unless_renewed() -> None:
    bench = Bench()
    for voter in (1, 2, 3, 5):
        bench.vote(voter, LIAR)
    bench.wait(VOTE_LIFETIME_S + 20.0)
    assert () == bench.witness.quarantined


def test_forged_old_and_early_votes_are_dropped() -> None:
    bench = Bench()
    vote = cast_vote(IDENTITIES[1], GROUP, IDS[LIAR], Kind.ECHO, WALL_S + int(bench.now))
    forged = vote.encode()[:-1] + bytes([vote.encode()[-1] ^ 1])
    bench.receive(b"\x01" + forged, 2)
    for shift_s in (-VOTE_LIFETIME_S, 61):
        late = cast_vote(IDENTITIES[1], GROUP, IDS[LIAR], Kind.ECHO, WALL_S + int(bench.now) + shift_s)
        bench.receive(frames_of_votes([late])[0], 1)
    bench.vote(1, LIAR)
    bench.vote(1, LIAR)
    names = ("signature", "vote-lapsed", "vote-ahead", "vote-old")
    assert (1, 1, 1, 1) == tuple(bench.witness.drops[name] for name in names)
    assert (IDS[1],) == bench.witness.scores(bench.now)[IDS[LIAR]].accusers


def test_a_carrier_cannot_make_us_verify_for_ever() -> None:
    bench = Bench()
    bench.now += 100.0
    for number in range(400):
        vote = cast_vote(IDENTITIES[1], GROUP, IDS[LIAR], Kind.ECHO, WALL_S + 600 + number)
        bench.receive(frames_of_votes([vote])[0], 1)
    assert 400 - 128 == bench.witness.drops["vote-rate"]
    assert SUBJECTS_PER_WITNESS_MAX >= 50


def test_a_liar_is_voted_on_the_vote_is_renewed_and_withdrawn_after_a_clean_day() -> None:
    bench = Bench()
    bench.rounds(1)
    bench.lie()
    bench.rounds(8)
    assert (IDS[ME],) == bench.witness.scores(bench.now)[IDS[LIAR]].accusers
    assert 2 * (N - 1) == len([content for content in bench.sent if content[0] == 1])  # sent and repeated
    bench.mean_ms = np.full((N, N), ROUND_TRIP_MS / 2 + 1.0)
    bench.wait(CLEAN_S - 3600.0)
    assert (IDS[ME],) == bench.witness.scores(bench.now)[IDS[LIAR]].accusers
    bench.wait(2 * 3600.0)
    assert {} == bench.witness.scores(bench.now)
    assert 1 == len(set(bench.sent[-(N - 1) :]))


def test_all_members_together_quarantine_a_liar() -> None:
    bench = Bench()
    bench.rounds(1)
    bench.lie()
    bench.rounds(8)
    for voter in (1, 2, 3):
        bench.vote(voter, LIAR)
    assert [PeerQuarantined(IDS[LIAR], tuple(IDS[voter] for voter in (0, 1, 2, 3)))] == bench.of(PeerQuarantined)


def test_leaving_and_coming_back_washes_nothing_off() -> None:
    bench = Bench()
    bench.rounds(1)
    bench.lie()
    bench.rounds(6)
    without = {node: bench.members[node] for node in IDS if node != IDS[LIAR]}
    bench.witness.set_members(without, bench.now)
    bench.witness.set_members(bench.members, bench.now)
    assert not bench.witness.is_trusted(IDS[LIAR])


def test_an_operator_can_forgive() -> None:
    bench = Bench()
    bench.rounds(1)
    bench.lie()
    bench.rounds(8)
    bench.witness.forgive(IDS[LIAR], bench.now)
    bench.drain()
    assert [PeerDistrusted, PeerTrusted] == [type(event) for event in bench.events if isinstance(event, PeerDistrusted | PeerTrusted)]
    assert {} == bench.witness.scores(bench.now)


def test_a_new_member_hears_the_votes_that_stand() -> None:
    bench = Bench(n=N)
    bench.witness.set_members({node: bench.members[node] for node in IDS[:-1]}, bench.now)
    bench.rounds(1)
    bench.lie()
    bench.rounds(8)
    bench.sent.clear()
    bench.witness.set_members(bench.members, bench.now)
    bench.drain()
    assert 1 == len(bench.sent)


def test_bad_tags_weigh_nothing_since_anybody_can_send_them() -> None:
    bench = Bench()
    for _ in range(1000):
        bench.witness.misbehaved(IDS[LIAR], "mac", bench.now)
    assert {} == bench.witness.scores(bench.now)


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), -1.0])
def test_unusable_measurements_are_dropped(figure: float) -> None:
    bench = Bench()
    bench.witness.echo_measured(IDS[1], figure, bench.now)
    bench.witness.path_measured(IDS[1], (IDS[2],), 0.0, figure * float("inf"), bench.now)
    assert {"echo": 1, "path": 1} == dict(bench.witness.drops)


def test_random_contents_never_raise() -> None:
    bench = Bench()
    rng = random.Random(3)
    for _ in range(2000):
        bench.receive(bytes([rng.choice((1, 2, 3))]) + rng.randbytes(rng.randrange(300)), 1)
    assert () == bench.witness.quarantined


def test_memory_is_bounded() -> None:
    bench = Bench()
    for index in range(RECORDS_MAX + 50):
        node = NodeId(index.to_bytes(32, "big"))
        bench.witness.set_members(bench.members | {node: (("10.0.0.2", 1), NOWHERE)}, bench.now)
        for _ in range(4):
            bench.witness.misbehaved(node, "signature", bench.now)
    assert len(bench.witness._standings) <= RECORDS_MAX
    assert len(bench.drain()) <= EVENTS_MAX
    assert bench.witness.drops["events"] > 0


def test_alone_there_is_nothing_to_do() -> None:
    witness = Witness(IDENTITIES[ME], GROUP, cast("FrameCodec", PlainFrames()), rng=random.Random(1))
    assert witness.get_timer() is None
    witness.handle_timer(1.0, WALL_S * 10**9)
    assert [] == list(witness.datagrams_to_send(1.0, lambda: 0))
