"""HTTP for JSON gateways: one POST at a time over httpx, its answer handed over part by part, its errors made one.

httpx reads and writes through nested asynchronous generators. One that is abandoned in the midst is left to the garbage collector, which
trio reports as an error of ours. So a body is sent by a plain iterator, and reading is ended from inside: once enough was taken, the next
wait is cancelled.

httpx forgets two kinds of connections, and their sockets stay open: one whose TLS handshake is cancelled, and one that is still being
made when its client is closed. So each request remembers the connection that it opened and closes it if it fails, and closing the client
ends what is under way.

Requests go straight to httpx's transport: cookies, redirects, proxies and hooks of its client are not used and cost time.

Imported only by those who use a cluster or a chain's node: httpx is in the extras `srwan[etcd]` and `srwan[settlement]`. Invariant: no
error of httpx leaves, for its message may name the URL, and the URL a password.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Self

import httpx
import trio

__all__ = ["HttpClient", "authorities"]

CONNECTIONS_MAX = 64
IDLE_CONNECTIONS_MAX = 16
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
"""No compression: a bound on what is read is then a bound on what it becomes."""


@cache
def authorities() -> ssl.SSLContext:
    """Return whom the certificates of nodes may come from, as this machine has it: reading that takes 35 ms, once."""
    return httpx.create_ssl_context()


class HttpClient:
    """Connections to some nodes. May be used by several tasks. Close it with `aclose`.

    Args:
        verify: how nodes of https are known; needless for http.
        connecting: called whenever a new connection is begun.
    """

    def __init__(self, verify: ssl.SSLContext | None, *, connecting: Callable[[], None] = lambda: None) -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=IDLE_CONNECTIONS_MAX)
        self._transport = httpx.AsyncHTTPTransport(verify=verify or False, limits=limits, trust_env=False)
        self._connecting = connecting
        self._under_way: set[trio.CancelScope] = set()
        self._is_closed = False

    async def aclose(self) -> None:
        """Close all connections. Requests under way raise `ConnectionError`."""
        self._is_closed = True
        for scope in self._under_way:
            scope.cancel()
        with trio.CancelScope(shield=True):
            await self._transport.aclose()

    async def post(self, url: str, content: bytes, headers: Mapping[str, str], take: Callable[[int, bytes], bool]) -> int:
        """Send a JSON body and hand the answer to `take`, part by part with the HTTP status, until it says that it wants no more.

        There is no time limit but the caller's.

        Returns:
            The HTTP status.

        Raises:
            ConnectionError: no connection, or it broke, or the far side does not speak HTTP, or this was closed. What was handed over by
                then may be all, or some, or nothing.
        """
        with trio.CancelScope() as under_way:
            self._under_way.add(under_way)
            try:
                if self._is_closed:
                    under_way.cancel()
                return await self._exchange(url, content, headers, take)
            except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
                raise ConnectionError(_in_words(error)) from None
            finally:
                self._under_way.discard(under_way)
        raise ConnectionError("the connections were closed")

    async def _exchange(self, url: str, content: bytes, headers: Mapping[str, str], take: Callable[[int, bytes], bool]) -> int:
        opening = _Opening(self._connecting)
        target = httpx.URL(url)
        own = {"Host": target.netloc.decode("ascii"), "Content-Length": str(len(content))}
        request = httpx.Request(
            "POST", target, headers={**_HEADERS, **own, **headers}, stream=_Body(content), extensions={"trace": opening.notice}
        )
        try:
            response = await self._transport.handle_async_request(request)
        except BaseException:
            await opening.aclose()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        try:
            with trio.CancelScope() as reading:
                async for part in response.stream:
                    if not reading.cancel_called and not take(response.status_code, part):
                        reading.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await response.stream.aclose()
        return response.status_code


class _Body(httpx.AsyncByteStream):
    """A body in one piece, read by a plain iterator."""

    def __init__(self, content: bytes) -> None:
        self._content: bytes | None = content

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        content, self._content = self._content, None
        if content is None:
            raise StopAsyncIteration
        return content


class _Opening:
    """The connection that a request opens, if none is at hand."""

    def __init__(self, connecting: Callable[[], None]) -> None:
        self._connecting = connecting
        self._stream: Any = None

    async def notice(self, event: str, details: Mapping[str, Any]) -> None:
        """Hear what httpx's transport is doing."""
        if event == "connection.connect_tcp.started":
            self._connecting()
        elif event == "connection.connect_tcp.complete":
            self._stream = details["return_value"]

    async def aclose(self) -> None:
        """Close it, whoever else does."""
        if self._stream is not None:
            with trio.CancelScope(shield=True):
                await self._stream.aclose()


def _in_words(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({getattr(cause, 'verify_message', None) or cause.reason})"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError):
        return "the node cannot be reached"
    return f"the connection broke ({type(error).__name__})"
