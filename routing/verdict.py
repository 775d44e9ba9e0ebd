"""Judging watched paths over time: is another one better, is this one in trouble, may data go home?

Three small judges, each asked once per evaluation (about every 200 ms). They look at `PathWatch`es, remember what earlier evaluations
said, and move nothing; `control` acts on them.

- `Evidence`, one per rival of the path in use. An evaluation weighs 1 if the rival's clipped mean (and loss) is better by the threshold;
  up to 3 if even the best of the newest samples of the path in use is worse by 3 thresholds than the worst that is known of the rival;
  what goes beyond 1 is lost again with the first good sample. Weights of consecutive evaluations add up, and 9 are enough. So a large
  step needs 3 evaluations, a gain at the threshold 9; a spike or a lost keep-alive never suffices. Both paths must have given 3 samples
  sent since the first of these evaluations, so that congestion both share (the access link) is not held against one.
- `Trouble` says once per episode that the path in use is slower than usual, lossy or silent.
- `Homecoming` counts evaluations with too little gain. Each time home was left again soon after a return, or died under data, the next
  return needs twice as many. If home was left for its loss, its loss must have ended as far as keep-alives tell.

Source: median-of-several and enter/leave thresholds instead of single samples (30 false alarms per edge and day against none); route-flap
damping, RFC 2439.
"""

from __future__ import annotations

import math

from srwan.routing.watch import PathWatch

__all__ = ["Evidence", "Homecoming", "Trouble"]

EVALUATIONS_MIN = 3
"""Consecutive evaluations, and fresh samples of both paths, before data leave a path that still answers."""
WEIGHT_MAX = 3.0
"""Weight of one evaluation, in thresholds."""
WEIGHT_ENOUGH = EVALUATIONS_MIN * WEIGHT_MAX
CALM_EVALUATIONS = 5
"""Evaluations without trouble that end an episode: 1 s."""
TROUBLED_EVALUATIONS = 2
"""Consecutive evaluations with trouble that are reported."""
RETURN_EVALUATIONS = 10
"""Evaluations with too little gain before data go home: 2 s."""
RETURN_EVALUATIONS_MAX = 3000
"""Bound of the doubling: 10 min."""
FLAP_S = 30.0
"""Leaving home again so soon after a return is a strike, s."""
STRIKES_FORGOTTEN_S = 600.0
"""Strikes are forgotten after so long without one, s."""


class Evidence:
    """How strongly consecutive evaluations spoke for one rival."""

    __slots__ = ("_evaluations", "_since", "_surplus")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start over."""
        self._evaluations = 0
        self._surplus = 0.0
        self._since = 0.0

    @property
    def is_for(self) -> bool:
        """Whether the last evaluation spoke for the rival."""
        return self._evaluations > 0

    def weigh(self, used: PathWatch, rival: PathWatch, threshold_ms: float, evaluated_at: float) -> bool:
        """Add one evaluation and say whether it is enough to move data from `used` to `rival`.

        Args:
            used: the path in use.
            rival: a standby.
            threshold_ms: the gain that is worth a move.
            evaluated_at: when the previous evaluation was, monotonic s; samples that arrived later are new.
        """
        live_gain_ms = used.value_ms - rival.value_ms
        newest_gain_ms = used.best_since_ms(evaluated_at) - max(rival.live_ms, rival.newest_ms) + used.loss_ms - rival.loss_ms
        if math.isnan(live_gain_ms) or max(newest_gain_ms, live_gain_ms) < threshold_ms:
            self.forget()
            return False
        if not self._evaluations:
            self._since = used.samples[-1].sent_at
        self._evaluations += 1
        if newest_gain_ms >= threshold_ms:
            self._surplus += min(WEIGHT_MAX, newest_gain_ms / threshold_ms) - 1.0
        else:
            self._surplus = 0.0  # a sample as good as before: no step, so only patience counts
        fresh = min(used.count_sent_since(self._since), rival.count_sent_since(self._since))
        is_enough = self._evaluations >= EVALUATIONS_MIN and self._evaluations + self._surplus >= WEIGHT_ENOUGH
        return is_enough and fresh >= EVALUATIONS_MIN and live_gain_ms >= threshold_ms


class Trouble:
    """Notices that the path in use got worse than it usually is; an episode ends with a second of calm."""

    __slots__ = ("_calm", "_troubled", "is_on")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start over, with another path."""
        self._calm = self._troubled = 0
        self.is_on = False

    def begin(self) -> bool:
        """Note trouble and say whether it is the first of its episode."""
        is_news, self.is_on, self._calm = not self.is_on, True, 0
        return is_news

    def look(self, used: PathWatch, threshold_ms: float, evaluated_at: float, *, is_suspect: bool) -> tuple[str, str] | None:
        """Judge one evaluation; return ("latency" or "loss", words) if an episode begins, else None.

        Args:
            used: the path in use.
            threshold_ms: excess over its usual latency, or worth of its loss, that is trouble.
            evaluated_at: when the previous evaluation was, monotonic s.
            is_suspect: answers are overdue; prolongs an episode.
        """
        if used.newest_at <= evaluated_at and not is_suspect:
            return None  # nothing new to judge
        excess_ms = used.best_since_ms(evaluated_at) - used.usual_ms
        is_lossy = used.loss_ms >= threshold_ms
        if not (excess_ms >= threshold_ms or is_lossy or is_suspect):
            self._troubled = 0
            self._calm += 1
            self.is_on = self.is_on and self._calm < CALM_EVALUATIONS
            return None
        self._calm = 0
        self._troubled += 1
        if self._troubled < TROUBLED_EVALUATIONS or not self.begin():
            return None
        return ("loss", f"loses {used.loss:.0%}") if is_lossy else ("latency", f"{excess_ms:.0f} ms slower than usual")


class Homecoming:
    """Decides when data that left the home path may return to it."""

    __slots__ = ("_evaluations", "_has_left_for_loss", "_returned_at", "_strikes", "_struck_at")

    def __init__(self) -> None:
        self._evaluations = 0
        self._strikes = 0
        self._struck_at = self._returned_at = -math.inf
        self._has_left_for_loss = False

    def leave(self, now: float, *, is_dead: bool, is_for_loss: bool) -> None:
        """Data leave home. A strike if it died, or so soon after a return."""
        self._evaluations = 0
        self._has_left_for_loss = is_for_loss
        if now - self._struck_at > STRIKES_FORGOTTEN_S:
            self._strikes = 0
        if is_dead or now - self._returned_at < FLAP_S:
            self._strikes += 1
            self._struck_at = now

    def come(self, now: float) -> None:
        """Data are home again."""
        self._evaluations = 0
        self._returned_at = now

    def forget(self) -> None:
        """Start counting over: data moved to another path abroad."""
        self._evaluations = 0

    def gain_ms(self, used: PathWatch, home: PathWatch) -> float:
        """What staying away is worth, ms. NaN if unknown."""
        if self._has_left_for_loss:  # without DATA on it home's loss is hard to prove; take the little that is seen at face value
            return home.live_ms + home.seen_loss_ms - used.live_ms - used.seen_loss_ms
        return home.value_ms - used.value_ms

    def count(self, *, is_better: bool) -> bool:
        """Add one evaluation; `is_better`: home would do. Say whether there were enough in a row."""
        self._evaluations = self._evaluations + 1 if is_better else 0
        return self._evaluations >= min(RETURN_EVALUATIONS_MAX, RETURN_EVALUATIONS * 2.0**self._strikes)
