"""Nodes without a network: datagrams, control channel and directory in memory, for tests and for swarms in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from srwan.clock import Clock
from srwan.config import make_config
from srwan.identity import Identity
from srwan.node import Node, Sockets, open_node
from srwan.overlay.memory import MemoryNetwork
from srwan.swarm.clocks import TrioClock

if TYPE_CHECKING:
    from srwan.money import Purse

__all__ = ["open_memory_node"]


@asynccontextmanager
async def open_memory_node(
    network: MemoryNetwork,
    ip: str,
    *,
    clock: Clock | None = None,
    purse: Purse | None = None,
    identity: Identity | None = None,
    **settings: Any,
) -> AsyncIterator[Node]:
    """Run a node over a `MemoryNetwork`; the first one founds the group when it finds nobody.

    Args:
        network: delays and loses datagrams as its link function says.
        ip: the node's numeric IP address there, unique within the network.
        clock: the node's clock; None for Trio's, which may be virtual.
        purse: its settlement engine and wallet; None for those that the settings name, if any.
        identity: its keys; None for new ones.
        settings: as for `srwan.open_node`; addresses are not used.

    Raises:
        ConfigError: as `srwan.open_node`.
    """
    clock = clock or TrioClock()
    identity = identity or Identity.generate()
    control = network.control_channel(identity.node_id)
    address = control.local_address.multiaddrs[0]
    datagrams = network.datagram_transport((ip, 0), clock)
    sockets = Sockets(identity, datagrams, control, network.directory(), address, trio.lowlevel.checkpoint)
    config = make_config(lone_after_s=settings.pop("lone_after_s", 1.0), **settings)
    try:
        async with open_node(config, sockets=sockets, clock=clock, purse=purse) as node:
            yield node
    finally:
        with trio.CancelScope(shield=True):
            await control.aclose()
