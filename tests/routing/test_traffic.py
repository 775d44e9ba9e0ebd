"""Bounded counters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from srwan.routing.traffic import DROP_EVENTS_MAX, DROP_PEERS_MAX, Drops, TagTable, TagTraffic, TrafficCount
from srwan.types import NodeId, PeerMisbehaved

A, B, C = (NodeId(bytes([i]) * 32) for i in range(3))
SOURCE = ("127.0.0.1", 9)


def tags_of(table: TagTable[TagTraffic]) -> set[tuple[NodeId, int]]:
    return {(owner, path_tag) for owner, path_tag, _ in table}


def test_entry_is_the_same_until_evicted() -> None:
    table = TagTable(TagTraffic)
    table.touch(A, 1).packets += 3
    assert TrafficCount(3, 0) == table.touch(A, 1).read()
    assert table.touch(B, 1).packets == 0


def test_lone_owner_loses_its_least_recently_used_tag() -> None:
    table = TagTable(TagTraffic, entries_max=3)
    for path_tag in (1, 2, 3, 1, 4):
        table.touch(A, path_tag)
    assert {(A, 3), (A, 1), (A, 4)} == tags_of(table)
    assert (3, 1) == (len(table), table.evicted)


def test_whoever_sprays_tags_evicts_only_its_own() -> None:
    table = TagTable(TagTraffic, entries_max=100)
    for path_tag in range(10):
        table.touch(B, path_tag)
    for path_tag in range(10_000):
        table.touch(A, path_tag)
    assert {(B, path_tag) for path_tag in range(10)} == {key for key in tags_of(table) if key[0] == B}
    assert len(table) == 100


def test_newcomer_takes_room_from_who_holds_most() -> None:
    table = TagTable(TagTraffic, entries_max=10)
    for path_tag in range(9):
        table.touch(A, path_tag)
    table.touch(B, 0)
    table.touch(C, 0)
    assert {(A, path_tag) for path_tag in range(1, 9)} | {(B, 0), (C, 0)} == tags_of(table)


def test_owner_at_its_share_pays_for_its_next_tag_itself() -> None:
    """No search through the owners then: a flood of new tags costs the flooder's share of time, not one maximum per packet."""
    table = TagTable(TagTraffic, entries_max=12)
    for owner, tags in ((A, 6), (B, 4), (C, 2)):
        for path_tag in range(tags):
            table.touch(owner, path_tag)
    table.touch(B, 4)
    assert {A: 6, B: 4, C: 2} == {owner: sum(1 for key in tags_of(table) if key[0] == owner) for owner in (A, B, C)}


@given(st.lists(st.tuples(st.sampled_from((A, B, C)), st.integers(0, 9) | st.none()), max_size=200), st.integers(1, 8))
def test_table_keeps_its_bound_and_its_count(calls: list[tuple[NodeId, int | None]], entries_max: int) -> None:
    table = TagTable(TagTraffic, entries_max=entries_max)
    for owner, path_tag in calls:
        if path_tag is None:
            table.drop_owner(owner)
        else:
            entry = table.touch(owner, path_tag)
            assert entry is table.peek(owner, path_tag)
        assert len(table) == len(tags_of(table)) <= entries_max


def test_peek_changes_nothing() -> None:
    table = TagTable(TagTraffic)
    assert table.peek(A, 1) is None
    assert len(table) == 0


def test_drops_are_counted_by_reason_and_by_peer() -> None:
    drops = Drops()
    drops.count("auth", None, SOURCE)
    drops.count("loop", A, SOURCE)
    drops.count("loop", A, SOURCE)
    assert {"auth": 1, "loop": 2} == drops.by_reason
    assert {(A, "loop"): 2} == drops.by_peer


def test_first_misbehaviours_become_events_and_a_flood_does_not() -> None:
    drops = Drops()
    for _ in range(1000):
        drops.count("auth", None, SOURCE)
    events = list(iter(drops.next_event, None))
    assert [PeerMisbehaved(None, SOURCE, "auth")] * DROP_EVENTS_MAX == events
    assert drops.by_reason == {"auth": 1000}


def test_what_happens_among_honest_nodes_is_no_misbehaviour() -> None:
    drops = Drops()
    for reason in ("session", "payload-session", "no-session", "next-hop-unknown", "inbox-full", "flow-evicted"):
        drops.count(reason, A, SOURCE)
    assert drops.next_event() is None


def test_counters_by_peer_are_bounded_and_can_be_forgotten() -> None:
    drops = Drops()
    for i in range(DROP_PEERS_MAX + 10):
        drops.count("auth", NodeId(i.to_bytes(32, "big")))
    assert len(drops.by_peer) == DROP_PEERS_MAX
    assert drops.by_reason == {"auth": DROP_PEERS_MAX + 10}
    drops.drop_peer(NodeId(bytes(32)))
    assert len(drops.by_peer) == DROP_PEERS_MAX - 1
