"""Netlink messages of the kernel data plane: routes, rules and HMAC keys as bytes, and back. A core.

What is sent are pyroute2's messages, with what its version 0.9.7 lacks added by subclassing, so that nobody else's pyroute2 changes: the
counters of a SID (SEG6_LOCAL_COUNTERS, attribute 10, Linux 5.12) and the generic netlink family SEG6. Its sockets are not used, for they
run an asyncio loop. Encoding a route takes 0.5 ms. Routes are read by hand, for all SIDs are read every few seconds: 0.05 ms a route,
where pyroute2 takes 0.45.

TRAP: pyroute2 wants `segs` in wire order, the last segment first; iproute2 and this project say the first to visit first.

What comes back is the kernel's, so it is trusted to be well formed; objects that are ours by protocol but of a form unknown here (another
version's) are still returned with table and prefix, so that they can be replaced or removed.
"""

from __future__ import annotations

import ipaddress
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import attrs
from pyroute2.netlink import ctrlmsg, genlmsg, nla  # type: ignore[import-untyped, unused-ignore]
from pyroute2.netlink.rtnl.fibmsg import fibmsg  # type: ignore[import-untyped, unused-ignore]
from pyroute2.netlink.rtnl.rtmsg import rtmsg, rtmsg_base  # type: ignore[import-untyped, unused-ignore]

from srwan.kernel_config import HmacKey
from srwan.routing.kernel.plan import KEY_ID_BASE, KEY_ID_SPAN, PROTOCOL, KernelRoute, KernelRule, LocalAction
from srwan.routing.sid import Sid

__all__ = [
    "KernelReply",
    "SidCount",
    "add_rule",
    "ask_family",
    "ask_next_hop",
    "delete_route",
    "delete_rule",
    "dump_keys",
    "dump_routes",
    "dump_rules",
    "framed",
    "is_last",
    "put_key",
    "put_route",
    "read_family",
    "read_key",
    "read_next_hop",
    "read_route",
    "read_rule",
    "split_replies",
]

AF_INET, AF_INET6 = 2, 10
_FAMILY = {4: AF_INET, 6: AF_INET6}
_VERSION = {AF_INET: 4, AF_INET6: 6}
GENL_ID_CTRL = 16
NLMSG_ERROR, NLMSG_DONE = 2, 3
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWRULE, _RTM_DELRULE, _RTM_GETRULE = 32, 33, 34
_REQUEST, _ACK = 0x1, 0x4
_DUMP = 0x300
_REPLACE, _EXCLUSIVE, _CREATE = 0x100, 0x200, 0x400
_ACK_TLVS, _CAPPED = 0x200, 0x100
_SCOPE_LINK = 253
_TYPE_UNICAST = 1
_RULE_TO_TABLE = 1
_ENCAP_SEG6, _ENCAP_SEG6_LOCAL = 5, 7
_SETHMAC, _DUMPHMAC = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE, _RTA_ENCAP_TYPE, _RTA_ENCAP = 1, 4, 5, 15, 21, 22
_SEG6_SRH = 1
_LOCAL_ACTION, _LOCAL_TABLE, _LOCAL_NH4, _LOCAL_NH6, _LOCAL_COUNTERS = 1, 3, 4, 5, 10
_FLAG_HMAC = 8
_KIND_MASK = 0x3FFF
_ATTRIBUTE = struct.Struct("=HH")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ACTIONS = {1: "End", 5: "End.DX6", 6: "End.DX4", 7: "End.DT6"}
_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")

Request: TypeAlias = tuple[int, int, bytes]
"""Netlink type, flags, and the message without its header."""


@attrs.frozen(slots=True)
class SidCount:
    """What the kernel counted for one SID since its route was made."""

    packets: int
    octets: int
    """Whole outer packets, from the IPv6 header on."""
    errors: int
    """Packets dropped: no header, a wrong one, or no right HMAC."""


@attrs.frozen(slots=True)
class KernelReply:
    """One message that came back."""

    kind: int
    """Netlink message type."""
    body: bytes
    """The whole message, header included."""
    error: int = 0
    """errno of an acknowledgement, 0 for success."""
    text: str = ""
    """What the kernel says about it."""


class _Counters(nla):  # type: ignore[misc, unused-ignore]
    __slots__ = ()
    prefix = "CNT_"
    nla_map = (("CNT_UNSPEC", "none"), ("CNT_PAD", "none"), ("CNT_PACKETS", "uint64"), ("CNT_BYTES", "uint64"), ("CNT_ERRORS", "uint64"))


