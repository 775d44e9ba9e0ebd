"""`srwan ditex serve`: a DITEX operator's process until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import json
import logging
import random
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import trio

from srwan.clock import Clock
from srwan.config import parse_address
from srwan.errors import ConfigError
from srwan.identity import Identity
from srwan.ledger_client.exchange.answers import WorkRates
from srwan.ledger_client.exchange.open_store import open_store_at
from srwan.ledger_client.exchange.peer_address import parse_peer
from srwan.ledger_client.exchange.service import ExchangeConfig, ExchangeService, PeerSynced, RecordsReceived, SyncFailed
from srwan.ledger_client.verify_pool import default_processes
from srwan.overlay.rendezvous import best_value, is_valid_value
from srwan.overlay.transport import ControlAddress
from srwan.sole_error import sole_error
from srwan.types import UdpAddress

__all__ = ["run"]


@attrs.frozen
class _Settings:
    """Checked options."""

    store: str
    control: UdpAddress
    announce: tuple[str, ...]
    peers: tuple[ControlAddress, ...]
    identity: Identity
    config: ExchangeConfig
    verify_processes: int
    as_json: bool


def run(options: argparse.Namespace) -> int:
    """Run the server; print its address, then what happens."""
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    logging.basicConfig(level=levels[min(options.verbose, 2)], format="%(asctime)s %(name)s %(levelname)s %(message)s")
    trio.run(_serve, _checked(options))
    return 0


def _checked(options: argparse.Namespace) -> _Settings:
    try:
        control = parse_address(options.control)
    except ValueError as error:
        raise ConfigError("--control", str(error), 'give "ADDRESS:PORT" with a numeric IP address') from None
    peers = tuple(parse_peer(text) for text in options.peer)
    rates = WorkRates(strangers_us=0) if options.peers_only else WorkRates()
    store: str | None = options.store
    if options.state_dir is None:
        identity = Identity.generate()
    else:
        folder = Path(options.state_dir).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        identity = Identity.load_or_create(folder / "identity")
        store = store or str(folder / "ditex.sqlite")
    if store is None:
        raise ConfigError("--store", "nowhere to keep the records", "give --store or --state-dir")
    config = ExchangeConfig(period_s=options.period, rates=rates)
    processes = default_processes() if options.verify_processes is None else options.verify_processes
    return _Settings(store, control, tuple(options.announce), peers, identity, config, processes, options.json)


async def _serve(settings: _Settings) -> None:
    with sole_error(), trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run_server, settings)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


async def _run_server(settings: _Settings) -> None:
    from srwan.overlay.libp2p_host import open_libp2p  # noqa: PLC0415 - 0.9 s and 85 MB: only once the store is open

    clock = Clock()
    async with (
        open_store_at(settings.store, verify_processes=settings.verify_processes) as store,
        open_libp2p(
            settings.identity,
            settings.control,
            announce=settings.announce,
            is_valid_value=lambda key, value: is_valid_value(key, value, clock.wall_ns()),
            best_value=lambda _key, values: best_value(values, clock.wall_ns()),
        ) as host,
    ):
        rng = random.Random(secrets.randbits(64))
        exchange = ExchangeService(store, host, clock, rng, peers=settings.peers, config=settings.config)
        exchange.on_event(lambda event: _tell_event(settings, event))
        async with trio.open_nursery() as nursery:
            await nursery.start(exchange.run)
            await exchange.wait_filled()
            status = exchange.status()
            up = {"node_id": str(host.node_id), "multiaddr": host.multiaddr, "records": status["records"], "root": status["root"]}
            _tell(settings, "up", {**up, "detail": f"{status['records']} records; others exchange with --peer {host.multiaddr}"})


def _tell_event(settings: _Settings, event: PeerSynced | SyncFailed | RecordsReceived) -> None:
    peer = str(event.peer)[:12]
    if isinstance(event, PeerSynced):
        outcome = event.outcome
        if settings.as_json or outcome.stored or outcome.taken or outcome.refused:
            fields = {**attrs.asdict(outcome), "refused": dict(outcome.refused)}
            size = outcome.sent_bytes + outcome.received_bytes
            detail = f"{peer}: {outcome.stored} records came, {outcome.taken} went, {size} bytes"
            _tell(settings, "synced", {"peer": str(event.peer), **fields, "detail": detail})
    elif isinstance(event, RecordsReceived):
        _tell(settings, "received", {"peer": str(event.peer), "stored": event.stored, "detail": f"{peer}: sent {event.stored} records"})
    else:
        detail = f"{peer}: {event.reason}; next attempt in about {event.retry_s:.0f} s"
        _tell(settings, "failed", {"peer": str(event.peer), "reason": event.reason, "retry_s": event.retry_s, "detail": detail})


def _tell(settings: _Settings, kind: str, fields: dict[str, Any]) -> None:
    if settings.as_json:
        sys.stdout.write(json.dumps({"kind": kind, "time": round(time.time(), 3), **fields}) + "\n")
    else:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {kind:10} {fields.get('detail', '')}\n")
    sys.stdout.flush()
