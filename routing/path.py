"""The life cycle of one path, as a table; what happened to paths, as events; and how long a bad path is left alone.

Theory of operation, after h11: a path is in one state; signals move it; `TRANSITIONS` is the whole truth. A signal that the table does
not know for a state is our own bug (`LocalProtocolError`) and moves nothing. The picture in docs/path-life-cycle.md and the state
machine of the tests are made from the same table.

Rules the table expresses:

1. Only a path that answered several fresh keep-alives (standby) can be selected for data.
2. Data leave a path before it is vetoed: there is no way from active to vetoed.
3. A path that fell silent starts over: it must be confirmed again, like a new one. A relay's notice alone kills no path: only silence
   does, or the group's own failure detector.
4. Closed is the end. Whoever wants the same relays again makes a new path with a new tag.

The home path (direct, or the forced one) carries data from the first moment and whenever nothing answers, whatever its state: it is
where packets go for want of anything better. It is never vetoed.

Not here: measuring (`watch`) and deciding (`control`).
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs

from srwan.errors import LocalProtocolError
from srwan.routing.finder import Relays

__all__ = [
    "DirectRestored",
    "PathActivated",
    "PathDegraded",
    "PathDied",
    "PathLife",
    "PathProbing",
    "PathSignal",
    "PathState",
    "PathStatus",
    "PathSwitched",
    "PathVetoed",
    "life_cycle_page",
    "mermaid",
]


class PathState(enum.Enum):
    """Where a path is in its life."""

    CANDIDATE = "candidate"
    PROBING = "probing"
    STANDBY = "standby"
    ACTIVE = "active"
    SUSPECT = "suspect"
    DEAD = "dead"
    VETOED = "vetoed"
    CLOSED = "closed"


class PathSignal(enum.Enum):
    """What can happen to a path."""

    OPENED = "opened"
    CONFIRMED = "confirmed"
    SELECTED = "selected"
    DESELECTED = "deselected"
    MISSED = "missed answers"
    NOTIFIED = "relay gave notice"
    ANSWERED = "answered"
    DIED = "died"
    BARRED = "barred"
    PARDONED = "pardoned"
    CLOSED = "closed"


_S, _E = PathState, PathSignal

TRANSITIONS: Final[Mapping[PathState, Mapping[PathSignal, PathState]]] = MappingProxyType(
    {
        _S.CANDIDATE: {_E.OPENED: _S.PROBING, _E.CLOSED: _S.CLOSED},
        _S.PROBING: {_E.CONFIRMED: _S.STANDBY, _E.DIED: _S.DEAD, _E.CLOSED: _S.CLOSED},
        _S.STANDBY: {
            _E.SELECTED: _S.ACTIVE,
            _E.MISSED: _S.SUSPECT,
            _E.NOTIFIED: _S.SUSPECT,
            _E.DIED: _S.DEAD,
            _E.BARRED: _S.VETOED,
            _E.CLOSED: _S.CLOSED,
        },
        _S.ACTIVE: {
            _E.DESELECTED: _S.STANDBY,
            _E.MISSED: _S.SUSPECT,
            _E.NOTIFIED: _S.SUSPECT,
            _E.DIED: _S.DEAD,
            _E.CLOSED: _S.CLOSED,
        },
        _S.SUSPECT: {_E.ANSWERED: _S.STANDBY, _E.DIED: _S.DEAD, _E.BARRED: _S.VETOED, _E.CLOSED: _S.CLOSED},
        _S.DEAD: {_E.ANSWERED: _S.PROBING, _E.BARRED: _S.VETOED, _E.CLOSED: _S.CLOSED},
        _S.VETOED: {_E.PARDONED: _S.CANDIDATE, _E.CLOSED: _S.CLOSED},
        _S.CLOSED: {},
    }
)
"""State, signal: next state. What is not here cannot happen."""

MEANINGS: Final[Mapping[PathState, str]] = MappingProxyType(
    {
        _S.CANDIDATE: "Known from the matrix; nothing is sent on it.",
        _S.PROBING: "Keep-alives are sent; not enough fresh answers yet.",
        _S.STANDBY: "Answers; warm, measured, ready to take data at once.",
        _S.ACTIVE: "Answers and carries the data.",
        _S.SUSPECT: "Answers are overdue, or its relay gave notice that it cannot go on (then data leave it if another path answers); "
        "no data are moved to it.",
        _S.DEAD: "Silent too long, or a relay was reported gone; asked on, but measured from scratch.",
        _S.VETOED: "Left alone for a while after it died or was worse than promised; nothing is sent on it.",
        _S.CLOSED: "Given up; its tag is never used again.",
    }
)


class PathLife:
    """One path's place in the table."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = PathState.CANDIDATE

    def on(self, signal: PathSignal) -> PathState:
        """Move by `signal` and return the new state.

        Raises:
            LocalProtocolError: the table has no such move; the state is unchanged.
        """
        following = TRANSITIONS[self.state].get(signal)
        if following is None:
            raise LocalProtocolError(f"a path that is {self.state.value} cannot have {signal.value}")
        self.state = following
        return following

    def __repr__(self) -> str:
        return f"PathLife({self.state.value})"