class _LocalInfo(rtmsg_base.seg6local_encap_info):  # type: ignore[misc, unused-ignore]
    __slots__ = ()
    nla_map = (*rtmsg_base.seg6local_encap_info.nla_map, ("SEG6_LOCAL_COUNTERS", "counters"), ("SEG6_LOCAL_FLAVORS", "hex"))
    counters = _Counters


class _RouteMessage(rtmsg):  # type: ignore[misc, unused-ignore]
    __slots__ = ()
    encaps: Mapping[int, Any] = {**rtmsg_base.encaps, _ENCAP_SEG6_LOCAL: _LocalInfo}


class _KeyMessage(genlmsg):  # type: ignore[misc, unused-ignore]
    __slots__ = ()
    prefix = "SEG6_ATTR_"
    nla_map = (
        ("SEG6_ATTR_UNSPEC", "none"),
        ("SEG6_ATTR_DST", "ip6addr"),
        ("SEG6_ATTR_DSTLEN", "uint8"),
        ("SEG6_ATTR_HMACKEYID", "uint32"),
        ("SEG6_ATTR_SECRET", "cdata"),
        ("SEG6_ATTR_SECRETLEN", "uint8"),
        ("SEG6_ATTR_ALGID", "uint8"),
        ("SEG6_ATTR_HMACINFO", "hex"),
    )


def _encoded(message: Any, fields: Mapping[str, Any], attributes: Sequence[tuple[str, Any]]) -> bytes:
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attributes)
    message["header"]["type"] = message["header"]["flags"] = 0
    message.encode()
    return bytes(message.data[_HEADER.size :])


def _decoded(message_type: Any, body: bytes) -> Any:
    message = message_type(body)
    message.decode()
    return message


def split_replies(data: bytes) -> Iterator[tuple[int, KernelReply]]:
    """Return (sequence number, message) for each message of one read."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        body = data[at : at + length]
        error, text = 0, ""
        if kind in {NLMSG_ERROR, NLMSG_DONE} and length >= 20:
            error = -_ERROR.unpack_from(body, 16)[0]
            text = _error_text(body, flags) if kind == NLMSG_ERROR else ""
        yield sequence, KernelReply(kind, body, error, text)
        at += max(_HEADER.size, (length + 3) & ~3)


def _error_text(body: bytes, flags: int) -> str:
    """Return the extended acknowledgement's sentence, attribute 1 after the echoed message."""
    if not flags & _ACK_TLVS:
        return ""
    at = 36 if flags & _CAPPED else 20 + ((struct.unpack_from("=I", body, 20)[0] + 3) & ~3)
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if kind == 1:
            return body[at + 4 : at + length].rstrip(b"\x00").decode("ascii", "replace")
        at += max(4, (length + 3) & ~3)
    return ""


# --- routes ----------------------------------------------------------------------------------------------------------


def put_route(route: KernelRoute, interface_index: int) -> Request:
    """Return the request that adds a route or replaces the one with its table and prefix."""
    fields, attributes = _route_head(route)
    attributes.append(("RTA_OIF", interface_index))
    if route.gateway:
        attributes.append(("RTA_GATEWAY", route.gateway))
    if route.segments:
        segs = [str(segment) for segment in reversed(route.segments)]
        header = {"mode": "encap", "segs": segs, **({"hmac": route.hmac_key} if route.hmac_key else {})}
        attributes += [("RTA_ENCAP_TYPE", _ENCAP_SEG6), ("RTA_ENCAP", {"attrs": [("SEG6_IPTUNNEL_SRH", header)]})]
    elif route.local is not None:
        attributes += [("RTA_ENCAP_TYPE", _ENCAP_SEG6_LOCAL), ("RTA_ENCAP", {"attrs": _local_attributes(route.local)})]
    return _RTM_NEWROUTE, _REQUEST | _ACK | _CREATE | _REPLACE, _encoded(_RouteMessage(), fields, attributes)


def _route_head(route: KernelRoute) -> tuple[dict[str, int], list[tuple[str, Any]]]:
    network = ipaddress.ip_network(route.prefix)
    fields = {
        "family": _FAMILY[network.version],
        "dst_len": network.prefixlen,
        "table": 0,
        "proto": PROTOCOL,
        "type": _TYPE_UNICAST,
        "scope": 0 if network.version == 6 or route.gateway else _SCOPE_LINK,
    }
    return fields, [("RTA_DST", str(network.network_address)), ("RTA_TABLE", route.table)]


