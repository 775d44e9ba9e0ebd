"""One POST at a time, and no socket left behind, whenever it is cancelled or its client closed: plain and over TLS, on loopback."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
import trio
import trio.testing

from srwan.ledger_client.http_client import CONNECTIONS_MAX, HttpClient

BODY = b'{"asked":1}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
STEPS_MAX = 100
Ends: TypeAlias = tuple[ssl.SSLContext | None, ssl.SSLContext | None]


class AtStep(trio.abc.Instrument):
    """Calls `act` right before a task's `number`-th step from now."""

    def __init__(self, task: trio.lowlevel.Task, number: int, act: Callable[[], None]) -> None:
        self._task = task
        self._left = number
        self._act = act

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._act()

    @property
    def has_acted(self) -> bool:
        return self._left <= 0


def open_sockets() -> int:
    return sum(1 for each in Path("/proc/self/fd").iterdir() if each.is_socket())


async def answer_all(stream: trio.abc.Stream) -> None:
    """Answer every request of a connection, and keep the connection."""
    try:
        async with stream:
            while part := await stream.receive_some():
                if part.endswith(BODY):
                    await stream.send_all(ANSWER)
    except trio.BrokenResourceError:
        pass


@asynccontextmanager
async def served(tls: ssl.SSLContext | None) -> AsyncGenerator[str]:
    """The URL of a server."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        wrapped = trio.SSLListener(listener, tls, https_compatible=True) if tls else listener
        nursery.start_soon(trio.serve_listeners, answer_all, [wrapped])
        yield f"http{'s' * bool(tls)}://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["plain", "TLS"])
def ends(request: pytest.FixtureRequest, own_certificate: tuple[Path, Path]) -> Ends:
    """What server and client use."""
    if request.param == "plain":
        return None, None
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*own_certificate)
    return server, ssl.create_default_context(cafile=own_certificate[0])


async def post(client: HttpClient, url: str) -> bytes:
    content = bytearray()

    def take(status: int, part: bytes) -> bool:
        assert status == 200
        content.extend(part)
        return True

    assert 200 == await client.post(url, BODY, {}, take)
    return bytes(content)


async def client_for(ends: Ends, url: str, *, has_connection: bool) -> HttpClient:
    client = HttpClient(ends[1])
    if has_connection:
        await post(client, url)
    return client


@pytest.mark.parametrize("is_reused", [False, True], ids=["new", "reused"])
async def test_cancelled_at_any_step_a_request_leaves_no_socket_and_the_client_usable(ends: Ends, is_reused: bool) -> None:
    async with served(ends[0]) as url:
        before, number = open_sockets(), 0
        for number in range(1, STEPS_MAX):
            client = await client_for(ends, url, has_connection=is_reused)
            scope = trio.CancelScope()
            at_step = AtStep(trio.lowlevel.current_task(), number, scope.cancel)
            trio.lowlevel.add_instrument(at_step)
            with scope:
                await post(client, url)
            trio.lowlevel.remove_instrument(at_step)
            assert b"{}" == await post(client, url)
            await client.aclose()
            await trio.testing.wait_all_tasks_blocked()
            await until_no_more_than(before)
            if not at_step.has_acted:
                break
        assert 5 < number < STEPS_MAX - 1


@pytest.mark.parametrize("is_reused", [False, True], ids=["new", "reused"])
async def test_closed_at_any_step_of_a_request_a_client_leaves_no_socket(ends: Ends, is_reused: bool) -> None:
    async with served(ends[0]) as url:
        before, number = open_sockets(), 0
        for number in range(1, STEPS_MAX):
            client = await client_for(ends, url, has_connection=is_reused)
            closing = trio.Event()
            at_step = AtStep(trio.lowlevel.current_task(), number, closing.set)

            async def close(client: HttpClient = client, closing: trio.Event = closing) -> None:
                await closing.wait()
                await client.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(close)
                await trio.testing.wait_all_tasks_blocked()
                trio.lowlevel.add_instrument(at_step)
                try:
                    await post(client, url)
                    is_answered = True
                except ConnectionError:
                    is_answered = False
                trio.lowlevel.remove_instrument(at_step)
                has_acted = at_step.has_acted
                closing.set()
            assert is_answered or has_acted
            await until_no_more_than(before)
            if not has_acted:
                break
        assert 5 < number < STEPS_MAX - 1


async def until_no_more_than(sockets: int) -> None:
    """Wait until the server has noticed, too."""
    with trio.fail_after(5):
        while open_sockets() > sockets:  # noqa: ASYNC110 - the kernel has no event for it
            await trio.sleep(0.001)


async def test_many_cancelled_handshakes_use_up_no_connections(ends: Ends) -> None:
    async with served(ends[0]) as url:
        client = HttpClient(ends[1])
        for _ in range(2 * CONNECTIONS_MAX):
            scope = trio.CancelScope()
            at_step = AtStep(trio.lowlevel.current_task(), 5, scope.cancel)
            trio.lowlevel.add_instrument(at_step)
            with scope:
                await post(client, url)
            trio.lowlevel.remove_instrument(at_step)
            assert scope.cancelled_caught
        with trio.fail_after(5):
            assert b"{}" == await post(client, url)
        await client.aclose()


async def test_a_closed_client_says_so() -> None:
    client = HttpClient(None)
    await client.aclose()
    with pytest.raises(ConnectionError, match="were closed"):
        await post(client, "http://127.0.0.1:9")


async def test_a_server_that_nobody_vouches_for_is_named_as_the_problem(own_certificate: tuple[Path, Path]) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*own_certificate)
    client = HttpClient(ssl.create_default_context())
    async with served(server) as url:
        with pytest.raises(ConnectionError, match=r"TLS failed .*self-signed certificate"):
            await post(client, url)
    await client.aclose()
