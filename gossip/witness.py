"""Who lies: evidence of this member's own making, a score, and quarantine by signed votes.

Theory of operation. Five kinds of evidence, all of what this member saw itself:

- *Echo floor.* The sum of the told latencies of both directions of a pair is free of clock offsets, and can not be less than the pair's
  round trip. Every member knows the round trips of its own pairs from echoes with a nonce, stamped by its own clock alone: the other can
  only delay them. A claimed sum below the least echo of ten minutes is a lie of the other; a shortened route is told from it by fresh
  echoes (`EchoWanted`). About pairs of others it sees votes only.
- *Late paths* (`residual.py`): packets over a relay arrive later than its told legs say. The only check that a directional lie fails.
- *Places*: a round trip that light could not make. Blame goes to whoever disagrees with most, so a misplaced witness blames itself.
- *Equivocation*: two rows at one (boot, seq). A proof that anybody checks.
- *Conduct*: bad signatures, omitted reports, loss, withheld echoes; small weights.

Evidence adds to a score that fades by 1 % a minute. Above DISTRUST the peer is not used as a relay: a private decision, and all that late
paths and conduct can bring about, because an overloaded or starved member looks the same. Above ACCUSE this member votes; half of the
living members (`ballot.py`) make a quarantine. A vote is renewed until 24 h passed without new evidence, then withdrawn; votes lapse by
themselves half an hour after the last renewal. A proof of equivocation needs no votes and holds 24 h here, once.

Self-doubt: where half of the peers look like liars at once, this member's own clock or stamps are at fault, and nothing is noted.

Invariants: votes of fewer than half of the group change nothing here; one sample never suffices; scores of those who left are kept
(bounded), so leaving washes nothing off. Not detectable: one constant shift of all stamps of a member (harmless: it cancels), lies below
the noise, lies between two colluding members about the edge between them until somebody's packets take it. Source: docs/decisions.md.
"""

from __future__ import annotations

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from srwan.errors import BadSignature, LimitExceeded, RemoteProtocolError, StaleRecord
from srwan.gossip.ballot import Ballot, votes_needed
from srwan.gossip.evidence import EquivocationProof, Kind, QuarantineVote, cast_vote, decode_content, frame_of_proof, frames_of_votes
from srwan.gossip.owl import OwlSnapshot
from srwan.gossip.place import misplaced, positions_of, vacuum_bound_ms
from srwan.gossip.residual import PathResiduals
from srwan.gossip.row import Floats
from srwan.gossip.standing import CLEAN_S, FADE_PER_MIN, Standing
from srwan.gossip.witness_events import (
    EchoWanted,
    LieFound,
    PeerDistrusted,
    PeerQuarantined,
    PeerReleased,
    PeerTrusted,
    Score,
    WitnessEvent,
)
from srwan.identity import Identity
from srwan.overlay.frame import Frame, FrameCodec, FrameType, content_digest
from srwan.types import GeoAsn, NodeId, PeerMisbehaved, UdpAddress

__all__ = [
    "EchoWanted",
    "LieFound",
    "PeerDistrusted",
    "PeerQuarantined",
    "PeerReleased",
    "PeerTrusted",
    "Score",
    "Witness",
    "WitnessEvent",
]

