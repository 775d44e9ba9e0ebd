"""Which entry of a row speaks of whom: our own member order, and that of rows whose signer's roster is another.

A described row names its entries by 32-bit ids. An id that two of our members share, or that a row gives twice, names nobody. Rows of one
foreign roster come from many members, so its mapping is kept; the mappings are bounded and forgotten together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from srwan.gossip.owl import Entries, spread
from srwan.gossip.row import Ids, Row, entry_id
from srwan.types import NodeId

__all__ = ["Roster"]

_Positions: TypeAlias = npt.NDArray[np.int64]

FOREIGN_ROSTERS_MAX = 128
"""Mappings kept; one a member."""


class Roster:
    """The member order of one view.

    Args:
        members: in rising order.
        digest: 8 bytes that name this roster (`View.digest`).
    """

    def __init__(self, members: Sequence[NodeId], digest: bytes) -> None:
        self.size = len(members)
        self.digest = digest
        self.ids: Ids = np.array([entry_id(node) for node in members], np.uint32)
        """32-bit ids, shape (n,)."""
        self._slots = np.argsort(self.ids).astype(np.int64)
        self._sorted_ids = self.ids[self._slots]
        is_twin = np.concatenate(([False], self._sorted_ids[1:] == self._sorted_ids[:-1], [False]))
        self._is_unique = ~(is_twin[1:] | is_twin[:-1])
        self._key = self.ids.astype("<u4").tobytes()
        self._positions: dict[bytes, _Positions] = {}

    def align(self, row: Row) -> Row | Entries | None:
        """Return the entries of a row in our order; None if it is in slot order of another roster, and so means nothing here."""
        if not row.is_described:
            return row if row.roster_digest == self.digest and row.count == self.size else None
        key = row.entries[: 4 * row.count]
        return row if key == self._key else spread(row, self._positions_of(key), self.size)

    def _positions_of(self, key: bytes) -> _Positions:
        """For each of the packed ids the index of the one member it names, -1 if it names none or is named twice."""
        positions = self._positions.get(key)
        if positions is None:
            ids = np.frombuffer(key, "<u4")
            at = np.minimum(np.searchsorted(self._sorted_ids, ids), self.size - 1)
            is_ours = self._sorted_ids[at] == ids
            times = np.bincount(at[is_ours], minlength=self.size)
            is_sure = is_ours & self._is_unique[at] & (times[at] == 1)
            positions = np.where(is_sure, self._slots[at], -1)
            if len(self._positions) >= FOREIGN_ROSTERS_MAX:
                self._positions.clear()
            self._positions[key] = positions
        return positions
