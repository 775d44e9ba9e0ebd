"""JSON-RPC to an EVM node: one question, one checked answer.

Theory of operation. A question is posted; its answer must be JSON of bounded size with the question's number. What the network or the
node gets wrong for a moment, a refused connection, a time-out, half an answer, HTTP 429 or 5xx, is tried again with growing pauses until
patience ends; then it is `SettlementUnavailable`. Questions are such that asking twice does no harm: a signed transaction has one hash.

An answer over a new connection is believed only when the node has told its chain id: a URL that leads to another chain after a restart is
found so.

What a node says in an error is shown, shortened, with only what can be printed. The URL may hold a key, in its path or as a password: only
scheme, host and port are ever shown. Redirections are not followed, and no proxy is taken from the environment.

httpx is imported when a client is made: 0.25 s of a processor, and it is in the extra srwan[settlement].

Source: JSON-RPC 2.0; Ethereum execution API, "JSON-RPC".
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
import trio

from srwan.errors import ConfigError, SettlementUnavailable
from srwan.ledger_client.settlement.signing import Address
from srwan.ledger_client.shallow_json import parse_json

__all__ = ["NodeRefusal", "RpcClient", "bytes_of", "number_of", "to_hex"]

ANSWER_BYTES_MAX = 4 << 20
"""Of one answer: a receipt of 64 claims has 60 kB, a block with 2,000 hashes 140 kB."""
QUESTION_S = 10.0
"""For one attempt, s."""
PATIENCE_S = 30.0
"""For all attempts at one question, s."""
PAUSE_S = 0.1
"""After the first failure, s; doubles up to PAUSE_S_MAX."""
PAUSE_S_MAX = 5.0
MESSAGE_CHARS_MAX = 200
_REMEDY = "check that the node runs and its URL is right; what was sent before stays"
_NUMBER = re.compile("0x[0-9a-fA-F]{1,64}")
_BYTES = re.compile("0x(?:[0-9a-fA-F]{2})*")


@attrs.frozen(slots=True)
class NodeRefusal:
    """The node answered with an error: it understood, and refused."""

    method: str
    """What it was asked."""
    code: int
    """JSON-RPC's number for the kind of error."""
    message: str
    """What it says, shortened and printable."""
    data: object
    """As it came: hexadecimal digits of the contract's reason, or anything."""


class _BadAnswerError(Exception):
    """The answer is no answer; tried again."""


class RpcClient:
    """Questions to one node. May be used by several tasks.

    Args:
        url: http or https.
        chain_id: what the node's must be; None to learn it from the first answer.
        question_s: for one attempt, s.
        patience_s: for all attempts at one question, s.

    Raises:
        ConfigError: the URL is none, or httpx is not installed.
    """

    def __init__(self, url: str, *, chain_id: int | None = None, question_s: float = QUESTION_S, patience_s: float = PATIENCE_S) -> None:
        self.where = _where(url)
        """Scheme, host and port: nothing secret."""
        self.chain_id = chain_id
        """What the node said, once it was asked."""
        self._question_s = question_s
        self._patience_s = patience_s
        self._numbers = itertools.count(1)
        self._is_checked = False
        self._is_closed = False
        self._url = url
        self._headers = _authorization(url)
        http = _import_http()
        self._http = http.HttpClient(http.authorities() if self.where.startswith("https:") else None, connecting=self._doubt)

    def unavailable(self, problem: str, remedy: str = _REMEDY) -> SettlementUnavailable:
        """Return the error that says so of this node."""
        return SettlementUnavailable(self.where, problem, remedy)

    async def ask(self, method: str, *parameters: Any) -> Any:
        """Return what the node answers: a value of JSON, or a `NodeRefusal`.

        Raises:
            SettlementUnavailable: it cannot be reached, answers nonsense, or is of another chain.
            trio.ClosedResourceError: this was closed.
        """
        deadline = trio.current_time() + self._patience_s
        pause_s = PAUSE_S
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("the settlement engine is closed")
            try:
                return await self._ask_checked(method, parameters)
            except (_BadAnswerError, OSError) as error:
                if self._is_closed:
                    raise trio.ClosedResourceError("the settlement engine is closed") from None
                problem = str(error)
                if trio.current_time() + pause_s > deadline:
                    raise self.unavailable(f"{method}: {problem}") from None  # the cause may name the URL
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _ask_checked(self, method: str, parameters: tuple[Any, ...]) -> Any:
        answer = await self._ask_once(method, parameters)
        await self._check_chain()
        return answer

    async def _check_chain(self) -> None:
        if self._is_checked:
            return
        found = number_of(self, "eth_chainId", await self._ask_once("eth_chainId", ()))
        if self.chain_id is None:
            self.chain_id = found
        if found != self.chain_id:
            raise self.unavailable(f"the node is of chain {found}, not {self.chain_id}", "check the URL")
        self._is_checked = True

    async def _ask_once(self, method: str, parameters: tuple[Any, ...]) -> Any:
        number = next(self._numbers)
        question = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}).encode()
        body = bytearray()

        def take(_status: int, part: bytes) -> bool:
            body.extend(part)
            return len(body) <= ANSWER_BYTES_MAX

        try:
            with trio.fail_after(self._question_s):  # httpx's own limit starts again with every byte
                status = await self._http.post(self._url, question, self._headers, take)
        except trio.TooSlowError:
            raise _BadAnswerError(f"no answer within {self._question_s:g} s") from None
        if len(body) > ANSWER_BYTES_MAX:
            raise _BadAnswerError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
        if status == 429 or status >= 500:
            raise _BadAnswerError(f"HTTP {status}")
        return _content(method, number, bytes(body), status)

    def _doubt(self) -> None:
        """There is a new connection: who knows where it leads."""
        self._is_checked = False

    async def aclose(self) -> None:
        """Close it. Closing twice is fine."""
        self._is_closed = True
        await self._http.aclose()