DISTRUST = 1.0
"""Score above which a peer is not used as a relay."""
TRUST = 0.5
"""Score below which it is again."""
ACCUSE = 4.0
"""Score above which this member votes for quarantine."""
ECHO_WEIGHT, ECHO_CAP = 1.5, 8.0
"""One confirmed shortfall is enough for distrust, three (30 s) for a vote; at the cap trust returns after 4.6 h."""
PATH_WEIGHT, PATH_CAP = 1.2, 2.5
"""One late path is enough for distrust; with CONDUCT_CAP it stays below ACCUSE."""
PLACE_WEIGHT, PLACE_CAP = 0.5, 6.0
CONDUCT_CAP = 1.4
CONDUCT_WEIGHTS: Mapping[str, float] = {
    "signature": 0.5,
    "omitted": 0.2,
    "no-echo": 0.1,
    "slow-echo": 0.3,
    "flap": 0.1,
    "loss": 0.05,
    "mac": 0.0,
}
"""By reason. A bad tag ("mac") weighs nothing: whoever knows a member's short id can send one in its name."""
CONDUCT_WEIGHT_DEFAULT = 0.05
EPSILON_MS = 2.0
"""Shortfall that is no evidence: 1 ms of drift between the two legs' samples (+-50 ppm, 10 s), quantisation, scheduling."""
JITTER_DEVIATIONS = 1.0
JITTER_MS_MAX = 6.0
"""A liar that tells a great jitter buys no more tolerance than this."""
CLAIM_AGE_S_MAX = 30.0
"""A claim older than three periods is not compared."""
STRIKES_NEEDED, STRIKES_MAX = 2.0, 6.0
STRIKE_FORGIVEN = 0.25
"""A check without shortfall takes so much of a strike: who lies in one row of four is still caught, and a clock step, which shows in the
last
and the mean values at different times, never gives two."""
ECHOES_FRESH = 4
"""Echoes after the first strike, before it is evidence; all of them queued by chance is unlikely enough."""
ECHOES_WANTED = 5
NO_ECHO_S = 300.0
"""Pulses, but no echo for so long, though probes go out each minute."""
DOUBT_SHARE, DOUBT_MIN = 0.5, 3
"""So many peers that look like liars at once, and at least three, mean that this member errs."""
PLACE_SLACK_MS = 1.0
RENEW_S = 600.0
REPEAT_S = 5.0
"""A new vote goes out twice: frames get lost."""
TICK_S = 10.0
VOTES_PER_S_MAX, VOTE_BURST_MAX = 1.0, 128.0
"""Votes of one carrier that are verified: 40 us each."""
RECORDS_MAX = 512
"""Members and former members remembered, 2 kB each."""
EVENTS_MAX = 512
PROOFS_MAX = 256
"""Proofs that were served; the oldest is forgotten."""

_NO_PLACE = GeoAsn()
_Bools: TypeAlias = npt.NDArray[np.bool_]


