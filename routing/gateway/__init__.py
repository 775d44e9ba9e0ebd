"""The TUN gateway: IP packets of unmodified programs over paths of srwan. docs/gateway.md is its manual.

gateway.py    which packets go to which node, and which ones of a node are let in
routes.py     longest prefixes, and the overlay address of a node
ip_packet.py  IPv4 and IPv6 headers of packets that nobody has checked
icmp.py       what a sender on our side is told
rewrite.py    fragments, and the clamping of TCP's segment size
tun.py        the device; a shell
service.py    between the device and the flows to other gateways; a shell
"""

from __future__ import annotations

__all__: list[str] = []
