"""Notices of relays: how often they are given, and how they get to the ingress."""

from __future__ import annotations

from srwan.routing.egress import NoticeArrived
from srwan.routing.notice import NOTICES_BURST, NOTICES_PER_S, TAGS_MAX, NoticeGate
from srwan.routing.payload import Notice, NoticeReason, Payload, PayloadKind
from srwan.routing.sid import Function, Sid, locator_of
from srwan.testing.packets import SrNetwork, SrRouter
from srwan.types import NodeId

PEER, OTHER = NodeId(b"\x01" * 32), NodeId(b"\x02" * 32)


def test_one_notice_per_neighbour_tag_and_second() -> None:
    gate = NoticeGate()
    assert [True, False, True, True, True] == [
        gate.may_give(PEER, 7, 10.0),
        gate.may_give(PEER, 7, 10.99),
        gate.may_give(PEER, 8, 10.99),
        gate.may_give(OTHER, 7, 10.99),
        gate.may_give(PEER, 7, 11.0),
    ]


def test_whoever_sprays_tags_gets_a_bounded_number_of_notices() -> None:
    gate = NoticeGate()
    given = sum(gate.may_give(PEER, tag, 10.0 + tag / 10_000) for tag in range(20_000))
    assert NOTICES_BURST + 1.9 * NOTICES_PER_S <= given <= NOTICES_BURST + 2.1 * NOTICES_PER_S
    assert len(gate._given) <= TAGS_MAX


def test_a_clock_that_goes_back_blocks_nobody() -> None:
    gate = NoticeGate()
    assert gate.may_give(PEER, 7, 10.0)
    assert gate.may_give(PEER, 7, 5.0)


def three_relays() -> tuple[SrNetwork, list[SrRouter]]:
    """Ingress, three relays and an egress, with sessions between neighbours but for the last relay and the egress."""
    network = SrNetwork()
    routers = [network.add() for _ in range(5)]
    network.introduce()
    for left, right in ((0, 1), (1, 2), (2, 3), (0, 4)):
        network.connect(routers[left], routers[right])
    return network, routers


def send(network: SrNetwork, routers: list[SrRouter], path_tag: int = 77) -> None:
    path = [*(router.sid() for router in routers[1:-1]), routers[-1].sid(Function.END_APP)]
    payload = Payload(PayloadKind.DATA, 5, 0, network.now_ns, b"x")
    assert routers[0].forwarder.send_payload(path, path_tag, routers[-1].node_id, payload.encode())
    network.run()


def notices(router: SrRouter) -> list[NoticeArrived]:
    return [event for event in iter(router.forwarder.next_event, None) if isinstance(event, NoticeArrived)]


def test_a_relay_without_a_session_with_the_next_node_tells_the_ingress_hop_by_hop() -> None:
    network, routers = three_relays()
    send(network, routers)
    expected = Notice(NoticeReason.NO_SESSION, locator_of(routers[4].node_id))
    assert [NoticeArrived(routers[1].node_id, 77, expected)] == notices(routers[0])
    assert {"no-session": 1} == routers[3].drops
    assert [{}] * 3 == [router.drops for router in routers[:3]]


def test_a_relay_whose_next_node_is_no_member_any_more_tells_the_ingress() -> None:
    network, routers = three_relays()
    survivors = routers[:4]
    routers[3].forwarder.set_members({locator_of(router.node_id): router.node_id for router in survivors})
    send(network, routers)
    expected = Notice(NoticeReason.NO_MEMBER, locator_of(routers[4].node_id))
    assert [NoticeArrived(routers[1].node_id, 77, expected)] == notices(routers[0])


def test_notices_on_one_path_come_once_a_second() -> None:
    network, routers = three_relays()
    for _ in range(20):
        send(network, routers)
    assert 1 == len(notices(routers[0]))
    network.now_ns += 1_100_000_000
    send(network, routers)
    assert 1 == len(notices(routers[0]))


def test_a_node_that_never_relayed_a_tag_hands_no_notice_on() -> None:
    network = SrNetwork()
    routers = network.line()
    notice = Payload(PayloadKind.NOTICE, 0, 0, 0, Notice(NoticeReason.NO_SESSION, bytes(8)).encode())
    routers[2].forwarder.send_payload([Sid.of(routers[1].node_id, Function.END_APP)], 4711, routers[1].node_id, notice.encode())
    network.run()
    assert (1, []) == (len(notices(routers[1])), notices(routers[0]))
