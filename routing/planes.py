"""Which data plane a node has: found out at start, by looking whether the native one is there and wanted. A shell.

    native    L2: the extension was built and loads, and the datagrams are the machine's own UDP sockets
    portable  L0: otherwise, or when the settings say so

The transport comes first, because the native plane reads its sockets; the forwarder follows from it. A transport that somebody wrapped,
to emulate links, is no longer a `NativeTransport`, and what stands on it is portable: nothing bypasses the wrapping.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from srwan.clock import Clock
from srwan.errors import ConfigError
from srwan.overlay.session import Sessions
from srwan.overlay.transport import DatagramTransport
from srwan.overlay.udp import UdpTransport, open_udp
from srwan.overlay.view import Role
from srwan.routing.portable import PortableForwarder
from srwan.routing.sid import locator_of
from srwan.types import NodeId, UdpAddress

if TYPE_CHECKING:
    from srwan.routing.forwarder import Forwarder

__all__ = ["choose_plane", "make_forwarder", "open_transport"]

EXTENSION: Final = "srwan.routing.native._core"


def choose_plane(wanted: str = "auto") -> tuple[str, str]:
    """Return the name of the data plane to use, and one line that says why.

    Args:
        wanted: "native", "portable", or "auto", which takes the native one where it is there.

    Raises:
        ConfigError: "native" is wanted and not there.
    """
    if wanted == "portable":
        return "portable", "the setting data_plane says so"
    problem = _missing_native()
    if problem and wanted == "native":
        raise ConfigError("data_plane", f"the native data plane is not there: {problem}", 'install what is missing, or give "auto"')
    if problem:
        return "portable", f"no native data plane: {problem}"
    return "native", "the extension is there"


def open_transport(addresses: Sequence[UdpAddress], clock: Clock, *, wanted: str = "auto") -> UdpTransport:
    """Bind the node's UDP sockets for the data plane that `choose_plane` names.

    Raises:
        ConfigError: as `open_udp` and `choose_plane`.
    """
    name, _ = choose_plane(wanted)
    if name == "portable":
        return open_udp(addresses, clock)
    from srwan.routing.native.transport import NativeTransport  # noqa: PLC0415 - there only where the extension is

    return open_udp(addresses, clock, make=NativeTransport)


def make_forwarder(
    transport: DatagramTransport | None,
    node_id: NodeId,
    sessions: Sessions,
    *,
    roles: Role,
    send: Callable[[bytes, UdpAddress], None],
    send_many: Callable[[Sequence[bytes], UdpAddress], None],
    read_stamp_ns: Callable[[], int],
    group_ns: Callable[[int], int],
) -> Forwarder:
    """Return the forwarder for a transport: the native one if it is a `NativeTransport`, which reads from now on, else the portable one.

    Args:
        transport: what the node receives from, as the overlay has it; None: not known.
        node_id: this node.
        sessions: its sessions; there are none yet.
        roles: what it offers.
        send: as for `PortableForwarder`, and so are the next two.
        send_many: as `send` for several.
        read_stamp_ns: the payloads' clock.
        group_ns: turns stamps of the transport's stamp clock into stamps of the payloads' clock.
    """
    make = _native_maker(transport, node_id, read_stamp_ns, group_ns) or PortableForwarder
    return make(node_id, sessions, roles=roles, send=send, read_stamp_ns=read_stamp_ns, send_many=send_many)


def _native_maker(
    transport: DatagramTransport | None, node_id: NodeId, read_stamp_ns: Callable[[], int], group_ns: Callable[[int], int]
) -> Callable[..., PortableForwarder] | None:
    """Start a native plane on a transport and return what makes its forwarder; None if there is none, or the system cannot start it."""
    if _missing_native():
        return None
    from srwan.routing.native._core import Plane  # noqa: PLC0415 - as above
    from srwan.routing.native.forwarder import NativeForwarder  # noqa: PLC0415
    from srwan.routing.native.transport import NativeTransport  # noqa: PLC0415

    if not isinstance(transport, NativeTransport):
        return None
    plane = Plane(locator_of(node_id))
    try:
        transport.attach(plane)
    except OSError:  # no thread, or no descriptors to spare
        return None

    def convert_ns(realtime_ns: int) -> int:
        return group_ns(transport.convert_ns(realtime_ns))

    shifts = _Shifts(read_stamp_ns, convert_ns)
    return functools.partial(NativeForwarder, plane, convert_ns=convert_ns, read_shifts=shifts.read)


class _Shifts:
    """What makes the machine's clocks the payloads' clock, read as seldom as it changes, so that reading adds no jitter to stamps."""

    def __init__(self, read_stamp_ns: Callable[[], int], convert_ns: Callable[[int], int]) -> None:
        self._read_stamp_ns = read_stamp_ns
        self._convert_ns = convert_ns
        self._tx_ns, self._error_ns = 0, -1

    def read(self) -> tuple[int, int]:
        """Return what to add to CLOCK_MONOTONIC, and to CLOCK_REALTIME, ns. Error: 0.3 us."""
        before = time.monotonic_ns()
        stamp_ns = self._read_stamp_ns()
        after = time.monotonic_ns()
        tx_ns, error_ns = stamp_ns - (before + after) // 2, (after - before + 1) // 2
        is_same = self._error_ns >= 0 and abs(tx_ns - self._tx_ns) <= error_ns + self._error_ns
        if not is_same or error_ns < self._error_ns:
            self._tx_ns, self._error_ns = tx_ns, error_ns
        wall_ns = time.time_ns()
        return self._tx_ns, self._convert_ns(wall_ns) - wall_ns


def _missing_native() -> str:
    """Say why the native plane cannot be used, or return an empty string."""
    try:
        importlib.import_module(EXTENSION)
    except ModuleNotFoundError as error:
        if error.name != EXTENSION:
            return str(error)
        return "its extension was not built when srwan was installed (needs Linux, a C compiler, and the headers of Python and OpenSSL)"
    except ImportError as error:  # built, but for example libcrypto is gone
        return f"its extension does not load ({error})"
    return ""