class Witness:
    """Finds liars, votes, and counts votes. A core.

    Args:
        identity: this member's keys.
        group: the 32-byte group id.
        frames: seals VOTE frames; peers are those of the pulse.
        rng: spreads renewals.
    """

    def __init__(self, identity: Identity, group: bytes, frames: FrameCodec, *, rng: random.Random) -> None:
        self._identity = identity
        self._me = identity.node_id
        self._group = group
        self._frames = frames
        self._rng = rng
        self._addresses: dict[NodeId, UdpAddress] = {}
        self._places: dict[NodeId, GeoAsn] = {}
        self._living: dict[NodeId, None] = {}
        self._standings: dict[NodeId, Standing] = {}
        self._ballot = Ballot()
        self._paths = PathResiduals()
        self._bounds: tuple[tuple[NodeId, ...], Floats] | None = None
        self._wall: tuple[float, int] | None = None
        self._tick_at = math.inf
        self._renew_at = math.inf
        self._repeats: deque[tuple[float, bytes]] = deque()
        self._queue: deque[tuple[NodeId, bytes, bytes]] = deque()
        self._events: deque[WitnessEvent] = deque()
        self._served: dict[tuple[NodeId, int, int], None] = {}
        self._tokens: dict[NodeId, tuple[float, float]] = {}
        self._is_misplaced = False
        self.drops: Counter[str] = Counter()
        """Input dropped, by reason."""

    # Commands and what was measured

    def set_members(self, members: Mapping[NodeId, tuple[UdpAddress, GeoAsn]], now: float) -> None:
        """Say who lives, where it is sent to, and where it says it is; this member may be among them.

        Args:
            members: by NodeId; in any order.
            now: monotonic seconds.
        """
        before = self._addresses
        self._addresses = {node: members[node][0] for node in sorted(members) if node != self._me}
        self._places = {node: members[node][1] for node in sorted(members)}
        self._living = dict.fromkeys((self._me, *self._addresses))
        self._bounds = None
        for node in self._addresses:
            self._standing(node)
        for node in [node for node, standing in self._standings.items() if node not in self._living and standing.is_blank(now)]:
            del self._standings[node]
        added = [node for node in self._addresses if node not in before]
        for content in frames_of_votes(self._own_votes()):
            self._send(content, added)
        self._tick_at = min(self._tick_at, now + TICK_S) if self._addresses else math.inf
        if self._renew_at == math.inf and self._addresses:
            self._renew_at = now + RENEW_S * self._rng.uniform(0.5, 1.0)
        self._count_votes(now)

    def echo_measured(self, node: NodeId, round_trip_ms: float, now: float, *, held_ms: float = 0.0) -> None:
        """Note an answer to a probe of this member.

        Args:
            node: who echoed.
            round_trip_ms: from this member's transmit stamp to its receive stamp, the time spent at the peer included.
            now: monotonic seconds.
            held_ms: how long the peer says it held the probe. A claim: a shortfall that it explains makes distrust, no vote.
        """
        if node not in self._addresses or not 0.0 <= round_trip_ms < math.inf or not math.isfinite(held_ms):
            self.drops["echo"] += 1
            return
        self._standing(node).echo(round_trip_ms, min(max(held_ms, 0.0), round_trip_ms), now)

    def path_measured(self, far: NodeId, relays: tuple[NodeId, ...], predicted_ms: float, observed_ms: float, now: float) -> None:
        """Note an end-to-end measurement of a path of this member; call it once a second or so for each path in use or kept warm.

        Args:
            far: the egress.
            relays: in order; none for the direct path, which calibrates the others to the same far end.
            predicted_ms: sum of the raw legs in the matrix now: the greater of the sums by `mean_ms` and by `last_ms`, which follows
            sooner.
            observed_ms: raw one-way latency by the stamps of both ends, a median of recent keep-alives.
            now: monotonic seconds.
        """
        if not self._paths.measured(far, relays, predicted_ms, observed_ms, now):
            self.drops["path"] += 1

    def equivocation_seen(self, node: NodeId, first: bytes, second: bytes, now: float) -> None:
        """Take two signed row contents of `node` at one (boot, seq) and show them to the group. What is no proof is dropped."""
        try:
            proof = EquivocationProof.of(node, first, second)
            if self._take_proof(proof, now):
                content = frame_of_proof(proof)
                if content is not None:
                    self._send(content, self._addresses)
                    self._repeats.append((now + REPEAT_S, content))
        except RemoteProtocolError as error:
            self.drops[error.reason] += 1

    def misbehaved(self, peer: NodeId, reason: str, now: float) -> None:
        """Note conduct of an authenticated peer: a reason of `PeerMisbehaved`, or one of CONDUCT_WEIGHTS."""
        weight = CONDUCT_WEIGHTS.get(reason, CONDUCT_WEIGHT_DEFAULT)
        if peer in self._addresses and weight:
            self._note(peer, Kind.CONDUCT, weight, CONDUCT_CAP, 0.0, now)
            self._judge(peer, now)

    def forgive(self, node: NodeId, now: float) -> None:
        """Drop all own evidence against a peer and withdraw the vote: an operator's decision."""
        standing = self._standings.get(node)
        if standing is None:
            return
        standing.forgive()
        self._paths.forget(node)
        self._withdraw(node, now)
        self._judge(node, now)
        self._count_votes(now)

    # Checks

    def check(self, snapshot: OwlSnapshot, now: float) -> None:
        """Compare what the group tells with what this member measured; call it every 10 s, once a round. Cost: 0.8 ms for n = 100."""
        members = snapshot.members
        if self._me not in members or len(members) < 2:
            return
        me = members.index(self._me)
        floors = self._floors(members, now)
        self._check_echoes(snapshot, me, floors, now)
        self._check_places(snapshot, me, floors[1], now)
        self._check_paths(now)
        for node in self._addresses:
            self._judge(node, now)

    def _floors(self, members: tuple[NodeId, ...], now: float) -> tuple[Floats, Floats]:
        """Least round trips of the window, held time taken off as told and not: two arrays of shape (n,), NaN where unknown."""
        pairs = [(math.nan, math.nan)] * len(members)
        for index, node in enumerate(members):
            standing = self._standings.get(node)
            if standing is not None:
                pairs[index] = standing.floors_ms(now)
        both: Floats = np.array(pairs, np.float64).T
        return both[0], both[1]

    def _check_echoes(self, snapshot: OwlSnapshot, me: int, floors: tuple[Floats, Floats], now: float) -> None:
        proven_ms, whole_ms = floors
        is_fresh = (snapshot.age_s[me] <= CLAIM_AGE_S_MAX) & (snapshot.age_s[:, me] <= CLAIM_AGE_S_MAX)
        means_ms = snapshot.mean_ms[me] + snapshot.mean_ms[:, me]
        claims_ms = np.maximum(means_ms, snapshot.last_ms[me] + snapshot.last_ms[:, me])
        jitter_ms = JITTER_DEVIATIONS * (snapshot.dev_ms[me] + snapshot.dev_ms[:, me])
        limits_ms = claims_ms + EPSILON_MS + np.minimum(jitter_ms, JITTER_MS_MAX)
        is_short: _Bools = is_fresh & (limits_ms < whole_ms)  # NaN compares false
        is_known = is_fresh & np.isfinite(whole_ms)
        if _is_doubtful(is_short, is_known):
            return
        for index, node in enumerate(snapshot.members):
            standing = self._standings.get(node)
            if standing is None or not (is_short[index] or standing.strikes):
                continue
            if not is_short[index]:
                standing.strikes = max(0.0, standing.strikes - STRIKE_FORGIVEN)
                continue
            is_evidence = self._strike(node, standing)
            by_ms = float(whole_ms[index] - means_ms[index])
            if is_evidence and limits_ms[index] < proven_ms[index]:
                self._note(node, Kind.ECHO, ECHO_WEIGHT, ECHO_CAP, by_ms, now)
            elif is_evidence:
                self._note(node, Kind.CONDUCT, CONDUCT_WEIGHTS["slow-echo"], CONDUCT_CAP, by_ms, now)
        self._check_silence(snapshot.members, is_fresh, is_known, now)

    def _strike(self, node: NodeId, standing: Standing) -> bool:
        """Count a shortfall. Return whether it is evidence now."""
        if not standing.strikes:
            standing.echoes_fresh = 0
        standing.strikes = min(STRIKES_MAX, standing.strikes + 1.0)
        if standing.echoes_fresh < ECHOES_FRESH:
            self._emit(EchoWanted(node, ECHOES_WANTED))
            return False
        return standing.strikes >= STRIKES_NEEDED

    def _check_silence(self, members: tuple[NodeId, ...], is_fresh: _Bools, is_known: _Bools, now: float) -> None:
        """Who pulses but never echoes hides from the floor; unless most do, for then nobody probes."""
        if 2 * int(is_known.sum()) < int(is_fresh.sum()):
            return
        for index in np.flatnonzero(is_fresh & ~is_known):
            standing = self._standings.get(members[index])
            if standing is not None and now - standing.echo_due_since(now) > NO_ECHO_S:
                self._note(members[index], Kind.CONDUCT, CONDUCT_WEIGHTS["no-echo"], CONDUCT_CAP, 0.0, now)

    def _check_places(self, snapshot: OwlSnapshot, me: int, whole_ms: Floats, now: float) -> None:
        if self._bounds is None or self._bounds[0] != snapshot.members:
            lat, lon = positions_of([self._places.get(node, _NO_PLACE) for node in snapshot.members])
            self._bounds = (snapshot.members, 2 * vacuum_bound_ms(lat, lon) - PLACE_SLACK_MS)
        bounds_ms = self._bounds[1]
        round_trips_ms = snapshot.mean_ms + snapshot.mean_ms.T
        round_trips_ms[me] = round_trips_ms[:, me] = whole_ms
        is_impossible: _Bools = round_trips_ms < bounds_ms
        if not is_impossible[me].any():
            self._is_misplaced = False
            return
        named = misplaced(is_impossible)
        self._is_misplaced = me in named
        if self._is_misplaced:
            return
        for index in named:
            if is_impossible[me, index]:
                by_ms = float(bounds_ms[me, index] - whole_ms[index])
                self._note(snapshot.members[index], Kind.PLACE, PLACE_WEIGHT, PLACE_CAP, by_ms, now)

    def _check_paths(self, now: float) -> None:
        seen: dict[NodeId, None] = {}
        liars = {node for node, standing in self._standings.items() if standing.score(now, apart=Kind.PATH) > TRUST}
        for late in self._paths.late(now, liars):
            strength = sum(FADE_PER_MIN ** (age_s / 60.0) for age_s in late.ages_s)
            value = min(PATH_CAP, PATH_WEIGHT * strength)
            seen[late.relay] = None
            if self._standing(late.relay).set_tally(Kind.PATH, value, late.by_ms, now, last_at=now - min(late.ages_s)):
                self._emit(LieFound(Kind.PATH, late.relay, late.by_ms))
        for node, standing in self._standings.items():
            if node not in seen:
                standing.clear(Kind.PATH)  # acquitted, or forgotten

    # Frames

    def receive_frame(self, frame: Frame, now: float, wall_ns: int) -> None:
        """Take in an authenticated VOTE frame. Never raises for what a peer sent.

        Args:
            frame: of `FrameCodec.open`.
            now: monotonic seconds.
            wall_ns: wall time, ns since 1970.
        """
        self._wall = (now, wall_ns)
        if frame.sender not in self._addresses:
            self.drops["not-member"] += 1
            return
        try:
            content = decode_content(frame.content)
            if isinstance(content, EquivocationProof):
                self._spend_token(frame.sender, now)
                self._take_proof(content, now)
                return
        except RemoteProtocolError as error:
            self._blame(frame.sender, error.reason)
            return
        for vote in content:
            try:
                self._take_vote(vote, frame.sender, now, wall_ns)
            except StaleRecord as error:
                self.drops[error.reason] += 1  # a repeat, or a slow clock: no fault
            except RemoteProtocolError as error:
                self._blame(frame.sender, error.reason)
                break
        self._count_votes(now)

    def handle_timer(self, now: float, wall_ns: int) -> None:
        """Let votes lapse, renew, withdraw and repeat the own ones."""
        self._wall = (now, wall_ns)
        while self._repeats and self._repeats[0][0] <= now:
            self._send(self._repeats.popleft()[1], self._addresses)
        if self._renew_at <= now:
            self._renew_at = now + RENEW_S * self._rng.uniform(0.8, 1.0)
            self._renew(wall_ns // 10**9)
        if self._tick_at <= now:
            self._tick_at = now + TICK_S
            self._ballot.lapse(wall_ns // 10**9)
            for node in list(self._standings):
                self._judge(node, now)
            self._count_votes(now)

    def get_timer(self) -> float | None:
        """When to call `handle_timer` next; None without peers."""
        if not self._addresses:
            return None
        return min(self._tick_at, self._renew_at, self._repeats[0][0] if self._repeats else math.inf)

    def datagrams_to_send(self, now: float, read_stamp_ns: Callable[[], int]) -> Iterator[tuple[bytes, UdpAddress]]:  # noqa: ARG002
        """Yield datagrams with their destinations.

        Args:
            now: monotonic seconds.
            read_stamp_ns: reads the stamp clock.
        """
        while self._queue:
            node, content, digest = self._queue.popleft()
            address = self._addresses.get(node)
            if address is None:
                continue
            try:
                sealed = self._frames.seal(node, FrameType.VOTE, content, digest=digest, tx_ns=read_stamp_ns())
            except KeyError:  # the overlay let the peer go, and will tell
                self.drops["no-key"] += 1
                continue
            yield sealed, address

    def next_event(self) -> WitnessEvent | None:
        """Return the next event, None if there is none."""
        return self._events.popleft() if self._events else None

    # Answers

    def is_trusted(self, node: NodeId) -> bool:
        """Say whether `node` may be used as a relay, as far as this member knows; of strangers nothing bad is known."""
        standing = self._standings.get(node)
        return standing is None or not (standing.is_distrusted or standing.is_quarantined)

    @property
    def quarantined(self) -> tuple[NodeId, ...]:
        """Who is in quarantine, rising."""
        return tuple(sorted(node for node, standing in self._standings.items() if standing.is_quarantined))

    @property
    def is_misplaced(self) -> bool:
        """Whether this member's own position disagrees with most: the operator should look at it."""
        return self._is_misplaced

    def scores(self, now: float) -> dict[NodeId, Score]:
        """Return all peers of which anything bad is known or said, rising by NodeId."""
        found: dict[NodeId, Score] = {}
        for node, standing in sorted(self._standings.items()):
            score, accusers = standing.score(now), self._ballot.accusers(node, self._living)
            if score >= 0.005 or accusers:
                found[node] = Score(score, standing.reasons(self._me, now), accusers, standing.is_quarantined)
        return found

    # Judgement

    def _standing(self, node: NodeId) -> Standing:
        standing = self._standings.get(node)
        if standing is None:
            if len(self._standings) >= RECORDS_MAX:
                gone = [other for other in self._standings if other not in self._living]
                del self._standings[min(gone or self._standings, key=lambda other: (self._standings[other].evidence_at, other))]
            standing = self._standings[node] = Standing()
        return standing

    def _note(self, node: NodeId, kind: Kind, weight: float, cap: float, by_ms: float, now: float) -> None:
        if self._standing(node).add(kind, weight, cap, by_ms, now):
            self._emit(LieFound(kind, node, by_ms))

    def _judge(self, node: NodeId, now: float) -> None:
        """Draw the consequences of a score."""
        standing = self._standings.get(node)
        if standing is None:
            return
        score = standing.score(now)
        if score > DISTRUST and not standing.is_distrusted:
            standing.is_distrusted = True
            self._emit(PeerDistrusted(node, score, standing.reasons(self._me, now)))
        elif score < TRUST and standing.is_distrusted:
            standing.is_distrusted = False
            self._emit(PeerTrusted(node))
        held = self._ballot.held(node, self._me)
        is_accused = held is not None and not held.is_withdrawn
        if not is_accused and score > ACCUSE:
            self._vote(node, standing.gravest(now), now)
        elif is_accused and now - standing.evidence_at > CLEAN_S:
            self._withdraw(node, now)

    def _vote(self, node: NodeId, kind: Kind, now: float, *, is_withdrawn: bool = False) -> None:
        if self._wall is None:
            return  # no wall time yet: the next tick votes
        issued_s = self._wall_s(now)
        held = self._ballot.held(node, self._me)
        if held is not None and held.issued_s >= issued_s and not is_withdrawn:
            issued_s = held.issued_s + 1
        vote = cast_vote(self._identity, self._group, node, kind, issued_s, is_withdrawn=is_withdrawn)
        try:
            self._ballot.require_new(vote, max(issued_s, 0))
        except RemoteProtocolError as error:
            self.drops[error.reason] += 1
            return
        self._ballot.put(vote)
        content = frames_of_votes([vote])[0]
        self._send(content, self._addresses)
        self._repeats.append((now + REPEAT_S, content))
        self._count_votes(now)

    def _withdraw(self, node: NodeId, now: float) -> None:
        held = self._ballot.held(node, self._me)
        if held is not None and not held.is_withdrawn:
            self._vote(node, held.kind, now, is_withdrawn=True)

    def _renew(self, wall_s: int) -> None:
        """Issue all own votes anew, so that they do not lapse."""
        for vote in self._own_votes():
            if vote.issued_s < wall_s:
                self._ballot.put(cast_vote(self._identity, self._group, vote.subject, vote.kind, wall_s))
        for content in frames_of_votes(self._own_votes()):
            self._send(content, self._addresses)

    def _own_votes(self) -> list[QuarantineVote]:
        held = (self._ballot.held(subject, self._me) for subject in self._ballot.subjects)
        return [vote for vote in held if vote is not None and not vote.is_withdrawn]

    def _take_vote(self, vote: QuarantineVote, carrier: NodeId, now: float, wall_ns: int) -> None:
        if vote.witness not in self._addresses or (vote.subject not in self._standings and vote.subject != self._me):
            self.drops["vote-stranger"] += 1
            return
        self._ballot.require_new(vote, wall_ns // 10**9)
        self._spend_token(carrier, now)
        if not vote.is_authentic(self._group):
            raise BadSignature(f"bad signature on a vote that {carrier!r} brought")
        self._ballot.put(vote)

    def _take_proof(self, proof: EquivocationProof, now: float) -> bool:
        """Take a proof that is new and good; return whether it is new."""
        version = (proof.subject, *proof.version)
        if version in self._served or proof.subject not in self._standings:
            self.drops["proof-known" if version in self._served else "proof-stranger"] += 1
            return False
        if not proof.is_valid(self._group):
            raise BadSignature(f"no proof against {proof.subject!r}", reason="proof")
        if len(self._served) >= PROOFS_MAX:
            del self._served[next(iter(self._served))]
        self._served[version] = None
        self._standing(proof.subject).prove(now)
        self._emit(LieFound(Kind.EQUIVOCATION, proof.subject, 0.0))
        self._judge(proof.subject, now)
        self._count_votes(now)
        return True

    def _count_votes(self, now: float) -> None:
        """Move peers in and out of quarantine."""
        for node, standing in self._standings.items():
            accusers = self._ballot.accusers(node, self._living)
            others = len(self._living) - (node in self._living)
            is_enough = len(accusers) >= votes_needed(others)
            is_proven = standing.is_proven(now)
            if (is_enough or is_proven) == standing.is_quarantined:
                continue
            standing.is_quarantined = not standing.is_quarantined
            witnesses = accusers if is_enough else (node,)
            self._emit(PeerQuarantined(node, witnesses) if standing.is_quarantined else PeerReleased(node))

    def _spend_token(self, carrier: NodeId, now: float) -> None:
        tokens, at = self._tokens.get(carrier, (VOTE_BURST_MAX, now))
        tokens = min(VOTE_BURST_MAX, tokens + (now - at) * VOTES_PER_S_MAX)
        if carrier not in self._tokens and len(self._tokens) >= RECORDS_MAX:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[carrier] = (max(tokens - 1.0, 0.0), now)
        if tokens < 1.0:
            raise LimitExceeded(f"too many votes of {carrier!r}", reason="vote-rate")

    def _wall_s(self, now: float) -> int:
        if self._wall is None:
            return 0
        return int(self._wall[1] // 10**9 + (now - self._wall[0]))

    def _send(self, content: bytes, receivers: Mapping[NodeId, UdpAddress] | list[NodeId]) -> None:
        digest = content_digest(content)
        self._queue.extend((node, content, digest) for node in receivers)

    def _blame(self, node: NodeId, reason: str) -> None:
        self.drops[reason] += 1
        self._emit(PeerMisbehaved(node, None, reason))

    def _emit(self, event: WitnessEvent) -> None:
        if len(self._events) >= EVENTS_MAX:
            self.drops["events"] += 1
            return
        self._events.append(event)


def _is_doubtful(is_short: _Bools, is_known: _Bools) -> bool:
    """Say whether so many are short that the measurer is at fault."""
    short = int(is_short.sum())
    return short >= DOUBT_MIN and short >= DOUBT_SHARE * int(is_known.sum())
