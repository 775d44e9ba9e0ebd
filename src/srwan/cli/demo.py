"""`srwan demo`: the whole of srwan on one machine, in about a minute."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib import metadata

import trio

import srwan
from srwan.demo.display import open_display
from srwan.demo.script import Demonstration, DemoOptions, StepFailed

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end and nothing else")
    parser.add_argument("--seconds", type=float, default=150.0, metavar="N", help="give up after this time (150)")
    parser.add_argument("--routers", type=int, default=12, metavar="N", help="router processes, 5..19 (12)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="draws latencies' asymmetry, clocks and link noise (1)")
    parser.add_argument(
        "--etcd", nargs="?", const="", metavar="URLS", help="publish to an etcd cluster; without URLs three members are started here"
    )
    parser.add_argument("--evm", metavar="URL", help="settle on this EVM development node (the embedded engine)")
    parser.add_argument("--no-congestion", dest="congestion", action="store_false", help="congest nothing: traffic must stay direct")


def run(options: argparse.Namespace) -> int:
    """Run the demonstration. Exit status 1 with a sentence if one of its steps did not happen."""
    if not 5 <= options.routers <= 19:
        raise srwan.ConfigError("--routers", f"{options.routers} is out of range", "give 5..19: the package holds 19 regions' latencies")
    if not 10 <= options.seconds <= 3600:
        raise srwan.ConfigError("--seconds", f"{options.seconds:g} is out of range", "give 10..3600")
    versions = {name: metadata.version(name) for name in ("srwan", "trio", "libp2p")} | {"python": platform.python_version()}
    return trio.run(_run, options, versions)


async def _run(options: argparse.Namespace, versions: dict[str, str]) -> int:
    chosen = DemoOptions(
        routers=options.routers,
        seed=options.seed,
        seconds=options.seconds,
        with_congestion=options.congestion,
        evm_url=options.evm,
        etcd=options.etcd,
    )
    failure = ""
    with open_display(is_silent=options.json) as display:
        demonstration = Demonstration(chosen, display.show)
        display.watch(demonstration)
        try:
            await demonstration.run()
        except StepFailed as error:
            failure = str(error)
    result = {"versions": versions, **demonstration.result}
    if options.json:
        sys.stdout.write(json.dumps(result | ({"failed": failure} if failure else {})) + "\n")
    else:
        display.summarise(result)
    if failure:
        sys.stderr.write(f"srwan demo: {failure}\n")
        return 1
    return 0
