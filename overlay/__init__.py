"""Who is here: sockets, the libp2p host, rendezvous, membership, encrypted sessions.

Start at `service.py`, which runs the others; the interfaces to sockets and directories are in `transport.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from srwan.lazy import lazy_names

if TYPE_CHECKING:
    from srwan.overlay.frame import Frame, FrameCodec, FrameType
    from srwan.overlay.group import GroupId, group_id
    from srwan.overlay.join import GroupFounded, GroupJoined, JoinPlan
    from srwan.overlay.libp2p_host import Libp2pHost, open_libp2p
    from srwan.overlay.member_events import MemberAccused, MemberJoined, MemberLeft, MemberUpdated, SelfBuried, ViewChanged
    from srwan.overlay.membership import Membership
    from srwan.overlay.memory import MemoryNetwork
    from srwan.overlay.peers import AddressBook
    from srwan.overlay.rendezvous import IntroducerRecord
    from srwan.overlay.service import OverlayConfig, OverlayService
    from srwan.overlay.session import SessionEstablished, SessionFailed, Sessions
    from srwan.overlay.transport import ControlAddress, ControlChannel, DatagramTransport, Directory
    from srwan.overlay.udp import UdpTransport, open_udp
    from srwan.overlay.view import Member, Role, View

__all__ = [
    "AddressBook",
    "ControlAddress",
    "ControlChannel",
    "DatagramTransport",
    "Directory",
    "Frame",
    "FrameCodec",
    "FrameType",
    "GroupFounded",
    "GroupId",
    "GroupJoined",
    "IntroducerRecord",
    "JoinPlan",
    "Libp2pHost",
    "Member",
    "MemberAccused",
    "MemberJoined",
    "MemberLeft",
    "MemberUpdated",
    "Membership",
    "MemoryNetwork",
    "OverlayConfig",
    "OverlayService",
    "Role",
    "SelfBuried",
    "SessionEstablished",
    "SessionFailed",
    "Sessions",
    "UdpTransport",
    "View",
    "ViewChanged",
    "group_id",
    "open_libp2p",
    "open_udp",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "AddressBook": "peers",
        "ControlAddress": "transport",
        "ControlChannel": "transport",
        "DatagramTransport": "transport",
        "Directory": "transport",
        "Frame": "frame",
        "FrameCodec": "frame",
        "FrameType": "frame",
        "GroupFounded": "join",
        "GroupId": "group",
        "GroupJoined": "join",
        "IntroducerRecord": "rendezvous",
        "JoinPlan": "join",
        "Libp2pHost": "libp2p_host",
        "Member": "view",
        "MemberAccused": "member_events",
        "MemberJoined": "member_events",
        "MemberLeft": "member_events",
        "MemberUpdated": "member_events",
        "Membership": "membership",
        "MemoryNetwork": "memory",
        "OverlayConfig": "service",
        "OverlayService": "service",
        "Role": "view",
        "SelfBuried": "member_events",
        "SessionEstablished": "session",
        "SessionFailed": "session",
        "Sessions": "session",
        "UdpTransport": "udp",
        "View": "view",
        "ViewChanged": "member_events",
        "group_id": "group",
        "open_libp2p": "libp2p_host",
        "open_udp": "udp",
    },
)
