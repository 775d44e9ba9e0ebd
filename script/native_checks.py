"""Checks of the native data plane that need clang: its tests under AddressSanitizer and UndefinedBehaviorSanitizer, and a fuzz run.

    python script/native_checks.py sanitize        build the extension with both sanitizers and run its tests
    python script/native_checks.py fuzz [SECONDS]  build the libFuzzer targets and run each for 60 s, or as long as said

Run by `script/check --deep`. Everything is made below build/native; what the fuzzer found stays there as crash-* files, with the corpus.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "routing/native"
BUILD = ROOT / "build/native"
VECTORS = ROOT / "tests/data/sr_vectors.json"
TARGET = ROOT / "tests/routing/fuzz_native_step.c"
TUN_TARGET = ROOT / "tests/routing/fuzz_native_tun.c"
ROUTER = "first"
END_APP = 0xFF01
TESTS = ("test_sr_vectors.py", "test_forwarder_contract.py", "test_native_tables.py", "test_native.py", "test_native_tun.py")
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror")
SANITIZE = "address,undefined"


def run(command: Sequence[object], **environment: str) -> int:
    """Run a command in the repository and return its status."""
    return subprocess.run(list(map(str, command)), cwd=ROOT, env={**os.environ, **environment}, check=False).returncode  # noqa: S603


def core_sources() -> list[Path]:
    """The C sources without the binding."""
    return sorted(path for path in SOURCES.glob("*.c") if not path.name.startswith("binding"))


# --- sanitizers ------------------------------------------------------------------------------------------------------

RUN_TESTS = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("srwan.routing.native._core", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules[spec.name] = module
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--require-needs", *sys.argv[2:]]))
"""


