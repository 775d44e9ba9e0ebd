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
- Silence: `silence` tells which answers are missing. After the first one up to 4 extra keep-alives go out at a quarter of the interval;
  independent losses then hardly ever look like death, and a path that congested abruptly is sampled sooner. Extra traffic is bounded per
  keep-alive interval, so loss cannot raise it without end.
- DATA suppress keep-alives: where the egress answers DATA (every `answer_s`), a keep-alive goes out once a second only, for what it tells
  the egress. An answer to DATA counts like one to a keep-alive, but as a sample at most once per keep-alive interval, so that paths with
  and without data are judged by equally many samples.
- The way back is chosen apart. Extra keep-alives ask in turn to be answered by another path (`detour`). If answers come by that one while
  two in a row are missing by the path's own relays, it is only the way back that is broken: the path stays, its answers come by the detour
  from then on (`back`), and every 2 s one keep-alive tries its own way again.

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
from typing import NamedTuple

import attrs

from srwan.errors import RemoteProtocolError, StaleRecord
from srwan.routing.finder import Relays
from srwan.routing.payload import RAW_NS_MAX, Ack, KeepAlive, PayloadKind
from srwan.routing.policy import PathPolicy
from srwan.routing.rate import MaxFilter
from srwan.routing.sid import locator_of
from srwan.routing.silence import Silence

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
EXTRA_MAX = 4
"""Extra keep-alives per silence, and per keep-alive interval."""
KEEPALIVE_S_MAX = 1.0
"""A path with answered DATA still gets a keep-alive so often, s: it tells the egress what was sent and expected."""
BACK_MISSED = 2
"""Answers in a row that are missing by the path's own relays while others come: the way back is broken."""
BACK_TRIAL_S = 2.0
"""Between two trials of the path's own way back, s."""
BACK_TRIALS = 3
"""Answered trials in a row that restore it."""
HURRY_SPACING = 0.1
"""Of a keep-alive interval: least time between a keep-alive and one that is wanted at once."""
SAMPLE_SPACING = 0.9
"""Of a keep-alive interval: answers to DATA that come sooner after the last sample refine it and make no new one."""


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


