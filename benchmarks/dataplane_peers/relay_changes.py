"""What a router loses while keys, addresses or the path change at full load: nothing, if all is well.

Packets are sealed and opened, end to end and per hop, as they are sent and received, as fast as these ends in Python can; `load_share` is
how much of a core the router used meanwhile. Eight times in a measurement keys are renewed (of the first hop, of the router with all its
neighbours, between the ends), or an end moves to another port, or the path leads through the other router. Every packet must arrive, once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dataplane_peers.load import BATCH
from dataplane_peers.relay_load import DATA_BYTE, srh_through
from dataplane_peers.relay_rig import Rig
from srwan.errors import RemoteProtocolError
from srwan.routing.packet import open_packet, open_payload, seal_packet, seal_payload

CHANGES = 8
"""Per measurement, evenly over the packets."""
PAYLOAD_BYTES = 1000
SEQUENCES_MAX = 1 << 22
"""Packets of one measurement."""


class Stream:
    """Numbered packets from the first ingress to the first egress, sealed and opened for real."""

    def __init__(self, rig: Rig, size: int) -> None:
        self.rig = rig
        self.router = 0
        """Which of the two carries what is sent next."""
        self.next = self.duplicates = self.reordered = 0
        self.refused: dict[str, int] = {}
        """Packets that did not open, by reason."""
        self._seen = bytearray(SEQUENCES_MAX)
        self._latest = -1
        self._filling = bytes(size - 8)
        self._egress = rig.egresses[0]
        self._srh = [srh_through(router.node, self._egress.node_id) for router in rig.routers]

    def make(self, count: int) -> NDArray[np.uint8]:
        """Return the next packets, sealed with what keys there are now."""
        ingress = self.rig.ingresses[0]
        end, link = ingress.session(self._egress.node_id), ingress.session(self.rig.routers[self.router].node)
        srh, tag = self._srh[self.router], 9 + self.router
        packets = [
            seal_packet(link, srh, tag, seal_payload(end, tag, number.to_bytes(8, "little") + self._filling))
            for number in range(self.next, self.next + count)
        ]
        self.next += count
        return np.frombuffer(b"".join(packets), np.uint8).reshape(count, -1)

    def take(self, data: NDArray[np.uint8], lengths: NDArray[np.uint32], _stamps: NDArray[np.int64]) -> int:
        """Open packets; return how many are new."""
        by_index = self._egress.overlay.sessions.by_index
        fresh = 0
        for row, length in zip(data, lengths.tolist(), strict=True):
            packet = row[:length].tobytes()
            if packet[0] != DATA_BYTE:
                continue  # beats and handshakes come here as well
            try:
                _link, _srh, tag, payload_at = open_packet(by_index, packet)
                _end, plaintext = open_payload(by_index, tag, packet[payload_at:])
            except RemoteProtocolError as error:
                self.refused[error.reason] = self.refused.get(error.reason, 0) + 1
                continue
            number = int.from_bytes(plaintext[:8], "little")
            if self._seen[number]:
                self.duplicates += 1
                continue
            self._seen[number] = 1
            fresh += 1
            self.reordered += number < self._latest
            self._latest = max(self._latest, number)
        return fresh


async def measure_change(rig: Rig, name: str, packets: int, change: Callable[[Stream, int], None]) -> dict[str, float]:
    """Send a stream, have something change CHANGES times meanwhile, and count what is missing."""
    stream = Stream(rig, PAYLOAD_BYTES)
    await rig.settle_down()
    rig.aim(0)
    rig.track.on_batch = stream.take
    every = packets // (CHANGES + 1)
    changes = 0

    def make(count: int) -> NDArray[np.uint8]:
        nonlocal changes
        if stream.next >= (changes + 1) * every and changes < CHANGES:
            changes += 1
            change(stream, changes)
        return stream.make(count)

    before = rig.cpu_s()
    seconds = await rig.track.run(make, packets // BATCH * BATCH)
    figures = {
        f"{name}_lost": float(rig.track.sent - rig.track.received),
        f"{name}_duplicates": float(stream.duplicates),
        f"{name}_reordered": float(stream.reordered),
        f"{name}_refused": float(sum(stream.refused.values())),
        f"{name}_pps": rig.track.received / seconds,
        f"{name}_load_share": (rig.cpu_s() - before) / seconds,
    }
    rig.track.on_batch = None
    rig.aim(0)
    return figures


def renew_keys(rig: Rig) -> Callable[[Stream, int], None]:
    """By turns: the first hop's, those of the router with all its neighbours, those between the ends."""

    def change(_stream: Stream, number: int) -> None:
        ingress = rig.ingresses[0]
        if number % 3 == 0:
            rig.routers[0].ask("renew")
        else:
            ingress.renew(rig.routers[0].node if number % 3 == 1 else rig.egresses[0].node_id)

    return change


def roam(rig: Rig) -> Callable[[Stream, int], None]:
    """By turns: the ingress sends from another port, the egress is heard from another port."""

    def change(_stream: Stream, number: int) -> None:
        which = number // 2 % 2
        if number % 2:
            rig.aim(0, 1 - which)
        else:
            rig.settle(which, (0,))

    return change


def switch(rig: Rig) -> Callable[[Stream, int], None]:
    """The path leads through the other router."""

    def change(stream: Stream, _number: int) -> None:
        stream.router = 1 - stream.router
        rig.aim(stream.router, stream.router)

    return change


async def measure_changes(rig: Rig, packets: int) -> dict[str, float]:
    """Change keys, addresses, paths."""

    def rekeyed() -> int:
        return rig.ingresses[0].rekeyed + rig.egresses[0].rekeyed + int(rig.routers[0].ask("report")["rekeyed"])

    before = rekeyed()
    figures = await measure_change(rig, "rekey", packets, renew_keys(rig))
    figures["rekeys"] = float(rekeyed() - before)
    figures |= await measure_change(rig, "roam", packets, roam(rig))
    figures |= await measure_change(rig, "switch", packets, switch(rig))
    return figures