def _local_attributes(local: LocalAction) -> list[tuple[str, Any]]:
    attributes: list[tuple[str, Any]] = [("SEG6_LOCAL_ACTION", {"value": local.action})]
    if local.action == "End.DT6":
        attributes.append(("SEG6_LOCAL_TABLE", {"value": local.table}))
    elif local.action == "End.DX4":
        attributes.append(("SEG6_LOCAL_NH4", {"value": local.next_hop}))
    elif local.action == "End.DX6":
        attributes.append(("SEG6_LOCAL_NH6", {"value": local.next_hop}))
    if local.is_counted:
        zeros = [("CNT_PACKETS", 0), ("CNT_BYTES", 0), ("CNT_ERRORS", 0)]
        attributes.append(("SEG6_LOCAL_COUNTERS", {"attrs": zeros}))
    return attributes


def delete_route(route: KernelRoute) -> Request:
    """Return the request that removes the route of ours with this table and prefix, whatever it does."""
    fields, attributes = _route_head(route)
    fields["scope"] = 255  # any
    fields["type"] = 0
    return _RTM_DELROUTE, _REQUEST | _ACK, _encoded(_RouteMessage(), fields, attributes)


def dump_routes(version: int) -> Request:
    """Return the request for all routes of our protocol, in all tables."""
    return _RTM_GETROUTE, _REQUEST | _DUMP, _encoded(_RouteMessage(), {"family": _FAMILY[version], "proto": PROTOCOL}, ())


def read_route(reply: KernelReply, name_of: Callable[[int], str]) -> tuple[KernelRoute, SidCount | None] | None:
    """Return a route of ours and its counters, if it has any; None for what is not ours.

    Args:
        reply: a message of type RTM_NEWROUTE.
        name_of: name of an interface by its index.
    """
    family, prefix_bits, _, _, table, protocol, _, _, _ = _ROUTE.unpack_from(reply.body, _HEADER.size)
    if protocol != PROTOCOL or family not in _VERSION:
        return None
    attributes = _attributes(reply.body, _HEADER.size + _ROUTE.size)
    destination = attributes.get(_RTA_DST, bytes(4 if family == AF_INET else 16))
    encap, kind = attributes.get(_RTA_ENCAP, b""), _u32(attributes.get(_RTA_ENCAP_TYPE))
    segments: tuple[Sid, ...] = ()
    local, count, hmac_key = None, None, 0
    if kind == _ENCAP_SEG6:
        segments, hmac_key = _read_srh(_attributes(encap).get(_SEG6_SRH, b""))
    elif kind == _ENCAP_SEG6_LOCAL:
        local, count = _read_local(_attributes(encap))
    route = KernelRoute(
        _u32(attributes.get(_RTA_TABLE)) or table,
        f"{ipaddress.ip_address(destination)}/{prefix_bits}",
        name_of(_u32(attributes[_RTA_OIF])) if _RTA_OIF in attributes else "",
        _address(attributes.get(_RTA_GATEWAY)),
        segments,
        hmac_key,
        local,
    )
    return route, count


