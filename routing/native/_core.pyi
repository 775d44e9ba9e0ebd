"""The C extension. Numbers of peers are the caller's, never 0 and never used twice; stamps are ns.

A plane's methods are for one Python thread; its own thread runs beside them.
"""

# ruff: noqa: PYI021 - C has no place for docstrings that a reader would find, so they stand here

from collections.abc import Sequence
from typing import Final, Self, TypeAlias

from srwan.types import UdpAddress

OPENED: Final[int]
"""(kind, neighbour, sender, path_tag, rx_ns, srh, plaintext): a payload that ends here."""
CONFIRMED: Final[int]
"""(kind, session index): its first packet opened."""
MOVED: Final[int]
"""(kind, session index, address): its peer is there now."""
DROPPED: Final[int]
"""(kind, neighbour or 0, reason, source): a packet was dropped; one of the first in a second."""
RECEIVED: Final[int]
"""(kind, neighbour, sender, path_tag, (packets, octets, raw_ns_sum, highest_seq, burst_kbps), srh, seq, tx_ns, rx_ns): what the gateway
took on a path tag; with an SRH, the last of it is to be answered."""
SEAL_BATCH_MAX: Final[int]

Moments: TypeAlias = Sequence[tuple[int, int, int, int, int, int, int]]
"""Of (peer, traffic class, path tag, CLOCK_MONOTONIC, packets, octets, seq): what was sent until then, since the one before."""

class SessionKeys:
    """Counters and windows of one session; purpose 0 is the link, 1 the end."""

    def take_counter(self, purpose: int, /) -> int:
        """Return a counter never returned before. Raises OverflowError at 2**63."""
    def sealed(self, purpose: int, /) -> int:
        """Return the next counter."""
    def skip_to(self, purpose: int, counter: int, /) -> None:
        """Make `counter` the next one. Raises ValueError if it was used already."""
    def is_fresh(self, purpose: int, counter: int, /) -> bool:
        """Say whether `accept` would take it."""
    def accept(self, purpose: int, counter: int, /) -> bool:
        """Mark it as seen, if it is fresh."""
    def highest(self, purpose: int, /) -> int:
        """Return the highest counter accepted; -1 before the first."""
    def move(self, host: str, port: int, /) -> None:
        """Send to this address from now on."""

