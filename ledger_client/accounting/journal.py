"""A file of records that survives the death of its process at any instant: what was appended stays, in order, or was never there. A shell.

What it is not: a database. It is read once, at opening, and holds what its owner appends; the owner's state is what follows from the
records in order. Several owners may share one by the first byte of their records.

Theory of operation. The file is a header of 28 bytes (magic, salt, CRC-32 of both) and frames: marker, length, number of the frame from 0
on, CRC-32 over salt, length, number and payload, payload. One `append` is one write, so after a kill the file ends with a whole frame or
a part of one; the part is cut off at the next opening (it was never acknowledged). A frame that is damaged or out of turn with good ones
behind it is no torn tail but a damaged file: nothing is guessed then, and opening fails. The salt keeps a peer, whose words may be in a
payload, from forging frames inside it.

`sync` waits for the disk. Before that a record survives the process but not a power cut; whoever sends something that rests on a record
calls `sync` first. `compact` writes the records that still matter into a new file, waits for the disk, and puts it in place of the old one
by one rename: either file is complete.

A disk that failed to keep something once may say later that all is well, having dropped what it could not write. So after a failed `sync`
every other fails, too, until `compact` has written everything anew.

One process at a time: a lock on a file beside it, given back by the system when the process dies.

Source: the rules for write-ahead logs in SQLite's and LevelDB's formats, written anew. Cost: append 4 us and a write; sync some ms.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from srwan.errors import LocalProtocolError, StoreUnavailable

__all__ = ["RECORD_BYTES_MAX", "Journal", "read_records"]

RECORD_BYTES_MAX = 64 * 1024
FILE_BYTES_MAX = 1 << 28
"""A journal that grew to this is not read: something appends without ever compacting."""
COMPACT_BYTES_MIN = 1 << 20
"""Below this a journal is not worth compacting."""
_MAGIC = b"srwan-journal-1\n"
_SALT_BYTES = 8
_HEADER_BYTES = len(_MAGIC) + _SALT_BYTES + 4
_MARKER = b"\x5a\xa5"
_FRAME = struct.Struct("<2sIII")


class Journal:
    """An open journal.

    Args:
        path: the file.
        is_each_synced: whether every `append` waits for the disk by itself.

    Raises:
        StoreUnavailable: another process has it open, it is damaged or no journal, or cannot be read or written; says what to do.
    """

    def __init__(self, path: Path, *, is_each_synced: bool = False) -> None:
        self._path = path
        self._is_each_synced = is_each_synced
        self._file = -1
        self._lock = -1
        self._is_dirty = False
        self._has_failed = False
        self._is_torn = False
        self._recovered: tuple[bytes, ...] = ()
        self.dropped_bytes = 0
        """Torn tail that was cut off at opening, bytes."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise StoreUnavailable(str(path), "another process has this journal open", "end it, or use another state_dir") from None
        except OSError as error:
            self.close()
            raise self._unavailable(error) from None
        try:
            self._recover()
        except OSError as error:
            self.close()
            raise self._unavailable(error) from None
        except StoreUnavailable:
            self.close()
            raise

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(str(self._path), f"cannot be used ({error.strerror})", "check the folder, its owner and the free space")

    @property
    def records(self) -> tuple[bytes, ...]:
        """What was in it at opening, in order of appending. Forgotten by `forget_records`."""
        return self._recovered

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return self._size

    @property
    def is_worth_compacting(self) -> bool:
        """Whether it is four times what the last compaction left, and not small; or the disk failed, and only that can mend it."""
        return self._has_failed or self._size > max(COMPACT_BYTES_MIN, 4 * self._compacted_size)

    def forget_records(self) -> None:
        """Free the memory of `records` once they were read."""
        self._recovered = ()

    def append(self, *payloads: bytes) -> None:
        """Add records, all or, if the process dies meanwhile, the first ones of them.

        Raises:
            ValueError: empty, or longer than RECORD_BYTES_MAX. StoreUnavailable: the disk took none of them; the journal is as before.
            LocalProtocolError: it is closed.
        """
        if self._file < 0:
            raise LocalProtocolError("the journal is closed")
        frames = self._frames(payloads, self._count)
        try:
            if self._is_torn:
                self._cut_off()
            _write_all(self._file, frames)
        except OSError as error:
            with contextlib.suppress(OSError):  # it is tried again before anything is put behind it
                self._is_torn = True
                self._cut_off()
            raise self._unavailable(error) from None
        self._size += len(frames)
        self._count += len(payloads)
        self._is_dirty = True
        if self._is_each_synced:
            self.sync()

    def _cut_off(self) -> None:
        """Remove what a failed append left behind the last whole frame."""
        os.ftruncate(self._file, self._size)
        self._is_torn = False

    def sync(self) -> None:
        """Wait until all that was appended is on the disk; nothing to do costs nothing. May be called from a worker thread.

        Raises:
            StoreUnavailable: the disk failed, now or before; what was appended since the last success may be lost with the power.
        """
        if self._file < 0:
            return
        if self._has_failed:
            raise StoreUnavailable(str(self._path), "cannot be relied upon since the disk failed", "check the disk and the free space")
        if not self._is_dirty:
            return
        self._is_dirty = False
        try:
            os.fdatasync(self._file)
        except OSError as error:
            self._has_failed = True
            raise self._unavailable(error) from None

    def compact(self, payloads: Iterable[bytes]) -> None:
        """Replace all records by these.

        Raises:
            StoreUnavailable: the disk failed; the journal is as before, or as compacted. ValueError, LocalProtocolError: as `append`.
        """
        if self._file < 0:
            raise LocalProtocolError("the journal is closed")
        kept = tuple(payloads)
        frames = self._frames(kept, 0)
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                _write_all(file, _header(self._salt) + frames)
                os.fsync(file)
                os.replace(fresh, self._path)
            except OSError:
                os.close(file)
                raise
            os.close(self._file)
            self._file, self._is_dirty, self._has_failed, self._is_torn = file, False, False, False
            self._size = self._compacted_size = _HEADER_BYTES + len(frames)
            self._count = len(kept)
            self._sync_folder()
        except OSError as error:
            raise self._unavailable(error) from None

    def close(self) -> None:
        """Wait for the disk, close and unlock. A second time does nothing.

        Raises:
            StoreUnavailable: as `sync`; it is closed all the same.
        """
        try:
            self.sync()
        finally:
            for descriptor in (self._file, self._lock):
                if descriptor >= 0:
                    os.close(descriptor)
            self._file = self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the file ---------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Read what is there, cut off a torn tail, and open for appending."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._file).st_size
        if size > FILE_BYTES_MAX:
            raise StoreUnavailable(str(self._path), f"has {size} bytes, at most {FILE_BYTES_MAX} are read", "restore it from a backup")
        data = _read_all(self._file, size)
        if len(data) < _HEADER_BYTES and (_MAGIC.startswith(data[: len(_MAGIC)])):  # new, or killed while it was made
            self._salt = secrets.token_bytes(_SALT_BYTES)
            os.ftruncate(self._file, 0)
            _write_all(self._file, _header(self._salt))
            os.fsync(self._file)
            self._sync_folder()
            self._recovered = ()
            self.dropped_bytes = len(data)
            self._size = self._compacted_size = _HEADER_BYTES
            self._count = 0
            return
        self._salt, records, end = _parse(self._path, data)
        self._recovered = tuple(records)
        self.dropped_bytes = len(data) - end
        if self.dropped_bytes:
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        self._size = end
        self._count = len(records)
        self._compacted_size = _HEADER_BYTES

    def _frames(self, payloads: Iterable[bytes], first: int) -> bytes:
        return b"".join(self._frame(payload, number) for number, payload in enumerate(payloads, first))

    def _frame(self, payload: bytes, number: int) -> bytes:
        if not 0 < len(payload) <= RECORD_BYTES_MAX:
            raise ValueError(f"a record of {len(payload)} bytes, 1..{RECORD_BYTES_MAX} are allowed")
        return _FRAME.pack(_MARKER, len(payload), number, _checksum(self._salt, payload, number)) + payload

    def _sync_folder(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_records(path: Path) -> tuple[bytes, ...]:
    """Return what is in a journal that another process may have open, in order; changes nothing.

    Raises:
        StoreUnavailable: missing, too long, no journal, or damaged.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise StoreUnavailable(
            str(path), f"cannot be read ({error.strerror})", "check the path; a router with settlement makes it"
        ) from None
    if len(data) > FILE_BYTES_MAX:
        raise StoreUnavailable(str(path), f"has more than {FILE_BYTES_MAX} bytes", "restore it from a backup")
    return tuple(_parse(path, data)[1])


def _parse(path: Path, data: bytes) -> tuple[bytes, list[bytes], int]:
    """Return the salt, the records, and where the last good frame ends.

    Raises:
        StoreUnavailable: no journal, or there are good frames behind a bad one.
    """
    if not data.startswith(_MAGIC):
        raise StoreUnavailable(str(path), "is no journal of srwan", "move it away, or restore it from a backup")
    salt = data[len(_MAGIC) : len(_MAGIC) + _SALT_BYTES]
    if not data.startswith(_header(salt)):  # with another salt no frame would be good, and all be cut off as torn
        raise StoreUnavailable(str(path), "has a damaged header", "restore it from a backup; it says what is owed")
    records: list[bytes] = []
    at = _HEADER_BYTES
    while (payload := _payload_at(data, salt, at, len(records))) is not None:
        records.append(payload)
        at += _FRAME.size + len(payload)
    candidate = data.find(_MARKER, at)
    while candidate >= 0:
        if _payload_at(data, salt, candidate) is not None:
            raise StoreUnavailable(
                str(path),
                f"is damaged at byte {at}: {len(records)} records before it are good, and there are good ones behind it",
                "restore it from a backup; do not delete it, it says what is owed",
            )
        candidate = data.find(_MARKER, candidate + 1)
    return salt, records, at


def _payload_at(data: bytes, salt: bytes, at: int, expected: int | None = None) -> bytes | None:
    """Return the payload of the good frame at a place, if its number is the expected one or none is expected."""
    if at + _FRAME.size > len(data):
        return None
    marker, length, number, checksum = _FRAME.unpack_from(data, at)
    end = at + _FRAME.size + length
    if marker != _MARKER or not 0 < length <= RECORD_BYTES_MAX or end > len(data) or expected not in (None, number):
        return None
    payload = data[at + _FRAME.size : end]
    return payload if checksum == _checksum(salt, payload, number) else None


def _checksum(salt: bytes, payload: bytes, number: int) -> int:
    return zlib.crc32(payload, zlib.crc32(salt + struct.pack("<II", len(payload), number)))


def _header(salt: bytes) -> bytes:
    return _MAGIC + salt + struct.pack("<I", zlib.crc32(_MAGIC + salt))


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _read_all(file: int, size: int) -> bytes:
    parts: list[bytes] = []
    at = 0
    while at < size and (part := os.pread(file, size - at, at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)
