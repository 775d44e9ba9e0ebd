"""Watching one path: keep-alives out, answers in, and what they say of latency, loss and silence.

Theory of operation. A KEEPALIVE goes out every `keepalive_s` (+-10 %, so that routers do not march in step); the egress answers each with
an ACK over the same relays in reverse. An ACK carries the raw one-way latency of that keep-alive as the egress measured it, so only the
forward direction is judged; the way back matters for silence alone. Raw latencies of different paths between the same two nodes compare
exactly, in ms (see `finder`).

- Latency: `live_ms` is a clipped mean of the last 5 samples: each sample is first brought within 10 ms of their median. A spike or two
  among five moves it by 2-4 ms, the third sample of a real change moves it all the way.
- Loss: keep-alives not answered, and DATA that the egress's count misses between two answers (forward only). `loss_ms` is what the loss
  is worth. Few losses prove nothing: of n lost out of N only (sqrt(n) - 2)^2 / N are believed. The square root of a Poisson count has a
  standard deviation of 1/2, so this is 4 deviations below what was seen.
- Silence: answers arrive as periodically as keep-alives leave, so the time since the last answer needs no round-trip time. After the
  first missed answer up to 4 extra keep-alives go out at a quarter of the interval; independent losses then hardly ever look like death,
  and a path that congested abruptly is sampled sooner. Extra traffic is bounded per silence, so loss cannot raise it without end.

Invariants: at most one keep-alive per call of `keepalive_to_send`; all buffers are bounded; an answer counts once.
Not here: what follows from it (`control`).

Source: facts of SCION's path watcher (death by missed probes), RFC 3550 and RFC 9002 for not trusting single samples.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict, deque
from itertools import islice
from statistics import fmean, median

import attrs

from srwan.errors import RemoteProtocolError, StaleRecord
from srwan.routing.finder import Relays
from srwan.routing.payload import Ack, KeepAlive, PayloadKind
from srwan.routing.policy import PathPolicy

__all__ = ["PathPacket", "PathWatch", "Sample"]

SAMPLES_MAX = 10
"""Latency samples kept: 2 s at the default interval."""
LIVE_SAMPLES = 5
"""Samples in the clipped mean: a majority is 3, so a change shows after 3 samples and two spikes do not."""
CLIP_MS = 10.0
"""How far from their median samples may pull the clipped mean, ms."""
USUAL_WEIGHT = 0.02
"""Weight of a new sample in `usual_ms`: a memory of 50 samples, 10 s."""
JITTER = 0.1
"""Relative spread of the keep-alive interval, +-."""
LOSS_WINDOWS = (20, 100)
"""Keep-alives over which loss is judged: 4 s for heavy loss, 20 s for light loss."""
LOSS_DOUBT = 2.0
"""Subtracted from the square root of a count of losses; 2 is 4 standard deviations."""
LOSS_MS_MAX = 200.0
"""Upper bound of `loss_ms`: beyond half of the packets a path is as bad as it gets."""
LOST_AFTER_S = 1.5
"""A keep-alive without an answer for so long is lost; longer than any usable round trip."""
OUTSTANDING_MAX = 128
"""Keep-alives awaiting an answer: LOST_AFTER_S at the shortest interval, and the extra ones."""
OPENING_S = 3.0
"""Allowance before the first answer, s: handshakes with the relays (one retransmission) and one round trip."""
EXTRA_MAX = 4
"""Extra keep-alives per silence."""
OVERDUE_ANSWERS = 1.25
"""Intervals of silence after which the extra keep-alives start: one answer is missing."""


@attrs.frozen(slots=True)
class PathPacket:
    """A payload to seal and send on a path now; stamp it when sealing."""

    relays: Relays
    path_tag: int
    kind: PayloadKind
    seq: int
    """Per path tag, from 0."""
    body: bytes


@attrs.frozen(slots=True)
class Sample:
    """One answered keep-alive."""

    sent_at: float
    """Monotonic s."""
    arrived_at: float
    """When its answer arrived, monotonic s."""
    raw_ms: float
    """Raw one-way latency, ingress to egress, ms."""

    @property
    def rtt_ms(self) -> float:
        """Round trip, ms, by user-space time; for display."""
        return (self.arrived_at - self.sent_at) * 1000


class PathWatch:
    """Measures one opened path.

    Args:
        relays: the path.
        path_tag: identifies it at the egress; new for every opening.
        policy: intervals and the cost of loss.
        rng: for the jitter.
        now: when it is opened; the first keep-alive is due at once.
    """

    __slots__ = (
        "_data",
        "_extra_sent",
        "_heard_at",
        "_outcomes",
        "_outstanding",
        "_policy",
        "_regular_at",
        "_rng",
        "_seq",
        "answers",
        "data_ms",
        "octets_sent",
        "opened_at",
        "packets_sent",
        "path_tag",
        "relays",
        "samples",
        "usual_ms",
    )

    def __init__(self, relays: Relays, path_tag: int, policy: PathPolicy, rng: random.Random, now: float) -> None:
        self.relays = relays
        self.path_tag = path_tag
        self.opened_at = now
        self.packets_sent = 0
        """DATA packets sent on this tag."""
        self.octets_sent = 0
        """Octets of their bodies."""
        self._policy = policy
        self._rng = rng
        self._seq = 0
        self._outstanding: OrderedDict[int, tuple[float, int]] = OrderedDict()  # seq: sent at, DATA packets sent before it
        self._start(now)

    def _start(self, now: float) -> None:
        self.samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)
        """Newest last."""
        self.answers = 0
        """Fresh answers since the start."""
        self.usual_ms = math.nan
        """What is normal for the path: a slow mean that no spike moves, raw ms."""
        self.data_ms = math.nan
        """Mean raw one-way latency of the DATA between the last two answers, ms; NaN if there was none. For display."""
        self._outcomes: deque[bool] = deque(maxlen=LOSS_WINDOWS[-1])
        self._data: deque[tuple[int, int]] = deque(maxlen=LOSS_WINDOWS[-1] + 1)  # DATA packets sent, received
        self._outstanding.clear()
        self._heard_at = now + OPENING_S
        self._regular_at = now
        self._extra_sent = 0

    def start_over(self, now: float) -> None:
        """Forget what was measured; called when the path died, so that what comes back is judged by fresh samples only."""
        regular_at = self._regular_at
        self._start(now)
        self._regular_at = regular_at

    def excuse(self, lateness_s: float) -> None:
        """Do not count `lateness_s` as silence: we slept, not the path."""
        self._heard_at += lateness_s

    # -- out

    @property
    def send_at(self) -> float:
        """When the next keep-alive is due, monotonic s."""
        if not self.answers or self._extra_sent >= EXTRA_MAX:
            return self._regular_at
        return min(self._regular_at, self.overdue_at + self._policy.keepalive_s * self._extra_sent / EXTRA_MAX)

    def keepalive_to_send(self, now: float) -> PathPacket | None:
        """Return a keep-alive if one is due, else None. A late caller gets one, not all that it missed."""
        if now < self.send_at:
            return None
        if now >= self._regular_at:
            self._regular_at = now + self._policy.keepalive_s * self._rng.uniform(1 - JITTER, 1 + JITTER)
        else:
            self._extra_sent += 1
        seq = self._seq
        self._seq += 1
        self._outstanding[seq] = (now, self.packets_sent)
        self._settle(now)
        body = KeepAlive(self.packets_sent, self.octets_sent).encode()
        return PathPacket(self.relays, self.path_tag, PayloadKind.KEEPALIVE, seq, body)

    def count_data(self, packets: int, octets: int) -> None:
        """Count DATA sent on the path. Called per batch on the hot path."""
        self.packets_sent += packets
        self.octets_sent += octets

    # -- in

    def receive_ack(self, ack: Ack, now: float) -> None:
        """Take the egress's answer to a keep-alive.

        Raises:
            RemoteProtocolError: it answers what was never sent ("ack-unsent"). Nothing changed.
            StaleRecord: answered already, given up, or sent before the path died ("ack-late"). Nothing changed.
        """
        if ack.keepalive_seq >= self._seq:
            raise RemoteProtocolError(f"answer to keep-alive {ack.keepalive_seq}, never sent", reason="ack-unsent")
        if ack.keepalive_seq not in self._outstanding:
            raise StaleRecord(f"answer to keep-alive {ack.keepalive_seq} came late or twice", reason="ack-late")
        sent_at, packets_sent = self._outstanding.pop(ack.keepalive_seq)
        self._settle(now)
        if not self.answers:  # what was sent before the first answer went to a path that was not open yet: no loss
            for seq in [seq for seq in self._outstanding if seq < ack.keepalive_seq]:
                del self._outstanding[seq]
            self._outcomes.clear()
        self.answers += 1
        self._heard_at = now
        self._extra_sent = 0
        self._outcomes.append(True)
        self._take_sample(Sample(sent_at, now, ack.keepalive_raw_ns / 1e6))
        self._take_data(packets_sent, ack)

    def _take_sample(self, sample: Sample) -> None:
        self.samples.append(sample)
        if math.isnan(self.usual_ms):
            if len(self.samples) >= LIVE_SAMPLES:
                self.usual_ms = self.live_ms
            return
        deviation_ms = max(-CLIP_MS, min(CLIP_MS, sample.raw_ms - self.usual_ms))
        self.usual_ms += USUAL_WEIGHT * deviation_ms

    def _take_data(self, packets_sent: int, ack: Ack) -> None:
        self.data_ms = math.nan if ack.mean_raw_ns is None else ack.mean_raw_ns / 1e6
        if self._data:
            sent_before, received_before = self._data[-1]
            if packets_sent < sent_before:  # answers overtook each other; the newer one counts
                return
            if ack.packets < received_before:  # the egress forgot the tag and counts from zero
                self._data.clear()
        self._data.append((packets_sent, ack.packets))

    def _settle(self, now: float) -> None:
        """Give up keep-alives that are too old to be answered."""
        while self._outstanding:
            seq, (sent_at, _) = next(iter(self._outstanding.items()))
            if now - sent_at < LOST_AFTER_S and len(self._outstanding) <= OUTSTANDING_MAX:
                return
            del self._outstanding[seq]
            if self.answers:
                self._outcomes.append(False)

    # -- silence

    @property
    def overdue_at(self) -> float:
        """When the first answer is overdue, monotonic s."""
        return self._heard_at + OVERDUE_ANSWERS * self._policy.keepalive_s

    @property
    def suspect_at(self) -> float:
        """When the path becomes suspect unless an answer comes, monotonic s."""
        return self._heard_at + (self._policy.suspect_after + 0.25) * self._policy.keepalive_s

    @property
    def dead_at(self) -> float:
        """When the path is dead unless an answer comes, monotonic s."""
        return self._heard_at + (self._policy.dead_after + 0.25) * self._policy.keepalive_s

    def silence_s(self, now: float) -> float:
        """Seconds since the last answer, or since the start."""
        return now - (self._heard_at if self.answers else self._heard_at - OPENING_S)

    # -- what it is worth

    @property
    def live_ms(self) -> float:
        """Clipped mean of the last 5 samples, raw ms; NaN without samples."""
        if not self.samples:
            return math.nan
        recent = [sample.raw_ms for sample in islice(self.samples, max(0, len(self.samples) - LIVE_SAMPLES), None)]
        center = median(recent)
        return fmean(max(center - CLIP_MS, min(center + CLIP_MS, raw_ms)) for raw_ms in recent)

    @property
    def newest_ms(self) -> float:
        """The last sample, raw ms; NaN without samples."""
        return self.samples[-1].raw_ms if self.samples else math.nan

    @property
    def newest_at(self) -> float:
        """When the last sample arrived, monotonic s; -inf without samples."""
        return self.samples[-1].arrived_at if self.samples else -math.inf

    def best_since_ms(self, moment: float) -> float:
        """Least sample that arrived after `moment`, or the last one if none did, raw ms; NaN without samples."""
        return min((sample.raw_ms for sample in self.samples if sample.arrived_at > moment), default=self.newest_ms)

    def count_sent_since(self, moment: float) -> int:
        """How many of the kept samples were sent at `moment` or later, 0..10."""
        return sum(sample.sent_at >= moment for sample in self.samples)

    @property
    def value_ms(self) -> float:
        """What is compared between paths: live_ms + loss_ms."""
        return self.live_ms + self.loss_ms

    @property
    def loss(self) -> float:
        """Share of packets lost over the last 20 answers, 0..1: keep-alives (both ways) and DATA (forward) together."""
        lost, sent = self._losses(LOSS_WINDOWS[0])
        return lost / sent if sent else 0.0

    @property
    def loss_ms(self) -> float:
        """What the loss that is beyond doubt is worth, ms, 0..LOSS_MS_MAX: the worse of the two windows."""
        proved = 0.0
        for window in LOSS_WINDOWS:
            lost, sent = self._losses(window)
            if lost:
                proved = max(proved, max(0.0, math.sqrt(lost) - LOSS_DOUBT) ** 2 / sent)
        return min(LOSS_MS_MAX, self._policy.loss_cost_ms * proved)

    @property
    def seen_loss_ms(self) -> float:
        """What all loss of the long window is worth at face value, ms, 0..LOSS_MS_MAX."""
        lost, sent = self._losses(LOSS_WINDOWS[-1])
        return min(LOSS_MS_MAX, self._policy.loss_cost_ms * lost / sent) if lost else 0.0

    def _losses(self, window: int) -> tuple[int, int]:
        """Return (lost, sent) over the last `window` keep-alives and the DATA between their answers."""
        outcomes = list(islice(self._outcomes, max(0, len(self._outcomes) - window), None))
        lost, sent = outcomes.count(False), len(outcomes)
        if self._data:
            sent_from, received_from = self._data[max(0, len(self._data) - 1 - window)]
            sent_to, received_to = self._data[-1]
            lost += max(0, (sent_to - sent_from) - (received_to - received_from))
            sent += sent_to - sent_from
        return lost, sent
