"""Recorded latencies of a group: the TRACE.npz file, read as a file that is not trusted, and written.

The file is a NumPy archive with `rtt_ms`, float32 of shape (T, n, n): slice by slice the latency from row to column, ms, NaN where
missing. Optional: `name` (of the trace, or one for each node), `lat` and `lon` (n, degrees), `slice_s` (time from slice to slice, s) and
`hold_slices` (how long a value may have been held: a decision on younger slices would see what it is scored on).

An archive is a zip file of arrays: before anything is unpacked, its directory and the header of each array are compared with bounds, so
that a small file cannot ask for much memory; pickles are refused; members that are not named here are not read. The diagonal is set to 0.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from srwan.errors import ConfigError

__all__ = ["NODES_MAX", "TRACE_BYTES_MAX", "Floats", "LatencyTrace", "load_trace", "save_trace"]

Floats = npt.NDArray[np.float32]

TRACE_BYTES_MAX = 1 << 29
"""Unpacked size of all members together, octets: a day of a group of 100 in steps of 10 s is 346 MB."""
MEMBERS_MAX = 64
"""Arrays in an archive; seven have a meaning."""
NODES_MAX = 2048
"""Nodes in a trace: deciding costs n^3, at this bound some minutes a slice."""
NAME_CHARS_MAX = 200
"""Length of a name, characters."""

_OPTIONAL = ("name", "lat", "lon", "slice_s", "hold_slices")
_REMEDY = "store rtt_ms as float32 of shape (slices, nodes, nodes) with numpy.savez"


@attrs.frozen(slots=True, eq=False)
class LatencyTrace:
    """One recorded trace."""

    rtt_ms: Floats
    """Latency from row to column, shape (T, n, n), ms; NaN where missing; 0 on the diagonal."""
    name: str = ""
    """What was recorded; empty if the file does not say."""
    lat: npt.NDArray[np.float64] | None = None
    """Latitudes, shape (n,), degrees."""
    lon: npt.NDArray[np.float64] | None = None
    """Longitudes, shape (n,), degrees."""
    slice_s: float | None = None
    """Time from slice to slice, s."""
    hold_slices: int = 1
    """Slices for which a value may have been held."""


def load_trace(path: Path) -> LatencyTrace:
    """Read and check a trace.

    Raises:
        ConfigError: the file is missing, no archive, too large, or holds something else; one sentence with the remedy.
    """
    key = str(path)
    arrays = _read_arrays(path)
    if "rtt_ms" not in arrays:
        raise ConfigError(key, "has no array rtt_ms", _REMEDY)
    rtt_ms = arrays["rtt_ms"]
    _check_latencies(key, rtt_ms)
    n = rtt_ms.shape[1]
    cleaned = rtt_ms.astype(np.float32)
    cleaned[:, range(n), range(n)] = 0
    hold_slices = _scalar(key, arrays, "hold_slices", 1.0)
    if hold_slices != int(hold_slices):
        raise ConfigError(f"{key}: hold_slices", f"is {hold_slices:g}", "store a whole number of slices, 1 or more")
    return LatencyTrace(
        cleaned,
        name=_name(arrays.get("name")),
        lat=_positions(key, arrays, "lat", n),
        lon=_positions(key, arrays, "lon", n),
        slice_s=_scalar(key, arrays, "slice_s", 0.0) if "slice_s" in arrays else None,
        hold_slices=int(hold_slices),
    )


def save_trace(path: Path, trace: LatencyTrace) -> None:
    """Write a trace as `load_trace` reads it. The file appears whole or not at all where the folder can rename."""
    arrays: dict[str, Any] = {"rtt_ms": trace.rtt_ms.astype(np.float32), "hold_slices": np.int64(trace.hold_slices)}
    optional = {"name": np.array(trace.name) if trace.name else None, "lat": trace.lat, "lon": trace.lon, "slice_s": trace.slice_s}
    arrays.update({member: value for member, value in optional.items() if value is not None})
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, **arrays)
    unfinished.replace(path)


def _read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    key = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            unpacked_bytes = sum(member.file_size for member in members)
            if len(members) > MEMBERS_MAX or unpacked_bytes > TRACE_BYTES_MAX:
                problem = f"unpacks to {len(members)} arrays of {unpacked_bytes} octets"
                raise ConfigError(key, problem, f"keep it below {MEMBERS_MAX} arrays and {TRACE_BYTES_MAX} octets")
            wanted = {f"{name}.npy": name for name in ("rtt_ms", *_OPTIONAL)}
            return {wanted[member.filename]: _read_member(key, archive, member) for member in members if member.filename in wanted}
    except OSError as error:
        raise ConfigError(key, f"cannot be read ({error.strerror or error})", "name a TRACE.npz file that exists") from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:  # RuntimeError: zipfile, of encryption or unknown compression
        raise ConfigError(key, "is not a readable .npz archive", "write it with numpy.savez; docs/replay.md describes it") from error


def _read_member(key: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """One array, its header checked against the member's size before memory is taken for it."""
    content = io.BytesIO()
    try:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read_header(file)
            if dtype.hasobject:
                raise ConfigError(f"{key}: {member.filename[:-4]}", "holds Python objects", "store plain numbers; pickles are not read")
            size = math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0 or size > member.file_size:
                raise ConfigError(f"{key}: {member.filename[:-4]}", "claims more values than it holds", "write the file again")
            content.write(file.read(size))
    except ValueError as error:
        raise ConfigError(f"{key}: {member.filename[:-4]}", "is no NumPy array", "write the file with numpy.savez") from error
    if content.tell() != size:
        raise ConfigError(f"{key}: {member.filename[:-4]}", "ends early", "write the file again")
    return np.frombuffer(content.getbuffer(), dtype).reshape(shape, order="F" if is_fortran else "C")


