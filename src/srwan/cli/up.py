"""`srwan up`: run a segment router until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import trio

import srwan
from srwan.config import load_config, make_config
from srwan.kernel_config import kernel_settings
from srwan.sole_error import sole_error
from srwan.status_socket import serve_status

__all__ = ["add_arguments", "run"]

TUN_OPTIONS = ("name", "addresses", "routes", "announce", "host", "via")
"""Keys of [tun] that are options as well."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file; without it the options below and defaults count")
    parser.add_argument("--name", help="label others see")
    parser.add_argument("--network", help="network name (srwan)")
    parser.add_argument("--udp", metavar="ADDRESS:PORT", help="pulse and data socket (0.0.0.0:4710)")
    parser.add_argument("--control", metavar="ADDRESS:PORT", help="TCP address of the control plane (0.0.0.0:4710)")
    parser.add_argument("--bootstrap", action="append", metavar="MULTIADDR", help="a router of the network; may be repeated")
    parser.add_argument(
        "--state-dir", dest="state_dir", metavar="FOLDER", help="identity, address book and DITEX file (none: keep nothing)"
    )
    tun = parser.add_argument_group("TUN gateway", "for unmodified programs; Linux, CAP_NET_ADMIN; docs/gateway.md")
    tun.add_argument("--tun", action="store_true", help="open a TUN interface; the other options here imply it")
    tun.add_argument("--tun-name", dest="tun_name", metavar="NAME", help="of the interface (srwan0)")
    tun.add_argument(
        "--tun-address", dest="tun_addresses", action="append", metavar="ADDRESS/BITS", help="of the interface; may be repeated"
    )
    tun.add_argument(
        "--tun-route",
        dest="tun_routes",
        action="append",
        metavar="PREFIX=NODE",
        help="a network behind a node (id or name); may be repeated",
    )
    tun.add_argument("--tun-announce", dest="tun_announce", action="append", metavar="PREFIX", help="a network behind this router")
    tun.add_argument(
        "--tun-host", dest="tun_host", action="store_true", default=None, help="exchange packets with every member's overlay address"
    )
    tun.add_argument("--tun-via", dest="tun_via", action="append", metavar="NODE", help="a relay that all packets visit; may be repeated")
    kernel = parser.add_argument_group("kernel SRv6", "for private networks; Linux, CAP_NET_ADMIN; docs/kernel.md; the rest is in [kernel]")
    kernel.add_argument("--kernel", action="store_true", help="program the kernel as a segment router")
    kernel.add_argument(
        "--kernel-interface", dest="kernel_interfaces", action="append", metavar="NAME", help="of the private network; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="print events as JSON lines")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more; twice: each pulse")


def run(options: argparse.Namespace) -> int:
    """Run the router; print its address, then its events."""
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    logging.basicConfig(level=levels[min(options.verbose, 2)], format="%(asctime)s %(name)s %(levelname)s %(message)s")
    settings = {key: getattr(options, key) for key in ("name", "network", "udp", "control", "bootstrap", "state_dir")}
    given = {key: value for key, value in settings.items() if value is not None}
    tun = {key: value for key in TUN_OPTIONS if (value := getattr(options, f"tun_{key}")) is not None}
    if options.config is not None and (given or tun):
        names = (*given, *(f"tun-{key}" for key in tun))
        raise srwan.ConfigError("--config", f"given together with {', '.join(names)}", "put these settings into the file")
    if tun:
        given["tun"] = {"enabled": True, **tun}
    config = load_config(options.config) if options.config is not None else make_config(**given)
    if options.kernel or options.kernel_interfaces:
        given_interfaces = kernel_settings({"kernel.interfaces": options.kernel_interfaces or []}).interfaces
        interfaces = given_interfaces or config.kernel.interfaces
        config = attrs.evolve(config, kernel=attrs.evolve(config.kernel, is_enabled=True, interfaces=interfaces))
    if options.tun:
        config = attrs.evolve(config, tun=attrs.evolve(config.tun, is_enabled=True))
    trio.run(_serve, config, options.json)
    return 0


async def _serve(config: srwan.NodeConfig, as_json: bool) -> None:
    with sole_error(), trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run_node, config, as_json)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


async def _run_node(config: srwan.NodeConfig, as_json: bool) -> None:
    async with srwan.open_node(config) as node, trio.open_nursery() as nursery:
        if config.state_dir is not None:
            await nursery.start(serve_status, config.state_dir, node.status)
        _tell(as_json, "up", {"node_id": str(node.id), "multiaddr": node.multiaddr, "detail": f"bootstrap others with {node.multiaddr}"})
        async for event in node.events():
            described = node.describe(event)
            _tell(as_json, described.pop("event"), described)


def _tell(as_json: bool, kind: str, fields: dict[str, Any]) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"kind": kind, "time": round(time.time(), 3), **fields}) + "\n")
    else:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {kind:20} {fields.get('detail', '')}\n")
    sys.stdout.flush()