def sanitize(clang: str) -> int:
    """Build the extension with both sanitizers and run the tests that use it."""
    extension = BUILD / "_core.abi3.so"
    command = [
        clang, *FLAGS, f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=undefined", "-shared-libasan", "-shared", "-fPIC",
        f"-I{sysconfig.get_paths()['include']}", *core_sources(), *sorted(SOURCES.glob("binding*.c")), "-lcrypto", "-lpthread",
        "-o", extension,
    ]  # fmt: skip
    if status := run(command):
        return status
    runtime = subprocess.run(  # noqa: S603
        [clang, "-print-file-name=libclang_rt.asan-x86_64.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    tests = [f"tests/routing/{name}" for name in TESTS]
    # The interpreter itself leaks at exit, so leaks are looked for by the fuzz target and by tests/routing/test_native.py.
    settings = {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:quarantine_size_mb=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    return run([sys.executable, "-c", RUN_TESTS, extension, *tests], **settings)


# --- fuzzing ---------------------------------------------------------------------------------------------------------


def scene_header(vectors: dict[str, Any]) -> str:
    """The router ROUTER of the vectors as C, for the fuzz target."""

    def octets(text: str) -> str:
        return "{" + ", ".join(f"0x{byte:02x}" for byte in bytes.fromhex(text)) + "}"

    rows = []
    for session in vectors["sessions"]:
        if ROUTER not in session["between"]:
            continue
        here = session["between"].index(ROUTER)
        peer = session["between"][1 - here]
        keys = session["keys"]
        names = [f"{purpose} {a} to {b}" for purpose in ("link", "end") for a, b in ((ROUTER, peer), (peer, ROUTER))]
        fields = [octets(vectors["routers"][peer]["locator"]), str(session["indices"][here]), str(session["indices"][1 - here])]
        rows.append("    {" + ",\n     ".join(fields + [octets(keys[name]) for name in names]) + "},")
    return "\n".join([
        "/* Made by script/native_checks.py of tests/data/sr_vectors.json. */",
        "#include <stdint.h>",
        f"enum {{ SCENE_SESSIONS = {len(rows)}, SCENE_END_APP = {END_APP} }};",
        f"static const uint8_t SCENE_LOCATOR[8] = {octets(vectors['routers'][ROUTER]['locator'])};",
        "struct scene_session {",
        "    uint8_t locator[8];",
        "    uint32_t local_index, remote_index;",
        "    uint8_t link_seal[32], link_open[32], end_seal[32], end_open[32];",
        "};",
        "static const struct scene_session SCENE[SCENE_SESSIONS] = {",
        *rows,
        "};",
        "",
    ])  # fmt: skip


def seeds(vectors: dict[str, Any]) -> Iterator[bytes]:
    """Inputs that get far: each vector for ROUTER, and the parts of packets for the modes of the target."""
    for refusal in vectors["refusals"]:
        if refusal["at"] == ROUTER:
            yield from (b"\0" + bytes.fromhex(datagram) for datagram in refusal["datagrams"])
    for journey in vectors["journeys"]:
        for hop in journey["hops"]:
            datagram, srh = bytes.fromhex(hop["datagram"]), bytes.fromhex(hop["srh"])
            payload = datagram[24 + len(srh) + 16 :]
            yield b"\0" + datagram
            yield bytes([1, len(srh) // 8]) + srh + payload
            yield b"\2" + payload
        yield b"\3" + bytes.fromhex(journey["plaintext"])
        yield b"\6" + bytes.fromhex(journey["plaintext"])
    yield bytes([4, 0, 1, 3, 1, 2, 1, 5, 1, 4, 1, 7, 1, 1, 1])
    yield bytes([5, *(value for tag in range(12) for value in (tag % 4, tag)), 0x80, 0])


def tun_seeds() -> Iterator[bytes]:
    """Inputs of the TUN's target that get far: large packets, trains of packets, plaintexts, updates."""
    payload = bytes(range(256)) * 4
    for first, flags in ((0x45, 1), (0x60, 1), (0x45, 0), (0x60, 0)):
        head = bytes([first, flags]) + bytes(50 if first == 0x45 else 70)
        for offset in (0x50, 0x60):
            at = (20 if first == 0x45 else 40) + 12
            packet = head[:at] + bytes([offset, 0x18]) + head[at + 2 :] + payload
            for kind in (1, 4, 5):
                header = struct.pack("<BBHHHH", 1, kind, 54, 100, 20 if first == 0x45 else 40, 16)
                yield b"\0" + header + packet
                yield b"\1" + header + packet
            ports = head[:at] + bytes([offset, 0x10]) + head[at + 2 :]
            train = [ports[: at - 8] + (1 + i * 100).to_bytes(4, "big") + ports[at - 4 :] + payload[:100] for i in range(5)]
            trimmed = [each[: 100 + (40 if first == 0x45 else 60) + (4 if offset == 0x60 else 0)] for each in train]
            yield b"\2" + b"".join(len(each).to_bytes(2, "big") + each for each in trimmed)
            kinds = b"\5" if first == 0x45 else b"\7"
            yield b"\3" + b"".join((len(each) + 24).to_bytes(2, "big") + kinds + bytes(24) + each for each in trimmed)
    yield b"\4" + bytes((i * 37) % 256 for i in range(256))


def fuzz(clang: str, seconds: int) -> int:
    """Build the targets and run them."""
    vectors = json.loads(VECTORS.read_text())
    (BUILD / "scene.h").write_text(scene_header(vectors))
    return run_target(clang, TARGET, seeds(vectors), seconds) or run_target(clang, TUN_TARGET, tun_seeds(), seconds)


def run_target(clang: str, source: Path, inputs: Iterable[bytes], seconds: int) -> int:
    """Build one target and run it."""
    target = BUILD / source.stem
    command = [
        clang, *FLAGS, f"-fsanitize=fuzzer,{SANITIZE}", "-fno-sanitize-recover=undefined", f"-I{BUILD}", f"-I{SOURCES}", *core_sources(),
        source, "-lcrypto", "-lpthread", "-o", target,
    ]  # fmt: skip
    if status := run(command):
        return status
    seed_folder, corpus = (BUILD / f"{source.stem}.{kind}" for kind in ("seeds", "corpus"))
    for folder in (seed_folder, corpus):
        folder.mkdir(exist_ok=True)
    for number, seed in enumerate(inputs):
        (seed_folder / f"{number:03}").write_bytes(seed)
    limits = [f"-max_total_time={seconds}", "-max_len=3000", "-timeout=5", "-rss_limit_mb=2048", "-print_final_stats=1"]
    return run([target, *limits, f"-artifact_prefix={BUILD}/", corpus, seed_folder])


def main() -> int:
    """Run what the arguments say."""
    clang = shutil.which("clang")
    if clang is None:
        sys.stderr.write("script/native_checks.py: clang is missing (Debian packages clang and libclang-rt-14-dev)\n")
        return 1
    BUILD.mkdir(parents=True, exist_ok=True)
    match sys.argv[1:]:
        case ["sanitize"]:
            return sanitize(clang)
        case ["fuzz", *rest] if len(rest) <= 1:
            return fuzz(clang, int(rest[0]) if rest else 60)
        case _:
            sys.stderr.write(__doc__ or "")
            return 2


if __name__ == "__main__":
    sys.exit(main())
