"""From samples to figures: median and spread of each, ratios between systems within a repetition, aims met or missed.

A sample is what one repetition measured of one system. Repetitions go through all systems in turn, so that what else the machine does falls
on all alike; a ratio is therefore taken between samples of the same repetition, and its median is given, not the ratio of two medians.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

Samples = Mapping[str, Sequence[Mapping[str, float]]]
"""By system: one mapping of figures per repetition; an empty one where it could not be measured."""


@attrs.frozen(slots=True)
class Figure:
    """A figure over repetitions."""

    median: float
    least: float
    greatest: float
    repetitions: int
    """How many had it."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure | None:
        """Sum up; None of nothing."""
        return cls(statistics.median(values), min(values), max(values), len(values)) if values else None


@attrs.frozen(slots=True)
class Aim:
    """A bound that a ratio, a difference or a figure is to keep.

    `figure` of `ours` is divided by `figure` of `other`, or with `is_difference` the latter is subtracted, or with no `other` it stands
    for itself.
    """

    title: str
    ours: str
    """System."""
    figure: str
    bound: float
    is_most: bool
    """The bound is an upper one."""
    other: str = ""
    """System; "" for none."""
    is_difference: bool = False
    unit: str = "x"


@attrs.frozen(slots=True)
class Outcome:
    """What became of an aim."""

    aim: Aim
    value: Figure | None
    """None: not measured."""

    @property
    def verdict(self) -> str:
        """Judged by the median: "met", "missed" or "not measured"."""
        if self.value is None:
            return "not measured"
        is_met = self.value.median <= self.aim.bound if self.aim.is_most else self.value.median >= self.aim.bound
        return "met" if is_met else "missed"


def summarize(samples: Samples) -> dict[str, dict[str, Figure]]:
    """Return the figures of each system by name, in the order in which they were first measured."""
    summary: dict[str, dict[str, Figure]] = {}
    for system, repetitions in samples.items():
        names = dict.fromkeys(name for sample in repetitions for name in sample)
        values = {name: [sample[name] for sample in repetitions if name in sample] for name in names}
        summary[system] = {name: figure for name, of in values.items() if (figure := Figure.of(of)) is not None}
    return summary


def compare(samples: Samples, aim: Aim) -> Figure | None:
    """Work an aim's value out of each repetition that has both sides; None if none has."""
    ours = samples.get(aim.ours, ())
    if not aim.other:
        return Figure.of([sample[aim.figure] for sample in ours if aim.figure in sample])
    values = []
    for sample, reference in zip(ours, samples.get(aim.other, ()), strict=False):
        if aim.figure not in sample or aim.figure not in reference:
            continue
        if aim.is_difference:
            values.append(sample[aim.figure] - reference[aim.figure])
        elif reference[aim.figure]:
            values.append(sample[aim.figure] / reference[aim.figure])
    return Figure.of(values)


def ratios(samples: Samples, ours: Sequence[str], others: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, dict[str, Figure]]]:
    """Return ours / other, by our system, other system and name of the figure, for all pairs that were measured."""
    return _pairwise(samples, ours, others, names, is_difference=False)


def differences(samples: Samples, ours: Sequence[str], other: str, names: Sequence[str]) -> dict[str, dict[str, Figure]]:
    """Return ours - other, by our system and name of the figure."""
    found = _pairwise(samples, ours, [other], names, is_difference=True)
    return {system: by_other[other] for system, by_other in found.items() if other in by_other}


def _pairwise(
    samples: Samples, ours: Sequence[str], others: Sequence[str], names: Sequence[str], *, is_difference: bool
) -> dict[str, dict[str, dict[str, Figure]]]:
    found: dict[str, dict[str, dict[str, Figure]]] = {}
    for system, other, name in itertools.product(ours, others, names):
        aim = Aim("", system, name, 0.0, is_most=True, other=other, is_difference=is_difference)
        figure = compare(samples, aim) if system != other else None
        if figure is not None:
            found.setdefault(system, {}).setdefault(other, {})[name] = figure
    return found


def judge(samples: Samples, aims: Sequence[Aim]) -> list[Outcome]:
    """Compare all aims with what was measured."""
    return [Outcome(aim, compare(samples, aim)) for aim in aims]


def as_json(value: Any) -> Any:
    """Return figures, outcomes and containers of them as JSON values, floats to four significant digits."""
    if isinstance(value, Outcome):
        found = None if value.value is None else as_json(value.value)
        return {"aim": value.aim.title, "bound": value.aim.bound, "unit": value.aim.unit, "value": found, "verdict": value.verdict}
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(each) for each in value]
    return as_json(attrs.asdict(value)) if attrs.has(type(value)) else value
