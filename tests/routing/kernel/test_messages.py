"""Netlink messages of the kernel data plane: what is written can be read back, and equals what iproute2 would write."""

from __future__ import annotations

import errno
import struct

from hypothesis import given
from hypothesis import strategies as st

from srwan.kernel_config import HmacKey
from srwan.routing.kernel import messages
from srwan.routing.kernel.messages import KernelReply, Request, SidCount
from srwan.routing.kernel.plan import KEY_ID_BASE, TABLE_ROUTES, TABLE_SIDS, KernelRoute, KernelRule, LocalAction
from srwan.routing.sid import Sid

FIRST, LAST = Sid.parse("fd72:2::e1"), Sid.parse("fd72:3::d6")
NAMES = {7: "eth1"}


def reply_to(request: Request) -> KernelReply:
    """The request as if the kernel had said it."""
    ((_, reply),) = messages.split_replies(messages.framed(request, 1))
    return reply


locals_ = st.one_of(
    st.builds(LocalAction, st.just("End"), is_counted=st.booleans()),
    st.builds(LocalAction, st.just("End.DT6"), table=st.integers(1, 2**32 - 1), is_counted=st.booleans()),
    st.builds(LocalAction, st.just("End.DX4"), next_hop=st.ip_addresses(v=4).map(str), is_counted=st.booleans()),
    st.builds(LocalAction, st.just("End.DX6"), next_hop=st.ip_addresses(v=6).map(str), is_counted=st.booleans()),
)
sids = st.binary(min_size=16, max_size=16).map(Sid)
routes = st.one_of(
    st.builds(KernelRoute, st.just(TABLE_ROUTES), st.just("fd99::/64"), st.just("eth1"), st.ip_addresses(v=6).map(str)),
    st.builds(KernelRoute, st.just(TABLE_SIDS), st.just("fd72:2::e1/128"), st.just("eth1"), local=locals_),
    st.builds(
        KernelRoute,
        st.just(TABLE_ROUTES),
        st.sampled_from(("fd99::/64", "10.0.0.0/8", "0.0.0.0/0")),
        st.just("eth1"),
        segments=st.lists(sids, min_size=1, max_size=8).map(tuple),
        hmac_key=st.sampled_from((0, KEY_ID_BASE + 1)),
    ),
)


@given(routes)
def test_a_route_survives_the_round_trip(route: KernelRoute) -> None:
    found = messages.read_route(reply_to(messages.put_route(route, 7)), NAMES.__getitem__)
    assert found is not None
    assert (route, SidCount(0, 0, 0) if route.local is not None and route.local.is_counted else None) == found


def test_golden_encapsulating_route_has_the_last_segment_first() -> None:
    """As `ip -6 route replace fd99::/64 encap seg6 mode encap segs fd72:2::e1,fd72:3::d6 dev eth1 table 4710 proto 147` writes it."""
    kind, flags, body = messages.put_route(KernelRoute(TABLE_ROUTES, "fd99::/64", "eth1", segments=(FIRST, LAST)), 7)

    assert (24, 0x505) == (kind, flags)
    srh = b"\x00\x04\x04\x01\x01\x00\x00\x00" + LAST + FIRST
    assert struct.pack("=I", 1) + srh in body
    assert bytes([10, 64, 0, 0, 0, 147, 0, 1]) == body[:8]


def test_golden_counters_are_attribute_10_with_three_u64() -> None:
    _, _, body = messages.put_route(KernelRoute(TABLE_SIDS, "fd72:2::e1/128", "eth1", local=LocalAction("End")), 7)
    counters = b"".join(struct.pack("=HHQ", 12, number, 0) for number in (2, 3, 4))

    assert body.endswith(struct.pack("=HH", 4 + len(counters), 10) + counters)


def test_others_routes_rules_and_keys_are_not_ours() -> None:
    kind, flags, body = messages.put_route(KernelRoute(TABLE_ROUTES, "fd99::/64", "eth1"), 7)
    static = (kind, flags, body[:5] + b"\x04" + body[6:])

    assert messages.read_route(reply_to(static), NAMES.__getitem__) is None
    assert messages.read_key(reply_to(messages.put_key(30, HmacKey(42, bytes(16))))) is None
    assert messages.read_key(reply_to(messages.put_key(30, HmacKey(KEY_ID_BASE, bytes(16))))) is None


def test_keys_survive_the_round_trip() -> None:
    key = HmacKey(KEY_ID_BASE + 9, bytes(range(40)))
    assert key == messages.read_key(reply_to(messages.put_key(30, key)))
    assert bytes(range(40)).hex() not in repr(key)


@given(st.sampled_from((4, 6)), st.sampled_from((TABLE_ROUTES, TABLE_SIDS)), st.sampled_from(("", "eth1")))
def test_rules_survive_the_round_trip(version: int, table: int, interface: str) -> None:
    rule = KernelRule(version, table, interface)
    assert rule == messages.read_rule(reply_to(messages.add_rule(rule)))


def test_an_acknowledgement_gives_errno_and_the_kernels_words() -> None:
    words = b"Invalid prefix\x00\x00"
    body = struct.pack("=i", -errno.EINVAL) + bytes(16) + struct.pack("=HH", 4 + 15, 1) + words
    data = struct.pack("=IHHII", 16 + len(body), messages.NLMSG_ERROR, 0x300, 5, 0) + body

    ((sequence, reply),) = messages.split_replies(data)
    assert (5, errno.EINVAL, "Invalid prefix") == (sequence, reply.error, reply.text)
    assert messages.is_last(reply)


@given(st.binary(max_size=200))
def test_splitting_ends_whatever_comes(data: bytes) -> None:
    assert len(list(messages.split_replies(data))) <= len(data) // 16 + 1
