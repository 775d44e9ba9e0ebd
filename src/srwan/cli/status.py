"""`srwan status`: what srwan holds in this machine's kernel and what the kernel counted, or with --state-dir what a router says.

Read from the kernel itself, by the mark that all of it carries: so it works beside a running router, needs no right, and also shows what a
killed one left. What a running router knows, its TUN included, it tells through the socket in its state folder (`srwan.status_socket`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from srwan.status_socket import read_status

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--state-dir", dest="state_dir", type=Path, metavar="FOLDER", help="ask the router that runs with this folder")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print SIDs with their counters, routes and rules."""
    if options.state_dir is not None:
        return _print_router(read_status(options.state_dir), as_json=options.json)
    state = _kernel_state()
    if options.json:
        sys.stdout.write(json.dumps(state, indent=2) + "\n")
        return 0
    if not any(state.values()):
        sys.stdout.write("nothing of srwan is in this kernel (start a router with `srwan up --kernel`)\n")
        return 0
    for entry in state["sids"]:
        counts = f"{entry['packets']:>12} packets {entry['octets']:>15} octets {entry['errors']:>8} errors" if "packets" in entry else ""
        sys.stdout.write(f"{entry['sid']:40} {entry['does']:24} {counts}\n")
    for entry in state["routes"]:
        sys.stdout.write(f"{entry['prefix']:40} {entry['does']}\n")
    sys.stdout.write(f"{state['rules']} rules, HMAC keys: {', '.join(state['hmac_keys']) or 'none'}\n")
    return 0


def _kernel_state() -> dict[str, Any]:
    """Return what is there as JSON values."""
    from srwan.routing.kernel.plane import read_present, sid_routes  # noqa: PLC0415 - Linux only

    present, counts = read_present()
    sids: list[dict[str, Any]] = []
    for sid, route in sorted(sid_routes(present).items()):
        local = route.local
        assert local is not None
        entry: dict[str, Any] = {"sid": str(sid), "does": " ".join(filter(None, (local.action, str(local.table or ""), local.next_hop)))}
        if sid in counts:
            entry |= {"packets": counts[sid].packets, "octets": counts[sid].octets, "errors": counts[sid].errors}
        sids.append(entry)
    routes = [
        {
            "prefix": route.prefix,
            "does": f"encapsulated into {', '.join(map(str, route.segments))}"
            if route.segments
            else f"to {route.gateway or route.interface}",
        }
        for route in sorted(present.routes.values(), key=lambda route: route.key)
        if route.local is None
    ]
    return {"sids": sids, "routes": routes, "rules": len(present.rules), "hmac_keys": [f"{key_id:#x}" for key_id in sorted(present.keys)]}


def _print_router(status: dict[str, Any], *, as_json: bool) -> int:
    """Print what a running router says of itself."""
    if as_json:
        sys.stdout.write(json.dumps(status, indent=2) + "\n")
        return 0
    write = sys.stdout.write
    write(f"router       {status['name'] or '(no name)'}  {status['node_id']}\n")
    write(f"network      {status['network']}, {len(status['members'])} members; data plane {status['data_plane']}\n")
    write(f"dropped      {_counted(status['drops'])}\n")
    kernel = status["kernel"]
    if kernel is not None:
        write(f"kernel       {len(kernel['sids'])} SIDs, {len(kernel['routes'])} routes{kernel['problem'] and '; ' + kernel['problem']}\n")
        for entry in kernel["sids"]:
            write(f"  {entry['action']:10} {entry['sid']}  {entry.get('packets', '-')} packets, {entry.get('octets', '-')} octets\n")
        for prefix, segments in kernel["routes"].items():
            write(f"  route      {prefix} by {', '.join(segments)}\n")
    tun = status["tun"]
    if tun is None:
        return 0
    write(f"tun          {tun['interface']} is {tun['state']}, MTU {tun['mtu']}, {', '.join(tun['addresses'])}\n")
    write(f"  packets    {tun['plane']}\n")
    for name, key in (("to peers", "to_peers"), ("from peers", "from_peers")):
        count = tun[key]
        write(f"  {name:10} {count['packets']} packets, {count['octets']} octets; dropped {_counted(count['dropped'])}\n")
    write(f"  icmp       {tun['icmp_sent']} errors sent\n")
    for route in tun["routes"]:
        write(f"  route      {route['prefix']} behind {route['node']}: {route['state']}\n")
    for path in tun["paths"]:
        write(f"  path       to {path['peer']}, {path['class']}: {path['path']}\n")
    return 0


def _counted(drops: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items())) or "nothing"
