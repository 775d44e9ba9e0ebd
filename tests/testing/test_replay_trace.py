"""TRACE.npz: what is written is read; what is no trace is refused in one sentence before it costs memory."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwan.errors import ConfigError
from srwan.testing.latency_trace import TRACE_BYTES_MAX, LatencyTrace, load_trace, save_trace

GOOD = np.array([[[0, 2], [3, 0]], [[0, np.nan], [4, 0]]], dtype=np.float32)


def written(folder: Path, **arrays: Any) -> Path:
    path = folder / "trace.npz"
    np.savez(path, **arrays)
    return path


def npy(header: str) -> bytes:
    """An array file of version 1 with this header and no content."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    trace = LatencyTrace(GOOD, name="two", lat=np.array([1.0, 2.0]), lon=np.array([3.0, 4.0]), slice_s=10.0, hold_slices=5)
    save_trace(tmp_path / "trace.npz", trace)

    loaded = load_trace(tmp_path / "trace.npz")

    np.testing.assert_array_equal(GOOD, loaded.rtt_ms)
    assert np.float32 == loaded.rtt_ms.dtype
    assert ("two", 10.0, 5) == (loaded.name, loaded.slice_s, loaded.hold_slices)
    assert loaded.lat is not None
    assert [1.0, 2.0] == loaded.lat.tolist()
    assert [tmp_path / "trace.npz"] == list(tmp_path.iterdir())


def test_only_the_latencies_are_needed_and_the_diagonal_is_cleared(tmp_path: Path) -> None:
    rtt_ms = GOOD.copy()
    rtt_ms[:, 0, 0] = -5

    loaded = load_trace(written(tmp_path, rtt_ms=rtt_ms, other=np.zeros(3), name=np.array(["a", "b"])))

    assert 0 == loaded.rtt_ms[0, 0, 0]
    assert ("", None, 1) == (loaded.name, loaded.slice_s, loaded.hold_slices)


def changed(**values: float) -> np.ndarray[Any, Any]:
    rtt_ms = GOOD.copy()
    rtt_ms[0, 0, 1] = values["value"]
    return rtt_ms


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"latency": GOOD}, "no array rtt_ms"),
        ({"rtt_ms": GOOD[0]}, r"shape \(2, 2\)"),
        ({"rtt_ms": np.zeros((2, 3, 4), np.float32)}, r"shape \(2, 3, 4\)"),
        ({"rtt_ms": np.zeros((0, 3, 3), np.float32)}, r"shape \(0, 3, 3\)"),
        ({"rtt_ms": np.zeros((2, 3, 3), np.uint16)}, "type uint16"),
        ({"rtt_ms": np.array([["a"]])}, "type <U1"),
        ({"rtt_ms": np.full((2, 3, 3), np.nan, np.float32)}, "no value"),
        ({"rtt_ms": np.zeros((2, 1, 1), np.float32)}, "1 nodes"),
        ({"rtt_ms": changed(value=-1)}, "negative"),
        ({"rtt_ms": changed(value=np.inf)}, "infinite"),
        ({"rtt_ms": GOOD, "hold_slices": np.int64(0)}, "hold_slices"),
        ({"rtt_ms": GOOD, "hold_slices": np.float64(1.5)}, "hold_slices"),
        ({"rtt_ms": GOOD, "slice_s": np.array(["x"])}, "slice_s"),
        ({"rtt_ms": GOOD, "lat": np.zeros(3)}, "lat"),
    ],
)
def test_what_is_no_trace_is_refused_with_the_remedy(tmp_path: Path, arrays: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        load_trace(written(tmp_path, **arrays))

    assert refused.value.remedy
    assert "\n" not in str(refused.value)


def test_a_file_that_is_missing_or_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not an archive")

    with pytest.raises(ConfigError, match="cannot be read"):
        load_trace(tmp_path / "nothing.npz")
    with pytest.raises(ConfigError, match="not a readable"):
        load_trace(tmp_path / "text")


def test_pickles_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Python objects"):
        load_trace(written(tmp_path, rtt_ms=np.array([{"a": 1}], dtype=object)))


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    block = bytes(1 << 24)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("rtt_ms.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(TRACE_BYTES_MAX // len(block) + 1):
            member.write(block)

    assert path.stat().st_size < 4 << 20
    with pytest.raises(ConfigError, match="unpacks to"):
        load_trace(path)


def test_a_header_that_claims_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (9000, 9000, 9000), }\n"

    with pytest.raises(ConfigError, match="claims more"):
        load_trace(archive(tmp_path / "trace.npz", rtt_ms=npy(header)))


@given(st.binary(max_size=80), st.integers(0, 400))
def test_damaged_files_are_refused_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    path = tmp_path_factory.mktemp("damaged") / "trace.npz"
    buffer = io.BytesIO()
    np.savez(buffer, rtt_ms=GOOD)
    content = bytearray(buffer.getvalue())
    content[at : at + len(noise)] = noise
    path.write_bytes(content)

    with contextlib.suppress(ConfigError):
        assert (2, 2) == load_trace(path).rtt_ms.shape[1:]
