"""CPU time of processes and of the machine, read from outside.

`process_s` reads the process's CPU clock, which counts nanoseconds of all its threads, ended ones included; it knows user and system time
together. Without CONFIG_IRQ_TIME_ACCOUNTING it contains the softirq work that ran in the process's context, such as carrying a packet
over the veth that it was just written to: that is the share of the relay's own transmissions. What ran in ksoftirqd or on top of another
process is not in it; `MachineTime.softirq_s` says how much softirq time the whole machine had. /proc/PID/stat tells user from system,
in ticks of 10 ms. Source: clock_getcpuclockid(3), proc(5), the kernel's include/linux/posix-timers.h.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import attrs

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CPUCLOCK_SCHED = 2
"""Of the kernel's clock numbers: time that the scheduler gave to a whole process."""


@attrs.frozen(slots=True)
class ProcessTime:
    """CPU time of a process so far."""

    user_s: float
    system_s: float


@attrs.frozen(slots=True)
class MachineTime:
    """CPU time of all cores so far."""

    busy_s: float
    """All but idle and waiting for disks."""
    softirq_s: float
    stolen_s: float
    """Taken by the host for others."""


def process_s(pid: int) -> float:
    """Return the CPU time of a process, user and system, seconds. Raises OSError if there is none."""
    return time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED) * 1e-9


def total_s(pids: Iterable[int]) -> float:
    """Return the CPU time of several processes."""
    return sum(process_s(pid) for pid in pids)


def parse_process_stat(text: str) -> ProcessTime:
    """Read /proc/PID/stat. The command's name may hold spaces and brackets, so everything up to the last one is skipped."""
    fields = text.rpartition(")")[2].split()
    return ProcessTime(int(fields[11]) / TICKS_PER_S, int(fields[12]) / TICKS_PER_S)


def process_time(pid: int) -> ProcessTime:
    """Return user and system time of a process; ticks of 10 ms."""
    return parse_process_stat(Path(f"/proc/{pid}/stat").read_text("ascii", "replace"))


def parse_machine_stat(text: str) -> MachineTime:
    """Read /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, ... of all cores."""
    fields = [int(field) / TICKS_PER_S for field in text.splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return MachineTime(user + nice + system + irq + softirq, softirq, steal)


def machine_time() -> MachineTime:
    """Return the machine's CPU time so far."""
    return parse_machine_stat(Path("/proc/stat").read_text("ascii"))


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process, bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
