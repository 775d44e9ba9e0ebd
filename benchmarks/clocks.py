"""How well clocks and true one-way latencies are recovered, what it costs, and what relay decisions need of it.

    script/bench clocks [--json] [--traces wondernetwork2020.npz] [--seeds 5] [--only TEXT] [--output FILE]

The truth is synthetic, as no measured set has one-way latencies: round trips and places of 100 hosts, each pair split into two directions
within the light bound (11 % of pairs uniformly in +-90 % of what exceeds it, the others normal with 5 %: "medium"), clocks off by +-5 s
and drifting by +-50 ppm, pulses every 10 s at phases of their own, queues Exp(1.5 ms) and in 2 % Exp(40 ms) more, 1 % loss, codes of 10
us. A member sees of it what rows bring: `ClockHistory` is fed with the last told value of each edge once a round, ten minutes long.

Round trips and places are those of a file with `rtt_min`, `lat`, `lon` (WonderNetwork 2020), given by --traces or found in the folder that
the environment variable SRWAN_TRACES names; otherwise made up with the same structure: cities on five continents, 1.5 to 4.3 times light
in fibre. The JSON says which.

Peers on the same numbers: star (all clocks against one member), half the round trip, plain least squares. Relay decisions: relay if the
best of all single relays gains more than 2 ms; wrong if it is really slower one way; missed: pairs that could gain 5 ms and do not. "_raw"
decides by raw differences as they were told, rows of different ages and clocks running on; "_dedrifted" takes the drift out;
"half_round_trip" is the best a ping can give: the minimum of the same samples.

Each figure is the median over seeds, with least and greatest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from srwan.gossip.clock_fit import ClockFit, fit_clocks
from srwan.gossip.clock_history import ClockHistory, ClockMinima
from srwan.gossip.light import light_bound_ms
from srwan.types import NodeId

Floats: TypeAlias = npt.NDArray[np.float64]
Generator: TypeAlias = np.random.Generator

PERIOD_S = 10.0
ROUNDING_MS = 0.01
MARGIN_MS = 2.0
GAIN_MS = 5.0
MEAN_ROUNDS = 16
MISSING_MAX = 60
HUBS = ((40, -95, 24, 14), (50, 10, 18, 9), (10, 100, 26, 14), (-20, -55, 14, 8), (-32, 148, 8, 7), (0, 20, 18, 14))
HUB_SHARES = (0.33, 0.3, 0.22, 0.06, 0.04, 0.05)


@attrs.frozen(slots=True, eq=False)
class Places:
    """Round trips, shape (hosts, hosts), ms, and places, shape (hosts,), degrees."""

    name: str
    round_trip_ms: Floats
    latitude: Floats
    longitude: Floats


@attrs.frozen(slots=True)
class Scenario:
    """What is simulated."""

    name: str
    nodes: int = 100
    rounds: int = 60
    share: float = 0.11
    """Of pairs, strongly asymmetric."""
    deviation: float = 0.05
    """Of the others, of what exceeds light."""
    access_ms: float = 0.0
    is_regional: bool = False
    loss: float = 0.01
    queue_ms: float = 1.5
    wander_ms: float = 0.0
    """Step of a clock's random walk a round."""
    liars: int = 0
    """Shift every peer's stamps by an own amount within +-50 ms."""
    place_liars: int = 0
    """Claim a random place."""
    has_places: bool = True


SCENARIOS = (
    Scenario("low asymmetry", share=0.0, deviation=0.02),
    Scenario("medium"),
    Scenario("medium, no places", has_places=False),
    Scenario("high asymmetry", share=0.3, deviation=0.1),
    Scenario("access 1 ms", access_ms=1.0),
    Scenario("access 5 ms", access_ms=5.0),
    Scenario("regional", is_regional=True),
    Scenario("1 min", rounds=7),
    Scenario("3 min", rounds=19),
    Scenario("20 % loss, queue 5 ms", loss=0.2, queue_ms=5.0),
    Scenario("clock walk 0.05 ms", wander_ms=0.05),
    Scenario("group of 10", nodes=10),
    Scenario("group of 25", nodes=25),
    Scenario("group of 50", nodes=50),
    Scenario("10 liars", liars=10),
    Scenario("30 liars", liars=30),
    Scenario("30 liars, no places", liars=30, has_places=False),
    Scenario("30 liars of place", place_liars=30),
    Scenario("30 liars, 10 of place", liars=30, place_liars=10),
)


