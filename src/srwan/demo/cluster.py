"""Three etcd members on this machine, for a demonstration that publishes to a cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from srwan.errors import ConfigError, StoreUnavailable

__all__ = ["open_cluster"]

MEMBERS = 3
UP_TIMEOUT_S = 20.0
LOOK_S = 0.1


@asynccontextmanager
async def open_cluster(folder: Path) -> AsyncIterator[str]:
    """Run a cluster for the duration of the block, and tell its client URLs, with commas between.

    Raises:
        ConfigError: etcd is not installed. StoreUnavailable: its members did not come up.
    """
    program = shutil.which("etcd")
    if program is None:
        raise ConfigError("--etcd", "the program etcd is not installed", "install it (Debian package etcd-server), or give URLs")
    ports = _free_ports(2 * MEMBERS)
    clients = [f"http://127.0.0.1:{port}" for port in ports[:MEMBERS]]
    peers = [f"http://127.0.0.1:{port}" for port in ports[MEMBERS:]]
    members = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
    processes: list[trio.Process] = []
    try:
        for number, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            where = ["--name", f"m{number}", "--data-dir", str(folder / f"etcd-{number}"), "--initial-cluster", members]
            client_side = ["--listen-client-urls", client, "--advertise-client-urls", client]
            peer_side = ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            processes.append(
                await trio.lowlevel.open_process(
                    [program, *where, *client_side, *peer_side],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    env={**os.environ, "ETCD_LOG_LEVEL": "error"},
                )
            )
        await _wait_up(",".join(clients), processes)
        yield ",".join(clients)
    finally:
        with trio.CancelScope(shield=True):
            for process in processes:
                if process.returncode is None:
                    process.kill()  # its data go with the folder
                await process.wait()


async def _wait_up(urls: str, processes: list[trio.Process]) -> None:
    from srwan.ledger_client.exchange.open_store import open_store_at  # noqa: PLC0415 - httpx is of an extra

    with trio.move_on_after(UP_TIMEOUT_S):
        while all(process.returncode is None for process in processes):
            with contextlib.suppress(StoreUnavailable):
                async with open_store_at(f"etcd:{urls}") as store:
                    await store.revision()
                    return
            await trio.sleep(LOOK_S)
    raise StoreUnavailable("etcd", "its members did not come up", "look whether something else uses their ports, and try again")


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