class Plane:
    """A native data plane; theory of operation in plane.h. Methods raise ValueError for arguments out of range."""

    def __new__(cls, locator: bytes) -> Self:
        """Make one without sockets."""
    def open(self, sockets: list[tuple[int, int]], /) -> int:
        """Serve duplicates of these (descriptor, family) in a thread; return a descriptor that can be read when something waits."""
    def close(self) -> None:
        """End the thread and close its descriptors. A second call does nothing."""
    def offload(self) -> tuple[bool, bool]:
        """Say whether trains come in (UDP_GRO) and go out (UDP_SEGMENT)."""
    def add_peer(self, number: int, locator: bytes, /) -> bool:
        """Make a peer known; False if there are too many."""
    def remove_peer(self, number: int, /) -> bool:
        """Forget a peer and its counters, unless it has a session or is a member."""
    def reset_peer(self, number: int, /) -> None:
        """Set a peer's counters to zero and forget its path tags."""
    def set_limit(self, number: int, octets_per_s: int, is_exempt: bool, path_tags: list[int], /) -> None:
        """Carry a peer's packets of these path tags, or of all but these, at a low rate together; 0: all as they come."""
    def set_members(self, members: list[tuple[int, bool]], /) -> None:
        """Replace whom packets may go to; (number, True): packets for it go up."""
    def set_role(self, is_relay: bool, functions: list[int], /) -> None:
        """Say whether it goes on with others' packets, and which functions end here."""
    def add_session(
        self,
        local_index: int,
        remote_index: int,
        peer: int,
        address: UdpAddress | None,
        keys: tuple[bytes, bytes, bytes, bytes],
        is_confirmed: bool,
        /,
    ) -> SessionKeys:
        """Install a session; keys: link seal, link open, end seal, end open."""
    def remove_session(self, keys: SessionKeys, /) -> None:
        """Take a session out of use and wipe its keys. A second call does nothing."""
    def set_current(self, peer: int, keys: SessionKeys | None, /) -> bool:
        """Say what to seal with for a peer; False for an unknown peer or a session that is not installed."""
    def process(self, data: bytes, source: UdpAddress, rx_ns: int, /) -> tuple[bytes, UdpAddress] | bool:
        """Take one SR packet here and now; return what to send and where, or whether it was dealt with. False: nothing was changed."""
    def take_datagrams(self, count_max: int, /) -> list[tuple[bytes, UdpAddress, int]]:
        """Return what came and is not for the plane, with stamps of CLOCK_REALTIME."""
    def take_opened(self, count_max: int, /) -> list[tuple[int, *tuple[object, ...]]]:
        """Return payloads that ended here and notes; see the constants."""
    def has_opened(self) -> bool:
        """Say whether `take_opened` would return something."""
    def clear_news(self) -> None:
        """Make the descriptor unreadable until something new waits; call it before taking."""
    def signal(self) -> None:
        """Make the descriptor readable if something waits."""
    def seal_batch(
        self, first: int, egress: int, srh: bytes, path_tag: int, plaintexts: list[bytes], /
    ) -> tuple[list[bytes], UdpAddress | None]:
        """Seal payloads, at most SEAL_BATCH_MAX; return the packets and where they go. Fewer if a session is missing."""
    def send_batch(self, first: int, egress: int, srh: bytes, path_tag: int, plaintexts: list[bytes], /) -> int:
        """As `seal_batch`, and send; return how many were sealed."""
    def counters(
        self,
    ) -> tuple[
        Sequence[tuple[int, int, int, int, int]], Sequence[tuple[int, int, int, int]], dict[str, int], Sequence[tuple[int, str, int]]
    ]:
        """Return neighbours (number, packets and octets in, out), relayed (number, path tag, packets, octets), drops, drops by peer."""
    def owners_of(self, path_tag: int, /) -> list[int]:
        """Return the neighbours from whom packets of a path tag were sent on."""
    def open_tun(self, descriptor: int, has_udp: bool, /) -> None:
        """Read and write a TUN with IFF_VNET_HDR from now on; a duplicate is kept. Raises OSError, then nothing changed."""
    def close_tun(self) -> None:
        """Leave the TUN alone. A second call does nothing."""
    def take_packets(self, count_max: int, /) -> list[bytes]:
        """Return IP packets of the TUN that are for Python."""
    def tun_errno(self) -> int:
        """Return why the TUN cannot be read any more, or 0."""
    def set_networks(
        self, ours: list[tuple[bytes, int, int]], routes: list[tuple[bytes, int, int]], mtu_bytes: int, classes: bytes, /
    ) -> None:
        """Replace networks (address, bits, number of the peer; 0: nobody), and the class of each DSCP and ECN octet."""
    def set_shifts(self, tx_ns: int, rx_ns: int, /) -> None:
        """Say what makes CLOCK_MONOTONIC, and CLOCK_REALTIME, the clock of payloads' stamps."""
    def set_lane(self, peer: int, traffic_class: int, flow: int, first: int, srh4: bytes, srh6: bytes, path_tag: int, /) -> Moments:
        """Set the path of a lane, made if there is none; return what was sent on the one before. Empty SRHs: its packets come up."""
    def remove_lane(self, peer: int, traffic_class: int, /) -> Moments:
        """Forget a lane; return what was sent."""
    def take_seqs(self, peer: int, traffic_class: int, count: int, /) -> int:
        """Take sequence numbers of a lane's flow; return the first."""
    def read_lane(self, peer: int, traffic_class: int, /) -> Moments:
        """Return what was sent on one lane since the last reading."""
    def read_lanes(self) -> Moments:
        """Return what was sent on all lanes since the last reading."""
    def set_reception(self, peer: int, path_tag: int, answer_ns: int, answered_ns: int, now_ns: int, /) -> bool:
        """Take packets of a path tag; stamps are CLOCK_REALTIME. False: too many."""
    def remove_reception(self, peer: int, path_tag: int, /) -> tuple[int, int, int, int, int] | None:
        """Leave packets of a path tag to Python; return what came since the last reading, or None if it was not served."""
    def read_receptions(self) -> list[tuple[int, int, int, tuple[int, int, int, int, int]]]:
        """Return (peer, path tag, stamp of the last packet, what came since the last reading) of each path tag."""
    def gateway_counters(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int], list[tuple[int, int]]]:
        """Return packets and octets sent, and taken; dropped for a full queue, a failed seal, a bad header; write errors by errno."""
    def io_errors(self) -> tuple[list[tuple[int, int]], int]:
        """Return what sockets refused by errno, and how many datagrams were too long."""
