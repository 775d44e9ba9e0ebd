"""Convert published latency sets into TRACE.npz files, each with the notice of its licence beside it.

    python script/convert_traces.py [SETS] [OUTPUT]

The name of a set's file says what it is (seattle*.npz, planetlab*.npz, aws*.npz, wondernetwork*.npz); others are left alone. What is done
to the values is what docs/replay.md says. A set without a licence is converted only to a folder outside of this repository.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from srwan.testing.latency_trace import Floats, LatencyTrace, save_trace

ROOT = Path(__file__).resolve().parents[1]
CLIP_MS = 5000.0
"""Latencies above are time-outs more than latencies, ms."""
SEATTLE_UNIT_MS = 10.0
PLANETLAB_UNIT_MS = 0.1
SEATTLE_HOLD_SLICES = 8
"""A value is held for about 5 slices and its autocorrelation is gone after 8."""
SEATTLE_NEAR_MS = 5.0
"""What a 0 stands for between nodes that are near: below the resolution."""
SEATTLE_FAR_MS = 50.0
"""From this median on a 0 can only be a missing value."""

MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the
following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY
CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
NETLATENCY = (
    "Source: NetLatency-Data by uofa-rzhu3. Please cite Zhu et al., IEEE/ACM Transactions on Networking 25(2), 2017.\n"
    f"MIT licence. Copyright (c) 2016 uofa-rzhu3\n\n{MIT}"
)
FANTOCH = f"Source: the fantoch project by Vitor Enes Duarte and contributors, folder latency_aws. Apache-2.0 or MIT, at choice.\n\n{MIT}"


def seattle(arrays: dict[str, Any]) -> LatencyTrace:
    """Slices of 99 personal devices; 0 means missing, or below 5 ms between near nodes; gaps take the value before."""
    rtt_ms = arrays["rtt_10ms"].astype(np.float32) * np.float32(SEATTLE_UNIT_MS)
    is_far = np.median(rtt_ms, axis=0) >= SEATTLE_FAR_MS
    rtt_ms = np.where(rtt_ms == 0, np.where(is_far, np.nan, SEATTLE_NEAR_MS).astype(np.float32), rtt_ms)
    for t in range(1, len(rtt_ms)):
        is_missing = np.isnan(rtt_ms[t])
        rtt_ms[t][is_missing] = rtt_ms[t - 1][is_missing]
    rtt_ms = np.where(np.isnan(rtt_ms), np.nanmedian(rtt_ms, axis=0), rtt_ms)
    return LatencyTrace(_clipped(rtt_ms), name="Seattle", hold_slices=SEATTLE_HOLD_SLICES)


def planetlab(arrays: dict[str, Any]) -> LatencyTrace:
    """Frames of 490 servers, symmetric, upper triangle only."""
    n = int(arrays["n"])
    upper = arrays["rtt_100us_triu"]
    rtt_ms = np.zeros((len(upper), n, n), dtype=np.float32)
    rows, columns = np.triu_indices(n, 1)
    rtt_ms[:, rows, columns] = upper * np.float32(PLANETLAB_UNIT_MS)
    return LatencyTrace(_clipped(rtt_ms + rtt_ms.transpose(0, 2, 1)), name="PlanetLab")


def pings(name: str) -> Callable[[dict[str, Any]], LatencyTrace]:
    """One matrix of mean round trips: a static trace of one slice."""

    def convert(arrays: dict[str, Any]) -> LatencyTrace:
        lat, lon = (np.asarray(arrays[key], dtype=np.float64) if key in arrays else None for key in ("lat", "lon"))
        return LatencyTrace(_clipped(arrays["rtt_avg"].astype(np.float32)[None]), name=name, lat=lat, lon=lon)

    return convert


def _clipped(rtt_ms: Floats) -> Floats:
    n = rtt_ms.shape[1]
    clipped = np.minimum(rtt_ms, np.float32(CLIP_MS))
    clipped[:, range(n), range(n)] = 0
    return clipped


@attrs.frozen(slots=True)
class Source:
    """A published set."""

    convert: Callable[[dict[str, Any]], LatencyTrace]
    """From its arrays."""
    notice: str | None
    """What has to go with copies; None if copies are not allowed."""


SOURCES = {
    "seattle": Source(seattle, NETLATENCY),
    "planetlab": Source(planetlab, NETLATENCY),
    "aws": Source(pings("AWS"), FANTOCH),
    "wondernetwork": Source(pings("WonderNetwork"), None),
}


def convert(path: Path, source: Source, output: Path) -> str:
    """Convert one set and say what came of it."""
    target = output / path.name
    if source.notice is None and output.resolve().is_relative_to(ROOT):
        return f"{path.name}: no licence is stated, so it is converted to folders outside of the repository only; left out"
    with np.load(path, allow_pickle=False) as archive:
        trace = source.convert(dict(archive))
    save_trace(target, trace)
    if source.notice is not None:
        (output / f"{path.stem}.NOTICE.txt").write_text(f"{target.name}: converted from {path.name}.\n{source.notice}", "utf-8")
    slices, n = trace.rtt_ms.shape[:2]
    return f"{target}: {slices} slices of {n} nodes"


def main() -> int:
    """Convert all sets found."""
    parser = argparse.ArgumentParser(description="Convert published latency sets into TRACE.npz files for srwan replay.")
    parser.add_argument("sets", type=Path, nargs="?", default=ROOT.parent / "shared" / "data", help="folder with the sets' .npz files")
    parser.add_argument("output", type=Path, nargs="?", default=ROOT / "build" / "traces", help="folder to write to")
    options = parser.parse_args()
    if not options.sets.is_dir():
        parser.error(f"{options.sets} is no folder; name the one that holds the sets")
    found = [(path, name) for path in sorted(options.sets.glob("*.npz")) for name in SOURCES if path.name.startswith(name)]
    if not found:
        parser.error(f"{options.sets} holds no set; known are {', '.join(SOURCES)}")
    if options.output.resolve() == options.sets.resolve():
        parser.error("the traces would replace the sets; name another folder")
    options.output.mkdir(parents=True, exist_ok=True)
    for path, name in found:
        print(convert(path, SOURCES[name], options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
