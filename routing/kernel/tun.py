"""The TUN by which a user-space router takes and sends native SRv6 (`border.py`). A shell; it decides nothing.

The kernel forwards what is for our locator and for none of its own SIDs into the TUN, and what is written to the TUN it routes like a
packet that came in by any interface. So no raw socket is needed, and nothing is fought over with the kernel's own segment routing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import trio

from srwan.errors import ConfigError
from srwan.routing.kernel.border import NATIVE_BYTES_MAX

__all__ = ["NativeTun"]

PACKETS_PER_WAKE_MAX = 64
"""Packets read per wake-up of the loop; see `overlay.transport.DATAGRAMS_PER_BATCH_MAX`."""
TUN_NAME = "srwan-native"
TUN_MTU = NATIVE_BYTES_MAX
"""Octets of the longest packet that may be read."""
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFMTU = 0x8913, 0x8914, 0x8922
_IFF_UP = 0x1
_READ_BYTES = 65_536
_DESTINATION_AT, _MULTICAST = 24, b"\xff"


class NativeTun:
    """A TUN without addresses; gone when it is closed, also after kill -9.

    Args:
        name: of the interface.

    Raises:
        ConfigError: /dev/net/tun is missing or may not be used. Nothing was made.
    """

    def __init__(self, name: str = TUN_NAME) -> None:
        self.name = name
        self.refused = 0
        """Packets that the kernel did not take."""
        try:
            self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError("kernel.native", f"/dev/net/tun: {error.strerror}", "load the tun module, or set it to false") from None
        try:
            fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
            with contextlib.suppress(OSError):  # no link-local address, so that the kernel says nothing of its own accord
                Path(f"/proc/sys/net/ipv6/conf/{name}/addr_gen_mode").write_text("1")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", name.encode(), TUN_MTU))
                (flags,) = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH22x", name.encode(), 0)), 16)
                fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags | _IFF_UP))
        except OSError as error:
            os.close(self._fd)
            raise ConfigError("kernel.native", f"no TUN can be made ({error.strerror})", "run with CAP_NET_ADMIN") from None

    def send(self, packet: bytes) -> None:
        """Hand a packet to the kernel, or drop and count it. Never raises."""
        try:
            os.write(self._fd, packet)
        except OSError:
            self.refused += 1

    def read(self, receive: Callable[[bytes], None]) -> None:
        """Call `receive` for each packet that waits, at most PACKETS_PER_WAKE_MAX.

        Multicast is passed over: no segment list leads there, but a kernel that forwards says on every interface which groups it is in.
        """
        with contextlib.suppress(BlockingIOError):
            for _ in range(PACKETS_PER_WAKE_MAX):
                packet = os.read(self._fd, _READ_BYTES)
                if packet[_DESTINATION_AT : _DESTINATION_AT + 1] != _MULTICAST:
                    receive(packet)

    async def run(self, receive: Callable[[bytes], None], after_batch: Callable[[], None]) -> None:
        """Call `receive` for each packet and `after_batch` after some, until cancelled. Nothing is awaited per packet."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            self.read(receive)
            after_batch()

    def close(self) -> None:
        """Remove the interface."""
        trio.lowlevel.notify_closing(self._fd)
        os.close(self._fd)