def made_up(rng: Generator, hosts: int = 246) -> Places:
    """Make cities round hubs of six regions, and round trips of 1.45 to 4.3 times twice the light bound with 0.3 to 3 ms of access."""
    hub = rng.choice(len(HUBS), hosts, p=HUB_SHARES)
    latitude = np.array([HUBS[index][0] for index in hub]) + rng.normal(0, 1, hosts) * [HUBS[index][3] for index in hub]
    longitude = np.array([HUBS[index][1] for index in hub]) + rng.normal(0, 1, hosts) * [HUBS[index][2] for index in hub]
    latitude = np.clip(latitude, -60, 70)
    longitude = (longitude + 180) % 360 - 180
    bound = light_bound_ms(latitude, longitude)
    stretch = np.triu(1.35 + rng.lognormal(-0.4, 0.6, (hosts, hosts)), 1)
    access = rng.exponential(0.8, hosts)
    round_trip = 2 * bound * (stretch + stretch.T) + access[:, None] + access[None, :] + 0.3
    np.fill_diagonal(round_trip, 0.0)
    return Places("made up", round_trip, latitude, longitude)


def load(path: Path) -> Places:
    """Read a set with `rtt_min`, `lat`, `lon`; hosts that lack many entries are left out."""
    with np.load(path) as data:
        round_trip = data["rtt_min"].astype(np.float64)
        latitude, longitude = data["lat"].astype(np.float64), data["lon"].astype(np.float64)
    keep = np.flatnonzero(np.isnan(round_trip).sum(axis=1) < MISSING_MAX)
    round_trip = round_trip[np.ix_(keep, keep)]
    round_trip = np.fmin(round_trip, round_trip.T)
    round_trip = np.where(np.isnan(round_trip), np.nanmedian(round_trip), round_trip)
    np.fill_diagonal(round_trip, 0.0)
    return Places(path.name, round_trip, latitude[keep], longitude[keep])


def antisymmetric(upper: Floats) -> Floats:
    """Mirror the upper triangle with the other sign."""
    half = np.triu(upper, 1)
    return half - half.T


