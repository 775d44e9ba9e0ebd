"""One question and one answer on a libp2p stream, with as few frames as the wire format allows.

libp2p opens a stream with two round trips of protocol negotiation, reading names bytewise: 4.4 ms of CPU for both ends together before
the first byte of content. The first write here carries multistream header, protocol name and request at once, which every
multistream-select server understands because it reads them in this order; the answers to all three are read from one buffer.

Invariants: a length is checked before what it announces is read; every stream is closed or reset when `exchange` ends, also when it is
cancelled. Source: libp2p specs, connections/README (multistream-select 1.0.0).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio
import varint
from libp2p.abc import INetStream
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from srwan.errors import DecodeError, LimitExceeded
from srwan.overlay.transport import CONTROL_MESSAGE_BYTES_MAX
from srwan.sole_error import sole_error

__all__ = ["StreamReader", "answer_unless_reset", "exchange", "frame_message", "read_message", "reset_quietly"]

logger = logging.getLogger("srwan.overlay")

_MULTISTREAM = "/multistream/1.0.0"
_NAME_BYTES_MAX = 256
_OPEN_S_MAX = 5.0
_CHUNK_BYTES = 64 * 1024
_LOOK_S = 0.25
_LENGTH = struct.Struct("<I")


class StreamReader:
    """Reads exact numbers of bytes from a libp2p stream through a buffer of at most one chunk more than was asked for."""

    __slots__ = ("_buffer", "_stream")

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    @property
    def has_more(self) -> bool:
        """Whether more came than was read."""
        return bool(self._buffer)

    async def read_exactly(self, length: int) -> bytes:
        """Return `length` bytes. Raises: StreamEOF: the stream ended before; other errors of libp2p as they come."""
        while len(self._buffer) < length:
            chunk = await self._stream.read(_CHUNK_BYTES)
            if not chunk:
                raise StreamEOF
            self._buffer += chunk
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return data

    async def read_delimited(self, length_max: int) -> bytes:
        """Return what follows a varint length. Raises: LimitExceeded: longer than length_max; as `read_exactly`."""
        length = shift = 0
        while True:
            (byte,) = await self.read_exactly(1)
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
            if shift > 28:
                raise LimitExceeded("varint of more than 5 bytes", reason="control-length")
        if length > length_max:
            raise LimitExceeded(f"message of {length} bytes, at most {length_max}", reason="control-length")
        return await self.read_exactly(length)


@asynccontextmanager
async def exchange(host: BasicHost, peer: ID, protocol: str, first: bytes) -> AsyncIterator[StreamReader]:
    """Open a stream on a connection that exists, send `first` on `protocol`, and yield what the peer answers.

    Raises:
        StreamFailure: the peer does not speak the protocol. Other errors of libp2p as they come.
    """
    stream = None
    with trio.move_on_after(_OPEN_S_MAX, shield=True):  # cancelled half-way, libp2p would leak one of 256 slots of the connection
        stream = await host.get_network().new_stream(peer)
    if stream is None:
        raise trio.TooSlowError
    try:
        await stream.write(_named(_MULTISTREAM) + _named(protocol) + first)
        reader = StreamReader(stream)
        for name in (_MULTISTREAM, protocol):
            answer = await reader.read_delimited(_NAME_BYTES_MAX)
            if answer != name.encode("utf-8") + b"\n":
                raise StreamFailure(f"{protocol} is not spoken")
        yield reader
        await stream.close()
    except BaseException:
        await reset_quietly(stream)
        raise


def _named(name: str) -> bytes:
    line = name.encode("utf-8") + b"\n"
    return bytes(varint.encode(len(line))) + line


def frame_message(message: bytes) -> bytes:
    """Return a control message as it goes on the wire: u32 length, little endian, and the bytes."""
    return _LENGTH.pack(len(message)) + message


async def read_message(reader: StreamReader) -> bytes:
    """Read one control message.

    Raises:
        LimitExceeded: longer than CONTROL_MESSAGE_BYTES_MAX. StreamEOF: the stream ended before it was complete.
    """
    (length,) = _LENGTH.unpack(await reader.read_exactly(_LENGTH.size))
    if length > CONTROL_MESSAGE_BYTES_MAX:
        raise LimitExceeded(f"message of {length} bytes, at most {CONTROL_MESSAGE_BYTES_MAX}", reason="control-length")
    return await reader.read_exactly(length)


async def answer_unless_reset(stream: INetStream, answer: Callable[[], Awaitable[bytes]]) -> bytes:
    """Return what `answer` does, which is cancelled when the caller resets the stream: nobody waits for it, and its place is needed.

    Raises:
        StreamReset: the caller has gone. DecodeError: it sends more than a request. Whatever `answer` raises.
    """
    with sole_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait_for_reset, stream)
            response = await answer()
            nursery.cancel_scope.cancel()
    return response


async def _wait_for_reset(stream: INetStream) -> None:
    """Raise StreamReset when the caller has gone. It may close its half after its request, and go later."""
    with suppress(StreamEOF):  # libp2p calls a reset an end too, once it has forgotten the stream
        if await stream.read(1):
            raise DecodeError("octets after a request")
    muxed = stream.muxed_stream if isinstance(stream, NetStream) else None
    while not isinstance(muxed, YamuxStream) or not (muxed.reset_received or muxed.closed):  # noqa: ASYNC110 - libp2p has no event for it
        await trio.sleep(_LOOK_S)
    raise StreamReset


async def reset_quietly(stream: INetStream) -> None:
    """Reset a stream, shielded and bounded in time; a stream that is gone already is fine."""
    with trio.move_on_after(1.0, shield=True):
        try:
            await stream.reset()
        except Exception as error:  # noqa: BLE001 -- nothing more can be done for it
            logger.debug("stream reset failed: %s", type(error).__name__)
