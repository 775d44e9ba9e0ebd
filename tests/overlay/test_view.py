"""Membership certificates and the view that merges them."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srwan.errors import BadSignature, DecodeError, Equivocation, LimitExceeded, LocalProtocolError, RemoteProtocolError, StaleRecord
from srwan.identity import Identity
from srwan.overlay.view import CERTIFICATE_BYTES_MAX, GRAVES_MAX, MEMBERS_MAX, TOMBSTONES_MAX, Grave, Member, Role, View, certificate_id
from srwan.types import GeoAsn, NodeId
from srwan.wire import Envelope, pack

WALL_NS = 1_800_000_000_000_000_000
S = 1_000_000_000
GOLDEN = bytes.fromhex(
    "9501a66d656d626572c42003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8c46b9e6400c4080000000000000000a561"
    "6c7068619292a93139322e302e322e31cd126692ab323030313a6462383a3a31cd126691b72f6970342f3139322e302e322e312f7463702f34373130"
    "a24c54cd155dcd09e0cd223c05cf18fae27693b40000cf18fae302467d7000c2c4406657538fb4cdd14ac9882ad205cc9e74647a06f977a19cd665bc"
    "2e3d2a572abd408fb948c856385485809816e46da144449c58d1560a24e1cdb568f889e8aa03"
)
"""The certificate of the identity with seed 00 01 .. 1f, as `member` describes it."""
IDENTITIES = [Identity(bytes([7, index]) * 16) for index in range(6)]


def member(identity: Identity, **changes: Any) -> Member:
    plain = Member(
        node_id=identity.node_id,
        boot=100,
        seq=0,
        name="alpha",
        udp=(("192.0.2.1", 4710), ("2001:db8::1", 4710)),
        control=("/ip4/192.0.2.1/tcp/4710",),
        location=GeoAsn("LT", 5469, 2528, 8764),
        roles=Role.RELAY | Role.INTRODUCER,
        issued_ns=WALL_NS,
        expires_ns=WALL_NS + 600 * S,
    )
    return attrs.evolve(plain, **changes)


def sealed(index: int, **changes: Any) -> bytes:
    return member(IDENTITIES[index], **changes).seal(IDENTITIES[index])


def test_a_certificate_has_golden_bytes() -> None:
    identity = Identity(bytes(range(32)))
    assert member(identity).seal(identity) == GOLDEN
    assert Member.open(GOLDEN, wall_ns=WALL_NS) == member(identity)
    assert certificate_id(GOLDEN, bytes(8)).hex() == "5a1833eb"


def test_a_certificate_survives_sealing() -> None:
    assert member(IDENTITIES[0]) == Member.open(sealed(0), wall_ns=WALL_NS)


def test_a_changed_certificate_is_not_authentic() -> None:
    envelope = Envelope.decode(sealed(0), bytes_max=600)
    forged = attrs.evolve(envelope, body=envelope.body.replace(b"alpha", b"alphb")).encode()
    with pytest.raises(BadSignature):
        Member.open(forged, wall_ns=WALL_NS)


def test_a_certificate_is_stale_when_it_expires_and_refused_from_a_fast_clock() -> None:
    with pytest.raises(StaleRecord):
        Member.open(sealed(0), wall_ns=WALL_NS + 600 * S)
    with pytest.raises(DecodeError) as caught:
        Member.open(sealed(0), wall_ns=WALL_NS - 61 * S)
    assert caught.value.reason == "clock"
    assert Member.open(sealed(0), wall_ns=WALL_NS - 60 * S) == member(IDENTITIES[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"udp": ()},
        {"udp": (("192.0.2.1", 1),) * 5},
        {"udp": (("0.0.0.0", 4710),)},
        {"udp": (("192.0.2.1", 0),)},
        {"udp": (("example.org", 4710),)},
        {"udp": (("224.0.0.1", 4710),)},
        {"udp": (("2001:DB8::1", 4710),)},
        {"udp": (("fe80::1%eth0", 4710),)},
        {"control": ("",)},
        {"control": ("x" * 129,)},
        {"control": ("a",) * 5},
        {"control": ("x" * 128,) * 4},
        {"name": "x" * 33},
        {"name": "caf\u00e9"},
        {"name": "a\nb"},
        {"location": GeoAsn("lt")},
        {"location": GeoAsn("LT", 9001)},
        {"location": GeoAsn("LT", 0, 18001)},
        {"location": GeoAsn("LT", 0, 0, 2**32)},
        {"boot": 2**32},
        {"boot": -1},
        {"seq": 2**32},
        {"seq": 2**64},
        {"roles": Role(16)},
        {"expires_ns": WALL_NS},
        {"expires_ns": WALL_NS + 901 * S},
        {"group": b"short"},
    ],
)
def test_what_others_would_refuse_cannot_be_sealed(changes: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        sealed(0, **changes)


def test_nobody_seals_for_another() -> None:
    with pytest.raises(LocalProtocolError):
        member(IDENTITIES[0]).seal(IDENTITIES[1])


@pytest.mark.parametrize("field", range(14))
@pytest.mark.parametrize("value", [None, True, -1, 2**64 - 1, b"bytes", "text", [], [[]], [["192.0.2.1", True]]])
def test_a_signed_body_with_a_wrong_field_is_refused(field: int, value: object) -> None:
    body: list[Any] = [100, 0, bytes(8), "a", [["192.0.2.1", 1]], [], "LT", 0, 0, 0, 1, WALL_NS, WALL_NS + 60 * S, False]
    body[field] = value
    data = Envelope.seal(IDENTITIES[0], "member", pack(body)).encode()
    try:
        opened = Member.open(data, wall_ns=WALL_NS)
    except RemoteProtocolError:
        return
    assert (field, value) in [(3, "text"), (5, []), (7, -1), (8, -1), (13, True)]
    assert opened.seal(IDENTITIES[0]) == data


@given(st.binary(max_size=CERTIFICATE_BYTES_MAX + 10))
def test_random_bytes_raise_nothing_but_protocol_errors(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Member.open(data, wall_ns=WALL_NS)


@given(st.integers(0, 217), st.integers(1, 255))
def test_flipped_certificates_raise_nothing_but_protocol_errors(at: int, flip: int) -> None:
    data = bytearray(sealed(0))
    data[at % len(data)] ^= flip
    with pytest.raises(RemoteProtocolError):
        View().merge(bytes(data), WALL_NS)


versions = st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(0, 3), st.booleans())


@settings(max_examples=60)
@given(st.lists(versions, max_size=25), st.randoms(use_true_random=False))
def test_a_view_depends_on_what_was_merged_and_not_on_order_or_repetition(
    what: list[tuple[int, int, int, bool]], rng: random.Random
) -> None:
    certificates = [sealed(index, boot=boot, seq=seq, is_leaving=is_leaving) for index, boot, seq, is_leaving in what]
    shuffled = certificates + certificates[: len(certificates) // 2]
    rng.shuffle(shuffled)
    one, other = View(), View()
    merge_all(one, certificates)
    merge_all(other, shuffled)
    assert (one.members, one.digest, sorted(one.certificates)) == (other.members, other.digest, sorted(other.certificates))
    assert len(one) == len(one.members)
    # merging two halves by exchanging what they hold gives the same again (associative)
    left, right = View(), View()
    merge_all(left, shuffled[::2])
    merge_all(right, shuffled[1::2])
    merge_all(left, list(right.certificates))
    assert (one.members, one.digest) == (left.members, left.digest)


def merge_all(view: View, certificates: list[bytes]) -> None:
    """A node that signs a leaving and a living body under one version is told off, and converges anyway."""
    for certificate in certificates:
        try:
            view.merge(certificate, WALL_NS)
        except Equivocation:
            continue


def test_merge_tells_news_from_what_is_known() -> None:
    view = View()
    assert view.merge(sealed(0, seq=1), WALL_NS) == member(IDENTITIES[0], seq=1)
    assert view.merge(sealed(0, seq=1), WALL_NS) is None
    assert view.merge(sealed(0, seq=0), WALL_NS) is None
    assert view.merge(sealed(0, boot=99, seq=9), WALL_NS) is None
    assert view.merge(sealed(0, boot=101), WALL_NS) == member(IDENTITIES[0], boot=101)


def test_a_renewal_does_not_disturb_the_digest_but_a_restart_does() -> None:
    view = View()
    view.merge(sealed(0), WALL_NS)
    before = view.digest
    view.merge(sealed(0, seq=1), WALL_NS)
    assert view.digest == before
    view.merge(sealed(0, boot=101), WALL_NS)
    assert view.digest != before


def test_a_tombstone_keeps_the_node_out_until_it_expires() -> None:
    view = View()
    view.merge(sealed(0, seq=1, is_leaving=True), WALL_NS)
    view.merge(sealed(0, seq=0), WALL_NS)
    assert (0, None, (), View().digest) == (len(view), view.get(IDENTITIES[0].node_id), view.ids, view.digest)
    assert view.expire(WALL_NS + 600 * S) == ()
    assert view.certificates == ()


def test_two_bodies_at_one_version_are_evidence_and_the_first_stays() -> None:
    view = View()
    first, second = sealed(0), sealed(0, name="beta")
    view.merge(first, WALL_NS)
    with pytest.raises(Equivocation) as caught:
        view.merge(second, WALL_NS)
    evidence = caught.value
    assert ("equivocation", IDENTITIES[0].node_id, first, second) == (evidence.reason, evidence.node_id, evidence.first, evidence.second)
    assert view.certificate(IDENTITIES[0].node_id) == first


def test_members_are_sorted_and_found_by_name_and_id() -> None:
    view = View()
    for index in range(6):
        view.merge(sealed(index, name="odd" if index % 2 else "even"), WALL_NS)
    assert list(view.ids) == sorted(identity.node_id for identity in IDENTITIES)
    assert view.roster == tuple(view.certificate(node_id) for node_id in view.ids)
    assert {found.node_id for found in view.by_name("odd")} == {IDENTITIES[index].node_id for index in (1, 3, 5)}
    assert view.by_name("none") == ()
    with pytest.raises(KeyError):
        view.certificate(Identity(bytes(32)).node_id)


def test_a_certificate_of_another_group_is_refused() -> None:
    with pytest.raises(DecodeError) as caught:
        View(b"12345678").merge(sealed(0), WALL_NS)
    assert caught.value.reason == "group"


def test_the_expired_are_removed_and_returned() -> None:
    view = View()
    view.merge(sealed(0), WALL_NS)
    view.merge(sealed(1, issued_ns=WALL_NS + S, expires_ns=WALL_NS + 601 * S), WALL_NS)
    assert view.next_expiry_ns == WALL_NS + 600 * S
    assert view.expire(WALL_NS + 599 * S) == ()
    assert [gone.node_id for gone in view.expire(WALL_NS + 600 * S)] == [IDENTITIES[0].node_id]
    assert view.ids == (IDENTITIES[1].node_id,)
    assert view.next_expiry_ns == WALL_NS + 601 * S


def test_living_and_tombstones_are_bounded() -> None:
    view = View()
    identities = [Identity(index.to_bytes(32, "little")) for index in range(MEMBERS_MAX + TOMBSTONES_MAX + 20)]
    for identity in identities[:MEMBERS_MAX]:
        view.merge(member(identity).seal(identity), WALL_NS)
    extra = identities[MEMBERS_MAX]
    with pytest.raises(LimitExceeded) as caught:
        view.merge(member(extra).seal(extra), WALL_NS)
    assert caught.value.reason == "view-full"
    for identity in identities[MEMBERS_MAX:]:
        view.merge(member(identity, is_leaving=True).seal(identity), WALL_NS)
    assert (MEMBERS_MAX, MEMBERS_MAX + TOMBSTONES_MAX) == (len(view), len(view.certificates))


def grave(boot: int, until_s: int = 1000) -> Grave:
    return Grave(boot, (b"proof",), WALL_NS + until_s * S)


def test_a_burial_is_final_for_a_run_and_its_elders_whatever_their_seq() -> None:
    view = View()
    view.merge(sealed(0, seq=1), WALL_NS)
    assert view.bury(IDENTITIES[0].node_id, grave(100)) == member(IDENTITIES[0], seq=1)
    assert (0, (), View().digest, ()) == (len(view), view.ids, view.digest, view.certificates)
    for changes in ({"seq": 9}, {"boot": 99, "seq": 9}, {"seq": 9, "is_leaving": True}):
        assert view.merge(sealed(0, **changes), WALL_NS) is None
    assert view.merge(sealed(0, boot=101), WALL_NS) == member(IDENTITIES[0], boot=101)
    assert view.bury(IDENTITIES[0].node_id, grave(100)) is None
    assert view.ids == (IDENTITIES[0].node_id,)
    assert view.grave(IDENTITIES[0].node_id) == grave(100)


def test_a_grave_dug_before_the_certificate_came_keeps_it_out_and_a_later_boot_replaces_it() -> None:
    view = View()
    assert view.bury(IDENTITIES[0].node_id, grave(100)) is None
    assert view.merge(sealed(0), WALL_NS) is None
    view.bury(IDENTITIES[0].node_id, grave(99))
    view.bury(IDENTITIES[0].node_id, grave(102))
    assert view.graves == ((IDENTITIES[0].node_id, grave(102)),)
    assert view.merge(sealed(0, boot=101), WALL_NS) is None


@settings(max_examples=60)
@given(
    st.lists(st.one_of(versions, st.tuples(st.integers(0, 5), st.integers(1, 3))), max_size=25),
    st.randoms(use_true_random=False),
)
def test_a_view_with_burials_depends_on_what_it_saw_and_not_on_the_order(what: list[tuple[Any, ...]], rng: random.Random) -> None:
    shuffled = what + what[: len(what) // 2]
    rng.shuffle(shuffled)
    views = View(), View()
    for view, order in zip(views, (what, shuffled), strict=True):
        for index, boot, *rest in order:
            if rest:
                merge_all(view, [sealed(index, boot=boot, seq=rest[0], is_leaving=rest[1])])
            else:
                view.bury(IDENTITIES[index].node_id, grave(boot))
    one, other = views
    assert (one.members, one.digest, sorted(one.certificates)) == (other.members, other.digest, sorted(other.certificates))
    assert dict(one.graves) == dict(other.graves)


def test_a_grave_is_forgotten_when_its_time_is_over() -> None:
    view = View()
    view.bury(IDENTITIES[0].node_id, grave(100, 50))
    view.merge(sealed(1), WALL_NS)
    assert view.next_expiry_ns == WALL_NS + 50 * S
    assert view.expire(WALL_NS + 50 * S) == ()
    assert view.graves == ()
    assert view.next_expiry_ns == WALL_NS + 600 * S
    assert view.merge(sealed(0), WALL_NS) == member(IDENTITIES[0])


def test_graves_are_bounded_and_the_one_to_be_forgotten_first_goes() -> None:
    view = View()
    nodes = [NodeId(index.to_bytes(32, "big")) for index in range(GRAVES_MAX + 1)]
    for index, node in enumerate(nodes):
        view.bury(node, grave(1, 1000 + (index or 500)))
    assert set(nodes) - {nodes[1]} == {node for node, _ in view.graves}
