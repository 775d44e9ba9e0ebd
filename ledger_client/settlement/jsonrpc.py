"""Settlement on any EVM node over JSON-RPC: a public chain, a consortium's, or a development node.

Theory of operation. Questions go through `rpc.py`, transactions through `submission.py`; this joins them to the contract (`engine.py`).
With an outbox, transactions survive this process: they are on the disk before they are sent, and when the same journal is opened again,
those of the last hour are followed up.

The node is believed: it is the operator's own, or one he pays. What it says must be well-formed and of the right chain, no more is checked.
Gas is paid in the chain's own coin, by the wallet that sends; getting some there is the operator's matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from srwan.ledger_client.settlement.chain import Log, PastLog, Receipt
from srwan.ledger_client.settlement.deploy import Deployment, deploy
from srwan.ledger_client.settlement.engine import ContractSettlement
from srwan.ledger_client.settlement.outbox import Outbox
from srwan.ledger_client.settlement.rpc import RpcClient, address_of, bytes_of, number_of, to_hex
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey
from srwan.ledger_client.settlement.submission import NodeOptions, Submission

__all__ = ["JsonRpcChain", "JsonRpcSettlement", "NodeOptions"]


LOGS_MAX = 10_000
"""Events of the past in one answer: each new block among them costs a question."""
LOGS_BLOCKS = 2_000
"""Blocks asked for at a time: providers refuse more."""


class JsonRpcChain:
    """Implements `Chain` by a node. Made by `open`."""

    def __init__(self, client: RpcClient, options: NodeOptions) -> None:
        self._client = client
        self._submission = Submission(client, options)
        self._outbox: Outbox | None = None

    @classmethod
    async def open(cls, url: str, *, chain_id: int | None = None, options: NodeOptions | None = None, outbox: Path | None = None) -> Self:
        """Reach a node.

        Args:
            url: http or https; may hold a key, which no error shows.
            chain_id: what it must be; None takes the node's.
            options: how to deal with it.
            outbox: a file for transactions on their way; made if there is none. One process at a time.

        Raises:
            SettlementUnavailable: no node, one of another chain, or the outbox cannot be used. ConfigError: the URL is none, or httpx is
                not installed.
        """
        options = options or NodeOptions()
        client = RpcClient(url, chain_id=chain_id, question_s=options.question_s, patience_s=options.outage_s)
        chain = cls(client, options)
        try:
            await chain._submission.head()
            if outbox is not None:
                await chain._open_outbox(outbox)
        except BaseException:
            await chain.aclose()
            raise
        return chain

    async def _open_outbox(self, path: Path) -> None:
        assert self._client.chain_id is not None
        self._outbox = await Outbox.open(path, self._client.chain_id)
        self._submission.restore(self._outbox)

    @property
    def chain_id(self) -> int:
        """See `Chain.chain_id`."""
        assert self._client.chain_id is not None
        return self._client.chain_id

    @property
    def where(self) -> str:
        """See `Chain.where`."""
        return self._client.where

    async def now_s(self) -> int:
        """See `Chain.now_s`: of the last block."""
        block = await self._submission.block("latest")
        return number_of(self._client, "a block's time", block.get("timestamp"))

    async def call(self, to: Address, data: bytes) -> bytes:
        """See `Chain.call`."""
        answer = await self._submission.ask("eth_call", {"to": str(to), "data": to_hex(data)}, "latest")
        return bytes_of(self._client, "the answer to a call", answer)

    async def code(self, address: Address) -> bytes:
        """See `Chain.code`."""
        return bytes_of(self._client, "code", await self._submission.ask("eth_getCode", str(address), "latest"))

    async def past_logs(self, contract: Address, blocks: int) -> list[PastLog]:
        """See `Chain.past_logs`: LOGS_MAX at most, asked for LOGS_BLOCKS blocks at a time, the newest first, as nodes bound an answer."""
        last = await self._submission.head()
        first = max(0, last - blocks + 1)
        found: list[PastLog] = []
        times_s: dict[int, int] = {}
        while last >= first and len(found) < LOGS_MAX:
            start = max(first, last - LOGS_BLOCKS + 1)
            answer = await self._submission.ask(
                "eth_getLogs", {"address": str(contract), "fromBlock": to_hex(start), "toBlock": to_hex(last)}
            )
            if not isinstance(answer, list):
                raise self._client.unavailable("its logs are no list", "the node answers nonsense: use another one")
            found = [await self._past_log(each, times_s) for each in answer[-LOGS_MAX:]] + found
            last = start - 1
        return found[-LOGS_MAX:]

    async def _past_log(self, answer: Any, times_s: dict[int, int]) -> PastLog:
        if not isinstance(answer, Mapping) or not isinstance(topics := answer.get("topics"), list) or len(topics) > 4:
            raise self._client.unavailable("a log is malformed", "the node answers nonsense: use another one")
        number = number_of(self._client, "a log's block", answer.get("blockNumber"))
        if number not in times_s:
            block = await self._submission.block(hex(number))
            times_s[number] = number_of(self._client, "a block's time", block.get("timestamp"))
        log = Log(
            address_of(self._client, "a log's contract", answer.get("address")),
            tuple(bytes_of(self._client, "a log's topic", topic, 32) for topic in topics),
            bytes_of(self._client, "a log's data", answer.get("data")),
        )
        return PastLog(number, times_s[number], log)

    async def execute(self, key: WalletKey, to: Address | None, data: bytes) -> Receipt:
        """See `Chain.execute`."""
        return await self._submission.execute(key, to, data)

    async def aclose(self) -> None:
        """See `Chain.aclose`."""
        await self._client.aclose()
        if self._outbox is not None:
            await self._outbox.aclose()


class JsonRpcSettlement(ContractSettlement):
    """Implements `Settlement` by a node. Made by `open` or `deploy`."""

    @classmethod
    async def open(
        cls, url: str, domain: SettlementDomain, *, options: NodeOptions | None = None, outbox: Path | None = None
    ) -> JsonRpcSettlement:
        """Reach the contract on a node; the arguments are those of `JsonRpcChain.open`.

        Raises:
            SettlementUnavailable: no node, one of another chain, or no settlement contract there. ConfigError: as `JsonRpcChain.open`.
        """
        chain = await JsonRpcChain.open(url, chain_id=domain.chain_id, options=options, outbox=outbox)
        settlement = cls(chain, domain.contract)
        try:
            await settlement.check()
        except BaseException:
            await settlement.aclose()
            raise
        return settlement

    @classmethod
    async def deploy(
        cls, url: str, key: WalletKey, deployment: Deployment, *, options: NodeOptions | None = None, outbox: Path | None = None
    ) -> JsonRpcSettlement:
        """Put the contract on the node's chain and hand out what `deployment.genesis` says.

        Raises:
            SettlementRefused: not with these parameters. SettlementUnavailable, ConfigError: as `JsonRpcChain.open`, or the deployer
                cannot pay for gas.
        """
        chain = await JsonRpcChain.open(url, options=options, outbox=outbox)
        try:
            domain = await deploy(chain, key, deployment)
        except BaseException:
            await chain.aclose()
            raise
        return cls(chain, domain.contract)
