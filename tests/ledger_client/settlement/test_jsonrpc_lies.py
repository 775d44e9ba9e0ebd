"""A node that answers garbage, half answers, too much, something else, or not at all: over real HTTP on loopback."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import pytest
import trio

from srwan.errors import ConfigError, SettlementRefused, SettlementUnavailable
from srwan.ledger_client import http_client
from srwan.ledger_client.contract.artefact import load_artefact
from srwan.ledger_client.settlement.abi import Interface
from srwan.ledger_client.settlement.engine import ContractSettlement
from srwan.ledger_client.settlement.jsonrpc import JsonRpcChain, NodeOptions
from srwan.ledger_client.settlement.rpc import ANSWER_BYTES_MAX, RpcClient, _authorization
from srwan.ledger_client.settlement.signing import Address, WalletKey
from srwan.ledger_client.settlement.transaction import read_transaction

Answer = Callable[[dict[str, Any]], Any]
OPTIONS = NodeOptions(confirmations=1, poll_s=0.02, stuck_s=0.2, patience_s=1.0, question_s=5.0, outage_s=0.35)
CONTRACT = Address(b"\x11" * 20)
KEY = WalletKey(b"\7" * 32)
INTERFACE = Interface(load_artefact().abi)


class Raw(bytes):
    """Sent as it is, in the place of an HTTP answer; then the connection is closed."""


class Hang:
    """No answer."""


def words(*values: int) -> str:
    return "0x" + b"".join(value.to_bytes(32, "big") for value in values).hex()


HONEST: dict[str, Any] = {
    "eth_chainId": "0x5",
    "eth_blockNumber": "0x10",
    "eth_getBlockByNumber": {"number": "0x10", "timestamp": "0x6a1b2c3d", "baseFeePerGas": "0x7"},
    "eth_getTransactionCount": "0x0",
    "eth_maxPriorityFeePerGas": "0x1",
    "eth_gasPrice": "0x9",
    "eth_estimateGas": "0x5208",
    "eth_call": words(5, 6, 7),
    "eth_getCode": "0x00",
}


@attrs.define
class Liar:
    """Answers as `answers` says, and counts what it was asked."""

    answers: dict[str, Any]
    asked: list[dict[str, Any]] = attrs.field(factory=list)
    url: str = ""

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            while part := await stream.receive_some():
                data += part
                head, found, body = data.partition(b"\r\n\r\n")
                if not found or len(body) < int(head.lower().partition(b"content-length:")[2].split()[0]):
                    continue
                data = b""
                question = json.loads(body)
                self.asked.append(question)
                if not await self.answer(stream, question):
                    return

    async def answer(self, stream: trio.SocketStream, question: dict[str, Any]) -> bool:
        answer = self.answers.get(question["method"])
        if callable(answer):
            answer = answer(question)
        if isinstance(answer, Hang):
            await trio.sleep_forever()
        if isinstance(answer, Raw):
            await stream.send_all(answer)
            return False
        if isinstance(answer, bytes):
            body = answer
        else:
            honest = {"jsonrpc": "2.0", "id": question["id"]}
            body = json.dumps(honest | (answer if isinstance(answer, dict) and "error" in answer else {"result": answer})).encode()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return True


@asynccontextmanager
async def node_that(**answers: Any) -> AsyncGenerator[Liar]:
    liar = Liar(HONEST | answers)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve, liar)
        liar.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield liar
        nursery.cancel_scope.cancel()


async def serve(liar: Liar, *, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
    async def handle(stream: trio.SocketStream) -> None:
        try:
            await liar.serve(stream)
        except trio.BrokenResourceError:
            return

    await trio.serve_tcp(handle, 0, host="127.0.0.1", task_status=task_status)


@asynccontextmanager
async def settlement_at(liar: Liar, **options: Any) -> AsyncGenerator[ContractSettlement]:
    chain = await JsonRpcChain.open(liar.url, chain_id=5, options=attrs.evolve(OPTIONS, **options))
    async with ContractSettlement(chain, CONTRACT) as settlement:
        yield settlement


def http(body: bytes, *, length: int | None = None, status: bytes = b"200 OK", more: bytes = b"") -> Raw:
    size = len(body) if length is None else length
    return Raw(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n" % (status, size, more) + body)


NONSENSE: dict[str, tuple[Any, str]] = {
    "nothing": (Raw(b""), "the connection broke"),
    "no HTTP": (Raw(b"\x00\xff garbage \r\n\r\n"), "the connection broke"),
    "half an answer": (http(b'{"jsonrpc": "2.0", "id"', length=500), "the connection broke"),
    "not JSON": (b"<html>502</html>", "no JSON"),
    "not UTF-8": (b"\xff\xfe{}", "no JSON"),
    "half JSON": (b'{"jsonrpc": "2.0", "id": 3, "resu', "no JSON"),
    "nested without end": (b"[" * 100_000, "no JSON"),
    "a number without end": (b'{"id": 1, "result": ' + b"9" * 100_000 + b"}", "no JSON"),
    "a list": (b"[]", "no JSON-RPC"),
    "no result": (b"{}", "another question"),
    "an answer to another question": (b'{"jsonrpc": "2.0", "id": 999999, "result": "0x"}', "another question"),
    "true for a number": (b'{"jsonrpc": "2.0", "id": true, "result": "0x"}', "another question"),
    "too much": (lambda _: b" " * (ANSWER_BYTES_MAX + 1), "more than"),
    "a bomb": (http(b"\x1f\x8b\x08" + bytes(50), more=b"Content-Encoding: gzip\r\n"), "no JSON"),
    "busy": (http(b"", status=b"503 Busy"), "HTTP 503"),
    "too many requests": (http(b"", status=b"429 Slow down"), "HTTP 429"),
    "elsewhere": (http(b"", status=b"302 Found", more=b"Location: http://127.0.0.1:1/\r\n"), "no JSON"),
    "silence": (Hang(), "no answer"),
}


@pytest.mark.parametrize("kind", sorted(NONSENSE))
async def test_nonsense_is_asked_again_and_then_named(kind: str) -> None:
    answer, problem = NONSENSE[kind]
    options = {"question_s": 0.2, "outage_s": 0.6} if kind == "silence" else {}
    async with node_that(eth_call=answer) as liar, settlement_at(liar, **options) as settlement:
        with pytest.raises(SettlementUnavailable, match=rf"127.0.0.1:\d+: eth_call: .*{problem}.*; check that the node runs"):
            await settlement.pools()

        assert 2 <= sum(question["method"] == "eth_call" for question in liar.asked)


async def test_a_moment_of_nonsense_does_no_harm() -> None:
    answers = iter([Raw(b""), b"junk", http(b"", status=b"500 Oops"), words(5, 6, 7)])
    async with node_that(eth_call=lambda _: next(answers)) as liar, settlement_at(liar, outage_s=5.0) as settlement:
        assert 5 == (await settlement.pools()).validators_microtoken


@pytest.mark.parametrize(
    "result", [None, 5, True, [], {}, "", "0x", "0x1", "0xzz", "5", words(1, 2), "0x" + "ff" * 31, "0x 1", "0x1_1" + "0" * 191]
)
async def test_a_result_that_is_no_answer_to_the_call_is_refused(result: Any) -> None:
    async with node_that(eth_call=result) as liar, settlement_at(liar) as settlement:
        with pytest.raises(SettlementUnavailable):
            await settlement.pools()


@pytest.mark.parametrize("value", [0, 1, 2**128 - 1, 2**256 - 1])
async def test_numbers_at_the_ends_of_their_range_are_read(value: int) -> None:
    async with node_that(eth_call=words(value, 0, value)) as liar, settlement_at(liar) as settlement:
        pools = await settlement.pools()
        assert (value, 0, value) == (pools.validators_microtoken, pools.dividend_microtoken, pools.subsidy_microtoken)


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("eth_getTransactionCount", "0x-1"),
        ("eth_getTransactionCount", "-0x1"),
        ("eth_getTransactionCount", "0x" + "f" * 65),
        ("eth_getTransactionCount", 0),
        ("eth_estimateGas", "cheap"),
        ("eth_maxPriorityFeePerGas", ""),
        ("eth_getBlockByNumber", "0x10"),
        ("eth_getBlockByNumber", None),
        ("eth_getBlockByNumber", {"baseFeePerGas": "low"}),
        ("eth_getTransactionReceipt", "done"),
        ("eth_getTransactionReceipt", {}),
        ("eth_getTransactionReceipt", {"logs": [None] * 2_000}),
        ("eth_getTransactionReceipt", {"logs": [], "transactionHash": "0x" + "00" * 32}),
    ],
)
async def test_nonsense_on_the_way_of_a_command_is_named(method: str, result: Any) -> None:
    async with node_that(eth_sendRawTransaction="0x", **{method: result}) as liar, settlement_at(liar) as settlement:
        with pytest.raises(SettlementUnavailable):
            await settlement.deposit(KEY, 1)


@pytest.mark.parametrize("topics", [None, ["0x"], ["0x" + "00" * 32] * 5, [5]])
async def test_a_malformed_event_is_named(topics: Any) -> None:
    def receipt(question: dict[str, Any]) -> Any:
        log = {"address": str(CONTRACT), "topics": topics, "data": "0x"}
        return receipt_of(question["params"][0]) | {"logs": [log]}

    async with node_that(eth_sendRawTransaction="0x", eth_getTransactionReceipt=receipt) as liar, settlement_at(liar) as settlement:
        with pytest.raises(SettlementUnavailable):
            await settlement.deposit(KEY, 1)


def receipt_of(name: str) -> dict[str, Any]:
    return {"transactionHash": name, "blockNumber": "0x10", "status": "0x1", "contractAddress": None, "gasUsed": "0x1", "logs": []}


@pytest.mark.parametrize("has_base_fee", [True, False])
async def test_a_chain_without_base_fees_gets_legacy_transactions(has_base_fee: bool) -> None:
    block = {"number": "0x10", "timestamp": "0x1"} | ({"baseFeePerGas": "0x64"} if has_base_fee else {})
    async with (
        node_that(
            eth_getBlockByNumber=block,
            eth_gasPrice="0x64",
            eth_sendRawTransaction="0x",
            eth_getTransactionReceipt=lambda question: receipt_of(question["params"][0]),
        ) as liar,
        settlement_at(liar) as settlement,
    ):
        await settlement.deposit(KEY, 1)
        (sent,) = [question["params"][0] for question in liar.asked if question["method"] == "eth_sendRawTransaction"]
    signed = read_transaction(bytes.fromhex(sent[2:]))

    assert KEY.address == signed.sender
    assert ((201, 1) if has_base_fee else (125, None)) == (signed.transaction.fee_max_wei, signed.transaction.priority_wei)
    assert 21_000 + 21_000 // 4 + 10_000 == signed.transaction.gas


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"code": 3, "message": "execution reverted: quorum", "data": "0x"}, "quorum"),
        ({"code": -32000, "message": "execution reverted"}, ""),
        ({"code": 3, "message": "execution reverted", "data": {"data": "0x4e487b71" + "00" * 31 + "11"}}, "panic 0x11"),
        ({"code": -32015, "message": "VM Exception: reverted: 'order'", "data": "nonsense"}, "order"),
    ],
)
async def test_a_refusal_is_told_from_an_error_of_the_node_however_it_is_said(error: dict[str, Any], reason: str) -> None:
    async with node_that(eth_estimateGas={"error": error}) as liar, settlement_at(liar) as settlement:
        with pytest.raises(SettlementRefused) as caught:
            await settlement.deposit(KEY, 1)
    assert ("deposit", reason) == (caught.value.operation, caught.value.reason)


@pytest.mark.parametrize("error", [{}, {"code": "x", "message": 5}, {"code": -32601, "message": "no\x1b[31m such\nmethod" + "y" * 5_000}])
async def test_an_error_of_the_node_is_shown_short_and_printable(error: dict[str, Any]) -> None:
    async with node_that(eth_call={"error": error}, eth_estimateGas={"error": error}) as liar, settlement_at(liar) as settlement:
        for command in (settlement.pools(), settlement.deposit(KEY, 1)):
            with pytest.raises(SettlementUnavailable) as caught:
                await command
            assert str(caught.value).isprintable()
            assert 500 > len(str(caught.value))


async def test_a_node_of_another_chain_is_refused_at_once() -> None:
    async with node_that(eth_chainId="0x6") as liar:
        with pytest.raises(SettlementUnavailable, match="the node is of chain 6, not 5; check the URL"):
            async with settlement_at(liar):
                pass


async def test_no_secret_of_the_url_is_ever_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    secrets = ("hunter2", "k3y-in-path", "k3y-in-query")
    async with node_that(eth_call=b"junk") as liar:
        url = liar.url.replace("//", "//me:hunter2@") + "/v3/k3y-in-path?key=k3y-in-query"
        chain = await JsonRpcChain.open(url, chain_id=5, options=OPTIONS)
        async with ContractSettlement(chain, CONTRACT) as settlement:
            with pytest.raises(SettlementUnavailable) as caught:
                await settlement.pools()
    shown = [str(caught.value), repr(caught.value), repr(chain), repr(settlement), chain.where, caplog.text]
    error: BaseException | None = caught.value
    while error is not None:
        shown += [str(error), repr(error)]
        error = error.__cause__
    assert [] == [text for text in shown for secret in secrets if secret in text]


@pytest.mark.parametrize("url", ["", "nothing", "ftp://host/", "http://", "http://[::1", "http://host:99999/", "file:///etc/passwd"])
async def test_a_url_that_is_none_is_a_setting_to_mend(url: str) -> None:
    with pytest.raises(ConfigError, match="write it as http://HOST:PORT"):
        RpcClient(url)


async def test_a_closed_client_stops_asking() -> None:
    asked = trio.Event()

    def hang(_question: dict[str, Any]) -> Hang:
        asked.set()
        return Hang()

    async with (
        node_that(eth_call=hang) as liar,
        settlement_at(liar, question_s=30.0, outage_s=60.0) as settlement,
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await settlement.pools()

        nursery.start_soon(ask)
        await asked.wait()
        await settlement.aclose()


async def test_certificates_are_read_once_and_only_for_https(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ssl.SSLContext] = []
    create = httpx.create_ssl_context

    def counted() -> ssl.SSLContext:
        made.append(create())
        return made[-1]

    monkeypatch.setattr(httpx, "create_ssl_context", counted)
    http_client.authorities.cache_clear()
    try:
        for url, wanted in (("http://127.0.0.1:1", 0), ("https://127.0.0.1:1", 1), ("https://127.0.0.1:2", 1)):
            client = RpcClient(url)
            await client.aclose()
            assert wanted == len(made)
        assert [ssl.CERT_REQUIRED] == [context.verify_mode for context in made]
    finally:
        http_client.authorities.cache_clear()


@pytest.mark.parametrize(
    ("url", "pair"),
    [
        ("//node", None),
        ("//me:secret@node", b"me:secret"),
        ("//me@node:1", b"me:"),
        ("//:a%20b%3A%40@node", b":a b:@"),
        ("//%C3%A9:x@[::1]", b"\xc3\xa9:x"),
    ],
)
def test_user_and_password_of_the_url_become_a_header(url: str, pair: bytes | None) -> None:
    header = _authorization("http:" + url).get("Authorization")
    assert pair == (None if header is None else base64.b64decode(header.removeprefix("Basic "), validate=True))
