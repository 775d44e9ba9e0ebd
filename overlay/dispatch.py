"""Which handler gets which datagrams of a batch. A core.

The first four bits of a datagram name its plane. A plane's handler takes datagrams one by one, or all of a batch at once, in trains as they
came. Those that take them singly come first: frames and handshakes are few and timely, and must not wait until hundreds of data packets
were sealed. Within a plane the order of arrival is kept.

The kernel joins datagrams without knowing planes: a short frame may end a train of data. Such a train is taken apart.

What a handler of single datagrams raises as a `RemoteProtocolError` is counted; any other exception is a bug of ours, reported, and takes
nothing else with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from srwan.errors import LocalProtocolError, RemoteProtocolError
from srwan.overlay.trains import Train, datagrams_of, plane_of
from srwan.types import UdpAddress

__all__ = ["BatchHandler", "PlaneHandler", "Planes"]

PlaneHandler: TypeAlias = Callable[[bytes, UdpAddress, int], None]
"""Takes a datagram, its source, and its receive stamp in ns of the stamp clock."""
BatchHandler: TypeAlias = Callable[[list[Train]], None]
"""Takes the trains of a batch that are of its plane, in order of arrival, none empty."""


class Planes:
    """The handlers of a node's datagrams.

    Args:
        drop: called with the reason and the source of each datagram that nobody takes or whose handler refuses it.
        report: called with what else a handler raised.
    """

    def __init__(self, drop: Callable[[str, UdpAddress], None], report: Callable[[Exception], None]) -> None:
        self._drop = drop
        self._report = report
        self._single: dict[int, PlaneHandler] = {}
        self._whole: dict[int, BatchHandler] = {}

    def add(self, plane: int, handler: PlaneHandler) -> None:
        """Have the datagrams of a plane handled one by one.

        Raises:
            LocalProtocolError: the plane is taken.
        """
        self._require_free(plane)
        self._single[plane] = handler

    def add_batch(self, plane: int, handler: BatchHandler) -> None:
        """Have all datagrams of a plane in a batch handled at once, after the planes handled one by one.

        Raises:
            LocalProtocolError: the plane is taken.
        """
        self._require_free(plane)
        self._whole[plane] = handler

    def handle(self, batch: Iterable[Train]) -> None:
        """Hand a batch over. Cost: 0.4 us for each train of a plane that takes batches, 1 us for each other datagram."""
        whole: dict[int, list[Train]] = {}
        for train in batch:
            plane = plane_of(train)
            if plane in self._whole:
                whole.setdefault(plane, []).append(train)
            else:
                self._take_apart(train, whole)
        for plane, trains in whole.items():
            try:
                self._whole[plane](trains)
            except Exception as bug:  # noqa: BLE001 - reported, and datagrams must not end the node
                self._report(bug)

    def _take_apart(self, train: Train, whole: dict[int, list[Train]]) -> None:
        """Hand over single datagrams; those of planes that take batches are added to `whole`."""
        for data, source, rx_ns in datagrams_of((train,)):
            plane = data[0] >> 4 if data else -1
            if plane in self._whole:
                whole.setdefault(plane, []).append((data, len(data), source, rx_ns))
                continue
            handler = self._single.get(plane)
            if handler is None:
                self._drop("plane", source)
                continue
            try:
                handler(data, source, rx_ns)
            except RemoteProtocolError as error:
                self._drop(error.reason, source)
            except Exception as bug:  # noqa: BLE001 - reported, and a datagram must not end the node
                self._report(bug)

    def _require_free(self, plane: int) -> None:
        if plane in self._single or plane in self._whole:
            raise LocalProtocolError(f"plane {plane:#x} is handled already")
