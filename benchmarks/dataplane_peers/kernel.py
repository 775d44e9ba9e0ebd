"""The kernel by itself: plain forwarding and SRv6 (seg6 encap, End, End.DT6), each with and without segmentation offload on the links.

SRv6 is programmed with iproute2 here, independently of srwan's own kernel plane, as the reference that it is compared with.
"""

from __future__ import annotations

from typing import ClassVar

from dataplane_peers.chain import NotAvailable, Program, System
from srwan.testing.namespaces import LabError

SID_RELAY, SID_EGRESS = "fd72:2::e1", "fd72:3::d6"
TARGET_SRV6 = "fd99::1"


class KernelForwarding(System):
    """Plain IPv4 forwarding; TCP in trains of 64 kB through all links."""

    name = "kernel"
    title = "kernel forwarding, offload"
    is_kernel = True
    is_offloaded: ClassVar[bool] = True
    programs = (Program("ethtool", "ethtool"),)
    version_command = ("uname", "-r")

    def start(self) -> None:
        """Nothing to start."""
        for namespace in (self.ingress, self.relay, self.egress):
            namespace.set_offload(is_on=self.is_offloaded)
        self.target = self.egress.ports[0].ipv4
        self.wait_carrying()


class KernelForwardingPlain(KernelForwarding):
    """The same, one packet at a time."""

    name = "kernelnooff"
    title = "kernel forwarding, no offload"
    is_offloaded = False


class KernelSrv6(KernelForwarding):
    """SRv6 through the relay: encap with two segments at A, End at R, End.DT6 at C."""

    name = "srv6"
    title = "kernel SRv6, offload"
    has_ipv4 = False

    def start(self) -> None:
        """Program the routes."""
        for namespace in (self.ingress, self.relay, self.egress):
            namespace.set_offload(is_on=self.is_offloaded)
        a, r0, r1, c = self.ingress.ports[0], self.relay.ports[0], self.relay.ports[1], self.egress.ports[0]
        self.ingress.ip("-6", "route", "add", "fd72::/16", "via", r0.ipv6, "dev", a.device)
        encap = ["encap", "seg6", "mode", "encap", "segs", f"{SID_RELAY},{SID_EGRESS}"]
        local = ["encap", "seg6local", "action"]
        try:
            self.ingress.ip("-6", "route", "add", "fd99::/64", *encap, "dev", a.device)
            self.relay.ip("-6", "route", "add", f"{SID_RELAY}/128", *local, "End", "dev", r0.device)
            self.relay.ip("-6", "route", "add", "fd72:3::/32", "via", c.ipv6, "dev", r1.device)
            self.egress.ip("-6", "addr", "add", f"{TARGET_SRV6}/128", "dev", "lo")
            self.egress.ip("-6", "route", "add", f"{SID_EGRESS}/128", *local, "End.DT6", "table", "255", "dev", c.device)
        except LabError as error:
            raise NotAvailable(f"this kernel or iproute2 has no SRv6 (CONFIG_IPV6_SEG6_LWTUNNEL): {error}") from None
        self.target = TARGET_SRV6
        self.wait_carrying()


class KernelSrv6Plain(KernelSrv6):
    """The same, one packet at a time."""

    name = "srv6nooff"
    title = "kernel SRv6, no offload"
    is_offloaded = False
