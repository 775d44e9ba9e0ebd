"""What goes wrong in a simulated network: one frozen class of options, and the TOML file that holds it.

    [network]
    start_s = 0.5          # nodes start within this
    [links]
    loss = 0.05
    [clocks]
    offset_s = 5.0
    [[fault]]
    kind = "crash"
    at_s = 120.0
    nodes = "1%"           # or 10 (so many, drawn by the seed), or [3, 17] (these)

Every value has a type and a range; `ConfigError` names the key, the value and the range. `KINDS` says what each kind of fault does and
which settings it reads; a setting that a kind does not read is an error too, because it would be silently without effect.
"""

from __future__ import annotations

import difflib
import math
import random
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from srwan.errors import ConfigError

__all__ = ["KINDS", "Fault", "Faults", "Nodes", "load_faults", "parse_faults"]

FILE_BYTES_MAX = 256 * 1024
"""A fault file is written by hand."""
FAULTS_MAX = 1_000
TIME_S_MAX = 1e6
NODES_MAX = 1_000_000

Nodes: TypeAlias = int | str | tuple[int, ...]
"""Which nodes: a count or a share such as "1%" (drawn by the seed), or indices from 0."""

KINDS: dict[str, frozenset[str]] = {
    "crash": frozenset(),
    "leave": frozenset(),
    "pause": frozenset(),
    "starve": frozenset({"share", "slice_s"}),
    "clock-step": frozenset({"step_s"}),
    "cut-in": frozenset(),
    "cut-out": frozenset(),
    "cut": frozenset({"towards"}),
    "partition": frozenset(),
    "loss": frozenset({"share"}),
    "clog": frozenset(),
    "delay": frozenset({"extra_ms"}),
    "hostile": frozenset({"rate_per_s"}),
}
"""Kinds, and the settings they read besides at_s, nodes, for_s and period_s.

crash: gone without a word; with for_s it restarts then, with a new boot id and nothing remembered. leave: says goodbye. pause: the process
is stopped, datagrams wait in its socket buffer. starve: it runs for `share` of every `slice_s`. clock-step: its clocks jump by `step_s`
(and back, with for_s). cut-in, cut-out: nothing reaches it, or nothing leaves it. cut: nothing from `nodes` reaches `towards`. partition:
`nodes` and the others do not reach each other. loss: `share` of what it sends and of what is sent to it is lost. clog: what it sends is
held and delivered all at once at the end. delay: `extra_ms` on everything it sends. hostile: it sends `rate_per_s` fuzzed datagrams.
"""


@attrs.frozen(slots=True, kw_only=True)
class Fault:
    """Something that happens to some nodes."""

    kind: str
    """A key of `KINDS`."""
    at_s: float
    """When it begins, simulated seconds."""
    nodes: Nodes = 1
    """Who has it."""
    for_s: float | None = None
    """How long; None: for good."""
    period_s: float | None = None
    """It comes and goes: on for the first half of each period; None: on all the time."""
    share: float = 0.5
    """Of datagrams lost, or of time the process runs, 0..1."""
    slice_s: float = 1.0
    """Length of a scheduling slice of a starved process, s."""
    step_s: float = 1.0
    """By how much clocks jump, s."""
    extra_ms: float = 50.0
    """Added latency, ms."""
    rate_per_s: float = 100.0
    """Fuzzed datagrams a second and node."""
    towards: Nodes = 1
    """Whom `nodes` cannot reach."""

    def __attrs_post_init__(self) -> None:
        if self.kind not in KINDS:
            near = difflib.get_close_matches(self.kind, KINDS, 1)
            raise ConfigError(
                "fault.kind", f"{self.kind!r} is no fault", f"did you mean {near[0]}?" if near else f"known are {', '.join(KINDS)}"
            )
        for name, (low, high) in _FAULT_RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in ("for_s", "period_s"):
                _require_number(f"fault.{name}", value, low, high)
        for name in ("nodes", "towards"):
            _require_nodes(f"fault.{name}", getattr(self, name))
        if self.kind == "pause" and self.for_s is None:
            raise ConfigError("fault.for_s", "a pause without an end", 'give how long, or use kind = "crash"')
        if self.kind == "leave" and (self.for_s is not None or self.period_s is not None):
            raise ConfigError("fault.for_s", "who left does not come back", 'leave it out, or use kind = "crash"')

    def is_on(self, now: float) -> bool:
        """Say whether the fault acts at a time."""
        since_s = now - self.at_s
        if since_s < 0 or (self.for_s is not None and since_s >= self.for_s):
            return False
        return self.period_s is None or since_s % self.period_s < self.period_s / 2

    def end_after(self, now: float) -> float:
        """Return when what is on at `now` ends; infinite: never."""
        end_s = self.at_s + (math.inf if self.for_s is None else self.for_s)
        if self.period_s is None:
            return end_s
        return min(end_s, now - (now - self.at_s) % self.period_s + self.period_s / 2)

    def changes(self, until_s: float) -> list[tuple[float, bool]]:
        """Return when it begins (True) and ends (False) until a time, rising."""
        end_s = min(until_s, self.at_s + (math.inf if self.for_s is None else self.for_s))
        if self.period_s is None:
            found = [(self.at_s, True), (end_s, False)]
        else:
            count = int((end_s - self.at_s) / self.period_s) + 1 if end_s > self.at_s else 0
            found = []
            for turn in range(count):
                begin_s = self.at_s + turn * self.period_s
                found += [(begin_s, True), (min(end_s, begin_s + self.period_s / 2), False)]
        return [(at, is_on) for at, is_on in found if at < until_s]


