"""What an egress knows of one path tag: what arrived, how fast, what its ingress expects of the path, and how it wants to be answered.

Rates come from receive stamps alone. Between two answers: octets over time. Within a train, packets that the ingress sealed less than
0.2 ms apart: octets after the first packet over the time they took to come in, which is what the narrowest link let through.

Expected against measured: the ingress tells with each KEEPALIVE what the matrix predicts; every 10 s with DATA that is set against what
the DATA had, as a `PathStatistics`. Raw latencies hold the offset of the clocks of the two ends, in the prediction and in the measurement
alike, so their difference is exact up to the error of group time.

Source: packet trains, Dovrolis et al., INFOCOM 2001; whitepaper 2.2.3 (extraordinary paths).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator

import attrs

from srwan.routing.payload import KeepAlive
from srwan.routing.sid import locator_of
from srwan.routing.traffic import TagTraffic
from srwan.types import NodeId

__all__ = ["PathReception", "PathStatistics", "RateBucket", "StatisticsTable"]

TRAIN_GAP_NS = 200_000
"""Packets sealed so close to each other are one train, ns: 5,000 packets/s."""
TRAIN_PACKETS_MIN = 8
TRAIN_NS_MIN = 1_000_000
"""Shorter trains tell more of scheduling than of links."""
RATE_NS_MIN = 10_000_000
"""Rates between two answers are over this at least, ns."""
KBPS_MAX = (1 << 32) - 1
WINDOW_NS = 10_000_000_000
"""Between two statistics of a path, ns: a pulse period."""
STATISTICS_MAX = 256
"""Paths of which the last statistics are kept."""
WORST = 8
"""Paths in a summary."""
_SUMMARY = struct.Struct("<8s8sHhHI")
SUMMARY_BYTES_MAX = 1 + WORST * _SUMMARY.size
"""Length of a summary, bytes: 209."""
LOSS_COST_MS = 400.0
"""Latency that a lost packet is worth, as in `PathPolicy`, ms."""


@attrs.frozen(slots=True)
class PathStatistics:
    """What one path into this node delivered over some 10 s, and what the group's matrix had predicted."""

    ingress: NodeId
    """Who sent."""
    relays: tuple[NodeId, ...]
    """In visiting order."""
    path_tag: int
    expected_ms: float | None
    """Predicted raw one-way latency, ms; None if the ingress knew none."""
    measured_ms: float
    """Mean raw one-way latency of the DATA, ms."""
    expected_loss: float
    """Predicted, 0..1."""
    loss: float
    """Measured: DATA that the ingress says it sent and that did not come, 0..1."""
    throughput_kbps: float
    """Octets of DATA bodies over the window, kbit/s."""
    packets: int
    """DATA packets received."""
    window_s: float
    """Length of the window, s."""

    @property
    def excess_ms(self) -> float:
        """How much worse than expected, ms, loss at 400 ms per packet; less than 0 = better. Without an expected latency, of loss alone."""
        latency_ms = 0.0 if self.expected_ms is None else self.measured_ms - self.expected_ms
        return latency_ms + LOSS_COST_MS * (self.loss - self.expected_loss)


class RateBucket:
    """A token bucket on the receive stamps."""

    __slots__ = ("_burst", "_per_ns", "_stamp_ns", "_tokens")

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_ns = per_s * 1e-9
        self._burst = burst
        self._tokens = float(burst)
        self._stamp_ns: int | None = None

    def take(self, now_ns: int) -> bool:
        """Take a token and say whether there was one. Stamps that go back bring none."""
        if self._stamp_ns is not None and now_ns > self._stamp_ns:
            self._tokens = min(self._burst, self._tokens + (now_ns - self._stamp_ns) * self._per_ns)
        self._stamp_ns = now_ns if self._stamp_ns is None else max(self._stamp_ns, now_ns)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _Window:
    """Counters at the start of a window of statistics, and the latencies in it."""

    __slots__ = ("announced", "octets", "packets", "raw_ns_sum", "start_ns")

    def __init__(self, start_ns: int, packets: int, octets: int, announced: int) -> None:
        self.start_ns = start_ns
        self.packets = packets
        self.octets = octets
        self.announced = announced
        self.raw_ns_sum = 0