def _check_latencies(key: str, rtt_ms: npt.NDArray[Any]) -> None:
    where = f"{key}: rtt_ms"
    if rtt_ms.dtype.kind != "f" or rtt_ms.dtype.itemsize not in {4, 8}:
        raise ConfigError(where, f"has type {rtt_ms.dtype}", _REMEDY)
    if rtt_ms.ndim != 3 or rtt_ms.shape[1] != rtt_ms.shape[2] or not rtt_ms.shape[0]:
        raise ConfigError(where, f"has shape {rtt_ms.shape}", _REMEDY)
    n = rtt_ms.shape[1]
    if not 2 <= n <= NODES_MAX:
        raise ConfigError(where, f"has {n} nodes", f"use 2 to {NODES_MAX} nodes, for a path needs two ends")
    off_diagonal = rtt_ms[:, ~np.eye(n, dtype=bool)]
    if np.isnan(off_diagonal).all():
        raise ConfigError(where, "holds no value off the diagonal", "store at least one measured latency in ms")
    if not (np.isnan(off_diagonal) | np.isfinite(off_diagonal)).all() or float(np.nanmax(off_diagonal)) > float(np.finfo(np.float32).max):
        raise ConfigError(where, "holds infinite values", "store NaN where a latency is missing")
    if float(np.nanmin(off_diagonal)) < 0:
        raise ConfigError(
            where, f"holds negative latencies, down to {np.nanmin(off_diagonal):g} ms", "store NaN where a latency is missing"
        )


def _scalar(key: str, arrays: dict[str, npt.NDArray[Any]], member: str, least: float) -> float:
    if member not in arrays:
        return least
    array = arrays[member]
    value = float(array.item()) if array.size == 1 and array.dtype.kind in "iuf" else math.nan
    if not (math.isfinite(value) and least <= value <= 1e9):
        raise ConfigError(f"{key}: {member}", "is no usable number", f"store one number from {least:g} to 1e9")
    return value


def _positions(key: str, arrays: dict[str, npt.NDArray[Any]], member: str, n: int) -> npt.NDArray[np.float64] | None:
    array = arrays.get(member)
    if array is None:
        return None
    if array.shape != (n,) or array.dtype.kind not in "iuf":
        raise ConfigError(f"{key}: {member}", f"has shape {array.shape} and type {array.dtype}", f"store {n} numbers in degrees")
    return array.astype(np.float64)


def _name(array: npt.NDArray[Any] | None) -> str:
    """The trace's name; names of nodes are not used."""
    if array is None or array.size != 1 or array.dtype.kind != "U":
        return ""
    return "".join(character for character in str(array.item()) if character.isprintable())[:NAME_CHARS_MAX]