def _where(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError("settlement", "the URL of the node is none", "write it as http://HOST:PORT or https://...")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port else "")


def _import_http() -> Any:
    try:
        from srwan.ledger_client import http_client  # noqa: PLC0415
    except ImportError:
        raise ConfigError("settlement", "httpx is not installed", 'run `pip install "srwan[settlement]"`') from None
    return http_client


def _authorization(url: str) -> dict[str, str]:
    """Return the header for a user and password in the URL (RFC 7617)."""
    parts = urlsplit(url)
    if not parts.username and not parts.password:
        return {}
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"}


def _content(method: str, number: int, body: bytes, status: int) -> Any:
    try:
        answer = parse_json(body)
    except (ValueError, RecursionError):
        raise _BadAnswerError(f"an answer that is no JSON (HTTP {status}, {len(body)} bytes)") from None
    if not isinstance(answer, dict):
        raise _BadAnswerError("an answer that is no JSON-RPC")
    error = answer.get("error")
    if isinstance(error, dict) and answer.get("id") in (number, None):
        code, message = error.get("code"), error.get("message")
        return NodeRefusal(method, code if isinstance(code, int) else 0, shorten(message), error.get("data"))
    if answer.get("id") != number or isinstance(answer.get("id"), bool):
        raise _BadAnswerError("an answer to another question")
    if "result" not in answer:
        raise _BadAnswerError("an answer without a result")
    return answer["result"]


def shorten(message: object) -> str:
    """Return what a node said, as far as it can be shown."""
    text = message if isinstance(message, str) else "without a message"
    return "".join(letter if letter.isprintable() else " " for letter in text[:MESSAGE_CHARS_MAX])


def to_hex(value: int | bytes | None) -> str | None:
    """Return a value as the node wants it: quantities without leading zeros, bytes as they are."""
    if value is None:
        return None
    return hex(value) if isinstance(value, int) else f"0x{value.hex()}"


def number_of(client: RpcClient, what: str, value: object) -> int:
    """Return a quantity of an answer.

    Raises:
        SettlementUnavailable: it is none, or does not fit 256 bits.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value, 16)
    raise client.unavailable(f"{what} is no number", "the node answers nonsense: use another one")


def bytes_of(client: RpcClient, what: str, value: object, length: int | None = None) -> bytes:
    """Return the bytes of an answer.

    Raises:
        SettlementUnavailable: they are none, or not so many.
    """
    if isinstance(value, str) and _BYTES.fullmatch(value) and length in (None, len(value) // 2 - 1):
        return bytes.fromhex(value[2:])
    raise client.unavailable(f"{what} is malformed", "the node answers nonsense: use another one")


def address_of(client: RpcClient, what: str, value: object) -> Address:
    """Return an address of an answer; raises as `bytes_of`."""
    return Address(bytes_of(client, what, value, 20))