class PathReception(TagTraffic):
    """What arrived from one peer on one path tag. `packets` and `octets` are of DATA, octets of bodies."""

    __slots__ = (
        "_answered_octets",
        "_burst_kbps",
        "_data_raw_ns_sum",
        "_train_octets",
        "_train_packets",
        "_train_rx_ns",
        "_train_tx_ns",
        "_window",
        "announced_octets",
        "announced_packets",
        "answer_ns",
        "answered_ns",
        "back",
        "bucket",
        "highest_seq",
        "raw_ns_count",
        "raw_ns_sum",
    )

    def __init__(self) -> None:
        super().__init__()
        self.highest_seq = 0
        """Highest seq of any DATA."""
        self.announced_packets = 0
        """DATA packets that the ingress says it sent, from its last KEEPALIVE."""
        self.announced_octets = 0
        self.raw_ns_sum = 0
        """Sum of raw one-way latencies of DATA since the last answer, ns."""
        self.raw_ns_count = 0
        self.answer_ns = 0
        """DATA are answered so far apart, ns; 0 = not at all."""
        self.answered_ns = 0
        """Receive stamp of what was answered last, ns."""
        self.back: tuple[bytes, ...] | None = None
        """Locators of the relays that answers to DATA take; None = those of the path, reversed."""
        self.bucket: RateBucket | None = None
        """Of keep-alives."""
        self._answered_octets = 0
        self._burst_kbps = 0
        self._data_raw_ns_sum = 0
        self._train_packets = self._train_octets = 0
        self._train_rx_ns = 0
        self._train_tx_ns = -TRAIN_GAP_NS - 1
        self._window: _Window | None = None

    def take_data(self, seq: int, octets: int, raw_ns: int, rx_ns: int, tx_ns: int) -> None:
        """Count one DATA packet. Cost: 0.8 us."""
        self.packets += 1
        self.octets += octets
        self.raw_ns_sum += raw_ns
        self.raw_ns_count += 1
        self._data_raw_ns_sum += raw_ns
        self.highest_seq = max(self.highest_seq, seq)
        if 0 <= tx_ns - self._train_tx_ns <= TRAIN_GAP_NS:
            self._train_packets += 1
            self._train_octets += octets
            elapsed_ns = rx_ns - self._train_rx_ns
            if elapsed_ns >= TRAIN_NS_MIN and self._train_packets >= TRAIN_PACKETS_MIN:
                self._burst_kbps = max(self._burst_kbps, self._train_octets * 8_000_000 // elapsed_ns)
                self._train_packets = self._train_octets = 0
                self._train_rx_ns = rx_ns
        else:
            self._train_packets = self._train_octets = 0
            self._train_rx_ns = rx_ns
        self._train_tx_ns = tx_ns

    def take_counts(self, packets: int, octets: int, raw_ns_sum: int, highest_seq: int, burst_kbps: int) -> None:
        """Count DATA that a native plane took, one packet or more."""
        self.packets += packets
        self.octets += octets
        self.raw_ns_sum += raw_ns_sum
        self.raw_ns_count += packets
        self._data_raw_ns_sum += raw_ns_sum
        self.highest_seq = max(self.highest_seq, highest_seq)
        self._burst_kbps = max(self._burst_kbps, burst_kbps)

    def take_mean_raw_ns(self) -> int | None:
        """Return the mean raw one-way latency of DATA since the last call, ns; None if there was none."""
        count, total = self.raw_ns_count, self.raw_ns_sum
        self.raw_ns_count = self.raw_ns_sum = 0
        return total // count if count else None

    def take_rates(self, rx_ns: int) -> tuple[int, int]:
        """Return the rate since the last call and the greatest within a train, kbit/s, 0 = unknown; call once per answer."""
        elapsed_ns = rx_ns - self.answered_ns
        rate_kbps = 0
        if self.answered_ns and elapsed_ns >= RATE_NS_MIN:
            rate_kbps = min(KBPS_MAX, (self.octets - self._answered_octets) * 8_000_000 // elapsed_ns)
        burst_kbps, self._burst_kbps = min(KBPS_MAX, self._burst_kbps), 0
        self.answered_ns, self._answered_octets = rx_ns, self.octets
        return rate_kbps, burst_kbps

    def settle(self, ingress: NodeId, relays: tuple[NodeId, ...], path_tag: int, told: KeepAlive, rx_ns: int) -> PathStatistics | None:
        """Take what the ingress announces; return the statistics of a window that ended now, if DATA came in it.

        Hostile announcements give impossible expectations of the sender's own path at most; loss is within 0..1.
        """
        self.announced_packets, self.announced_octets = told.packets, told.octets
        window = self._window
        if window is None:
            self._start_window(rx_ns)
            return None
        if rx_ns - window.start_ns < WINDOW_NS:
            return None
        packets, octets, sent = self.packets - window.packets, self.octets - window.octets, told.packets - window.announced
        latency_ns_sum, window_s = self._data_raw_ns_sum - window.raw_ns_sum, (rx_ns - window.start_ns) / 1e9
        self._start_window(rx_ns)
        if not packets:
            return None
        return PathStatistics(
            ingress,
            relays,
            path_tag,
            None if told.expected_raw_ns is None else told.expected_raw_ns / 1e6,
            latency_ns_sum / packets / 1e6,
            told.expected_loss_ppm / 1e6,
            min(1.0, max(0.0, 1.0 - packets / sent)) if sent > 0 else 0.0,
            octets * 8 / 1000 / window_s,
            packets,
            window_s,
        )

    def _start_window(self, rx_ns: int) -> None:
        self._window = _Window(rx_ns, self.packets, self.octets, self.announced_packets)
        self._window.raw_ns_sum = self._data_raw_ns_sum


class StatisticsTable:
    """The last statistics of each path into this node, and which paths are extraordinary: far from what was expected of them."""

    def __init__(self) -> None:
        self._by_path: OrderedDict[tuple[NodeId, int], PathStatistics] = OrderedDict()

    def add(self, statistics: PathStatistics) -> None:
        """Keep statistics, instead of older ones of the same path; the path heard of longest ago goes when there are too many."""
        key = (statistics.ingress, statistics.path_tag)
        self._by_path[key] = statistics
        self._by_path.move_to_end(key)
        while len(self._by_path) > STATISTICS_MAX:
            self._by_path.popitem(last=False)

    def drop_peer(self, ingress: NodeId) -> None:
        """Forget the paths of a node that left."""
        for key in [key for key in self._by_path if key[0] == ingress]:
            del self._by_path[key]

    def __len__(self) -> int:
        return len(self._by_path)

    def __iter__(self) -> Iterator[PathStatistics]:
        return iter(self._by_path.values())

    def extraordinary(self, count: int = WORST) -> list[PathStatistics]:
        """Return the paths that differ most from what was expected, for better or worse, the most extraordinary first."""
        return sorted(self, key=lambda each: (-abs(each.excess_ms), each.ingress, each.path_tag))[:count]

    def summary(self) -> bytes:
        """Return the WORST most extraordinary paths for this node's row, at most SUMMARY_BYTES_MAX bytes, little endian.

        u8 count, then of each: 8 B locator of the ingress, 8 B locator of the first relay (zeros = direct), u16 relays, i16 excess (ms,
        clamped), u16 loss (1/10,000), u32 kbit/s.
        """
        parts = []
        for each in self.extraordinary():
            relay = locator_of(each.relays[0]) if each.relays else bytes(8)
            excess_ms = max(-32768, min(32767, round(each.excess_ms)))
            kbps = min(KBPS_MAX, round(each.throughput_kbps))
            parts.append(_SUMMARY.pack(locator_of(each.ingress), relay, len(each.relays), excess_ms, round(each.loss * 10_000), kbps))
        return bytes([len(parts)]) + b"".join(parts)
