"""How soon a rise of latency, loss or jitter is noticed, how often falsely, and whether any forecast beats the last sample.

    python benchmarks/anomalies.py [--json] [--days 18] [--repetitions 3] [--traces FOLDER]

Latency: `--days` edge-days of a sample every 10 s: 80 ms, gamma jitter (mean 2 ms), 1 % spikes (mean 25 ms), 1 % lost, and 12 times a day a
rise of 20 to 100 ms for 2 to 60 minutes. A rise begins right after a good sample, so 10 s is the least delay that samples allow. The same
stream goes through the detector of `srwan.gossip.anomaly` (alone, and with probes whose round trips are from the same model) and through
others with a baseline of 360 clean samples: a single sample, median of 3, median of 5, exponential means of weight 0.1 and 0.3; all enter
at +20 %, leave at +10 % (the single sample leaves at +20 %, too). In the second table clocks are up to 50 ppm off at either end: the
others take raw values as they come, ours finds the slope, or is told it with an error of 0.2 ppm. A rise is missed if no alarm begins in
it. False alarms begin outside of rises; their hours are given, too. Tentative ones are a figure of their own. Clear time counts from the
first good sample. What does not end, or is never found, counts as a day.

Loss: rounds through the sequential test, 100 runs a share. Forecast: mean absolute error of the next fresh sample and share of edges
where it is better, and worse, than the last one's by 2 %; on Seattle every 8th slice is fresh. It needs the folder of traces (--traces,
or SRWAN_TRACES) with seattle99_part1.npz and planetlab490_part1.npz, and is left out without.

Figures are medians over repetitions with least and greatest; each repetition has its own seed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from srwan.gossip.anomaly import AnomalyDetector, LatencyNormal, LatencyRiseSuspected, LatencyRose, LossRose
from srwan.gossip.owl import Entries, OwlMatrix
from srwan.gossip.row import encode_owl
from srwan.types import NodeId

Floats: TypeAlias = npt.NDArray[np.float64]
Forecast: TypeAlias = Callable[[Floats], Floats]

PERIOD_S = 10.0
DAY_S = 86_400.0
SAMPLES_A_DAY = int(DAY_S / PERIOD_S)
OWL_MS = 80.0
RISES_A_DAY = 12
WARM_UP_S = 3600.0
"""Without rises, and not judged."""
PEER = NodeId(bytes(32))
LOSS_RUNS = 100
LOSS_ROUNDS_MAX = 20_000
DEV_TRACES = {"seattle99_part1.npz": 10, "planetlab490_part1.npz": 3}
"""And how many samples forecasts see before they are scored."""


@attrs.frozen(slots=True)
class Stream:
    """One edge-day."""

    samples: list[tuple[float, float]]
    """(s, raw ms), those that arrived."""
    rises: list[tuple[float, float, float]]
    """(begin s, end s, by ms)."""
    drift: float
    """Slope of the raw values, ms/s."""
    rng: random.Random

    def rise_ms(self, at: float) -> float:
        """What is added at a time, ms."""
        return next((by for begin, end, by in self.rises if begin < at <= end), 0.0)

    def round_trip_ms(self, at: float) -> float:
        """Of a probe."""
        return 2 * OWL_MS + self.rise_ms(at) + noise_ms(self.rng) + noise_ms(self.rng)


def noise_ms(rng: random.Random) -> float:
    """Of one sample."""
    return rng.gammavariate(2.0, 1.0) + (rng.expovariate(1 / 25.0) if rng.random() < 0.01 else 0.0)


def stream_of(seed: int, ppm_max: float) -> Stream:
    """Make one edge-day; rises do not touch each other."""
    rng = random.Random(seed)
    rises: list[tuple[float, float, float]] = []
    slot_s = (DAY_S - WARM_UP_S) / RISES_A_DAY
    for number in range(RISES_A_DAY):
        length_s = rng.uniform(120, 3600)
        begin = WARM_UP_S + number * slot_s + rng.uniform(0, slot_s - length_s - 600)
        begin = begin // PERIOD_S * PERIOD_S
        rises.append((begin, begin + length_s, rng.uniform(20, 100)))
    drift = (rng.uniform(-ppm_max, ppm_max) - rng.uniform(-ppm_max, ppm_max)) / 1000
    stream = Stream([], rises, drift, rng)
    index = 0
    for number in range(SAMPLES_A_DAY):
        at = number * PERIOD_S
        while index < len(rises) and rises[index][1] < at:
            index += 1
        rise_ms = rises[index][2] if index < len(rises) and rises[index][0] < at else 0.0
        raw_ms = OWL_MS + rise_ms + noise_ms(rng) + drift * at
        if rng.random() >= 0.01:
            stream.samples.append((at, raw_ms))
    return stream


Alarms: TypeAlias = list[tuple[float, float]]
"""(begin s, end s), in order."""


def others_alarms(stream: Stream, statistic: Callable[[float], float], leave: float) -> Alarms:
    """Run a plain detector: a statistic of the samples against the median of 360 clean ones."""
    clean: deque[float] = deque(maxlen=360)
    alarms: Alarms = []
    baseline, begin, learnt = math.nan, math.nan, 0
    for at, raw_ms in stream.samples:
        value = statistic(raw_ms)
        if math.isnan(begin):
            if value > baseline + 0.2 * OWL_MS:
                begin = at
            elif not raw_ms > baseline + 0.2 * OWL_MS:
                clean.append(raw_ms)
                learnt += 1
                if learnt % 12 == 0:
                    baseline = statistics.median(clean)
        elif value < baseline + leave * OWL_MS:
            alarms.append((begin, at))
            begin = math.nan
    return alarms if math.isnan(begin) else [*alarms, (begin, DAY_S)]


def median_of_last(count: int) -> Callable[[float], float]:
    """Statistic."""
    window: deque[float] = deque(maxlen=count)

    def median(value: float) -> float:
        window.append(value)
        return sorted(window)[len(window) // 2]

    return median


def exponential_mean(weight: float) -> Callable[[float], float]:
    """Statistic."""
    mean = math.nan

    def update(value: float) -> float:
        nonlocal mean
        mean = value if math.isnan(mean) else mean + weight * (value - mean)
        return mean

    return update


def our_alarms(stream: Stream, *, is_probing: bool, is_told: bool) -> tuple[Alarms, int, int]:
    """Run the detector; return alarms, tentative alarms that were false, and probes sent."""
    detector = AnomalyDetector()
    detector.set_members([PEER], 0.0)
    told_ppm = stream.drift * 1000 + stream.rng.gauss(0, 0.2) if is_told else None
    detector.calibrate(PEER, owl_ms=OWL_MS, drift_ppm=told_ppm)
    alarms: Alarms = []
    begin, tentative, probes, regular_at = math.nan, 0, 0, 0.0

    def drain(now: float) -> None:
        nonlocal begin, tentative
        while event := detector.next_event():
            if isinstance(event, LatencyRiseSuspected):
                tentative += now > WARM_UP_S and not stream.rise_ms(now)
            elif isinstance(event, LatencyRose):
                begin = now
            elif isinstance(event, LatencyNormal) and not math.isnan(begin):
                alarms.append((begin, now))
                begin = math.nan

    for at, raw_ms in stream.samples:
        while is_probing and (timer := detector.get_timer()) is not None and timer < at:
            detector.handle_timer(timer)
            for node in detector.probes_due(timer):
                probes += 1
                if stream.rng.random() >= 0.02:
                    detector.probe_measured(node, stream.round_trip_ms(timer), timer + 0.16)
            drain(timer + 0.16)
        if is_probing and at >= regular_at:
            regular_at = at + 60.0
            detector.probe_measured(PEER, stream.round_trip_ms(at), at)
        detector.sample(PEER, raw_ms, at)
        drain(at)
    return alarms if math.isnan(begin) else [*alarms, (begin, DAY_S)], tentative, probes


def score(streams: Sequence[Stream], alarms: Sequence[Alarms]) -> dict[str, float]:
    """Return delays, misses, false alarms and clear times."""
    delays: list[float] = []
    clears: list[float] = []
    missed = false = 0
    false_s = 0.0
    for stream, found in zip(streams, alarms, strict=True):
        for begin, end, _ in stream.rises:
            hits = [alarm for alarm in found if begin < alarm[0] <= end]
            if not hits:
                missed += 1
                continue
            delays.append(hits[0][0] - begin)
            clears.append(max(0.0, hits[-1][1] - math.ceil(end / PERIOD_S) * PERIOD_S))
        for begin, end in found:
            if begin > WARM_UP_S and not stream.rise_ms(begin):
                false += 1
                false_s += end - begin
    return {
        "delay_p50_s": float(np.median(delays)) if delays else DAY_S,
        "delay_p95_s": float(np.quantile(delays, 0.95)) if delays else DAY_S,
        "missed": missed / (RISES_A_DAY * len(streams)),
        "false_a_day": false / len(streams),
        "false_hours_a_day": false_s / 3600 / len(streams),
        "clear_p50_s": float(np.median(clears)) if clears else DAY_S,
        "clear_p95_s": float(np.quantile(clears, 0.95)) if clears else DAY_S,
    }


def compare(seed: int, days: int, ppm_max: float) -> dict[str, dict[str, float]]:
    """Return scores by detector for one repetition."""
    streams = [stream_of(seed * 1000 + day, ppm_max) for day in range(days)]
    statistics_of: dict[str, tuple[Callable[[], Callable[[float], float]], float]] = {
        "single sample": (lambda: lambda value: value, 0.2),
        "median of 3": (lambda: median_of_last(3), 0.1),
        "median of 5": (lambda: median_of_last(5), 0.1),
        "mean 0.1": (lambda: exponential_mean(0.1), 0.1),
        "mean 0.3": (lambda: exponential_mean(0.3), 0.1),
    }
    rows: dict[str, dict[str, float]] = {}
    for name, (make, leave) in statistics_of.items():
        rows[name] = score(streams, [others_alarms(stream, make(), leave) for stream in streams])
    variants = {"srwan, samples": (False, False), "srwan, probes": (True, False)}
    if ppm_max:
        variants |= {"srwan, probes, told": (True, True)}
    for name, (is_probing, is_told) in variants.items():
        found = [our_alarms(stream, is_probing=is_probing, is_told=is_told) for stream in streams]
        rows[name] = score(streams, [alarms for alarms, _, _ in found])
        rows[name]["tentative_a_day"] = sum(tentative for _, tentative, _ in found) / days
        rows[name]["probes_a_day"] = sum(probes for _, _, probes in found) / days
    return rows


def loss_delays(seed: int) -> dict[str, float]:
    """Return for shares of lost rounds the median time until it is noticed, s, and what was seen at the normal share."""
    rng = random.Random(seed)
    figures: dict[str, float] = {}
    for share in (0.05, 0.1, 0.2, 0.5):
        times = [PERIOD_S * rounds_until_loss(rng, share, LOSS_ROUNDS_MAX) for _ in range(LOSS_RUNS)]
        figures[f"loss_{share * 100:.0f}pc_p50_s"] = statistics.median(times)
    days = 100
    figures["loss_1pc_false_a_day"] = sum(rounds_until_loss(rng, 0.01, SAMPLES_A_DAY) < SAMPLES_A_DAY for _ in range(days)) / days
    return figures


def rounds_until_loss(rng: random.Random, share: float, rounds_max: int) -> int:
    """Feed rounds until LossRose."""
    detector = AnomalyDetector()
    detector.set_members([PEER], 0.0)
    detector.rounds_counted(PEER, 0, 0, 0.0)
    lost = 0
    for number in range(1, rounds_max + 1):
        lost += rng.random() < share
        detector.rounds_counted(PEER, lost, number, number * PERIOD_S)
        if isinstance(detector.next_event(), LossRose):
            return number
    return rounds_max


def costs(seed: int) -> dict[str, float]:
    """Return CPU time a sample, memory an edge, and jitter alarms a day where nothing changed."""
    rng = random.Random(seed)
    values = [OWL_MS + noise_ms(rng) for _ in range(5 * SAMPLES_A_DAY)]
    detector = AnomalyDetector()
    detector.set_members([PEER], 0.0)
    start = time.process_time()
    for number, value in enumerate(values):
        detector.sample(PEER, value, number * PERIOD_S)
    cpu_us = (time.process_time() - start) / len(values) * 1e6
    jitter = 0
    while event := detector.next_event():
        jitter += type(event).__name__ == "JitterRose"
    tracemalloc.start()
    nodes = [NodeId(bytes([index]) * 32) for index in range(99)]
    before = tracemalloc.get_traced_memory()[0]
    detector = AnomalyDetector()
    detector.set_members(nodes, 0.0)
    for number in range(400):
        for node in nodes:
            detector.sample(node, values[number] + number * 0.1, number * PERIOD_S)
            if number < 40:
                detector.probe_measured(node, 160.0 + number, number * PERIOD_S)
    memory = (tracemalloc.get_traced_memory()[0] - before) / len(nodes)
    tracemalloc.stop()
    return {"sample_cpu_us": cpu_us, "edge_bytes": memory, "jitter_false_a_day": jitter / 5}


# Forecasts: functions from samples, shape (t, edges), to what is forecast after each, same shape.


def exponential(weight: float) -> Forecast:
    """Exponential mean."""

    def forecast(values: Floats) -> Floats:
        out = values.copy()
        for number in range(1, len(values)):
            out[number] = out[number - 1] + weight * (values[number] - out[number - 1])
        return out

    return forecast


def kalman_level(ratio: float) -> Forecast:
    """Local level; `ratio` is the variance of a step of the level over that of a sample."""

    def forecast(values: Floats) -> Floats:
        out, variance = values.copy(), 1.0
        for number in range(1, len(values)):
            variance += ratio
            gain = variance / (variance + 1)
            out[number] = out[number - 1] + gain * (values[number] - out[number - 1])
            variance *= 1 - gain
        return out

    return forecast


def kalman_trend(level_gain: float, trend_gain: float) -> Forecast:
    """Local linear trend at its steady gains (Holt)."""

    def forecast(values: Floats) -> Floats:
        level, trend = values[0].copy(), np.zeros_like(values[0])
        out = values.copy()
        for number in range(1, len(values)):
            expected = level + trend
            error = values[number] - expected
            level = expected + level_gain * error
            trend = trend + trend_gain * error
            out[number] = level + trend
        return out

    return forecast


def cusum_level(values: Floats) -> Floats:
    """Running clipped mean that starts again where a two-sided CUSUM (k = 1, h = 4 deviations) says that the level moved."""
    mean, out = values[0].copy(), values.copy()
    deviation, up, down = np.zeros_like(mean), np.zeros_like(mean), np.zeros_like(mean)
    count = np.ones_like(mean)
    for number in range(1, len(values)):
        error = values[number] - mean
        scale = np.maximum(deviation, 0.5)
        clipped = np.clip(error, -4 * scale, 4 * scale) if number >= 3 else error
        if number >= 3:
            up = np.maximum(0, up + clipped / scale - 1)
            down = np.maximum(0, down - clipped / scale - 1)
        is_moved = (up > 4) | (down > 4)
        weight = np.maximum(1 / 16, 1 / (count + 1))
        deviation = deviation + weight * (np.abs(clipped) - deviation)
        mean = np.where(is_moved, (values[number] + values[number - 1]) / 2, mean + weight * clipped)
        count = np.where(is_moved, 1, count + 1)
        up[is_moved] = down[is_moved] = 0
        out[number] = mean
    return out


def median_level(count: int) -> Forecast:
    """Median of the last so many."""

    def forecast(values: Floats) -> Floats:
        return np.stack([np.median(values[max(0, end - count) : end], axis=0) for end in range(1, len(values) + 1)])

    return forecast


def owl_matrix_mean(matrices: Floats, pairs: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]) -> Floats:
    """What `OwlMatrix` makes of matrices of shape (t, n, n): its clipped mean, shape (t, edges).

    Values are scaled into the range of a row, and dithered by less than their own resolution: the matrix takes equal values for one
    sample that was told again, and values in whole 10 ms are often equal.
    """
    count = matrices.shape[1]
    nodes = [NodeId(index.to_bytes(32, "big")) for index in range(count + 1)]
    matrix = OwlMatrix(nodes[-1], stale_s=1e9)
    matrix.set_members(nodes)
    scale = 600.0 / float(matrices.max())
    dithered = matrices * scale + np.random.default_rng(1).uniform(-0.02, 0.02, matrices.shape)
    zeros = np.zeros(count + 1, np.uint8)
    out: list[Floats] = []
    for number, frame in enumerate(dithered):
        for owner in range(count):
            row = np.append(frame[owner], np.nan)
            row[owner] = np.nan
            base_us, codes = encode_owl(row)
            matrix.add_row(owner, Entries(codes, zeros, zeros, base_us, 1, count - 1), float(number))
        mean = matrix.snapshot(float(number)).mean_ms.T[:count, :count]
        out.append(mean[pairs] / scale)
    return np.stack(out)


def matrices_of(path: Path) -> Floats:
    """Load a trace as fresh samples, shape (t, n, n), ms, nothing missing."""
    with np.load(path) as trace:
        if "rtt_100us_triu" in trace:
            upper = np.triu_indices(int(trace["n"]), 1)
            matrices = np.zeros((len(trace["rtt_100us_triu"]), int(trace["n"]), int(trace["n"])))
            matrices[:, upper[0], upper[1]] = trace["rtt_100us_triu"] / 10.0
            return matrices + matrices.transpose(0, 2, 1)
        raw = np.clip(trace["rtt_10ms"] * 10.0, 0, 5000)
    usual = np.array([[np.median(pair[pair > 0]) if pair.any() else 5.0 for pair in row] for row in raw.transpose(1, 2, 0)])
    fresh: Floats = raw[::8]
    missing = np.where(usual >= 50, usual, 5.0)
    for number in range(len(fresh)):
        before = fresh[number - 1] if number else missing
        fresh[number] = np.where(fresh[number] > 0, fresh[number], np.where(usual >= 50, before, 5.0))
    return fresh


def forecasts(folder: Path, report: Callable[[str], None]) -> dict[str, dict[str, dict[str, float]]]:
    """Return for each trace and forecast its errors."""
    plain: dict[str, Forecast] = {
        "last sample": lambda values: values,
        "mean 0.1": exponential(0.1),
        "mean 0.3": exponential(0.3),
        "Kalman level": kalman_level(0.1),
        "Kalman trend": kalman_trend(0.3, 0.05),
        "CUSUM level": cusum_level,
        "median of 5": median_level(5),
        "median of 16": median_level(16),
    }
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for name, warm_up in DEV_TRACES.items():
        report(f"forecasts on {name}")
        matrices = matrices_of(folder / name)
        count = matrices.shape[1]
        is_symmetric = bool(np.array_equal(matrices, matrices.transpose(0, 2, 1)))
        pairs = np.triu_indices(count, 1) if is_symmetric else np.nonzero(~np.eye(count, dtype=bool))
        values = matrices[:, pairs[0], pairs[1]]
        made = {label: forecast(values) for label, forecast in plain.items()}
        made["clipped mean (ours)"] = owl_matrix_mean(matrices, (pairs[0], pairs[1]))
        truth = values[warm_up:]
        last_mae = np.abs(values[warm_up - 1 : -1] - truth).mean(axis=0)
        tables[name] = {}
        for label, forecast in made.items():
            error = forecast[warm_up - 1 : -1] - truth
            mae = np.abs(error).mean(axis=0)
            tables[name][label] = {
                "mae_ms": float(mae.mean()),
                "rmse_ms": float(np.sqrt((error**2).mean())),
                "bias_ms": float(error.mean()),
                "better": float((mae < 0.98 * last_mae).mean()),
                "worse": float((mae > 1.02 * last_mae).mean()),
            }
    return tables


def summed(repetitions: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return median, least and greatest of each figure."""
    return {
        name: {
            "median": round(statistics.median(values), 3),
            "least": round(min(values), 3),
            "greatest": round(max(values), 3),
        }
        for name in repetitions[0]
        for values in [[repetition[name] for repetition in repetitions]]
    }