def truth(places: Places, scenario: Scenario, rng: Generator) -> tuple[Floats, Floats, Floats, Floats]:
    """Return true one-way latencies, shape (n, n), ms, the light bound, and places of n hosts drawn."""
    n = scenario.nodes
    chosen = np.sort(rng.choice(len(places.latitude), n, replace=False))
    latitude, longitude = places.latitude[chosen], places.longitude[chosen]
    bound = light_bound_ms(latitude, longitude)
    round_trip = np.maximum(places.round_trip_ms[np.ix_(chosen, chosen)], 2 * bound + 0.2)
    excess = round_trip / 2 - bound
    is_strong = rng.random((n, n)) < scenario.share
    split = np.where(is_strong, rng.uniform(-0.9, 0.9, (n, n)), rng.normal(0, scenario.deviation, (n, n)))
    owl = round_trip / 2 + excess * antisymmetric(np.clip(split, -0.95, 0.95))
    access = rng.normal(0, scenario.access_ms, n)
    owl = np.maximum(owl + (access[:, None] - access[None, :]) / 2, bound + 0.05)
    if scenario.is_regional:
        band = ((longitude + 180) // 45).astype(int) % 8
        tilt = antisymmetric(np.where(rng.random((8, 8)) < 0.3, rng.uniform(-0.6, 0.6, (8, 8)), 0.0))
        owl = np.maximum(owl + 0.99 * ((owl + owl.T) / 2 - bound) * tilt[np.ix_(band, band)], bound + 0.05)
    np.fill_diagonal(owl, np.nan)
    return owl, bound, latitude, longitude


@attrs.frozen(slots=True, eq=False)
class World:
    """The truth, and the views of member 0 round by round."""

    owl_ms: Floats
    claimed_bound_ms: Floats | None
    offset_ms: Floats
    """Shape (n,), at the last round."""
    drift_ppm: Floats
    """Shape (n,), slope of the true offsets over the rounds."""
    last_ms: Floats
    """Shape (rounds, n, n): what the last rows told."""
    age_s: Floats
    """Shape (rounds, n, n), since the row came."""
    measured_s: Floats
    """Shape (rounds, n, n): when the pulses left that these values are of."""
    liars: tuple[int, ...]
    place_liars: tuple[int, ...]


def simulate(places: Places, scenario: Scenario, seed: int) -> World:
    """Play the pulses of a group; phases are spread over the period, every row tells the receiver's newest samples."""
    rng = np.random.default_rng(seed)
    n, rounds = scenario.nodes, scenario.rounds
    owl, bound, latitude, longitude = truth(places, scenario, rng)
    offset, rate = rng.uniform(-5_000, 5_000, n), rng.uniform(-0.05, 0.05, n)
    phase = rng.uniform(0, PERIOD_S, n)
    phase[0] = 0.0
    walk = np.cumsum(rng.normal(0, scenario.wander_ms, (rounds + 1, n)), axis=0)
    liars, place_liars = np.split(rng.permutation(np.arange(1, n))[: scenario.liars + scenario.place_liars], [scenario.liars])
    lie = np.zeros((n, n))
    lie[:, liars] = rng.uniform(-50, 50, (n, len(liars)))
    if len(place_liars):
        latitude, longitude = latitude.copy(), longitude.copy()
        latitude[place_liars], longitude[place_liars] = rng.uniform(-60, 70, len(place_liars)), rng.uniform(-180, 180, len(place_liars))
        bound = light_bound_ms(latitude, longitude)
    # sample[k, i, j]: the pulse that i sends at phase[i] + 10 k; a lost one leaves the one before
    samples = np.full((rounds + 1, n, n), np.nan)
    for k in range(rounds):
        sent_s = phase + k * PERIOD_S
        clock = offset + rate * sent_s + walk[k]  # of each node, at its own pulse
        at_receiver = offset[None, :] + rate[None, :] * sent_s[:, None] + walk[k][None, :]
        queue = rng.exponential(scenario.queue_ms, (n, n)) + (rng.random((n, n)) < 0.02) * rng.exponential(40, (n, n))
        raw = owl + queue + lie + at_receiver - clock[:, None]
        samples[k] = np.where(rng.random((n, n)) < scenario.loss, samples[k - 1], np.round(raw / ROUNDING_MS) * ROUNDING_MS)
    last, age, measured = np.full((3, rounds, n, n), np.nan)
    is_before = phase[:, None] < phase[None, :]
    for view in range(1, rounds + 1):  # member 0 looks at 10 * view, and has rows of pulses view - 1
        older = samples[view - 2] if view > 1 else np.full((n, n), np.nan)
        last[view - 1] = np.where(is_before, samples[view - 1], older)
        measured[view - 1] = phase[:, None] + np.where(is_before, view - 1, view - 2) * PERIOD_S
        measured[view - 1][:, 0] = phase + (view - 1) * PERIOD_S
        last[view - 1][:, 0] = samples[view - 1][:, 0]
        age[view - 1] = (PERIOD_S - phase)[None, :]
        age[view - 1][:, 0] = PERIOD_S - phase
    path = offset + rate * np.arange(1, rounds + 1)[:, None] * PERIOD_S + walk[:rounds]
    centred = np.arange(rounds) - (rounds - 1) / 2
    slope = (path * centred[:, None]).sum(axis=0) / max((centred**2).sum() * PERIOD_S, 1e-9)
    claimed = bound if scenario.has_places else None
    return World(
        owl, claimed, path[-1], slope * 1e3, last, age, measured, tuple(sorted(liars.tolist())), tuple(sorted(place_liars.tolist()))
    )


def collected(world: World) -> tuple[ClockMinima, float]:
    """Feed a history, as a member does; return the minima and the CPU time of one `add`, ms."""
    n = len(world.owl_ms)
    members = [NodeId(index.to_bytes(32, "big")) for index in range(n)]
    history = ClockHistory(members[0])
    history.set_members(members)
    start = time.process_time()
    for index, (last, age) in enumerate(zip(world.last_ms, world.age_s, strict=True)):
        now = (index + 1) * PERIOD_S
        history.add(last.astype(np.float32).astype(np.float64), age, now)
    cpu_ms = (time.process_time() - start) * 1e3 / len(world.last_ms)
    return history.minima(len(world.last_ms) * PERIOD_S), cpu_ms


def star(least: Floats) -> Floats:
    """All clocks against member 0."""
    theta = (least - least.T) / 2
    offset: Floats = theta[0].copy()
    offset[0] = 0.0
    return offset


def least_squares(least: Floats) -> Floats:
    """Mean of all pairs: the loop projection of Huygens on a full mesh."""
    theta = np.nan_to_num((least - least.T) / 2)
    return np.asarray(theta.mean(axis=0))


def quantiles(name: str, errors: Floats) -> dict[str, float]:
    """Return p50 and p95 of absolute errors."""
    errors = np.abs(errors[np.isfinite(errors)])
    return {f"{name}_p50": float(np.median(errors)), f"{name}_p95": float(np.quantile(errors, 0.95))}


def covered(errors: Floats, bounds: Floats) -> float:
    """Return the share of errors within their bounds."""
    is_known = np.isfinite(errors) & np.isfinite(bounds)
    return float((np.abs(errors[is_known]) <= bounds[is_known]).mean())


def judged(world: World, minima: ClockMinima, fit: ClockFit) -> dict[str, float]:
    """Compare with the truth, over members that neither lie nor were excluded."""
    n = len(world.owl_ms)
    good = np.setdiff1d(np.arange(n), [*world.liars, *fit.excluded])
    pairs = np.ix_(good, good)
    offset_error = fit.offset_ms[good] - world.offset_ms[good]
    offset_error -= offset_error.mean()
    drift_error = fit.drift_ppm[good] - world.drift_ppm[good]
    drift_error -= drift_error.mean()
    owl_error = (fit.owl_ms - world.owl_ms)[pairs]
    least = fit.owl_ms + fit.offset_ms[None, :] - fit.offset_ms[:, None]
    figures = quantiles("owl_ms", owl_error) | quantiles("offset_ms", offset_error) | quantiles("drift_ppm", drift_error)
    for name, offset in (("star", star(least)), ("least_squares", least_squares(least))):
        figures |= quantiles(f"{name}_owl_ms", (least - offset[None, :] + offset[:, None] - world.owl_ms)[pairs])
    figures |= quantiles("half_round_trip_owl_ms", ((least + least.T) / 2 - world.owl_ms)[pairs])
    return figures | {
        "owl_in_bound": covered(owl_error, fit.owl_err_ms[pairs]),
        "offset_in_bound": covered(offset_error, fit.offset_err_ms[good]),
        "drift_in_bound": covered(drift_error, fit.drift_err_ppm[good]),
        "liars_named": float(np.isin(world.liars, fit.excluded).sum()),
        "honest_excluded": float(len(np.setdiff1d(fit.excluded, world.liars))),
        "places_named": float(np.isin(world.place_liars, fit.misplaced).sum()),
        "honest_places_named": float(len(np.setdiff1d(fit.misplaced, [*world.liars, *world.place_liars]))),
        "windows": float(len(minima.raw_ms)),
    }


def decisions(world: World, fit: ClockFit) -> dict[str, float]:
    """Choose relays by several matrices; return shares of wrong ones among the relays picked, and of gains missed."""
    truth_ms = world.owl_ms
    dedrifted = fit.owl_ms + fit.offset_ms[None, :] - fit.offset_ms[:, None]
    rate = (fit.drift_ppm[None, :] - fit.drift_ppm[:, None]) / 1e3
    told = world.last_ms[-MEAN_ROUNDS:]
    ages = len(world.last_ms) * PERIOD_S - world.measured_s[-MEAN_ROUNDS:]
    matrices = {
        "minimum_dedrifted": dedrifted,
        "mean_dedrifted": (told + rate * ages).mean(axis=0),
        "mean_raw": told.mean(axis=0),
        "last_dedrifted": told[-1] + rate * ages[-1],
        "last_raw": told[-1],
        "recovered": fit.owl_ms,
        "half_round_trip": (dedrifted + dedrifted.T) / 2,
    }
    figures: dict[str, float] = {}
    for name, matrix in matrices.items():
        figures |= relays(name, matrix, truth_ms)
    return figures


def relays(name: str, matrix: Floats, truth_ms: Floats) -> dict[str, float]:
    """Decide for all pairs by one matrix."""
    n = len(matrix)
    sums = np.nan_to_num(matrix[:, :, None] + matrix[None, :, :], nan=np.inf)  # [i, relay, j]
    relay = sums.argmin(axis=1)
    rows, columns = np.indices((n, n))
    gain = matrix - sums[rows, relay, columns]
    is_pair = (rows != columns) & np.isfinite(matrix)
    is_picked = is_pair & (gain > MARGIN_MS)
    true_gain = truth_ms - (truth_ms[rows, relay] + truth_ms[relay, columns])
    true_sums = np.nan_to_num(truth_ms[:, :, None] + truth_ms[None, :, :], nan=np.inf)
    is_worth = is_pair & (truth_ms - true_sums.min(axis=1) > GAIN_MS)
    missed = is_worth & ~(is_picked & (true_gain > 0))
    return {
        f"{name}_wrong_percent": 100 * float((true_gain[is_picked] <= 0).mean()) if is_picked.any() else 0.0,
        f"{name}_missed_percent": 100 * float(missed.sum() / max(is_worth.sum(), 1)),
        f"{name}_relayed_percent": 100 * float(is_picked.sum() / is_pair.sum()),
    }


@attrs.frozen(slots=True)
class Figure:
    """Over seeds or repetitions."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Sum up."""
        return cls(round(statistics.median(values), 4), round(min(values), 4), round(max(values), 4))


def run(places: Places, scenario: Scenario, seeds: int) -> dict[str, Figure]:
    """Return the figures of a scenario."""
    series: dict[str, list[float]] = {}
    for seed in range(seeds):
        world = simulate(places, scenario, 10 + seed)
        minima, add_cpu_ms = collected(world)
        fit = fit_clocks(minima, world.claimed_bound_ms)
        cpu_ms: list[float] = []
        for _ in range(3):
            start = time.process_time()
            fit_clocks(minima, world.claimed_bound_ms)
            cpu_ms.append((time.process_time() - start) * 1e3)
        figures = judged(world, minima, fit) | {"fit_cpu_ms": statistics.median(cpu_ms), "add_cpu_ms": add_cpu_ms}
        if scenario.name == "medium":
            figures |= decisions(world, fit)
        for name, value in figures.items():
            series.setdefault(name, []).append(value)
    return {name: Figure.of(values) for name, values in series.items()}


def find_traces(argument: Path | None) -> Path | None:
    """Return the file with round trips and places, None to make them up."""
    if argument is not None:
        return argument
    folder = os.environ.get("SRWAN_TRACES")
    path = Path(folder) / "wondernetwork2020.npz" if folder else None
    return path if path is not None and path.is_file() else None


def show(results: dict[str, dict[str, Figure]], write: Callable[[str], None]) -> None:
    """Print the table: OWL errors p50/p95 of the fit and its peers, bounds, names, cost."""
    write(f"{'ms, p50/p95 of OWL':24} {'fit':>13} {'star':>13} {'RTT/2':>13} {'least sq.':>13}  in bound  named/honest   cpu ms")
    for name, figures in results.items():
        cells = [f"{figures[f'{way}owl_ms_p50'].median:.2f}/{figures[f'{way}owl_ms_p95'].median:.2f}" for way in PEERS]
        named = f"{figures['liars_named'].median:.0f}/{figures['honest_excluded'].median:.0f}"
        tail = f"{figures['owl_in_bound'].median:8.2f} {named:>13} {figures['fit_cpu_ms'].median:8.1f}"
        write(f"{name:24} " + " ".join(f"{cell:>13}" for cell in cells) + f"  {tail}")
    for name, figure in results.get("medium", {}).items():
        if name.endswith("_percent"):
            write(f"{name:40} {figure.median:8.2f}   ({figure.least:.2f} .. {figure.greatest:.2f})")


PEERS = ("", "star_", "half_round_trip_", "least_squares_")


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="npz with rtt_min, lat, lon")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--output", type=Path, help="write the JSON to this file, too")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error("at least one seed")
    path = find_traces(arguments.traces)
    places = load(path) if path is not None else made_up(np.random.default_rng(1))
    results: dict[str, dict[str, Figure]] = {}
    start = time.perf_counter()
    for scenario in SCENARIOS:
        if arguments.only in scenario.name:
            print(f"{scenario.name} ({time.perf_counter() - start:.0f} s)", file=sys.stderr)
            results[scenario.name] = run(places, scenario, arguments.seeds)
    output: dict[str, Any] = {
        "benchmark": "clocks",
        "places": places.name,
        "seeds": arguments.seeds,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "threads": os.environ.get("OPENBLAS_NUM_THREADS", "default"),
        "wall_s": round(time.perf_counter() - start, 1),
        "scenarios": {name: {key: attrs.asdict(figure) for key, figure in figures.items()} for name, figures in results.items()},
    }
    text = json.dumps(output, indent=2)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    if arguments.json:
        print(text)
        return
    show(results, print)


if __name__ == "__main__":
    main()