_FAULT_RANGES: dict[str, tuple[float, float]] = {
    "at_s": (0.0, TIME_S_MAX),
    "for_s": (0.001, TIME_S_MAX),
    "period_s": (0.1, TIME_S_MAX),
    "share": (0.0, 1.0),
    "slice_s": (0.001, 60.0),
    "step_s": (-3600.0, 3600.0),
    "extra_ms": (0.0, 60_000.0),
    "rate_per_s": (0.001, 100_000.0),
}


@attrs.frozen(slots=True, kw_only=True)
class Faults:
    """Everything that is not ideal in a simulated network. Make it in code, or with `load_faults`. The default is ordinary weather."""

    has_join: bool = False
    """network.has_join: true: nodes start alone and ask an introducer; false: at time 0 all have the roster of their group."""
    start_s: float = 0.5
    """network.start_s: nodes that join start at random times within this."""
    stretch_min: float = 1.45
    """network.stretch_min: least ratio of a round trip to light in fibre (measured: 5 % of pairs are below)."""
    stretch_max: float = 4.31
    """network.stretch_max: greatest ratio of a round trip to light in fibre (measured: 5 % are above)."""
    strong_asymmetry: float = 0.11
    """network.strong_asymmetry: share of pairs whose two directions differ strongly."""
    loss: float = 0.01
    """links.loss: share of datagrams lost."""
    duplicate: float = 0.0
    """links.duplicate: share of datagrams that arrive twice."""
    reorder: float = 0.0
    """links.reorder: share of datagrams that are overtaken by later ones."""
    reorder_ms: float = 300.0
    """links.reorder_ms: how long these are held at most, uniform, ms."""
    jitter_ms: float = 1.5
    """links.jitter_ms: mean of the exponential queueing delay, ms."""
    spike_share: float = 0.02
    """links.spike_share: share of datagrams with a spike on top."""
    spike_ms: float = 40.0
    """links.spike_ms: mean of an exponential spike, ms."""
    offset_s: float = 5.0
    """clocks.offset_s: clocks are off by up to so much, either way, s."""
    drift_ppm: float = 50.0
    """clocks.drift_ppm: and drift by up to so much, either way."""
    faults: tuple[Fault, ...] = ()
    """[[fault]]: what happens to whom, and when."""

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.has_join, bool):
            raise ConfigError("network.has_join", f"{self.has_join!r} is not usable", "give true or false")
        for key, (name, low, high) in _SETTINGS.items():
            _require_number(key, getattr(self, name), low, high)
        if self.stretch_max < self.stretch_min:
            raise ConfigError("network.stretch_max", f"{self.stretch_max:g} is less than stretch_min", f"give {self.stretch_min:g} or more")
        if len(self.faults) > FAULTS_MAX:
            raise ConfigError("fault", f"{len(self.faults)} faults", f"give at most {FAULTS_MAX}")

    @classmethod
    def none(cls) -> Faults:
        """Return an ideal network: nothing lost, no jitter, true clocks."""
        return cls(loss=0.0, jitter_ms=0.0, spike_share=0.0, offset_s=0.0, drift_ppm=0.0)

    @property
    def is_fuzzed(self) -> bool:
        """Whether somebody sends fuzzed datagrams, so that datagrams must be bytes."""
        return any(fault.kind == "hostile" for fault in self.faults)


