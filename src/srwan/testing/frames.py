"""Identities and frames for simulations: the same interface as the real ones at a fraction of the cost.

`SimIdentity` is a real identity (its NodeId is a real key) whose pairwise secrets are a hash of the two NodeIds instead of an X25519
agreement. `SimFrameCodec` does not encode: the datagram it seals is the `Frame` itself, and it opens it by looking who sent it. Only the
codec opens a datagram, so what travels may be any object. Sequences, the replay window, unknown senders, the bound on newcomers and every
drop are those of the real codec, which it inherits. Cores are given these objects and know nothing of it.

Nothing here protects anything: whoever knows two NodeIds knows their secret.
"""

from __future__ import annotations

import hashlib
from typing import cast

from srwan.errors import DecodeError, RemoteProtocolError
from srwan.identity import Identity
from srwan.overlay.frame import CONTENT_BYTES_MAX, HEADER_BYTES, Frame, FrameCodec, FrameType
from srwan.types import NodeId

__all__ = ["SimFrameCodec", "SimIdentity", "frame_bytes"]


class SimIdentity(Identity):
    """An identity whose pairwise secrets cost nothing and protect nothing."""

    __slots__ = ()

    def shared_secret(self, peer: NodeId) -> bytes:
        """Return 32 bytes that are equal at both ends. Cost: 1 us."""
        low, high = sorted((self.node_id, peer))
        return hashlib.blake2b(low + high, digest_size=32, person=b"srwan/sim/1").digest()


class SimFrameCodec(FrameCodec):
    """Seals without a tag and opens without a check, with the real codec's sequences and bounds."""

    def seal(self, receiver: NodeId, kind: FrameType, content: bytes, *, digest: bytes, tx_ns: int, flags: int = 0) -> bytes:
        """Return the frame, which poses as bytes. Raises as the real codec."""
        del digest  # nothing is tagged
        if len(content) > CONTENT_BYTES_MAX:
            raise ValueError(f"content of {len(content)} bytes, at most {CONTENT_BYTES_MAX} fit one datagram")
        pair = self._pairs[receiver]
        sequence = pair.next_sequence
        pair.next_sequence = (sequence + 1) & 0xFFFFFFFF
        return cast("bytes", tuple.__new__(Frame, (self._identity.node_id, kind, flags, sequence, tx_ns, content)))

    def open(self, data: bytes, now: float) -> Frame:
        """Return the frame. Raises as the real codec, but never for a tag."""
        frame = cast("Frame", data)
        if type(frame) is not Frame:
            raise DecodeError("bytes among frames that were never encoded")
        pair = self._pairs.get(frame.sender)
        if pair is not None:
            self._advance(pair, frame.sequence)
            return frame
        header = bytes(HEADER_BYTES) + frame.content[:32]
        pair = self._admit(frame.type, header, frame.sender.short, now)
        try:
            self._advance(pair, frame.sequence)
        except RemoteProtocolError:
            self.remove_peer(pair.node)
            raise
        return frame


def frame_bytes(data: bytes) -> tuple[int, int]:
    """Return the type and the length in bytes that a datagram has on the wire, encoded or not; type 0 if it is too short to have one."""
    if isinstance(data, bytes):
        return data[1] if len(data) > 1 else 0, len(data)
    frame = cast("Frame", data)
    return frame.type, HEADER_BYTES + len(frame.content)
