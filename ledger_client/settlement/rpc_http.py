"""HTTP for JSON-RPC: one POST at a time over httpx, its answer bounded, its errors made one.

httpx reads and writes through nested asynchronous generators. One that is abandoned in the midst is left to the garbage collector, which
trio reports as an error of ours. So the body is sent by a plain iterator, and reading is ended from inside: once there is too much, the
next wait is cancelled.

Imported by `rpc.py` when a client is made: httpx is in the extra srwan[settlement]. Invariant: no error of httpx leaves, for its message
may name the URL.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import cache
from typing import Self

import httpx
import trio

__all__ = ["HttpClient"]

_HEADERS = {"content-type": "application/json", "accept-encoding": "identity"}
"""No compression: a bound on what is read is then a bound on what it becomes."""


@cache
def _authorities() -> ssl.SSLContext:
    """Return whom a server's certificate may come from: reading them takes 35 ms."""
    return httpx.create_ssl_context()


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


class HttpClient:
    """Connections to one URL. No proxy is taken from the environment, and no redirection is followed.

    Args:
        url: http or https.
        connecting: called whenever a new connection is begun.
    """

    def __init__(self, url: str, connecting: Callable[[], None]) -> None:
        self._url = httpx.URL(url)
        self._connecting = connecting
        verify = _authorities() if self._url.scheme == "https" else False
        self._client = httpx.AsyncClient(verify=verify, timeout=None, trust_env=False, follow_redirects=False)  # noqa: S113 - scopes do
        user, _, password = self._url.userinfo.partition(b":")
        self._auth = httpx.BasicAuth(user, password) if user or password else None

    async def post(self, content: bytes, bytes_max: int) -> tuple[int, bytes]:
        """Send a JSON body; return the HTTP status and what was read of the answer: when it is more than `bytes_max`, not all of it.

        Raises:
            OSError: no connection, or it broke, or no HTTP.
        """
        headers = {**_HEADERS, "host": self._url.netloc.decode("ascii"), "content-length": str(len(content))}
        body = bytearray()
        try:
            request = httpx.Request("POST", self._url, headers=headers, stream=_Body(content), extensions={"trace": self._notice})
            response = await self._client.send(request, stream=True, auth=self._auth)
            try:
                with trio.CancelScope() as scope:
                    async for part in response.aiter_raw():
                        body += part
                        if len(body) > bytes_max:
                            scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await response.aclose()
        except httpx.ConnectError:
            raise ConnectionError("the node cannot be reached") from None
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
            raise ConnectionError(f"the connection broke ({type(error).__name__})") from None
        return response.status_code, bytes(body)

    async def _notice(self, event: str, _details: object) -> None:
        if event == "connection.connect_tcp.started":
            self._connecting()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()
