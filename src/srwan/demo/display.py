"""How the demonstration is shown: a live table on a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from srwan.demo.observer import Observer

__all__ = ["Display", "Watched", "open_display"]

LOG_LINES = 16
QUIET_KINDS = frozenset(
    {"MemberJoined", "MemberUpdated", "ViewChanged", "ReporterElected", "MatrixIncomplete", "PathProbing", "SessionEstablished"}
)
"""Too many of these to read while a dozen routers start."""
STYLES = {"kill": "bold red", "congestion": "bold yellow", "PathSwitched": "bold green", "DirectRestored": "bold green", "PathDied": "red"}


class Watched(Protocol):
    """What the display reads of a demonstration."""

    observer: Observer


class Display:
    """Shows events as they come and the result at the end."""

    def __init__(self, console: Console | None, live: Live | None) -> None:
        self._console = console
        self._live = live
        self._lines: list[Text] = []
        self._watched: Watched | None = None

    def watch(self, demonstration: Watched) -> None:
        """Show this demonstration's routers in the table."""
        self._watched = demonstration

    def show(self, at_s: float, kind: str, detail: str) -> None:
        """Show one event."""
        if self._console is None or kind in QUIET_KINDS:
            self._refresh()
            return
        line = Text.assemble((f"{at_s:6.2f} s  ", "dim"), (f"{kind:14} ", STYLES.get(kind, "cyan")), detail)
        if self._live is None:
            self._console.print(line, soft_wrap=True)
            return
        self._lines = [*self._lines, line][-LOG_LINES:]
        self._refresh()

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(Group(self._table(), Panel(Group(*self._lines), title="what happens", title_align="left")))

    def _table(self) -> Table:
        table = Table(title="segment routers, one process each", title_justify="left", expand=True)
        for column in ("router", "pid", "members", "matrix edges", "now"):
            table.add_column(column, justify="left" if column in ("router", "now") else "right")
        routers = self._watched.observer.routers if self._watched is not None else {}
        for index in sorted(routers):
            facts = routers[index]
            table.add_row(
                str(facts.get("name", index)),
                str(facts.get("up", {}).get("pid", "")),
                str(facts.get("ViewChanged", {}).get("size", "")),
                str(facts.get("MatrixFilled", {}).get("edges", "")),
                _activity(facts),
            )
        return table

    def summarise(self, result: dict[str, Any]) -> None:
        """Print the figures."""
        if self._console is None:
            return
        for group in result.get("ditex_matrix", []):
            self._console.print(_matrix_table(group))
        table = Table(title="result", title_justify="left", show_header=False)
        for key, value in result.items():
            if key not in {"events", "versions", "ditex_matrix"}:
                table.add_row(key, str(value))
        self._console.print(table)


def _activity(facts: dict[str, Any]) -> str:
    if "exit" in facts:
        return "[red]ended[/]" if facts["exit"]["code"] else "stopped"
    if "path_open" in facts and "stream_ended" not in facts:
        relays = facts.get("PathSwitched", {}).get("to_relays", [])
        return f"sends via {', '.join(relays)}" if relays else "sends direct"
    if facts.get("ReportPublished", {}).get("node_id", "") == facts["name"]:
        return "reporter"
    return "joined" if "ViewChanged" in facts else "starting"


def _matrix_table(group: dict[str, Any]) -> Table:
    """The published matrix: rows are receivers, columns senders; one-way milliseconds as published, clock offsets included."""
    names = group["names"]
    table = Table(title="DITEX: one-way latency, ms, row to column, clock offsets estimated out", title_justify="left")
    table.add_column("from / to")
    for name in names:
        table.add_column(name[:9], justify="right")
    for name, row in zip(names, group["owl_ms"], strict=True):
        table.add_row(name, *("-" if value is None else f"{value:.0f}" for value in row))
    return table


@contextmanager
def open_display(*, is_silent: bool) -> Iterator[Display]:
    """Open the display that fits: none if silent, live on a terminal, plain lines otherwise."""
    if is_silent:
        yield Display(None, None)
        return
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=200, color_system=None)
    if not console.is_terminal:
        yield Display(console, None)
        return
    with Live(console=console, refresh_per_second=8, transient=False) as live:
        display = Display(console, live)
        yield display
