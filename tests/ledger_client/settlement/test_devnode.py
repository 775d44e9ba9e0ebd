"""The development node: what it answers, what it refuses, and several clients at once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import attrs
import httpx
import pytest
import trio

from srwan.errors import SettlementUnavailable
from srwan.ledger_client.contract.artefact import load_artefact
from srwan.ledger_client.settlement.abi import Interface
from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.devnode import CONNECTIONS_MAX, REQUEST_BYTES_MAX, DevNode, open_devnode
from srwan.ledger_client.settlement.jsonrpc import JsonRpcSettlement, NodeOptions
from srwan.ledger_client.settlement.pyevm import EMBEDDED_CHAIN_ID, PyEvmSettlement
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.ledger_client.settlement.transaction import Transaction, sign_transaction

INTERFACE = Interface(load_artefact().abi)
FUNDS = 10**12


@attrs.frozen
class Served:
    node: DevNode
    engine: PyEvmSettlement
    http: httpx.AsyncClient

    async def ask(self, method: object, parameters: object = (), **changes: Any) -> dict[str, Any]:
        answer = await self.http.post("/", json={"jsonrpc": "2.0", "id": 7, "method": method, "params": parameters} | changes)
        assert 200 == answer.status_code
        return dict(answer.json())


@pytest.fixture
async def served(deployer: WalletKey, deployment: Deployment, clock: Any) -> AsyncGenerator[Served]:
    async with (
        await PyEvmSettlement.deploy(None, deployer, deployment, clock_s=clock) as engine,
        open_devnode(engine.chain) as node,
        httpx.AsyncClient(base_url=node.url, trust_env=False, verify=False) as http,
    ):
        yield Served(node, engine, http)


async def test_it_answers_what_tools_ask_first(served: Served) -> None:
    assert hex(EMBEDDED_CHAIN_ID) == (await served.ask("eth_chainId"))["result"]
    assert str(EMBEDDED_CHAIN_ID) == (await served.ask("net_version"))["result"]
    assert "0x2" == (await served.ask("eth_blockNumber"))["result"]
    assert "0x0" == (await served.ask("eth_gasPrice"))["result"]
    block = (await served.ask("eth_getBlockByNumber", ["0x1", False]))["result"]
    latest = (await served.ask("eth_getBlockByNumber", ["finalized", False]))["result"]
    assert ("0x1", "0x2", block["hash"]) == (block["number"], latest["number"], latest["parentHash"])
    assert (await served.ask("eth_getBlockByNumber", ["0x99", False]))["result"] is None
    assert (await served.ask("eth_getTransactionReceipt", ["0x" + "11" * 32]))["result"] is None
    assert load_artefact().matches(await served.engine.chain.code(served.engine.domain.contract))


async def test_a_refused_transaction_is_taken_uses_its_nonce_and_says_why(served: Served, consumer: WalletKey) -> None:
    data = INTERFACE.encode_call("deposit", FUNDS + 1)
    signed = sign_transaction(consumer, Transaction(EMBEDDED_CHAIN_ID, 0, served.engine.domain.contract, data, 200_000, 0, 0))
    name = (await served.ask("eth_sendRawTransaction", [f"0x{signed.raw.hex()}"]))["result"]

    assert f"0x{signed.hash.hex()}" == name
    assert "0x0" == (await served.ask("eth_getTransactionReceipt", [name]))["result"]["status"]
    assert "0x1" == (await served.ask("eth_getTransactionCount", [str(consumer.address), "latest"]))["result"]
    call = {"from": str(consumer.address), "to": str(served.engine.domain.contract), "data": f"0x{data.hex()}"}
    for method in ("eth_call", "eth_estimateGas"):
        error = (await served.ask(method, [call]))["error"]
        assert (3, "execution reverted: balance") == (error["code"], error["message"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nonce": 1}, "nonce too high"),
        ({"chain_id": 1}, "for chain 1"),
        ({"gas": 10**9}, "exceeds block gas limit"),
        ({"gas": 100}, "not taken"),
        ({"fee_max_wei": 1}, "insufficient funds"),
    ],
)
async def test_a_transaction_that_cannot_be_taken_changes_nothing(
    served: Served, consumer: WalletKey, changes: dict[str, Any], words: str
) -> None:
    data = INTERFACE.encode_call("deposit", 5)
    made = Transaction(EMBEDDED_CHAIN_ID, 0, served.engine.domain.contract, data, 200_000, 0, 0)
    signed = sign_transaction(consumer, attrs.evolve(made, **changes))

    assert words in (await served.ask("eth_sendRawTransaction", [f"0x{signed.raw.hex()}"]))["error"]["message"]
    good = f"0x{sign_transaction(consumer, made).raw.hex()}"
    assert "result" in await served.ask("eth_sendRawTransaction", [good])
    assert "nonce too low" in (await served.ask("eth_sendRawTransaction", [good]))["error"]["message"]
    assert 5 == (await served.engine.account(consumer.address)).escrow_microtoken


@pytest.mark.parametrize("method", ["eth_sendTransaction", "eth_sign", "anvil_setBalance", "", None, 5, ["eth_chainId"], "__class__"])
async def test_there_are_no_other_methods(served: Served, method: object) -> None:
    assert -32601 == (await served.ask(method))["error"]["code"]


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("eth_getCode", []),
        ("eth_getCode", ["0x12"]),
        ("eth_getCode", [5]),
        ("eth_getTransactionCount", ["0x" + "zz" * 20]),
        ("eth_getTransactionReceipt", [None]),
        ("eth_getBlockByNumber", ["soon"]),
        ("eth_getBlockByNumber", ["0x" + "f" * 40]),
        ("eth_getBlockByNumber", [[]]),
        ("eth_getBlockByNumber", [{}]),
        ("eth_call", []),
        ("eth_call", ["0x"]),
        ("eth_call", [{"to": 5}]),
        ("eth_call", [{"data": 5}]),
        ("eth_estimateGas", [{"from": "0x1"}]),
        ("eth_sendRawTransaction", ["0x"]),
        ("eth_sendRawTransaction", ["0x02c0"]),
        ("eth_sendRawTransaction", ["0x" + "ff" * 100_000]),
    ],
)
async def test_malformed_parameters_get_an_error_and_the_connection_lives_on(served: Served, method: str, parameters: list[Any]) -> None:
    assert "error" in await served.ask(method, parameters)
    assert "0x2" == (await served.ask("eth_blockNumber"))["result"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"5", b'"x"', b"[" * 100_000, b"\xff\xfe", b'{"id": null, "method": "a"}', b'{"id": {}, "method": 5}'],
)
async def test_a_body_that_is_no_request_gets_an_error(served: Served, body: bytes) -> None:
    answer = await served.http.post("/", content=body, headers={"content-type": "application/json"})

    assert "error" in answer.json()


async def test_pages_in_a_browser_cannot_use_it(served: Served) -> None:
    question = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []})
    json_type = {"content-type": "application/json"}

    assert 403 == (await served.http.post("/", content=question, headers={"content-type": "text/plain"})).status_code
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8545", "127.evil.example", "localhost:", "[::1].evil"):
        assert 403 == (await served.http.post("/", content=question, headers=json_type | {"host": host})).status_code
    for host in ("localhost", "LOCALHOST:8545", "127.0.0.1", "[::1]:1"):
        assert 200 == (await served.http.post("/", content=question, headers=json_type | {"host": host})).status_code
    assert 405 == (await served.http.get("/", headers=json_type)).status_code


async def test_a_request_that_is_too_large_or_no_http_ends_its_connection_only(served: Served) -> None:
    answer = await served.http.post("/", content=b" " * (REQUEST_BYTES_MAX + 1), headers={"content-type": "application/json"})
    assert 413 == answer.status_code
    port = int(served.node.url.rpartition(":")[2])
    for nonsense in (b"\x00" * 100_000, b"GET / HTTP/9\r\n\r\n", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab"):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(nonsense)
            if not nonsense.startswith(b"POST"):
                with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
                    while await stream.receive_some():
                        pass
    assert "0x2" == (await served.ask("eth_blockNumber"))["result"]


async def test_connections_are_bounded_and_free_again(served: Served) -> None:
    port = int(served.node.url.rpartition(":")[2])
    await served.ask("eth_blockNumber")
    streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
    with trio.fail_after(5):
        assert b"" == await streams[-1].receive_some()  # one too many
    for stream in streams:
        await stream.aclose()
    with trio.fail_after(5):
        while True:
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                if await stream.receive_some():
                    return


async def test_several_clients_share_one_chain(served: Served, deployer: WalletKey, consumer: WalletKey) -> None:
    options = NodeOptions(poll_s=0.05)
    clients = [await JsonRpcSettlement.open(served.node.url, served.engine.domain, options=options) for _ in range(3)]
    async with trio.open_nursery() as nursery:
        for number, client in enumerate(clients):
            nursery.start_soon(client.transfer, (deployer, consumer)[number % 2], clients[0].domain.contract, 10**number)
        nursery.start_soon(served.engine.deposit, consumer, 5)
    for client in clients:
        assert 111 == (await client.account(clients[0].domain.contract)).balance_microtoken
        assert 5 == (await client.account(consumer.address)).escrow_microtoken
        await client.aclose()


async def test_it_listens_on_loopback_only_and_its_end_is_noticed(served: Served) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.example.org"):
        with pytest.raises(ValueError, match="loopback"):
            async with open_devnode(served.engine.chain, host=host):
                pass
    options = NodeOptions(outage_s=0.3)
    async with open_devnode(served.engine.chain) as node:
        client = await JsonRpcSettlement.open(node.url, served.engine.domain, options=options)
        assert FUNDS < await client.supply()
    with pytest.raises(SettlementUnavailable, match="the node cannot be reached"):
        await client.supply()
    await client.aclose()


async def test_a_closed_engine_is_an_error_of_the_node(served: Served) -> None:
    await served.engine.aclose()

    assert -32603 == (await served.ask("eth_blockNumber"))["error"]["code"]