def mermaid() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {PathState.CANDIDATE.value}"]
    for state, moves in TRANSITIONS.items():
        lines += [f"    {state.value} --> {following.value}: {signal.value}" for signal, following in moves.items()]
    return "\n".join([*lines, f"    {PathState.CLOSED.value} --> [*]"])


def life_cycle_page() -> str:
    """Return the text of docs/path-life-cycle.md; a test keeps the file equal to it."""
    rows = "\n".join(f"| {state.value} | {meaning} |" for state, meaning in MEANINGS.items())
    return (
        "# Life cycle of a path\n\n"
        "Made from `srwan.routing.path.TRANSITIONS`; change the table, then write `life_cycle_page()` here.\n\n"
        f"```mermaid\n{mermaid()}\n```\n\n"
        f"| state | meaning |\n|---|---|\n{rows}\n\n"
        "The home path (direct, or the one forced by `via`) carries data from the first moment and whenever no path answers, whatever\n"
        "its state. It is never vetoed.\n"
    )


VETO_S_BASE = 30.0
"""First veto of a path, s; doubles with each further one."""
VETO_S_MAX = 600.0
"""Longest veto, s."""
STRIKES_FORGOTTEN_S = 3600.0
"""A path that behaved this long since its last veto ended starts again at the base, s."""
VETOES_MAX = 256
"""Paths remembered: twice the members of a group; the oldest veto is forgotten first."""


@attrs.define(slots=True)
class _Veto:
    life: PathLife
    until: float
    strikes: int


class VetoList:
    """Which paths are left alone, until when: 30 s * 2^k, at most 10 min, like route-flap damping (RFC 2439)."""

    def __init__(self) -> None:
        self._vetoes: OrderedDict[Relays, _Veto] = OrderedDict()

    def __len__(self) -> int:
        return len(self._vetoes)

    def bar(self, relays: Relays, life: PathLife, now: float, *, for_s: float | None = None) -> float:
        """Veto a path and return for how long, s. With `for_s` it is only set aside that long and no strike is counted.

        Raises:
            LocalProtocolError: the path is active, so data are still on it. Nothing changed.
        """
        life.on(PathSignal.BARRED)
        strikes = self.strikes(relays, now)
        duration_s = for_s
        if duration_s is None:
            duration_s = min(VETO_S_MAX, VETO_S_BASE * 2.0**strikes)
            strikes += 1
        self._vetoes[relays] = _Veto(life, now + duration_s, strikes)
        self._vetoes.move_to_end(relays)
        while len(self._vetoes) > VETOES_MAX:
            self._vetoes.popitem(last=False)
        return duration_s

    def is_barred(self, relays: Relays, now: float) -> bool:
        """Say whether a path is still vetoed."""
        veto = self._vetoes.get(relays)
        return veto is not None and now < veto.until

    def strikes(self, relays: Relays, now: float) -> int:
        """Return how many vetoes of a path are remembered."""
        veto = self._vetoes.get(relays)
        return veto.strikes if veto is not None and now < veto.until + STRIKES_FORGOTTEN_S else 0

    def pardon(self, relays: Relays, now: float) -> PathLife:
        """Return the life of a path whose veto, if any, is over: pardoned, or new. Its strikes stay remembered.

        Raises:
            LocalProtocolError: the veto is not over. Nothing changed.
        """
        if self.is_barred(relays, now):
            raise LocalProtocolError("the path is still vetoed")
        veto = self._vetoes.get(relays)
        if veto is None or veto.life.state is not PathState.VETOED:
            return PathLife()
        veto.life.on(PathSignal.PARDONED)
        return veto.life


