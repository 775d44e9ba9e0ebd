"""The segment routing header, against scapy's and against golden bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import IPv6ExtHdrSegmentRouting

from srwan.errors import DecodeError
from srwan.routing.sid import Function, Sid
from srwan.routing.srh import SEGMENTS_MAX, SRH_BYTES_MAX, SRH_BYTES_MIN, Srh
from srwan.types import NodeId

DATA = Path(__file__).parents[1] / "data"


def path_of(n: int) -> tuple[Sid, ...]:
    """n - 1 relays and an egress, the same ones every time."""
    nodes = [NodeId(bytes([i]) * 32) for i in range(1, n + 1)]
    return (*(Sid.of(node, Function.END) for node in nodes[:-1]), Sid.of(nodes[-1], Function.END_APP))


GOLDEN = {
    "srh-1": Srh(253, 0, 0, path_of(1)),
    "srh-3-first-hop": Srh(253, 2, 0, path_of(3)),
    "srh-3-second-hop": Srh(253, 1, 0, path_of(3)),
    "srh-3-egress": Srh(253, 0, 0, path_of(3)),
    "srh-8-ipv4-tagged": Srh(4, 7, 0xBEEF, path_of(8)),
}


def scapy_bytes(srh: Srh) -> bytes:
    header = IPv6ExtHdrSegmentRouting(
        nh=srh.next_header,
        segleft=srh.segments_left,
        lastentry=len(srh.segments) - 1,
        tag=srh.tag,
        addresses=[str(sid) for sid in reversed(srh.segments)],
    )
    return bytes(header)


@pytest.mark.parametrize("name", GOLDEN)
def test_scapy_we_and_the_golden_file_say_the_same_bytes(name: str) -> None:
    golden = (DATA / f"{name}.bin").read_bytes()
    assert golden == scapy_bytes(GOLDEN[name])
    assert golden == GOLDEN[name].encode()


@pytest.mark.parametrize("name", GOLDEN)
def test_scapy_and_we_read_the_golden_file_alike(name: str) -> None:
    golden = (DATA / f"{name}.bin").read_bytes()
    ours, theirs = Srh.decode(golden), IPv6ExtHdrSegmentRouting(golden)
    assert GOLDEN[name] == ours
    segments = tuple(Sid.parse(address) for address in reversed(theirs.addresses))
    assert (theirs.nh, theirs.segleft, theirs.tag, segments) == (ours.next_header, ours.segments_left, ours.tag, ours.segments)
    assert (2 * len(ours.segments), 4, len(ours.segments) - 1) == (theirs.len, theirs.type, theirs.lastentry)


@given(st.integers(1, SEGMENTS_MAX), st.integers(0, 255), st.integers(0, 0xFFFF), st.data())
def test_every_header_survives_encoding_and_equals_scapys(n: int, next_header: int, tag: int, data: st.DataObject) -> None:
    srh = Srh(next_header, data.draw(st.integers(0, n - 1)), tag, path_of(n))
    encoded = srh.encode()
    assert srh == Srh.decode(encoded)
    assert scapy_bytes(srh) == encoded


def test_size_bounds_are_those_of_one_and_eight_segments() -> None:
    assert (SRH_BYTES_MIN, SRH_BYTES_MAX) == (len(Srh.for_path(path_of(1)).encode()), len(Srh.for_path(path_of(8)).encode()))


def test_active_segment_walks_the_path_in_visiting_order() -> None:
    path = path_of(4)
    srh = Srh.for_path(path)
    visited = [srh.active]
    while srh.segments_left:
        srh = srh.advanced()
        visited.append(srh.active)
    assert list(path) == visited


def test_header_at_its_last_segment_does_not_advance() -> None:
    with pytest.raises(ValueError, match="-1 segments left"):
        Srh.for_path(path_of(1)).advanced()


def good() -> bytearray:
    return bytearray(Srh.for_path(path_of(3)).encode())


def changed(at: int, value: int) -> bytes:
    data = good()
    data[at] = value
    return bytes(data)


def nine_segments() -> bytes:
    nodes = [NodeId(bytes([i]) * 32) for i in range(9)]
    return bytes([253, 18, 4, 8, 8, 0, 0, 0]) + b"".join(Sid.of(node, Function.END) for node in nodes)


REFUSED = {
    "empty": (b"", "srh-length"),
    "cut in the fixed part": (bytes(good()[:7]), "srh-length"),
    "cut in the list": (bytes(good()[:-1]), "srh-length"),
    "a segment missing": (bytes(good()[:-16]), "srh-length"),
    "a byte too many": (bytes(good()) + b"\0", "srh-length"),
    "hdr ext len too great": (changed(1, 8), "srh-length"),
    "another routing type": (changed(2, 0), "srh-type"),
    "flags": (changed(5, 0x08), "srh-flags"),
    "zero segments": (bytes([253, 0, 4, 0, 0, 0, 0, 0]), "srh-segments"),
    "nine segments": (nine_segments(), "srh-segments"),
    "last entry beyond the list": (changed(4, 3), "srh-last-entry"),
    "last entry 255": (changed(4, 255), "srh-segments"),
    "half a segment": (bytes([253, 1, 4, 0, 0, 0, 0, 0]) + bytes(8), "srh-last-entry"),
    "room after the list": (changed(4, 1), "srh-tlv"),
    "a padding object": (changed(1, 7) + bytes([4, 6, 0, 0, 0, 0, 0, 0]), "srh-tlv"),
    "segments left beyond the last entry": (changed(3, 3), "srh-segments-left"),
    "segments left 255": (changed(3, 255), "srh-segments-left"),
    "a node twice": (bytes(good()[:24]) + bytes(good()[8:24]) + bytes(good()[40:]), "loop"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_malformed_header_is_refused_by_reason(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(DecodeError) as caught:
        Srh.decode(data)
    assert reason == caught.value.reason


def test_one_node_with_two_functions_is_a_loop_too() -> None:
    node = NodeId(bytes(32))
    data = bytes([253, 4, 4, 1, 1, 0, 0, 0]) + Sid.of(node, Function.END_APP) + Sid.of(node, Function.END)
    with pytest.raises(DecodeError) as caught:
        Srh.decode(data)
    assert caught.value.reason == "loop"


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_decode_errors(data: bytes) -> None:
    try:
        srh = Srh.decode(data)
    except DecodeError:
        return
    assert data == srh.encode()


@given(st.sampled_from(sorted(GOLDEN)), st.lists(st.tuples(st.integers(0, 135), st.integers(0, 255)), max_size=4))
def test_whatever_is_accepted_encodes_to_the_same_bytes(name: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOLDEN[name].encode())
    for at, value in changes:
        data[at % len(data)] = value
    try:
        srh = Srh.decode(bytes(data))
    except DecodeError:
        return
    assert bytes(data) == srh.encode()


@pytest.mark.parametrize(
    ("next_header", "segments_left", "tag", "path"),
    [
        (256, 0, 0, path_of(1)),
        (0, 1, 0, path_of(1)),
        (0, 0, 1 << 16, path_of(1)),
        (0, 0, 0, ()),
        (0, 0, 0, path_of(1) * 2),
        (0, 0, 0, path_of(9)),
    ],
)
def test_header_that_could_not_be_decoded_cannot_be_made(next_header: int, segments_left: int, tag: int, path: tuple[Sid, ...]) -> None:
    with pytest.raises(ValueError, match=r"segment|next header|node"):
        Srh(next_header, segments_left, tag, path)


def test_empty_path_has_no_header() -> None:
    with pytest.raises(ValueError, match="0 segments"):
        Srh.for_path(())
