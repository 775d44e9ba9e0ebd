"""A file of signed transactions in the order in which they were taken: what makes the embedded engine, and a wallet's outbox, survive.

Theory of operation. An entry is written and synchronised to the disk before anything is acknowledged. Each is chained to the one before
by its check, so nothing can be cut out, exchanged or altered unnoticed. A process killed while it writes leaves an entry that ends early:
it was never acknowledged, and is cut off when the file is opened again; so is one of which a power cut left zeros only. Anything else
that does not fit is damage, and is refused rather than guessed at. One process at a time holds the file, by a lock of the system.

Layout: magic 16 B, chain id u64, time of block 0 u64 (s since 1970), check 16 B; then entries
    length of the raw transaction u32, check of that and of the entry before 4 B, time u64 (s since 1970), digest of the outcome 8 B, raw
    transaction, check 16 B
Checks are BLAKE2b over what precedes in the entry and the check before it. Integers are big endian.

Nothing in it is secret: signed transactions are public on any chain.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs

from srwan.errors import SettlementUnavailable
from srwan.ledger_client.settlement.transaction import TRANSACTION_BYTES_MAX

__all__ = ["Entry", "LogHead", "TransactionLog"]

MAGIC = b"srwan journal 1\n"
FILE_BYTES_MAX = 1 << 30
"""Of one file: some million transactions, which would take an hour to replay."""
CHECK_BYTES = 16
_DAMAGED = "move it away and restore a copy; what it holds cannot be made up again"
_HEAD = struct.Struct(">QQ")
_LENGTH = struct.Struct(">I4s")
_STAMP = struct.Struct(">Q8s")


@attrs.frozen(slots=True)
class LogHead:
    """What all entries of a file have in common."""

    chain_id: int
    """EIP-155 chain id."""
    time_s: int
    """Time of block 0, s since 1970."""


@attrs.frozen(slots=True)
class Entry:
    """One transaction."""

    time_s: int
    """Time of its block, s since 1970."""
    digest: bytes
    """Of its outcome, 8 B."""
    raw: bytes = attrs.field(repr=False)
    """As signed."""


def _check(*parts: bytes, size: int = CHECK_BYTES) -> bytes:
    return hashlib.blake2b(b"".join(parts), digest_size=size, person=b"srwan/txlog/1").digest()


def _encode_head(head: LogHead) -> bytes:
    body = MAGIC + _HEAD.pack(head.chain_id, head.time_s)
    return body + _check(body)


HEAD_BYTES = len(MAGIC) + _HEAD.size + CHECK_BYTES


def _encode_entry(entry: Entry, before: bytes) -> bytes:
    length = len(entry.raw).to_bytes(4, "big")
    body = length + _check(length, before, size=4) + _STAMP.pack(entry.time_s, entry.digest) + entry.raw
    return body + _check(body, before)


class _Damaged(ValueError):
    """The file holds something that no run of this program leaves."""


def _parse(data: bytes) -> tuple[LogHead, list[Entry], int]:
    """Return head, entries, and how many bytes of the file are whole.

    Raises:
        _Damaged: something does not fit that is not the end of an interrupted write.
    """
    if len(data) < HEAD_BYTES or data[: len(MAGIC)] != MAGIC:
        raise _Damaged("it is no journal of settlement")
    before = data[HEAD_BYTES - CHECK_BYTES : HEAD_BYTES]
    if before != _check(data[: HEAD_BYTES - CHECK_BYTES]):
        raise _Damaged("its head is damaged")
    head = LogHead(*_HEAD.unpack_from(data, len(MAGIC)))
    entries: list[Entry] = []
    at = HEAD_BYTES
    while at < len(data):
        if len(data) - at < _LENGTH.size or not any(data[at:]):
            break
        length, check = _LENGTH.unpack_from(data, at)
        if check != _check(data[at : at + 4], before, size=4) or length > TRANSACTION_BYTES_MAX:
            raise _Damaged(f"entry {len(entries) + 1}, at byte {at}, is damaged")
        end = at + _LENGTH.size + _STAMP.size + length + CHECK_BYTES
        if end > len(data):
            break
        body, found = data[at : end - CHECK_BYTES], data[end - CHECK_BYTES : end]
        if found != _check(body, before):
            if end == len(data) and not any(found):
                break
            raise _Damaged(f"entry {len(entries) + 1}, at byte {at}, is damaged")
        time_s, digest = _STAMP.unpack_from(data, at + _LENGTH.size)
        entries.append(Entry(time_s, digest, body[_LENGTH.size + _STAMP.size :]))
        before, at = found, end
    return head, entries, at


class TransactionLog:
    """An open file of transactions. Blocks; used by one thread at a time. Made by `create` or `open`."""

    def __init__(self, path: Path, descriptor: int, head: LogHead, *, before: bytes, size_bytes: int) -> None:
        self.path = path
        self.head = head
        """What all entries have in common."""
        self._descriptor = descriptor
        self._before = before
        self.size_bytes = size_bytes
        """Of the file, bytes."""
        self._problem = ""

    @classmethod
    def create(cls, path: Path, head: LogHead, entries: Iterable[Entry] = ()) -> TransactionLog:
        """Write a new file with some entries, all or nothing, and open it.

        Raises:
            SettlementUnavailable: there is one already, or it cannot be written.
        """
        if path.exists():
            raise SettlementUnavailable(str(path), "there is a journal already", "open it, or choose another path")
        content, before = _encode_all(head, entries)
        return cls._replace(path, content, before, head)

    @classmethod
    def open(cls, path: Path) -> tuple[TransactionLog, list[Entry]]:
        """Open a file, cut off what an interrupted write left at its end, and return its entries.

        Raises:
            SettlementUnavailable: missing, damaged, not permitted, or another process holds it. Nothing changed.
        """
        descriptor = -1
        try:
            descriptor = _lock(path, os.O_RDWR)
            size = os.fstat(descriptor).st_size
            if size > FILE_BYTES_MAX:
                raise _Damaged(f"it has {size} bytes, more than any journal")
            head, entries, whole_bytes = _parse(_read(descriptor, size))
            if whole_bytes < size:
                os.ftruncate(descriptor, whole_bytes)
                os.fsync(descriptor)
            before = os.pread(descriptor, CHECK_BYTES, whole_bytes - CHECK_BYTES)
            return cls(path, descriptor, head, before=before, size_bytes=whole_bytes), entries
        except (OSError, _Damaged, SettlementUnavailable) as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise _unavailable(path, error) from error

    @classmethod
    def _replace(cls, path: Path, content: bytes, before: bytes, head: LogHead) -> TransactionLog:
        """Put a file with this content at the path, so that at any instant there is the old one or the new one, whole."""
        beside = path.with_name(f"{path.name}.new")
        descriptor = -1
        try:
            descriptor = _lock(beside, os.O_RDWR | os.O_CREAT)
            os.ftruncate(descriptor, 0)
            _write(descriptor, content)
            beside.replace(path)
            _sync_folder(path.parent)
            return cls(path, descriptor, head, before=before, size_bytes=len(content))
        except (OSError, SettlementUnavailable) as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise _unavailable(path, error) from error

    def append(self, entry: Entry) -> None:
        """Write an entry and wait until it is on the disk.

        Raises:
            SettlementUnavailable: it may or may not be there; the file takes no more until it is opened again.
        """
        content = _encode_entry(entry, self._before)
        if not self._problem and self.size_bytes + len(content) > FILE_BYTES_MAX:
            self._problem = f"it has reached {FILE_BYTES_MAX} bytes"
        if self._problem:
            raise SettlementUnavailable(str(self.path), self._problem, "close it, make room, and open it again")
        try:
            _write(self._descriptor, content)
        except OSError as error:
            self._problem = f"an entry could not be written ({error.strerror})"
            raise _unavailable(self.path, error) from error
        self._before = content[-CHECK_BYTES:]
        self.size_bytes += len(content)

    def rewrite(self, entries: Sequence[Entry]) -> TransactionLog:
        """Put a file with just these entries in the place of this one, close this one, and return the new one.

        Raises:
            SettlementUnavailable: it cannot be written; this one stays.
        """
        content, before = _encode_all(self.head, entries)
        new = self._replace(self.path, content, before, self.head)
        self.close()
        return new

    def close(self) -> None:
        """Close it and give up the lock. Closing twice is fine."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _encode_all(head: LogHead, entries: Iterable[Entry]) -> tuple[bytes, bytes]:
    content = bytearray(_encode_head(head))
    for entry in entries:
        content += _encode_entry(entry, bytes(content[-CHECK_BYTES:]))
    return bytes(content), bytes(content[-CHECK_BYTES:])


def _lock(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_APPEND, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SettlementUnavailable(str(path), "another process holds it", "stop that one, or reach it over its URL") from None
    if path.stat().st_ino != os.fstat(descriptor).st_ino:  # replaced between opening and locking
        os.close(descriptor)
        return _lock(path, flags)
    return descriptor


def _read(descriptor: int, size: int) -> bytes:
    content = bytearray()
    while part := os.pread(descriptor, size - len(content), len(content)):
        content += part
    return bytes(content)


def _write(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        with contextlib.suppress(OSError):
            os.close(folder)


def _unavailable(path: Path, error: Exception) -> SettlementUnavailable:
    if isinstance(error, SettlementUnavailable):
        return error
    if isinstance(error, _Damaged):
        return SettlementUnavailable(str(path), str(error), _DAMAGED)
    if isinstance(error, FileNotFoundError):
        return SettlementUnavailable(str(path), "there is no such file or folder", "check the path; `deploy` makes the journal")
    why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return SettlementUnavailable(str(path), f"the disk refuses ({why})", "check its space and this user's right to write there")
