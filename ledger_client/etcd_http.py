"""HTTP for the etcd gateway: one POST at a time over httpx, its answer handed over part by part, its errors made one.

httpx reads and writes through nested asynchronous generators. One that is abandoned in the midst is left to the garbage collector, which
trio reports as an error of ours. So a body is sent by a plain iterator, and reading is ended from inside: once enough was taken, the next
wait is cancelled.

Requests go straight to httpx's transport: cookies, redirects and hooks of its client are not used and cost time.

Imported only by those who use a cluster: httpx is in the extra `srwan[etcd]`. Invariant: no error of httpx leaves.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Self

import httpx
import trio

__all__ = ["HttpClient"]

CONNECTIONS_MAX = 64
IDLE_CONNECTIONS_MAX = 16
_CONNECT_SHARE = 0.4  # of an attempt, for TCP and for TLS each


class _Body(httpx.AsyncByteStream):
    """A body in one piece, read by a plain iterator."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._is_sent = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._is_sent:
            raise StopAsyncIteration
        self._is_sent = True
        return self._content


class HttpClient:
    """Connections to the members of a cluster. Close it with `aclose`."""

    def __init__(self, verify: ssl.SSLContext | None) -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=IDLE_CONNECTIONS_MAX)
        self._transport = httpx.AsyncHTTPTransport(verify=verify or False, limits=limits, trust_env=False)
        self._is_closed = False

    async def aclose(self) -> None:
        """Close all connections."""
        self._is_closed = True
        await self._transport.aclose()

    async def post(
        self, url: str, content: bytes, headers: Mapping[str, str], take: Callable[[int, bytes], bool], *, attempt_s: float
    ) -> int | str:
        """Send a JSON body and hand the answer to `take`, part by part with the HTTP status, until it says that it wants no more.

        `attempt_s` is when the caller will cancel, s: connecting gives up before, for httpx leaves a socket open when a TLS handshake is
        cancelled, and closes it when it gives up itself.

        Returns:
            The HTTP status; or in words why there is none: no connection, or it broke, or the far side does not speak HTTP. What was
            handed over by then may be all, or some, or nothing.
        """
        try:
            more = {**headers, "Content-Type": "application/json"}
            extensions = {"timeout": {"connect": _CONNECT_SHARE * attempt_s}}
            request = httpx.Request("POST", url, headers=more, content=content, extensions=extensions)
            request.stream = _Body(content)
            response = await self._transport.handle_async_request(request)
            assert isinstance(response.stream, httpx.AsyncByteStream)
            try:
                with trio.CancelScope() as scope:
                    async for part in response.stream:
                        if not scope.cancel_called and not take(response.status_code, part):
                            scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await response.stream.aclose()
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            return str(error) or type(error).__name__
        except RuntimeError:
            if not self._is_closed:
                raise
            return "the connections were closed"
        return response.status_code
