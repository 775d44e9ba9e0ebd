"""`srwan validator`: judge claims, sign batches and settle them, until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import trio

from srwan.clock import Clock
from srwan.errors import ConfigError, RemoteProtocolError, StoreUnavailable
from srwan.identity import Identity
from srwan.ledger_client.accounting.journal import Journal
from srwan.ledger_client.exchange.open_store import open_store_at
from srwan.ledger_client.settlement.keystore import open_wallet, read_passphrase_file
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey
from srwan.ledger_client.validation.events import (
    BatchProposed,
    BatchRefused,
    BatchSettled,
    BatchSigned,
    BatchStalled,
    BindingJudged,
    ClaimJudged,
    DisputeJudged,
    Event,
    QuorumReached,
    ValidatorExposed,
)
from srwan.ledger_client.validation.offer_shelf import OfferShelf
from srwan.ledger_client.validation.service import ValidatorService
from srwan.ledger_client.validation.validator import SLOT_S
from srwan.settlement_config import conceal_url
from srwan.sole_error import sole_error

__all__ = ["add_arguments", "run"]

MICRO = 10**6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--store", required=True, metavar="STORE", help="path of an SQLite file, or etcd:http://HOST:2379,http://HOST:2379")
    parser.add_argument("--settlement", required=True, metavar="URL", help="of an EVM node, http or https")
    parser.add_argument("--contract", required=True, metavar="ADDRESS", help="of the settlement contract")
    parser.add_argument("--chain-id", type=int, metavar="N", help="of the chain (what the node says)")
    parser.add_argument("--confirmations", type=int, default=3, metavar="N", help="blocks until a transaction counts (3)")
    parser.add_argument("--keystore", required=True, type=Path, metavar="FILE", help="the validator's wallet")
    parser.add_argument("--passphrase-file", required=True, type=Path, metavar="FILE", help="holds the wallet's passphrase; mode 0600")
    parser.add_argument("--identity", type=Path, metavar="FILE", help="router key that signs verdicts; made if missing (KEYSTORE.identity)")
    parser.add_argument("--offers", type=Path, metavar="FILE", help="keeps the offers seen, which stores prune (KEYSTORE.offers)")
    parser.add_argument(
        "--slot-s", type=int, default=SLOT_S, metavar="N", help=f"seconds of a turn, the same for all validators ({SLOT_S})"
    )
    parser.add_argument("--json", action="store_true", help="print events as JSON lines")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more")


def run(options: argparse.Namespace) -> int:
    """Validate; print what is judged, signed and settled."""
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if not 1 <= options.slot_s <= 3_600:
        raise ConfigError("--slot-s", f"{options.slot_s} s is no turn", "give 1..3600, the same as the other validators")
    contract = _contract(options.contract)
    key = open_wallet(options.keystore, read_passphrase_file(options.passphrase_file))
    identity = Identity.load_or_create(options.identity or options.keystore.with_name(options.keystore.name + ".identity"))
    trio.run(_serve, options, contract, key, identity)
    return 0


def _contract(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise ConfigError("--contract", str(error), "copy it again from whoever deployed the contract") from None


async def _serve(options: argparse.Namespace, contract: Address, key: WalletKey, identity: Identity) -> None:
    with sole_error(), trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_validate, options, contract, key, identity)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()
    _tell(options.json, "stopped", {"detail": "what was published stays; another validator settles what is signed"})


async def _validate(options: argparse.Namespace, contract: Address, key: WalletKey, identity: Identity) -> None:
    from srwan.ledger_client.settlement.jsonrpc import (  # noqa: PLC0415 - httpx takes a while, and an error above comes first
        JsonRpcChain,
        JsonRpcSettlement,
        NodeOptions,
    )

    node = NodeOptions(confirmations=options.confirmations)
    chain_id = options.chain_id
    if chain_id is None:
        chain = await JsonRpcChain.open(options.settlement, options=node)
        chain_id = chain.chain_id
        await chain.aclose()
    outbox = options.keystore.with_name(f"{options.keystore.name}.outbox")
    path = options.offers or options.keystore.with_name(f"{options.keystore.name}.offers")
    async with (
        _open_shelf(path) as offers,
        await JsonRpcSettlement.open(options.settlement, SettlementDomain(chain_id, contract), options=node, outbox=outbox) as settlement,
        open_store_at(options.store) as store,
    ):
        service = ValidatorService(store, settlement, identity, key, Clock(), slot_s=options.slot_s, offers=offers)
        service.on_event(lambda event: _show(options.json, event))
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run)
            _greet(options, service, key)


@contextlib.asynccontextmanager
async def _open_shelf(path: Path) -> AsyncGenerator[OfferShelf]:
    """Open the file of offers for the duration of the block."""
    journal = await trio.to_thread.run_sync(Journal, path)
    try:
        try:
            offers = await trio.to_thread.run_sync(OfferShelf, journal, time.time_ns())
        except RemoteProtocolError as error:
            raise StoreUnavailable(str(path), f"holds what is no offer ({error})", "name another file with --offers") from None
        yield offers
    finally:
        journal.close()


def _greet(options: argparse.Namespace, service: ValidatorService, key: WalletKey) -> None:
    members = service.core.validators
    has_seat = key.address in members.addresses
    if has_seat:
        place = f"validator {members.addresses.index(key.address) + 1} of {len(members.addresses)}, quorum {members.quorum}"
    else:
        place = f"no seat among {len(members.addresses)} validators: verdicts are published, and nobody counts them"
    facts: dict[str, Any] = {
        "wallet": str(key.address),
        "node_id": str(service.core.node_id),
        "has_seat": has_seat,
        "validators": [str(address) for address in members.addresses],
        "quorum": members.quorum,
        "settlement": conceal_url(options.settlement),
        "open_claims": service.core.open_claims,
    }
    _tell(options.json, "up", facts | {"detail": f"{key.address}: {place}; {service.core.open_claims} claims are open"})


def _show(as_json: bool, event: Event) -> None:
    kind, fields = described(event)
    _tell(as_json, kind, fields)


def described(event: Event) -> tuple[str, dict[str, Any]]:
    """Return the word for an event, and its fields with a line for humans under "detail"."""
    match event:
        case ClaimJudged():
            word = "accepted" if not event.reason else "refused"
            amount = f"{event.octets / 10**9:.3f} GB, {event.amount_microtoken / MICRO:.6f} tokens"
            fields = {"session": event.session.hex(), "octets": event.octets, "amount_microtoken": event.amount_microtoken}
            detail = f"session {event.session.hex()[:12]}: {amount}" + (f": {event.reason}" if event.reason else _doubts(event))
            return word, fields | {"reason": event.reason, "figures": dict(event.figures), "detail": detail}
        case BatchProposed():
            fields = {"slot": event.slot, "proposer": str(event.proposer), "claims": event.claims}
            return "proposed", fields | {"detail": f"slot {event.slot}: {event.claims} claims by {event.proposer}"}
        case BatchSigned():
            fields = {"slot": event.slot, "claims": event.claims}
            return "signed", fields | {"detail": f"slot {event.slot}: all {event.claims} claims were accepted here"}
        case BatchRefused():
            return "not-signed", {"slot": event.slot, "reason": event.reason, "detail": f"slot {event.slot}: {event.reason}"}
        case QuorumReached():
            fields = {"slot": event.slot, "signatures": event.signatures}
            return "quorum", fields | {"detail": f"slot {event.slot}: {event.signatures} signatures"}
        case BatchSettled():
            fields = {"slot": event.slot, "claims": event.claims, "amount_microtoken": event.amount_microtoken}
            detail = f"slot {event.slot}: {event.claims} claims, {event.amount_microtoken / MICRO:.6f} tokens since their sessions began"
            return "settled", fields | {"detail": detail}
        case BatchStalled():
            return "not-settled", {"slot": event.slot, "reason": event.reason, "detail": f"slot {event.slot}: {event.reason}"}
        case BindingJudged():
            fields = {"node_id": str(event.node), "wallet": str(event.wallet), "reason": event.reason}
            return "binding", fields | {"detail": f"router {str(event.node)[:12]} to {event.wallet}: {event.reason or 'signed'}"}
        case DisputeJudged():
            fields = {"session": event.session.hex(), "keep_microtoken": event.keep_microtoken, "reason": event.reason}
            verdict = event.reason or f"all beyond {event.keep_microtoken / MICRO:.6f} tokens goes back"
            return "dispute", fields | {"detail": f"session {event.session.hex()[:12]}: {verdict}"}
        case ValidatorExposed():
            fields = {"node_id": str(event.node), "wallet": str(event.wallet)}
            return "exposed", fields | {"detail": f"validator {event.wallet} signed two statements under one version"}


def _doubts(event: ClaimJudged) -> str:
    doubts = [f"{name.removeprefix('doubt-')} {value}" for name, value in event.figures if name.startswith("doubt-")]
    return f" (counters differ: {', '.join(doubts)})" if doubts else ""


def _tell(as_json: bool, kind: str, fields: dict[str, Any]) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"kind": kind, "time": round(time.time(), 3), **fields}) + "\n")
    else:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {kind:12} {fields['detail']}\n")
    sys.stdout.flush()
