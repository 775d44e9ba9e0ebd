"""A node that publishes also prunes the store, unless another node on the same store does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from srwan.gossip.report import Report
from srwan.gossip.row import SignedRow
from srwan.identity import Identity
from srwan.ledger_client.memory import MemoryStore
from srwan.ledger_client.record import Kind, Record
from srwan.ledger_client.report import NS_PER_S
from srwan.ledger_client.store import HISTORY_VERSIONS_MAX, Query
from srwan.publisher import PRUNE_LEASE_S, Publisher


class Here:
    """A clock that stands still, and a view without certificates."""

    ids: tuple[()] = ()

    def __init__(self, wall_ns: int) -> None:
        self.now_ns = wall_ns

    def wall_ns(self) -> int:
        return self.now_ns


async def test_one_of_several_nodes_prunes_what_expired_and_old_versions(
    make_gossip_report: Callable[..., Report],
    make_signed_row: Callable[..., SignedRow],
    make_row: Callable[..., Record],
    identities: tuple[Identity, ...],
    wall_ns: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("srwan.publisher.PRUNE_EVERY_REPORTS", 1)
    store = MemoryStore()
    here: Any = Here(wall_ns + 20 * NS_PER_S)
    publisher = Publisher(store, identities[0], here, here)
    await store.put_many([make_row(1, expires_s=10), *(make_row(2, seq=seq) for seq in range(HISTORY_VERSIONS_MAX + 5))], wall_ns)
    other = identities[3].node_id
    assert await store.lease("prune", other, PRUNE_LEASE_S, here.now_ns)

    assert await publisher.publish(make_gossip_report([make_signed_row(0)], epoch=1))
    assert 3 == len(await store.range(Query(kind=Kind.ROW)))
    await store.release("prune", other)
    assert await publisher.publish(make_gossip_report([make_signed_row(0)], epoch=2))
    assert [make_row(2).subject, make_row(0).subject] == [each.record.subject for each in await store.range(Query(kind=Kind.ROW))]
    assert HISTORY_VERSIONS_MAX == len(await store.history(make_row(2).key))
    assert not await store.lease("prune", other, PRUNE_LEASE_S, here.now_ns)
