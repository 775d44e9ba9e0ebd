"""All systems that are compared, in the order of the table."""

from __future__ import annotations

from dataplane_peers.chain import System
from dataplane_peers.kernel import KernelForwarding, KernelForwardingPlain, KernelSrv6, KernelSrv6Plain
from dataplane_peers.nebula import Nebula
from dataplane_peers.srwan_tun import SrwanKernel, SrwanNative, SrwanPortable
from dataplane_peers.tinc import Tinc
from dataplane_peers.wireguard import WireguardGo
from dataplane_peers.yggdrasil import Yggdrasil

SYSTEMS: tuple[type[System], ...] = (
    KernelForwarding,
    KernelForwardingPlain,
    KernelSrv6,
    KernelSrv6Plain,
    Nebula,
    WireguardGo,
    Tinc,
    Yggdrasil,
    SrwanPortable,
    SrwanNative,
    SrwanKernel,
)
BY_NAME = {system.name: system for system in SYSTEMS}
