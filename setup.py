"""Builds the optional native data plane. Everything else about the package is in pyproject.toml.

The extension is optional: without a C compiler, Python's headers or OpenSSL's headers it is left out, and srwan uses the portable data
plane, which `srwan status` says. SRWAN_NATIVE=no leaves it out, SRWAN_NATIVE=must makes a failed build an error.
"""

from __future__ import annotations

import os
import sys

from setuptools import Extension, setup

FOLDER = "src/srwan/routing/native"  # through the link in a checkout, the files themselves in a source distribution
SOURCES = (
    "binding",
    "binding_counters",
    "binding_gateway",
    "binding_keys",
    "binding_packets",
    "cipher",
    "coalesce",
    "flows",
    "gateway",
    "ip",
    "loop",
    "map",
    "networks",
    "ring",
    "segment",
    "step",
    "tables",
    "tags",
    "trains",
    "tun",
    "wire",
)
HEADERS = (
    "address",
    "binding",
    "cipher",
    "coalesce",
    "gateway",
    "ip",
    "map",
    "networks",
    "pages",
    "plane",
    "ring",
    "segment",
    "tags",
    "trains",
    "window",
    "wire",
)
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-fvisibility=hidden", "-fstack-protector-strong", "-Wall", "-Wextra", "-Wshadow")


def extensions() -> list[Extension]:
    """Return the extension, or nothing where it cannot run or is not wanted."""
    wanted = os.environ.get("SRWAN_NATIVE", "")
    if wanted == "no" or not sys.platform.startswith("linux"):
        return []
    return [
        Extension(
            "srwan.routing.native._core",
            sources=[f"{FOLDER}/{name}.c" for name in SOURCES],
            depends=[f"{FOLDER}/{name}.h" for name in HEADERS],
            libraries=["crypto"],
            extra_compile_args=[*FLAGS],
            py_limited_api=True,
            optional=wanted != "must",
        )
    ]


setup(ext_modules=extensions(), options={"bdist_wheel": {"py_limited_api": "cp311"}})
