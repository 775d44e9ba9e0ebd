"""The guards of libp2p's Kademlia; the other half of `libp2p_guards.py`, where the rules for both are written.

libp2p serves the DHT behind these; the asking side is `libp2p_directory.py`. Trap numbers are those of docs/decisions.md, "libp2p".
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import libp2p.kad_dht.common
import libp2p.kad_dht.kad_dht
import libp2p.kad_dht.peer_routing
import libp2p.kad_dht.provider_store
import libp2p.kad_dht.value_store
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.pb.kademlia_pb2 import Record
from libp2p.kad_dht.value_store import ValueStore
from libp2p.peer.id import ID
from libp2p.records.validator import NamespacedValidator, Validator

from srwan.errors import SrwanError
from srwan.overlay.libp2p_stream import reset_quietly
from srwan.overlay.transport import DIRECTORY_KEY_BYTES, DIRECTORY_KEYS_MAX, DIRECTORY_VALUE_BYTES_MAX

__all__ = [
    "BestValue",
    "BoundedValueStore",
    "IsValidValue",
    "guard_dht",
    "key_of_record",
    "new_dht",
    "own_kad_protocol",
    "record_key",
    "record_validator",
]

IsValidValue = Callable[[bytes, bytes], bool]
"""Says whether a value may be kept under a 32-byte key now: well formed, authentic, not expired."""

BestValue = Callable[[bytes, Sequence[bytes]], int]
"""Index of the value to keep under a 32-byte key, of one or more valid ones."""

KAD_PROTOCOL: Final = TProtocol("/srwan/kad/1.0.0")
"""Our DHT is not the public IPFS one."""

KAD_MESSAGE_BYTES_MAX = 64 * 1024
"""20 peers with signed records of about 400 bytes and one value of 4,096 fit; libp2p's own bound is 4 MiB."""

KAD_STREAM_S_MAX = 10.0
"""An inbound DHT stream is reset after this: it holds one of KAD_INBOUND_MAX slots."""

KAD_INBOUND_MAX = 48
KAD_INBOUND_PER_PEER_MAX = 4
"""DHT streams served at once, in all and for one peer; libp2p's own bounds are 12 and none."""

_RECORD_NAMESPACE = "srwan"
_RECORD_KEY_CHARS = 50


def own_kad_protocol() -> None:
    """Trap 7: `protocol_prefix` is ignored, the host joins /ipfs/kad/1.0.0; and messages of 4 MiB are read.

    Cause: both constants are copied into five modules at import.
    """
    for module in (
        libp2p.kad_dht.common,
        libp2p.kad_dht.kad_dht,
        libp2p.kad_dht.peer_routing,
        libp2p.kad_dht.provider_store,
        libp2p.kad_dht.value_store,
    ):
        module.PROTOCOL_ID = KAD_PROTOCOL  # type: ignore[attr-defined]
        module.MAX_DHT_MESSAGE_SIZE = KAD_MESSAGE_BYTES_MAX  # type: ignore[attr-defined]


def new_dht(host: BasicHost, validator: NamespacedValidator) -> KadDHT:
    """Return the serving half of a DHT node, guarded. Its service is never run: it would walk and dial at once and every 600 s."""
    own_kad_protocol()
    kad = KadDHT(host, DHTMode.SERVER, validator=validator, validator_changed=True, strict_validation=True)
    guard_dht(kad, host)
    return kad


def record_key(key: bytes) -> str:
    """Trap 6: keys longer than 50 bytes are refused by FIND_NODE, and lookups silently shrink to the local routing table.

    Cause: the handler takes keys for PeerIDs; they must also be UTF-8. "/srwan/" and 43 characters of base64url are exactly 50.

    Raises:
        ValueError: key is not 32 bytes.
    """
    if len(key) != DIRECTORY_KEY_BYTES:
        raise ValueError(f"a directory key has {DIRECTORY_KEY_BYTES} bytes, not {len(key)}")
    return f"/{_RECORD_NAMESPACE}/" + base64.urlsafe_b64encode(key).rstrip(b"=").decode("ascii")