class _Outstanding(NamedTuple):
    """A keep-alive not answered yet."""

    sent_at: float
    packets: int
    """DATA packets sent before it."""
    way: Relays | None
    """By which relays its answer was asked for; None = the path's own."""


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
        "_data_seq",
        "_extra_asked_at",
        "_extra_from",
        "_extra_sent",
        "_keepalive_at",
        "_last_seq",
        "_outcomes",
        "_outstanding",
        "_policy",
        "_regular_at",
        "_rng",
        "_seq",
        "_silence",
        "_trial_at",
        "_trials",
        "answers",
        "back",
        "burst",
        "data_ms",
        "detour",
        "detour_rtt_s",
        "expected_loss",
        "expected_ms",
        "octets_sent",
        "opened_at",
        "packets_sent",
        "path_tag",
        "rate",
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
        self.expected_ms = math.nan
        """What the matrix predicts, raw ms; told to the egress. NaN = unknown."""
        self.expected_loss = 0.0
        """The same of loss, 0..1."""
        self.detour: Relays | None = None
        """Relays of another path that answers, by which answers may be asked for; None = there is none."""
        self.detour_rtt_s = 0.0
        """Round trip of that path, s."""
        self.back: Relays | None = None
        """Relays by which answers come since the path's own way back is broken; None = its own."""
        self._policy = policy
        self._rng = rng
        self._seq = 0
        self._last_seq = -1  # of DATA sent
        self._silence = Silence(policy, now)
        self._outstanding: OrderedDict[int, _Outstanding] = OrderedDict()
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
        self.rate = MaxFilter()
        """Delivery rate of DATA, kbit/s."""
        self.burst = MaxFilter()
        """Rate within trains of DATA, kbit/s."""
        self._outcomes: deque[bool] = deque(maxlen=LOSS_WINDOWS[-1])
        self._data: deque[tuple[int, int]] = deque(maxlen=LOSS_WINDOWS[-1] + 1)  # DATA packets sent, received
        self._data_seq = -1  # newest DATA answered
        self._outstanding.clear()
        self._silence.start(now)
        self._regular_at = now
        self._keepalive_at = -math.inf
        self._extra_from = -math.inf
        self._extra_asked_at = -math.inf  # the first extra keep-alive since the last answer
        self._extra_sent = 0
        self.use_way_back(None, now)

    def start_over(self, now: float) -> None:
        """Forget what was measured; called when the path died, so that what comes back is judged by fresh samples only."""
        regular_at = self._regular_at
        self._start(now)
        self._regular_at = regular_at

    def use_way_back(self, relays: Relays | None, now: float) -> None:
        """Have answers come by other relays from now on; None = by the path's own."""
        self.back = relays
        self._trials = 0
        self._trial_at = math.inf if relays is None else now + BACK_TRIAL_S

    def excuse(self, lateness_s: float) -> None:
        """Do not count `lateness_s` as silence: we slept, not the path."""
        self._silence.excuse(lateness_s)

    # -- out

    @property
    def send_at(self) -> float:
        """When a keep-alive may be due next, monotonic s."""
        return min(self._regular_at, self._trial_at, self._extra_at)

    @property
    def _extra_at(self) -> float:
        if not self.answers or self._extra_sent >= EXTRA_MAX:
            return math.inf
        return self.overdue_at + self._silence.interval_s * self._extra_sent / EXTRA_MAX

    def hurry(self, now: float) -> None:
        """Have a keep-alive sent at once, unless one went out just now: the answer is wanted before the next regular one."""
        if now - self._keepalive_at >= HURRY_SPACING * self._policy.keepalive_s:
            self._send_now(now)

    def _send_now(self, now: float) -> None:
        self._regular_at = min(self._regular_at, now)
        self._keepalive_at = -math.inf  # DATA do not replace this one

    def keepalive_to_send(self, now: float) -> PathPacket | None:
        """Return a keep-alive if one is due, else None. A late caller gets one, not all that it missed."""
        if now >= self._regular_at:
            if self._is_kept_alive_by_data(now):
                self._regular_at = now + self._silence.interval_s
            else:
                self._regular_at = now + self._policy.keepalive_s * self._rng.uniform(1 - JITTER, 1 + JITTER)
                self._silence.ask(now, self.packets_sent)
                if not self.answers and self.detour is not None and self._seq % 2:
                    return self._make_keepalive(self.detour, now, is_once=True)  # it may be the way back that is broken
                return self._make_keepalive(self.back, now, is_once=False)
        if now >= self._trial_at:
            self._trial_at = now + BACK_TRIAL_S
            return self._make_keepalive(None, now, is_once=True)
        if now >= self._extra_at:
            self._extra_sent += 1
            if math.isinf(self._extra_asked_at):
                self._extra_asked_at = now
            is_detoured = self.detour is not None and self._extra_sent % 2 == 1
            return self._make_keepalive(self.detour if is_detoured else self.back, now, is_once=True)
        return None

    def _is_kept_alive_by_data(self, now: float) -> bool:
        silence = self._silence
        is_flowing = silence.is_data_answered and now - silence.data_at <= silence.interval_s
        return is_flowing and now - self._keepalive_at < KEEPALIVE_S_MAX and now < self.overdue_at

    def _make_keepalive(self, way: Relays | None, now: float, *, is_once: bool) -> PathPacket:
        seq = self._seq
        self._seq += 1
        self._keepalive_at = now
        self._outstanding[seq] = _Outstanding(now, self.packets_sent, way)
        self._settle(now)
        body = KeepAlive(
            self.packets_sent,
            self.octets_sent,
            expected_raw_ns=_raw_ns(self.expected_ms),
            expected_loss_ppm=round(1e6 * min(1.0, max(0.0, self.expected_loss))),
            answer_ms=round(1000 * min(self._policy.answer_s, self._policy.keepalive_s)),
            back=None if way is None else tuple(map(locator_of, way)),
            is_once=is_once,
        ).encode()
        return PathPacket(self.relays, self.path_tag, PayloadKind.KEEPALIVE, seq, body)

    def count_data(self, packets: int, octets: int, now: float | None = None, seq: int = -1) -> None:
        """Count DATA sent on the path: `seq` is the last one's, -1 if it is not known. Called per batch on the hot path."""
        self.packets_sent += packets
        self.octets_sent += octets
        self._last_seq = max(self._last_seq, seq)
        if now is not None:
            self._silence.ask_by_data(now, self.packets_sent, seq)

    # -- in

    def receive_ack(self, ack: Ack, now: float) -> None:
        """Take the egress's answer to a keep-alive or to DATA.

        Raises:
            RemoteProtocolError: it answers what was never sent ("ack-unsent"). Nothing changed.
            StaleRecord: answered already, given up, or sent before the path died ("ack-late"). Nothing changed.
        """
        if ack.is_for_data:
            self._receive_data_ack(ack, now)
            return
        if ack.keepalive_seq >= self._seq:
            raise RemoteProtocolError(f"answer to keep-alive {ack.keepalive_seq}, never sent", reason="ack-unsent")
        if ack.keepalive_seq not in self._outstanding:
            raise StaleRecord(f"answer to keep-alive {ack.keepalive_seq} came late or twice", reason="ack-late")
        asked = self._outstanding.pop(ack.keepalive_seq)
        self._settle(now)
        if not self.answers:  # what was sent before the first answer went to a path that was not open yet: no loss
            for seq in [seq for seq in self._outstanding if seq < ack.keepalive_seq]:
                del self._outstanding[seq]
            self._outcomes.clear()
        self._hear(asked.sent_at, now, is_own_way=asked.way is None)
        self._judge_way_back(asked, now)
        self._outcomes.append(True)
        self._take_sample(Sample(asked.sent_at, now, ack.keepalive_raw_ns / 1e6))
        self._take_data(asked.packets, ack, now)

    def _receive_data_ack(self, ack: Ack, now: float) -> None:
        if ack.keepalive_seq > self._last_seq:
            raise RemoteProtocolError(f"answer to DATA {ack.keepalive_seq}, never sent", reason="ack-unsent")
        found = self._silence.find_data(ack.keepalive_seq)
        if ack.keepalive_seq <= self._data_seq or found is None:
            raise StaleRecord(f"answer to DATA {ack.keepalive_seq} came late or twice", reason="ack-late")
        asked, after = found
        # Seqs are of the flow; on a path that gets some of them only, the next note bounds the count.
        packets = min(asked.packets + ack.keepalive_seq - asked.seq, self.packets_sent if after is None else after.packets)
        self._data_seq = ack.keepalive_seq
        self._silence.is_data_answered = True
        self._settle(now)
        self._hear(asked.at, now, is_own_way=self.back is None)
        sample = Sample(asked.at, now, ack.keepalive_raw_ns / 1e6)
        if self.samples and sample.sent_at - self.samples[-1].sent_at < SAMPLE_SPACING * self._policy.keepalive_s:
            if self._data:
                self._data.pop()
        else:
            self._outcomes.append(True)
            self._take_sample(sample)
        self._take_data(packets, ack, now)

    def _hear(self, sent_at: float, now: float, *, is_own_way: bool) -> None:
        self.answers += 1
        self._extra_asked_at = -math.inf
        self._silence.hear(sent_at, now, is_own_way=is_own_way)
        if now - self._extra_from >= self._policy.keepalive_s:
            self._extra_from = now
            self._extra_sent = 0

    def _judge_way_back(self, asked: _Outstanding, now: float) -> None:
        if self.back is None:
            if asked.way is not None and asked.way == self.detour and self._silence.is_own_way_missing(BACK_MISSED, now):
                self.use_way_back(asked.way, now)
                self._send_now(now)
        elif asked.way is None:
            self._trials += 1
            if self._trials >= BACK_TRIALS:
                self.use_way_back(None, now)
                self._send_now(now)
            else:
                self._trial_at = now

    def _take_sample(self, sample: Sample) -> None:
        self.samples.append(sample)
        if math.isnan(self.usual_ms):
            if len(self.samples) >= LIVE_SAMPLES:
                self.usual_ms = self.live_ms
            return
        deviation_ms = max(-CLIP_MS, min(CLIP_MS, sample.raw_ms - self.usual_ms))
        self.usual_ms += USUAL_WEIGHT * deviation_ms

    def _take_data(self, packets_sent: int, ack: Ack, now: float) -> None:
        self.data_ms = math.nan if ack.mean_raw_ns is None else ack.mean_raw_ns / 1e6
        if ack.rate_kbps:
            self.rate.add(ack.rate_kbps, now)
        if ack.burst_kbps:
            self.burst.add(ack.burst_kbps, now)
        if self._data:
            sent_before, received_before = self._data[-1]
            if packets_sent < sent_before:  # answers overtook each other; the newer one counts
                return
            if ack.packets < received_before:  # the egress forgot the tag and counts from zero
                self._data.clear()
        self._data.append((packets_sent, ack.packets))

    def _settle(self, now: float) -> None:
        """Give up keep-alives that are too old to be answered. One that asked for another way back tells nothing of this path's loss."""
        while self._outstanding:
            seq, asked = next(iter(self._outstanding.items()))
            if now - asked.sent_at < LOST_AFTER_S and len(self._outstanding) <= OUTSTANDING_MAX:
                return
            del self._outstanding[seq]
            if self.answers and asked.way == self.back:
                self._outcomes.append(False)

    # -- silence

    @property
    def answered_at(self) -> float:
        """When the newest answered packet was sent, monotonic s; -inf before the first answer."""
        return self._silence.answered_at

    @property
    def overdue_at(self) -> float:
        """When the first answer is overdue, monotonic s."""
        return self._silence.due_at(1)

    @property
    def suspect_at(self) -> float:
        """When the path becomes suspect unless an answer comes, monotonic s."""
        return self._silence.due_at(self._policy.suspect_after)

    @property
    def dead_at(self) -> float:
        """When the path is dead unless an answer comes, monotonic s: not before the first extra keep-alive can have been answered."""
        due_at = self._silence.due_at(self._policy.dead_after)
        if math.isinf(self._extra_asked_at):
            return due_at
        answered_at = self._extra_asked_at + max(self._silence.allowance_s, self.detour_rtt_s)
        return max(due_at, min(answered_at, self._silence.regular_due_at(self._policy.dead_after)))

    def silence_s(self, now: float) -> float:
        """Seconds since the last answer, or since the start."""
        return self._silence.silence_s(now)

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
        """What the loss that is beyond doubt is worth, ms, 0..LOSS_MS_MAX."""
        return min(LOSS_MS_MAX, self._policy.loss_cost_ms * self.proved_loss)

    @property
    def proved_loss(self) -> float:
        """Share of packets lost beyond doubt, 0..1: the worse of the two windows."""
        proved = 0.0
        for window in LOSS_WINDOWS:
            lost, sent = self._losses(window)
            if lost:
                proved = max(proved, max(0.0, math.sqrt(lost) - LOSS_DOUBT) ** 2 / sent)
        return proved

    @property
    def seen_loss_ms(self) -> float:
        """What all loss of the long window is worth at face value, ms, 0..LOSS_MS_MAX."""
        return min(LOSS_MS_MAX, self._policy.loss_cost_ms * self.seen_loss)

    @property
    def seen_loss(self) -> float:
        """Share of packets lost over the long window, 0..1, at face value."""
        lost, sent = self._losses(LOSS_WINDOWS[-1])
        return lost / sent if lost else 0.0

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


def _raw_ns(raw_ms: float) -> int | None:
    """Return raw ms as ns that fit 64 bits; None if unknown."""
    return None if not math.isfinite(raw_ms) else max(-RAW_NS_MAX, min(RAW_NS_MAX, round(raw_ms * 1e6)))
