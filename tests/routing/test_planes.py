"""Which data plane a node gets, and what it says about it."""

from __future__ import annotations

import importlib
import random
from typing import Any

import pytest

from srwan.clock import Clock
from srwan.errors import ConfigError
from srwan.identity import Identity
from srwan.overlay.memory import MemoryNetwork
from srwan.overlay.session import Sessions
from srwan.overlay.udp import UdpTransport
from srwan.overlay.view import Role
from srwan.routing import planes
from srwan.routing.forwarder import Forwarder
from srwan.routing.planes import choose_plane, make_forwarder, open_transport

ANY_PORT = ("127.0.0.1", 0)


def lose(monkeypatch: pytest.MonkeyPatch, error: ImportError) -> None:
    """Have the extension fail to import."""

    def fail(name: str) -> Any:
        assert name == planes.EXTENSION
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)


def forwarder_on(transport: object) -> Forwarder:
    identity, rng = Identity(bytes([5]) * 32), random.Random(5)
    sessions = Sessions(identity, rng, entropy=rng.randbytes)
    return make_forwarder(
        transport,  # type: ignore[arg-type]
        identity.node_id,
        sessions,
        roles=Role.RELAY,
        send=lambda _data, _to: None,
        send_many=lambda _datagrams, _to: None,
        read_stamp_ns=lambda: 0,
        group_ns=lambda stamp_ns: stamp_ns,
    )


def test_portable_is_had_for_the_asking() -> None:
    assert choose_plane("portable") == ("portable", "the setting data_plane says so")


@pytest.mark.needs("native")
def test_the_native_plane_is_taken_where_it_is() -> None:
    assert "native" == choose_plane()[0] == choose_plane("native")[0]


def test_without_the_extension_there_is_one_line_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, ModuleNotFoundError("no such module", name=planes.EXTENSION))
    name, why = choose_plane()
    assert (name, why.count("\n")) == ("portable", 0)
    assert "C compiler" in why
    with pytest.raises(ConfigError, match="not built"):
        choose_plane("native")


def test_an_extension_that_does_not_load_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, ImportError("libcrypto.so.3: cannot open shared object file"))
    name, why = choose_plane()
    assert name == "portable"
    assert "libcrypto.so.3" in why


async def test_without_the_extension_sockets_and_forwarder_are_portable(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, ModuleNotFoundError("no such module", name=planes.EXTENSION))
    transport = open_transport([ANY_PORT], Clock())
    assert type(transport) is UdpTransport
    assert forwarder_on(transport).name == "portable"
    await transport.aclose()


@pytest.mark.needs("native")
async def test_the_forwarder_follows_from_the_transport() -> None:
    native, portable = (open_transport([ANY_PORT], Clock(), wanted=wanted) for wanted in ("native", "portable"))
    assert ["native", "portable"] == [forwarder_on(native).name, forwarder_on(portable).name]
    for transport in (native, portable):
        await transport.aclose()
    assert forwarder_on(MemoryNetwork().datagram_transport(("10.0.0.1", 1), Clock())).name == "portable"
    assert forwarder_on(None).name == "portable"


@pytest.mark.needs("native")
async def test_a_system_without_threads_or_descriptors_to_spare_gets_the_portable_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    from srwan.routing.native.transport import NativeTransport

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(NativeTransport, "attach", fail)
    transport = open_transport([ANY_PORT], Clock(), wanted="native")
    assert forwarder_on(transport).name == "portable"
    await transport.aclose()