def key_of_record(text: str) -> bytes:
    """Return the 32 bytes behind a DHT key.

    Raises:
        ValueError: not one of ours, or not its only spelling.
    """
    try:
        key = base64.b64decode(text[-43:] + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(text) != _RECORD_KEY_CHARS or len(key) != DIRECTORY_KEY_BYTES or record_key(key) != text:
        raise ValueError("not an srwan record key")
    return key


class _RecordValidator(Validator):
    def __init__(self, is_valid_value: IsValidValue, best_value: BestValue) -> None:
        self._is_valid_value = is_valid_value
        self._best_value = best_value

    def validate(self, key: str, value: bytes) -> None:
        raw = key_of_record(key)
        if not 0 < len(value) <= DIRECTORY_VALUE_BYTES_MAX:
            raise ValueError(f"value of {len(value)} bytes")
        try:
            is_valid = self._is_valid_value(raw, value)
        except SrwanError as error:
            raise ValueError(str(error)) from None
        if not is_valid:
            raise ValueError("not valid, or expired")

    def select(self, key: str, values: list[bytes]) -> int:
        best = self._best_value(key_of_record(key), values)
        return len(values) - 1 if values[best] == values[-1] else best


def record_validator(is_valid_value: IsValidValue, best_value: BestValue) -> NamespacedValidator:
    """Traps 9 and 12: an identical value does not renew a record and is not acknowledged; unknown name spaces are stored unchecked.

    Cause: the PUT handler takes index 0, "existing is better", of two equal values; here the last of equals is chosen, so the record is
    stored anew and counted. `strict_validation` refuses every key outside "/srwan/".
    """
    return NamespacedValidator({_RECORD_NAMESPACE: _RecordValidator(is_valid_value, best_value)}, strict_validation=True)


class BoundedValueStore(ValueStore):
    """Traps 10 and 18: expired values are served for 24 h; 50,000 values of 1 MiB are kept, and each PUT above that parses 50,000 dates.

    At most DIRECTORY_KEYS_MAX values of DIRECTORY_VALUE_BYTES_MAX bytes (the validator checks), the one stored longest ago goes first,
    own ones last; and no value leaves the store without asking `validator` whether it still holds.
    """

    def __init__(self, host: BasicHost, validator: NamespacedValidator) -> None:
        super().__init__(host=host, local_peer_id=host.get_id())
        self._validator = validator

    def get(self, key: bytes) -> Record | None:
        """Return a record that is valid now; one that is not any more goes."""
        record = super().get(key)
        if record is None:
            return None
        try:
            self._validator.validate(key.decode("utf-8"), record.value)
        except ValueError:
            self.remove(key)
            return None
        return record

    def put(self, key: bytes, value: bytes, validity: float = 0.0) -> None:
        """Store a value as the newest."""
        self.store.pop(key, None)
        super().put(key, value, validity)

    def put_record(self, key: bytes, record: Record) -> None:
        """Store a record as the newest."""
        self.store.pop(key, None)  # so that dict order is order of storing
        super().put_record(key, record)

    def remove(self, key: bytes) -> bool:
        """Remove a record, also one of our own."""
        self.local_keys.discard(key)
        return super().remove(key)

    def cleanup_expired(self) -> int:
        """Remove what is not valid any more and return how many."""
        expired = [key for key in list(self.store) if self.get(key) is None]
        return len(expired)

    def _evict_if_full(self) -> None:
        while len(self.store) >= DIRECTORY_KEYS_MAX:
            foreign = (key for key in self.store if key not in self.local_keys)
            self.remove(next(foreign, next(iter(self.store))))


def guard_dht(kad: KadDHT, host: BasicHost) -> None:
    """Trap 12: twelve idle streams, or one peer, silence a node's DHT for ever; and provider records are kept without a bound.

    Cause: a limiter of 12 for all peers, no deadline, excess streams are reset. Here a stream lives 10 s, a peer has 4 of 48. Provider
    records are not used: announcing them is refused.
    """
    assert isinstance(kad.validator, NamespacedValidator)
    kad.value_store = BoundedValueStore(host, kad.validator)
    kad.provider_store.add_provider = lambda *_args, **_kwargs: None  # type: ignore[method-assign]
    kad._inbound_limiter = trio.CapacityLimiter(KAD_INBOUND_MAX)
    serving: Counter[ID] = Counter()

    async def handle(stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        if serving[peer] >= KAD_INBOUND_PER_PEER_MAX:
            await reset_quietly(stream)
            return
        serving[peer] += 1
        try:
            with trio.move_on_after(KAD_STREAM_S_MAX) as scope:
                await kad.handle_stream(stream)
            if scope.cancelled_caught:
                await reset_quietly(stream)
        finally:
            serving[peer] -= 1
            if not serving[peer]:
                del serving[peer]
        await kad.add_peer(peer, skip_server_mode_check=True)  # its signed addresses came with the first message

    host.set_stream_handler(KAD_PROTOCOL, handle)