_SETTINGS: dict[str, tuple[str, float, float]] = {
    "network.start_s": ("start_s", 0.0, 3600.0),
    "network.stretch_min": ("stretch_min", 1.0, 100.0),
    "network.stretch_max": ("stretch_max", 1.0, 100.0),
    "network.strong_asymmetry": ("strong_asymmetry", 0.0, 1.0),
    "links.loss": ("loss", 0.0, 1.0),
    "links.duplicate": ("duplicate", 0.0, 1.0),
    "links.reorder": ("reorder", 0.0, 1.0),
    "links.reorder_ms": ("reorder_ms", 0.0, 60_000.0),
    "links.jitter_ms": ("jitter_ms", 0.0, 60_000.0),
    "links.spike_share": ("spike_share", 0.0, 1.0),
    "links.spike_ms": ("spike_ms", 0.0, 60_000.0),
    "clocks.offset_s": ("offset_s", 0.0, 50.0),
    "clocks.drift_ppm": ("drift_ppm", 0.0, 1000.0),
}
"""Key of the file: field, least and greatest value. Clocks beyond 50 s cannot join: certificates allow 60 s between two of them."""


def load_faults(path: Path) -> Faults:
    """Read and check a fault file.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, a wrong type, or a value out of its range.
    """
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(str(path), "the file is too large", f"a fault file has at most {FILE_BYTES_MAX} bytes")
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read ({error.strerror})", "check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"is not TOML: {error}", "mend the file; docs/simulation.md has an example") from None
    return parse_faults(table)


def parse_faults(table: Mapping[str, Any]) -> Faults:
    """Check a decoded fault file.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value out of its range.
    """
    sections = {key.partition(".")[0] for key in _SETTINGS}
    fields: dict[str, Any] = {}
    for section, values in table.items():
        if section == "fault":
            fields["faults"] = _parse_fault_list(values)
            continue
        if section not in sections or not isinstance(values, Mapping):
            raise _unknown(section, [*sorted(sections), "fault"])
        for key, value in values.items():
            dotted = f"{section}.{key}"
            if dotted == "network.has_join":
                fields["has_join"] = value
                continue
            if dotted not in _SETTINGS:
                raise _unknown(dotted, [*_SETTINGS, "network.has_join"])
            name, low, high = _SETTINGS[dotted]
            fields[name] = _require_number(dotted, value, low, high)
    return Faults(**fields)


def choose_nodes(nodes: Nodes, total: int, rng: random.Random, key: str) -> tuple[int, ...]:
    """Return the indices that `nodes` means among `total` nodes, rising.

    Raises:
        ConfigError: more than there are, or an index that none has.
    """
    if isinstance(nodes, tuple):
        if max(nodes, default=0) >= total:
            raise ConfigError(key, f"there is no node {max(nodes)}", f"give indices in 0..{total - 1}")
        return tuple(sorted(set(nodes)))
    count = nodes if isinstance(nodes, int) else max(1, round(float(nodes.removesuffix("%")) / 100 * total))
    if count > total:
        raise ConfigError(key, f"{count} nodes of {total}", f"give at most {total}")
    return tuple(sorted(rng.sample(range(total), count)))


def _parse_fault_list(values: Any) -> tuple[Fault, ...]:
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
        raise ConfigError("fault", "is not a list of tables", "write [[fault]] above each fault")
    return tuple(_parse_fault(value) for value in values)


def _parse_fault(table: Mapping[str, Any]) -> Fault:
    for key in ("kind", "at_s"):
        if key not in table:
            raise ConfigError(f"fault.{key}", "is missing", "every fault has a kind and a time at_s")
    kind = table["kind"]
    if not isinstance(kind, str):
        raise ConfigError("fault.kind", f"{kind!r} is no fault", f"known are {', '.join(KINDS)}")
    allowed = ["kind", "at_s", "nodes", "for_s", "period_s", *sorted(KINDS.get(kind, ()))]
    fields: dict[str, Any] = {}
    for key, value in table.items():
        if key not in allowed and kind in KINDS:
            is_known = key in _FAULT_RANGES or key == "towards"
            raise (
                ConfigError(f"fault.{key}", f"{kind} does not read it", f"it reads {', '.join(allowed)}")
                if is_known
                else _unknown(f"fault.{key}", [f"fault.{name}" for name in allowed])
            )
        fields[key] = tuple(value) if isinstance(value, list) else value
    return Fault(**fields)


def _unknown(key: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(key, known, 1)
    return ConfigError(key, "there is no such setting", f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")


def _require_number(key: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(key, f"{value!r} is out of range", f"give a number in {low:g}..{high:g}")
    return float(value)


def _require_nodes(key: str, value: Any) -> None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= NODES_MAX
    is_share = isinstance(value, str) and re.fullmatch(r"\d{1,3}(\.\d+)?%", value) is not None and 0 < float(value[:-1]) <= 100
    is_list = (
        isinstance(value, tuple) and 1 <= len(value) <= NODES_MAX and all(type(index) is int and 0 <= index < NODES_MAX for index in value)
    )
    if not (is_count or is_share or is_list):
        raise ConfigError(key, f"{value!r} names no nodes", 'give a count of 1 or more, a share such as "1%", or a list of indices from 0')
