"""`srwan wallet`: a key file, and what its wallet has and does on the settlement engine.

Amounts are tokens, "1.5", or microtokens, "1500000u". What moves tokens asks first, unless --yes is given. No key is ever printed.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import trio

from srwan.amount import parse_amount
from srwan.cli.wallet_desk import Desk, Shown
from srwan.ledger_client.settlement.signing import Address
from srwan.settlement_config import EMBEDDED
from srwan.sole_error import sole_error

__all__ = ["add_arguments", "run"]

ACTIONS = {
    "create": ("keys", "make a new key file"),
    "show": ("keys", "show the address of a key file"),
    "balance": ("money", "show all that a wallet has"),
    "escrow": ("money", "show what it has put aside for sending"),
    "deposit": ("money", "move free tokens into escrow"),
    "withdraw": ("money", "ask escrow back (with an amount), or take what is due (without)"),
    "transfer": ("money", "give free tokens to another wallet"),
    "sessions": ("sessions", "show the path sessions that the router pays for and carries"),
    "tickets": ("sessions", "show the last ticket of each session"),
    "history": ("history", "show what happened to a wallet on the engine"),
    "collect": ("money", "move earnings that can be disputed no more to the free balance"),
    "vote": ("money", "let the free balance count for a candidate; moves no token"),
    "unvote": ("money", "take the vote back"),
    "seat": ("money", "give a candidate whose votes have risen its share of the dividend"),
    "bind": ("keys", "ask the validators to have the router's earnings paid to this wallet"),
    "deploy": ("engine", "put a new settlement contract on an engine, all tokens being this wallet's"),
    "serve": ("engine", "serve the embedded engine to other processes of this machine"),
}
"""Which module does it, and what it does."""
PERIODS = 32
"""Periods that are looked through for earnings: a month of days."""
FEE_BPS = 100
"""`srwan.ledger_client.settlement.deploy.FEE_BPS_DEFAULT`, which is not imported for the sake of --help."""
DAY_S = 86_400


def _amount(text: str) -> int:
    if text == "all":
        return -1
    try:
        return parse_amount(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _whole(low: int, high: int) -> Any:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 20) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is out of range: give {low}..{high}")
        return int(text)

    return read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", type=Path, metavar="FILE", help="TOML file of the router")
    shared.add_argument(
        "--state-dir", dest="state_dir", type=Path, metavar="FOLDER", help="of the router: wallet.json and journals are in it"
    )
    shared.add_argument("--keystore", type=Path, metavar="FILE", help="the key file (wallet.json in the state folder)")
    shared.add_argument("--passphrase-file", dest="passphrase_file", type=Path, metavar="FILE", help="holds the passphrase, mode 0600")
    shared.add_argument("--passphrase-fd", dest="passphrase_fd", type=int, metavar="N", help="file descriptor from which it comes")
    shared.add_argument("--url", metavar="URL", help=f'"{EMBEDDED}", or http(s) of an EVM node')
    shared.add_argument("--contract", metavar="0x...", help="of the settlement contract on that node")
    shared.add_argument("--chain-id", dest="chain_id", type=_whole(1, 2**53 - 1), metavar="N", help="of the chain that the node must be on")
    shared.add_argument("--confirmations", type=_whole(1, 1000), metavar="N", help="blocks before a transaction counts (12)")
    shared.add_argument("--journal", type=Path, metavar="FILE", help="of the embedded engine, or of what is on its way to a node")
    shared.add_argument("--json", action="store_true", help="print one JSON object; amounts in microtokens")
    shared.add_argument("--yes", action="store_true", help="do not ask before tokens are moved")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (_, summary) in ACTIONS.items():
        action = actions.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".", parents=[shared])
        _add_own_arguments(name, action)


def _add_own_arguments(name: str, action: argparse.ArgumentParser) -> None:
    if name in ("balance", "escrow", "history", "collect"):
        action.add_argument("address", nargs="?", type=_address, metavar="ADDRESS", help="of another wallet than that of the key file")
    if name in ("balance", "collect"):
        action.add_argument(
            "--periods", type=_whole(1, 10_000), default=PERIODS, metavar="N", help=f"how many to look through for earnings ({PERIODS})"
        )
    if name == "transfer":
        action.add_argument("to", type=_address, metavar="TO", help="address of the other wallet")
    if name in ("deposit", "transfer"):
        action.add_argument("amount", type=_amount, metavar="AMOUNT", help='tokens, "1.5", microtokens, "1500000u", or "all"')
    if name == "withdraw":
        action.add_argument("amount", nargs="?", type=_amount, metavar="AMOUNT", help='to ask back, or "all"; 0 takes a request back')
        action.add_argument("--wait", action="store_true", help="wait until what was asked back is due, and take it")
    if name in ("vote", "seat"):
        action.add_argument("candidate", type=_address, metavar="CANDIDATE", help="address of a wallet")
    if name == "show":
        action.add_argument("--check", action="store_true", help="open the file, to see that the passphrase is right")
    if name == "bind":
        action.add_argument("--wait", action="store_true", help="wait until the router is bound")
    if name == "history":
        action.add_argument("--blocks", type=_whole(1, 10**9), default=100_000, metavar="N", help="how many to look back (100000)")
    if name == "serve":
        action.add_argument("--port", type=_whole(0, 65535), default=8545, metavar="N", help="on 127.0.0.1; 0 takes a free one (8545)")
    if name == "deploy":
        _add_deploy_arguments(action)


def _add_deploy_arguments(action: argparse.ArgumentParser) -> None:
    number = _whole(1, 2**32)
    action.add_argument("--supply", type=_amount, default=10**12, metavar="AMOUNT", help="all there will ever be (1000000 tokens)")
    action.add_argument("--subsidy", type=_amount, default=0, metavar="AMOUNT", help="of it, released into the pools over three years (0)")
    action.add_argument(
        "--validator", type=_address, action="append", metavar="ADDRESS", help="wallet of a validator; may be repeated (this wallet)"
    )
    action.add_argument("--quorum", type=_whole(1, 16), metavar="N", help="validators that must sign (more than half)")
    action.add_argument(
        "--fee-bps",
        dest="fee_bps",
        type=_whole(0, 10_000),
        default=FEE_BPS,
        metavar="N",
        help=f"fee, hundredths of a percent ({FEE_BPS})",
    )
    action.add_argument("--window", type=number, default=DAY_S, metavar="SECONDS", help="a period of dispute (86400)")
    action.add_argument(
        "--withdraw-delay", dest="withdraw_delay", type=_whole(0, 2**32), default=DAY_S, metavar="SECONDS", help="of escrow (86400)"
    )


def run(options: argparse.Namespace) -> int:
    """Do one action. Exit status 1 with a sentence if it did not come out as it should."""
    desk = Desk(options)
    module = importlib.import_module(f"srwan.cli.wallet_{ACTIONS[options.action][0]}")
    with sole_error():
        shown: Shown = trio.run(getattr(module, options.action), desk)
    return desk.show(shown)
