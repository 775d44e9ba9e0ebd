"""The state of a running router for `srwan status`: a Unix socket in its state folder that says `Node.status()` to who may read it.

One connection, one JSON object, then it closes; nothing is read. The socket's mode is 0600, like the identity's beside it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from srwan.errors import ConfigError

__all__ = ["read_status", "serve_status"]

log = logging.getLogger("srwan")

NAME = "status"
"""Of the socket, in the state folder."""
TIMEOUT_S = 5.0
"""What a reader may take, and what a router may take to answer."""
STATUS_BYTES_MAX = 4 << 20
READERS_MAX = 4


async def serve_status(
    state_dir: Path, status: Callable[[], dict[str, Any]], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer who connects until cancelled; then the socket is gone. A folder where no socket can be made is logged and done without."""
    if not hasattr(socket, "AF_UNIX"):
        log.warning("no status socket: this system has no Unix sockets")
        task_status.started()
        return
    path = state_dir / NAME
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        try:
            former = os.umask(0o177)
            try:
                await listener.bind(os.fspath(path))
            finally:
                os.umask(former)
            listener.listen(READERS_MAX)
        except OSError as error:  # also: a path of more than 107 bytes
            log.warning("no status socket %s (%s)", path, error)
            task_status.started()
            return
        task_status.started()
        try:
            while True:
                connection, _ = await listener.accept()
                with trio.move_on_after(TIMEOUT_S):
                    await _answer(connection, status())
        finally:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


async def _answer(connection: trio.socket.SocketType, status: dict[str, Any]) -> None:
    async with trio.SocketStream(connection) as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(json.dumps(status).encode())


def read_status(state_dir: Path) -> dict[str, Any]:
    """Return the status of the router that runs with a state folder.

    Raises:
        ConfigError: none runs, or it may not be asked.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError(str(state_dir), "this system has no Unix sockets", "ask `Node.status()` in the program that runs the router")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        received = b""
        try:
            connection.connect(os.fspath(state_dir / NAME))
            while (more := connection.recv(65_536)) and len(received) <= STATUS_BYTES_MAX:
                received += more
            status: dict[str, Any] = json.loads(received)
        except (OSError, ValueError) as error:
            problem = f"no router answers ({error})"
            raise ConfigError(str(state_dir), problem, "start one with `srwan up --state-dir`, and ask as the same user") from None
    return status
