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

import trio

import srwan
from srwan.config import load_config, make_config

__all__ = ["add_arguments", "run"]


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
    parser.add_argument("--json", action="store_true", help="print events as JSON lines")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more; twice: each pulse")


def run(options: argparse.Namespace) -> int:
    """Run the router; print its address, then its events."""
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    logging.basicConfig(level=levels[min(options.verbose, 2)], format="%(asctime)s %(name)s %(levelname)s %(message)s")
    settings = {key: getattr(options, key) for key in ("name", "network", "udp", "control", "bootstrap", "state_dir")}
    given = {key: value for key, value in settings.items() if value is not None}
    if options.config is not None and given:
        raise srwan.ConfigError("--config", f"given together with {', '.join(given)}", "put these settings into the file")
    config = load_config(options.config) if options.config is not None else make_config(**given)
    trio.run(_serve, config, options.json)
    return 0


async def _serve(config: srwan.NodeConfig, as_json: bool) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run_node, config, as_json)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


async def _run_node(config: srwan.NodeConfig, as_json: bool) -> None:
    async with srwan.open_node(config) as node:
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
