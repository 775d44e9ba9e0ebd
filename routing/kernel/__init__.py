"""The Linux kernel as a data plane, L3: SRv6 for private networks. docs/kernel.md is its manual.

plan.py      what the kernel has to hold, and the steps that lead there
messages.py  netlink messages of it
plane.py     brings the kernel there and reads its counters; a shell
sysctl.py    switches that it needs, and puts back as they were; a shell
border.py    packets where kernel routers and user-space routers share a path
tun.py       how such packets get in and out; a shell
service.py   follows the paths of this node; a shell
"""

from __future__ import annotations

__all__: list[str] = []
