"""A development node: the embedded engine, served to other processes of this machine as an EVM node is, by JSON-RPC over HTTP.

What it is not: a public service. It listens on a loopback address, has no consensus, no fees and no accounts of its own, and believes all
who can reach it; each can only do what a wallet's signature allows. A page in a browser cannot use it: a request must name a loopback host
and be of type application/json.

Theory of operation. Each connection has a task, and there are at most CONNECTIONS_MAX; requests and what they ask are bounded. What a
client sends wrong is answered with an error, never raised. One transaction makes one block, which is final at once.

Source: JSON-RPC 2.0; Ethereum execution API, the methods that `JsonRpcSettlement` and usual tools ask for. HTTP by h11.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import attrs
import h11
import trio

from srwan.errors import DecodeError, RemoteProtocolError, SettlementUnavailable
from srwan.ledger_client.settlement.devnode_methods import METHODS, Failure
from srwan.ledger_client.settlement.pyevm import PyEvmChain
from srwan.ledger_client.shallow_json import parse_json

__all__ = ["DevNode", "open_devnode"]

REQUEST_BYTES_MAX = 512 << 10
"""Of a request's body: a batch of 64 claims as hexadecimal digits has 170 kB."""
CONNECTIONS_MAX = 128
IDLE_S = 60.0
"""A connection without a whole request for so long is closed, s."""
_JSON = [(b"content-type", b"application/json")]
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[::1\]|::1")
_LOOPBACK_PORT = re.compile(rf"({_LOOPBACK.pattern})(:\d+)?")
"""The whole name: "127.0.0.1.example.org" is anybody's, and may be made to lead here while a page of its is open."""


@attrs.frozen(slots=True)
class DevNode:
    """A node that is being served."""

    url: str
    """http://127.0.0.1:PORT"""
    chain: PyEvmChain = attrs.field(repr=False)
    """What it serves."""


@contextlib.asynccontextmanager
async def open_devnode(chain: PyEvmChain, *, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[DevNode]:
    """Serve an embedded engine until the block is left; whoever opened the engine closes it.

    Args:
        chain: of `PyEvmSettlement.chain`.
        host: a loopback address.
        port: 0 takes a free one.

    Raises:
        ValueError: the host is no loopback address. OSError: the port is taken.
    """
    if not _LOOPBACK.fullmatch(host):
        raise ValueError(f"{host} is no loopback address: a development node serves this machine only")
    server = _Server(chain)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(_serve, server, host, port)
        _, taken, *_ = listeners[0].socket.getsockname()
        yield DevNode(f"http://{f'[{host}]' if ':' in host else host}:{taken}", chain)
        nursery.cancel_scope.cancel()


async def _serve(server: _Server, host: str, port: int, *, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
    listeners = await trio.open_tcp_listeners(port, host=host)
    await trio.serve_listeners(server.serve, listeners, task_status=task_status)


class _Server:
    def __init__(self, chain: PyEvmChain) -> None:
        self._chain = chain
        self._connections = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer the requests of one connection."""
        if self._connections >= CONNECTIONS_MAX:
            await stream.aclose()
            return
        self._connections += 1
        try:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.LocalProtocolError):
                await self._serve(stream)
        finally:
            self._connections -= 1
            with trio.move_on_after(1) as scope:
                scope.shield = True
                await stream.aclose()

    async def _serve(self, stream: trio.SocketStream) -> None:
        http = h11.Connection(h11.SERVER)
        while True:
            request, body = None, b""
            with trio.move_on_after(IDLE_S):
                try:
                    request, body = await _receive(http, stream)
                except h11.RemoteProtocolError as error:
                    if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                        await _send(http, stream, error.error_status_hint, b"{}")
                    return
            if request is None:
                return
            status, answer = await self._answer(request, body)
            await _send(http, stream, status, answer)
            if http.our_state is h11.MUST_CLOSE or http.their_state is h11.MUST_CLOSE:
                return
            http.start_next_cycle()

    async def _answer(self, request: h11.Request, body: bytes) -> tuple[int, bytes]:
        headers = {bytes(name).lower(): bytes(value).decode("latin-1").lower() for name, value in request.headers}
        if request.method != b"POST":
            return 405, b"{}"
        if not _LOOPBACK_PORT.fullmatch(headers.get(b"host", "")) or not headers.get(b"content-type", "").startswith("application/json"):
            return 403, b"{}"
        try:
            question = parse_json(body)
        except (ValueError, RecursionError):
            return 200, _error(None, -32700, "not JSON")
        if not isinstance(question, dict):
            return 200, _error(None, -32600, "one request at a time")
        number = question.get("id")
        if not isinstance(number, (int, str)):
            return 200, _error(None, -32600, "a request without a number")
        return 200, await self._ask(number, question)

    async def _ask(self, number: int | str, question: Mapping[str, Any]) -> bytes:
        method, parameters = question.get("method"), question.get("params", [])
        found = METHODS.get(method) if isinstance(method, str) else None
        if found is None or not isinstance(parameters, list):
            return _error(number, -32601, "no such method here")
        try:
            result = await found(self._chain, parameters)
        except RemoteProtocolError as error:
            return _error(number, -32602 if isinstance(error, DecodeError) else -32000, str(error))
        except SettlementUnavailable as error:
            return _error(number, -32603, error.problem)
        except trio.ClosedResourceError as error:
            return _error(number, -32603, str(error))
        if isinstance(result, Failure):
            return _error(number, result.code, result.message, result.data)
        return json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode()


def _error(number: int | str | None, code: int, message: str, data: str | None = None) -> bytes:
    error: dict[str, Any] = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return json.dumps({"jsonrpc": "2.0", "id": number, "error": error}).encode()


async def _receive(http: h11.Connection, stream: trio.SocketStream) -> tuple[h11.Request | None, bytes]:
    """Return a request and its body; None when the client has gone."""
    request: h11.Request | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive_some(65_536))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > REQUEST_BYTES_MAX:
                raise h11.RemoteProtocolError("a request that is too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage):
            return request, bytes(body)
        else:
            return None, b""


async def _send(http: h11.Connection, stream: trio.SocketStream, status: int, body: bytes) -> None:
    length = str(len(body)).encode()
    parts = [
        http.send(h11.Response(status_code=status, headers=[*_JSON, (b"content-length", length)])),
        http.send(h11.Data(data=body)),
        http.send(h11.EndOfMessage()),
    ]
    await stream.send_all(b"".join(part or b"" for part in parts))