def measure(days: int, repetitions: int, report: Callable[[str], None]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Run the model without and with drift, loss and costs."""
    tables: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for label, ppm_max in (("latency", 0.0), ("latency_drift", 50.0)):
        runs: list[dict[str, dict[str, float]]] = []
        for repetition in range(repetitions):
            report(f"{label} {repetition + 1} of {repetitions}")
            runs.append(compare(repetition + 1, days, ppm_max))
        tables[label] = {name: summed([run[name] for run in runs]) for name in runs[0]}
    report("loss and costs")
    tables["loss"] = {"srwan": summed([loss_delays(seed) for seed in range(repetitions)])}
    tables["costs"] = {"srwan": summed([costs(seed) for seed in range(repetitions)])}
    return tables


def print_tables(tables: dict[str, dict[str, dict[str, dict[str, float]]]]) -> None:
    for label, rows in tables.items():
        print(f"\n{label}: median (least .. greatest) of repetitions")
        for name, figures in rows.items():
            print(f"  {name}")
            for figure, of in figures.items():
                print(f"    {figure:22} {of['median']:>12,.2f}   ({of['least']:,.2f} .. {of['greatest']:,.2f})")


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=18, help="edge-days a repetition")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--traces", type=Path, default=os.environ.get("SRWAN_TRACES"), help="folder of the traces for the forecasts")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--output", type=Path, help="write the JSON to this file, too")
    arguments = parser.parse_args()
    if arguments.days < 1 or arguments.repetitions < 1:
        parser.error("at least one day and one repetition")

    def report(text: str) -> None:
        print(text, file=sys.stderr)

    load_average = os.getloadavg()[0]
    tables = measure(arguments.days, arguments.repetitions, report)
    folder: Path | None = arguments.traces
    missing = [name for name in DEV_TRACES if folder is None or not (folder / name).is_file()]
    tested: dict[str, dict[str, dict[str, float]]] = {}
    if folder is None or missing:
        where = "no folder of traces given (--traces or SRWAN_TRACES)" if folder is None else f"{folder} lacks {', '.join(missing)}"
        report(f"forecasts skipped: {where}")
    else:
        tested = forecasts(folder, report)
    result = {
        "benchmark": "anomalies",
        "days": arguments.days,
        "repetitions": arguments.repetitions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "load_average_before": round(load_average, 1),
        "figures": tables,
        "forecasts": tested,
        "forecasts_skipped": missing,
    }
    text = json.dumps(result, indent=2)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    if arguments.json:
        print(text)
        return
    print_tables(tables)
    for name, rows in tested.items():
        print(f"\nforecast on {name}          MAE ms   RMSE ms   bias ms  better  worse")
        for label, figures in rows.items():
            errors = f"{figures['mae_ms']:>8.2f}  {figures['rmse_ms']:>8.1f}  {figures['bias_ms']:>8.1f}"
            print(f"  {label:32} {errors}  {figures['better']:>6.1%}  {figures['worse']:>5.1%}")


if __name__ == "__main__":
    main()
