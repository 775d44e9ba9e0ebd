"""srwan: better paths through the Internet, a segment routing WAN without a controller.

    async with srwan.open_node(bootstrap=...) as node:
        async with node.open_path("tokyo") as path:
            await path.send(b"hello")

Names are loaded when first used, so that `import srwan` is quick; libp2p (0.9 s, 85 MB) is loaded when a node is opened.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from srwan.lazy import lazy_names

if TYPE_CHECKING:
    from srwan.clock import Clock
    from srwan.config import NodeConfig, load_config, make_config
    from srwan.errors import (
        ConfigError,
        LedgerError,
        NoPath,
        OverlayError,
        PathClosed,
        ProtocolError,
        RoutingError,
        SrwanError,
        StoreUnavailable,
        UnknownNode,
    )
    from srwan.identity import Identity
    from srwan.money import Purse
    from srwan.node import Node, Sockets, open_node, open_sockets
    from srwan.path import Path
    from srwan.routing.policy import PathPolicy, Sla
    from srwan.types import GeoAsn, NodeId

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # applications decide what is shown

_HOMES = {
    "Clock": "clock",
    "ConfigError": "errors",
    "GeoAsn": "types",
    "Identity": "identity",
    "LedgerError": "errors",
    "NoPath": "errors",
    "Node": "node",
    "NodeConfig": "config",
    "NodeId": "types",
    "OverlayError": "errors",
    "Path": "path",
    "PathClosed": "errors",
    "PathPolicy": "routing.policy",
    "ProtocolError": "errors",
    "Purse": "money",
    "RoutingError": "errors",
    "Sla": "routing.policy",
    "Sockets": "node",
    "SrwanError": "errors",
    "StoreUnavailable": "errors",
    "UnknownNode": "errors",
    "load_config": "config",
    "make_config": "config",
    "open_node": "node",
    "open_sockets": "node",
}

__all__ = [
    "Clock",
    "ConfigError",
    "GeoAsn",
    "Identity",
    "LedgerError",
    "NoPath",
    "Node",
    "NodeConfig",
    "NodeId",
    "OverlayError",
    "Path",
    "PathClosed",
    "PathPolicy",
    "ProtocolError",
    "Purse",
    "RoutingError",
    "Sla",
    "Sockets",
    "SrwanError",
    "StoreUnavailable",
    "UnknownNode",
    "load_config",
    "make_config",
    "open_node",
    "open_sockets",
]


__getattr__, __dir__ = lazy_names(__name__, _HOMES)
