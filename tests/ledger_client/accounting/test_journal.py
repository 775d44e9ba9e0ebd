"""The journal: what was appended comes back, torn tails go, damage is told. Kills: tests/ledger_client/test_crashes.py."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srwan.errors import LocalProtocolError, StoreUnavailable
from srwan.ledger_client.accounting.journal import RECORD_BYTES_MAX, Journal

payloads = st.lists(st.binary(min_size=1, max_size=200), max_size=12)


def records_of(path: Path) -> list[bytes]:
    with Journal(path) as journal:
        return list(journal.records)


@given(first=payloads, second=payloads, is_each_synced=st.booleans())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_appended_comes_back_in_order(tmp_path: Path, first: list[bytes], second: list[bytes], *, is_each_synced: bool) -> None:
    path = tmp_path / os.urandom(8).hex()
    with Journal(path, is_each_synced=is_each_synced) as journal:
        journal.append(*first)
    with Journal(path) as journal:
        assert first == list(journal.records)
        journal.append(*second)
        journal.forget_records()
        assert () == journal.records
    assert first + second == records_of(path)


def test_a_tail_that_is_torn_anywhere_is_cut_off_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append(b"first", b"second")
        whole = journal.size_bytes
        journal.append(b"third" * 10)
    data = path.read_bytes()
    for end in range(whole, len(data)):
        path.write_bytes(data[:end])
        with Journal(path) as journal:
            assert ((b"first", b"second"), end - whole) == (journal.records, journal.dropped_bytes)
            journal.append(b"again")
        assert [b"first", b"second", b"again"] == records_of(path)


def test_a_new_file_that_was_torn_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path):
        pass
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        assert [] == records_of(path)


def test_damage_with_good_records_behind_it_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        begin = journal.size_bytes
        journal.append(b"first" * 5)
        end = journal.size_bytes
        journal.append(b"second" * 5)
    data = path.read_bytes()
    for at in range(begin, end):
        damaged = bytearray(data)
        damaged[at] ^= 0x40
        path.write_bytes(bytes(damaged))
        with pytest.raises(StoreUnavailable, match=f"damaged at byte {begin}"):
            Journal(path)
        assert bytes(damaged) == path.read_bytes()


def test_other_files_are_no_journals(tmp_path: Path) -> None:
    path = tmp_path / "j"
    for content in (b"x", b"not a journal of ours, by far not one", b"srwan-journal-2\n" + bytes(40)):
        path.write_bytes(content)
        with pytest.raises(StoreUnavailable, match="no journal"):
            Journal(path)
        assert content == path.read_bytes()


def test_a_peers_words_are_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(tmp_path / "other") as other:
        other.append(b"forged")
    forged = (tmp_path / "other").read_bytes()
    with Journal(path) as journal:
        journal.append(b"good")
        good = journal.size_bytes
        journal.append(forged * 3)
    path.write_bytes(path.read_bytes()[:-5])
    assert [b"good"] == records_of(path)
    assert good == path.stat().st_size


def test_compaction_replaces_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        for number in range(300):
            journal.append(bytes([number % 256]) * 5_000)
        assert journal.is_worth_compacting
        journal.compact([b"kept", b"too"])
        assert not journal.is_worth_compacting
        journal.append(b"later")
    assert [b"kept", b"too", b"later"] == records_of(path)
    (tmp_path / "j.new").write_bytes(b"half of a compaction that died")
    assert [b"kept", b"too", b"later"] == records_of(path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(StoreUnavailable, match="another process"):
        Journal(tmp_path / "j")
    with Journal(tmp_path / "j"):
        pass


def test_sizes_and_misuse_are_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for payload in (b"", bytes(RECORD_BYTES_MAX + 1)):
        with pytest.raises(ValueError, match="record"):
            journal.append(b"good", payload)
    journal.append(bytes(RECORD_BYTES_MAX))
    journal.close()
    journal.close()
    with pytest.raises(LocalProtocolError):
        journal.append(b"late")
    assert [bytes(RECORD_BYTES_MAX)] == records_of(tmp_path / "j")


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    real = os.write

    def write(file: int, data: memoryview) -> int:
        if len(data) > 20:
            return real(file, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(path) as journal:
        journal.append(b"first")
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(StoreUnavailable, match="space"):
            journal.append(b"second" * 10, b"third")
        monkeypatch.setattr(os, "write", real)
        journal.append(b"fourth")
    assert [b"first", b"fourth"] == records_of(path)


def test_after_a_failed_sync_nothing_counts_as_kept_until_all_was_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"

    def fail(_file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Journal(path) as journal:
        journal.append(b"1")
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", fail)
            with pytest.raises(StoreUnavailable, match="Input/output error"):
                journal.sync()
        for _ in range(2):  # the system has let go of the pages that it could not write: its next "done" says nothing of them
            with pytest.raises(StoreUnavailable, match="since the disk failed"):
                journal.sync()
        assert journal.is_worth_compacting
        journal.compact([b"1", b"2"])
        journal.sync()
        assert not journal.is_worth_compacting
    assert [b"1", b"2"] == records_of(path)


def test_what_cannot_be_cut_off_at_once_is_before_anything_is_put_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    write = os.write

    def write_half(file: int, data: bytes) -> int:
        write(file, bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    def fail(_file: int, _size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Journal(path) as journal:
        journal.append(b"1")
        with monkeypatch.context() as broken:
            broken.setattr(os, "write", write_half)
            broken.setattr(os, "ftruncate", fail)
            with pytest.raises(StoreUnavailable, match="No space left"):
                journal.append(b"lost")
        with monkeypatch.context() as broken:
            broken.setattr(os, "ftruncate", fail)
            with pytest.raises(StoreUnavailable, match="Input/output error"):
                journal.append(b"lost, too")
        journal.append(b"2")
    assert [b"1", b"2"] == records_of(path)


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        Journal(tmp_path / "file" / "j")