@attrs.frozen(slots=True)
class PathProbing:
    """Keep-alives are now sent on a path."""

    relays: Relays
    path_tag: int
    """64 bits, unique per ingress and opening."""


@attrs.frozen(slots=True)
class PathActivated:
    """The path that data take answers: the first time after opening, or again after it was dead."""

    relays: Relays
    path_tag: int
    reason: str


@attrs.frozen(slots=True)
class PathDegraded:
    """Trouble was seen on the path that data take; no decision yet. Once per episode."""

    relays: Relays
    path_tag: int
    problem: str
    """"silence", "latency", "loss", or "way back": data arrive, but answers do not come back by the path's own relays."""
    reason: str


@attrs.frozen(slots=True)
class PathSwitched:
    """Data take another path from now on."""

    from_relays: Relays
    to_relays: Relays
    path_tag: int
    """Of the new path."""
    reason: str
    """What was measured, for example "direct 231 ms, via us-east-1 158 ms, us-west-2 171 ms"."""
    gain_ms: float | None
    """Measured cost of the old path less that of the new one, ms, loss included; None if the old one is dead."""


@attrs.frozen(slots=True)
class DirectRestored:
    """Data are back on the direct path; follows its PathSwitched."""

    from_relays: Relays
    path_tag: int
    reason: str


@attrs.frozen(slots=True)
class PathDied:
    """A watched path answers no more, or one of its relays was reported gone."""

    relays: Relays
    path_tag: int
    was_active: bool
    """Whether data were on it."""
    is_last: bool
    """Whether no path is alive any more; data then stay on the home path, which is asked on."""
    reason: str


@attrs.frozen(slots=True)
class PathVetoed:
    """A path is left alone after it died or was worse than it promised."""

    relays: Relays
    for_s: float
    """How long, s."""
    strikes: int
    """How many vetoes it has had, this one included."""
    reason: str


@attrs.frozen(slots=True)
class PathStatus:
    """One watched path, for display. Raw latencies compare with each other only."""

    relays: Relays
    path_tag: int
    state: PathState
    is_in_use: bool
    predicted_ms: float
    """What the matrix predicted at the last update, raw ms; NaN = unknown."""
    live_ms: float
    """Measured by keep-alives, raw ms; NaN = not yet."""
    data_ms: float
    """Measured on the DATA of the last interval, raw ms; NaN = none."""
    rtt_ms: float
    """Last round trip, ms; NaN = not yet."""
    loss: float
    """Over the last 20 keep-alives, 0..1."""
    explanation: str
    """Of the prediction."""
    rate_kbps: float
    """Greatest delivery rate of DATA in the last 10 s, kbit/s; 0 = none."""
    burst_kbps: float
    """Greatest rate within a train of DATA in the last 10 s, kbit/s: what the narrowest link lets through; 0 = no trains."""
    back: Relays | None
    """Relays by which its answers come since its own way back is broken; None = its own."""

    @property
    def is_warm(self) -> bool:
        """Whether data are on it or could be at once."""
        return self.state in (PathState.STANDBY, PathState.ACTIVE)