def _attributes(data: bytes, at: int = 0) -> dict[int, bytes]:
    """Return values by attribute number, flags left out; of several with one number the last."""
    found: dict[int, bytes] = {}
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        found[kind & _KIND_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return found


def _u32(data: bytes | None) -> int:
    return int.from_bytes(data[:4], sys.byteorder) if data else 0


def _address(data: bytes | None) -> str:
    return str(ipaddress.ip_address(data)) if data and len(data) in {4, 16} else ""


def _read_srh(data: bytes) -> tuple[tuple[Sid, ...], int]:
    """Return segments in visiting order and the HMAC key id of an encapsulation: u32 mode, then the header as on the wire."""
    srh = data[4:]
    if len(srh) < 8 or len(srh) < 8 + 16 * (srh[4] + 1):
        return (), 0
    end = 8 + 16 * (srh[4] + 1)
    segments = tuple(Sid(srh[at : at + 16]) for at in range(end - 16, 0, -16))
    return segments, int.from_bytes(srh[end + 4 : end + 8], "big") if srh[5] & _FLAG_HMAC else 0


def _read_local(attributes: Mapping[int, bytes]) -> tuple[LocalAction, SidCount | None]:
    code = _u32(attributes.get(_LOCAL_ACTION))
    counters = attributes.get(_LOCAL_COUNTERS)
    local = LocalAction(
        _ACTIONS.get(code, f"action {code}"),
        _u32(attributes.get(_LOCAL_TABLE)),
        _address(attributes.get(_LOCAL_NH4) or attributes.get(_LOCAL_NH6)),
        counters is not None,
    )
    if counters is None:
        return local, None
    values = _attributes(counters)
    packets, octets, errors = (int.from_bytes(values.get(number, b""), sys.byteorder) for number in (2, 3, 4))
    return local, SidCount(packets, octets, errors)


def ask_next_hop(address: str) -> Request:
    """Return the request for the route that a packet to an IPv6 address takes."""
    fields = {"family": AF_INET6, "dst_len": 128}
    return _RTM_GETROUTE, _REQUEST, _encoded(_RouteMessage(), fields, [("RTA_DST", address)])


def read_next_hop(reply: KernelReply, address: str) -> tuple[int, str]:
    """Return (interface index, gateway) of the answer; an address on the link is its own gateway."""
    attributes = _attributes(reply.body, _HEADER.size + _ROUTE.size)
    return _u32(attributes.get(_RTA_OIF)), _address(attributes.get(_RTA_GATEWAY)) or address


# --- rules -----------------------------------------------------------------------------------------------------------


def _rule(rule: KernelRule) -> bytes:
    fields = {"family": _FAMILY[rule.family], "action": _RULE_TO_TABLE}
    attributes: list[tuple[str, Any]] = [("FRA_PRIORITY", rule.priority), ("FRA_TABLE", rule.table), ("FRA_PROTOCOL", PROTOCOL)]
    if rule.interface:
        attributes.append(("FRA_IIFNAME", rule.interface))
    return _encoded(fibmsg(), fields, attributes)


def add_rule(rule: KernelRule) -> Request:
    """Return the request that adds a rule."""
    return _RTM_NEWRULE, _REQUEST | _ACK | _CREATE | _EXCLUSIVE, _rule(rule)


def delete_rule(rule: KernelRule) -> Request:
    """Return the request that removes a rule of ours."""
    return _RTM_DELRULE, _REQUEST | _ACK, _rule(rule)


def dump_rules(version: int) -> Request:
    """Return the request for all rules."""
    return _RTM_GETRULE, _REQUEST | _DUMP, _encoded(fibmsg(), {"family": _FAMILY[version]}, ())


def read_rule(reply: KernelReply) -> KernelRule | None:
    """Return a rule of ours; None for others'."""
    message = _decoded(fibmsg, reply.body)
    if message.get_attr("FRA_PROTOCOL") != PROTOCOL:
        return None
    table = message.get_attr("FRA_TABLE") or message["table"]
    return KernelRule(_VERSION[message["family"]], table, message.get_attr("FRA_IIFNAME") or "", message.get_attr("FRA_PRIORITY") or 0)


# --- HMAC keys -------------------------------------------------------------------------------------------------------


def ask_family(name: str) -> Request:
    """Return the request for the number of a generic netlink family."""
    fields = {"cmd": 3, "version": 1}
    return GENL_ID_CTRL, _REQUEST, _encoded(ctrlmsg(), fields, [("CTRL_ATTR_FAMILY_NAME", name)])


def read_family(reply: KernelReply) -> int:
    """Return the number of the family asked for."""
    return int(_decoded(ctrlmsg, reply.body).get_attr("CTRL_ATTR_FAMILY_ID"))


def put_key(family: int, key: HmacKey) -> Request:
    """Return the request that sets a key, or removes it if its secret is empty."""
    attributes: list[tuple[str, Any]] = [
        ("SEG6_ATTR_HMACKEYID", key.key_id),
        ("SEG6_ATTR_SECRETLEN", len(key.secret)),
        ("SEG6_ATTR_ALGID", key.algorithm),
    ]
    if key.secret:
        attributes.append(("SEG6_ATTR_SECRET", key.secret))
    return family, _REQUEST | _ACK, _encoded(_KeyMessage(), {"cmd": _SETHMAC, "version": 1}, attributes)


def dump_keys(family: int) -> Request:
    """Return the request for all keys."""
    return family, _REQUEST | _DUMP, _encoded(_KeyMessage(), {"cmd": _DUMPHMAC, "version": 1}, ())


def read_key(reply: KernelReply) -> HmacKey | None:
    """Return a key out of our range of ids; None for others'."""
    message = _decoded(_KeyMessage, reply.body)
    key_id = message.get_attr("SEG6_ATTR_HMACKEYID") or 0
    if not KEY_ID_BASE < key_id < KEY_ID_BASE + KEY_ID_SPAN:
        return None
    secret = bytes(message.get_attr("SEG6_ATTR_SECRET") or b"")
    return HmacKey(key_id, secret, message.get_attr("SEG6_ATTR_ALGID") or 0)


def framed(request: Request, sequence: int) -> bytes:
    """Return a request with its netlink header."""
    kind, flags, body = request
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def is_last(reply: KernelReply) -> bool:
    """Say whether nothing follows: an acknowledgement, or the end of a dump."""
    return reply.kind in {NLMSG_ERROR, NLMSG_DONE}
