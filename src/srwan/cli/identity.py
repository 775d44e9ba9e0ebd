"""`srwan identity`: create or show a router's identity. The secret is never printed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from srwan.errors import ConfigError
from srwan.identity import Identity, peer_id_bytes

__all__ = ["add_arguments", "run"]

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", choices=["new", "show"], help="new: create the file, refuse if it exists; show: print its public names")
    parser.add_argument("file", type=Path, help="identity file, mode 0600")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Print the NodeId and the libp2p PeerID of an identity file."""
    if options.action == "new" and options.file.exists():
        raise ConfigError(str(options.file), "there is a file of that name already", "choose another name, or move the old one away")
    identity = Identity.load_or_create(options.file) if options.action == "new" else Identity.load(options.file)
    names = {"node_id": str(identity.node_id), "peer_id": _base58(peer_id_bytes(identity.node_id))}
    if options.json:
        sys.stdout.write(json.dumps(names) + "\n")
    else:
        sys.stdout.write("".join(f"{key} {value}\n" for key, value in names.items()))
    return 0


def _base58(data: bytes) -> str:
    """Bitcoin's base58, the text form of PeerIDs (libp2p specs, peer-ids). Leading zero bytes become "1"."""
    number = int.from_bytes(data, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits
