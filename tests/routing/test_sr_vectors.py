"""Every data plane speaks the wire format of tests/data/sr_vectors.json, byte for byte, and refuses what it says for the same reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srwan.overlay.session import Sessions
from srwan.overlay.view import Role
from srwan.routing.portable import PortableForwarder
from srwan.routing.sid import Function, Sid, locator_of
from srwan.testing.vectors import NODES, VectorRouter, make_vectors
from srwan.types import NodeId

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data/sr_vectors.json").read_text())
MakeForwarder = Callable[..., PortableForwarder]


def make_native(node_id: NodeId, sessions: Sessions, **arguments: Any) -> PortableForwarder:
    from srwan.routing.native._core import Plane
    from srwan.routing.native.forwarder import NativeForwarder

    return NativeForwarder(Plane(locator_of(node_id)), node_id, sessions, **arguments)


@pytest.fixture(params=["portable", pytest.param("native", marks=pytest.mark.needs("native"))])
def make_forwarder(request: pytest.FixtureRequest) -> MakeForwarder:
    return PortableForwarder if request.param == "portable" else make_native


def test_the_file_is_what_the_reference_makes() -> None:
    assert json.loads(json.dumps(make_vectors())) == VECTORS


def test_the_scene_has_the_nodes_of_the_file() -> None:
    expected = {name: {"node_id": node.hex(), "locator": locator_of(node).hex()} for name, node in NODES.items()}
    assert expected == VECTORS["routers"]


@pytest.mark.parametrize("number", range(len(VECTORS["journeys"])))
def test_packets_are_the_same_bytes_at_each_hop(number: int, make_forwarder: MakeForwarder) -> None:
    journey = VECTORS["journeys"][number]
    hops = journey["hops"]
    path = tuple(Sid(bytes.fromhex(segment)) for segment in journey["path"])
    routers = {name: VectorRouter(name, make_forwarder) for name in ["ingress", *(hop["to"] for hop in hops)]}
    assert routers["ingress"].forwarder.send_payload(path, VECTORS["path_tag"], NODES["egress"], bytes.fromhex(journey["plaintext"]))
    for hop in hops:
        assert hop["datagram"] == routers[hop["from"]].sent[0][0].hex()
        routers[hop["to"]].receive(bytes.fromhex(hop["datagram"]), hop["from"])
    assert [bytes.fromhex(journey["body"])] == routers["egress"].bodies()
    assert [{}] * len(routers) == [dict(router.forwarder.counters().drops) for router in routers.values()]


@pytest.mark.needs("native")
@pytest.mark.parametrize("number", range(len(VECTORS["journeys"])))
def test_a_batch_sealed_natively_starts_with_the_same_bytes(number: int) -> None:
    from srwan.routing.native.forwarder import NativeForwarder

    journey = VECTORS["journeys"][number]
    path = tuple(Sid(bytes.fromhex(segment)) for segment in journey["path"])
    router = VectorRouter("ingress", make_native)
    assert isinstance(router.forwarder, NativeForwarder)
    plaintexts = [bytes.fromhex(journey["plaintext"])] * 3
    assert 3 == router.forwarder.send_payloads(path, VECTORS["path_tag"], NODES["egress"], plaintexts)
    assert journey["hops"][0]["datagram"] == router.sent[0][0].hex()
    assert 3 == len({data for data, _ in router.sent})


@pytest.mark.parametrize("refusal", VECTORS["refusals"], ids=lambda refusal: refusal["name"])
def test_bad_packets_are_refused_for_the_same_reason(refusal: dict[str, Any], make_forwarder: MakeForwarder) -> None:
    router = VectorRouter(refusal["at"], make_forwarder, Role(refusal["roles"]), tuple(refusal["without"]))
    for datagram in refusal["datagrams"]:
        router.receive(bytes.fromhex(datagram), refusal["from"])
    counters = router.forwarder.counters()
    assert refusal["drops"] == dict(counters.drops)
    assert (refusal["sent"], refusal["delivered"]) == (len(router.sent), len(router.bodies()))


def test_a_tun_node_takes_what_ends_at_its_tun(make_forwarder: MakeForwarder) -> None:
    """The refusals hold the node without one; the function is of the list, so each plane must ask for the role."""
    router = VectorRouter("ingress", make_forwarder)
    path = (Sid.of(NODES["first"], Function.END), Sid.of(NODES["egress"], Function.END_DT6))
    journey = VECTORS["journeys"][1]
    assert router.forwarder.send_payload(path, VECTORS["path_tag"], NODES["egress"], bytes.fromhex(journey["plaintext"]))
    first, egress = VectorRouter("first", make_forwarder), VectorRouter("egress", make_forwarder, Role.RELAY | Role.GATEWAY)
    first.receive(router.sent[0][0], "ingress")
    egress.receive(first.sent[0][0], "first")
    drops = dict(egress.forwarder.counters().drops)
    assert "not-mine" not in drops
