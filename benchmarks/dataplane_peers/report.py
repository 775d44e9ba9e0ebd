"""The table and the JSON: figures by system, aims met or missed, what the conditions were and what the comparison leaves out."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from dataplane_peers.figures import Figure, Outcome

LEFT_OUT = (
    "Peers are the versions that the system's packages have, named in the report; current nebula, wireguard-go, tinc and yggdrasil and "
    "the kernel's own WireGuard were not measured. Claim nothing about them.",
    "Debian 12's wireguard-go is of March 2022, before its batched system calls and UDP segmentation offload.",
    "The relay of wireguard-go opens each packet, hands it to the kernel to forward over a TUN, and seals it again; tinc opens and seals "
    "whole packets; nebula's and srwan's relays forward in user space and leave payloads sealed end to end.",
    "What they do per packet and srwan does not: nebula looks every packet up in a connection-tracking firewall at the ends; "
    "wireguard-go pads to 16 bytes; yggdrasil finds its route per packet and carries all over TCP.",
    "What srwan does per packet and they do not all: a segment list authenticated per hop, a replay window per hop and end to end, octets "
    "counted per neighbour and path, send stamps of the flow's packets.",
    "srwan's overlay MTU is 1,280, the others' 1,420: its TCP segments are shorter, so it has 1.1 times their packets per octet. CPU is "
    "per 1,400 B of TCP payload for all, whatever the segments.",
    "yggdrasil has an MTU of 65,535: its TCP comes in long segments, and its row of 64 B packets is IPv6.",
    "Kernel rows with offload carry TCP in trains of up to 64 kB from end to end; a network card and many flows would show less.",
    "Links are veth pairs on one machine: no loss, no delay, no network card, one flow or four, one relay. Sender, relay, receiver and "
    "load share all cores: packets per second are lower bounds; CPU per packet is the robust figure.",
    "CPU of a process holds the softirq work that ran in its context; what ran elsewhere is only in softirq_us, which is the machine's.",
    "Latency p99 is of the whole machine, whatever else it does: no aim rests on it.",
)


@attrs.frozen(slots=True)
class Column:
    """A column of the table."""

    title: str
    figure: str
    decimals: int
    scale: float = 1.0


CHAIN = (
    Column("TCP Gbit/s", "tcp1_gbps", 3),
    Column("4 flows", "tcp4_gbps", 3),
    Column("relay us/1400B", "relay_us", 2),
    Column("A us", "ingress_us", 2),
    Column("C us", "egress_us", 2),
    Column("64 B kpps", "udp64_pps", 1, 1e-3),
    Column("relay us/64B", "relay64_us", 2),
    Column("owl p50 us", "owl_p50_us", 0),
    Column("p99", "owl_p99_us", 0),
)
ALONE = (
    Column("kpps", "pps", 1, 1e-3),
    Column("relay us", "relay_us", 2),
    Column("1000 paths us", "paths_relay_us", 2),
    Column("B a path", "path_bytes", 0),
    Column("owl p50 us", "owl_p50_us", 1),
    Column("p99", "owl_p99_us", 0),
    Column("lost rekey", "rekey_lost", 0),
    Column("roam", "roam_lost", 0),
    Column("switch", "switch_lost", 0),
)
TITLE_WIDTH = 28
CELL_WIDTH = 15


def cell(figure: Figure | None, column: Column) -> str:
    """Return a figure's median, or a dash."""
    return "-" if figure is None else f"{figure.median * column.scale:,.{column.decimals}f}"


def spread_of(figure: Figure | None, column: Column) -> str:
    """Return a figure's least and greatest."""
    if figure is None or figure.repetitions < 2:
        return ""
    return f"{figure.least * column.scale:,.{column.decimals}f}..{figure.greatest * column.scale:,.{column.decimals}f}"


def table(
    columns: Sequence[Column], titles: Mapping[str, str], summary: Mapping[str, Mapping[str, Figure]], absent: Mapping[str, str]
) -> list[str]:
    """Return the lines of a table: two for each system, medians and spread; one for a system that is absent."""
    lines = [f"{'':{TITLE_WIDTH}}" + "".join(f"{column.title:>{CELL_WIDTH}}" for column in columns)]
    for name, title in titles.items():
        figures = summary.get(name, {})
        if not figures:
            lines.append(f"{title:{TITLE_WIDTH}}  {absent.get(name, 'not measured')}")
            continue
        lines.append(f"{title:{TITLE_WIDTH}}" + "".join(f"{cell(figures.get(column.figure), column):>{CELL_WIDTH}}" for column in columns))
        spreads = [spread_of(figures.get(column.figure), column) for column in columns]
        if any(spreads):
            lines.append(f"{'':{TITLE_WIDTH}}" + "".join(f"{spread:>{CELL_WIDTH}}" for spread in spreads))
    return lines


def verdicts(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each aim."""
    lines = []
    for outcome in outcomes:
        aim, value = outcome.aim, outcome.value
        bound = f"{'<=' if aim.is_most else '>='} {aim.bound:g} {aim.unit}"
        found = "" if value is None else f"{value.median:.3g} {aim.unit}   ({value.least:.3g} .. {value.greatest:.3g})"
        lines.append(f"{aim.title:46}{bound:>16}   {outcome.verdict:13} {found}".rstrip())
    return lines


def first_line(command: Sequence[str]) -> str:
    """Return the first line that a command prints, or an empty string if it is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def machine() -> dict[str, Any]:
    """Return what the figures depend on and can be known."""
    model = ""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        pass
    tools = {"iperf3": ("iperf3", "--version"), "iproute2": ("ip", "-V")}
    return {
        **{name: first_line(command) for name, command in tools.items()},
        "cpus": os.cpu_count(),
        "cpu": model or platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_before": os.getloadavg()[0],
    }
