"""The `srwan` command: argument parsing, and errors turned into one sentence and an exit status.

Exit status: 0 done; 1 it ran and something did not come out as it should, the last line says what; 2 it could not start, the last line says
why and what to do; 130 interrupted. Each subcommand is a module with `add_arguments(parser)` and `run(options) -> int`, imported only
when it is used, so that `srwan --help` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

import srwan
from srwan.errors import SrwanError

__all__ = ["main"]

COMMANDS = {
    "demo": "run a swarm of router processes on this machine and show what srwan does",
    "up": "run a segment router",
    "status": "show what srwan holds in this machine's kernel, with the counters of its segments",
    "simulate": "run thousands of routers on a virtual network, with every fault from a seed",
    "replay": "replay a recorded latency trace and score the path policy on slices it has not seen",
    "ditex": "read, search, watch, export and serve a DITEX record store",
    "identity": "create or show a router's identity",
    "wallet": "make a wallet, and see and move what it has on the settlement engine",
    "validator": "judge claims for what was relayed, sign batches of them and have them paid",
    "config": "check a configuration file",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        arguments: without the program's name; None for those of this process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="srwan", description="Better paths through the Internet: a segment routing WAN without a controller."
    )
    parser.add_argument("--version", action="version", version=f"srwan {srwan.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((word for word in words if not word.startswith("-")), None)
    module = None
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == wanted:
            module = importlib.import_module(f"srwan.cli.{name}")
            module.add_arguments(command)
    options = parser.parse_args(words)
    assert module is not None
    try:
        status: int = module.run(options)
    except SrwanError as error:
        sys.stderr.write(f"srwan: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("srwan: interrupted\n")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    return status
