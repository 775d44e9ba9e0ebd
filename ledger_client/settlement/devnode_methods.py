"""What the development node answers: the part of the Ethereum JSON-RPC interface that a contract's client needs.

Every method takes the engine and the parameters as they came, which are not trusted: `DecodeError` where they are malformed. Blocks are
asked for by number or by name; all names that nodes know mean the last block, for here each block is final at once. State is that of now,
whatever block is named.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any

import attrs

from srwan.errors import DecodeError
from srwan.ledger_client.settlement.abi import revert_reason
from srwan.ledger_client.settlement.chain import Receipt
from srwan.ledger_client.settlement.evm import GAS_LIMIT, Block, Evm, Executed
from srwan.ledger_client.settlement.pyevm import PyEvmChain
from srwan.ledger_client.settlement.signing import Address
from srwan.ledger_client.settlement.transaction import TRANSACTION_BYTES_MAX

__all__ = ["METHODS", "Failure", "Method"]

_NAMES = {"latest", "pending", "safe", "finalized"}
_NUMBER = re.compile("0x[0-9a-fA-F]{1,16}")
_BYTES = re.compile("0x(?:[0-9a-fA-F]{2})*")
_DIGITS_MAX = 2 * TRANSACTION_BYTES_MAX + 2


@attrs.frozen(slots=True)
class Failure:
    """An answer that is an error."""

    code: int
    """JSON-RPC's number for its kind."""
    message: str
    """What is wrong."""
    data: str
    """What the contract gave back, hexadecimal digits."""


Method = Callable[[PyEvmChain, list[Any]], Awaitable[Any]]


def _bytes(parameters: list[Any], index: int, length: int | None = None) -> bytes:
    value = parameters[index] if index < len(parameters) else None
    return _hex(value, length)


def _hex(value: object, length: int | None = None) -> bytes:
    if isinstance(value, str) and len(value) <= _DIGITS_MAX and _BYTES.fullmatch(value) and length in (None, len(value) // 2 - 1):
        return bytes.fromhex(value[2:])
    raise DecodeError("a parameter is not the bytes it should be")


def _call(parameters: list[Any]) -> tuple[Address | None, Address | None, bytes]:
    """Return sender, contract and data of a call."""
    call = parameters[0] if parameters else None
    if not isinstance(call, dict):
        raise DecodeError("the first parameter is no call")
    sender = None if call.get("from") is None else Address(_hex(call["from"], 20))
    to = None if call.get("to") is None else Address(_hex(call["to"], 20))
    data = call.get("data", call.get("input", "0x"))
    return sender, to, _hex(data)


async def _simulate(chain: PyEvmChain, parameters: list[Any]) -> Executed | Failure:
    done = await chain.simulate(*_call(parameters))
    if done.is_success:
        return done
    return Failure(3, f"execution reverted: {revert_reason(done.output)}", f"0x{done.output.hex()}")


def _block_of(evm: Evm, name: object) -> Block | None:
    if isinstance(name, str):
        if name in _NAMES:
            return evm.head
        if name == "earliest":
            return evm.block(0)
        if _NUMBER.fullmatch(name):
            return evm.block(int(name, 16))
    raise DecodeError("a block is named by a number or a name such as latest")


def _describe_block(block: Block) -> dict[str, Any]:
    return {
        "number": hex(block.number),
        "hash": f"0x{block.hash.hex()}",
        "parentHash": f"0x{block.parent.hex()}",
        "timestamp": hex(block.time_s),
        "gasLimit": hex(GAS_LIMIT),
        "baseFeePerGas": "0x0",
    }


def _place_of(evm: Evm, receipt: Receipt) -> dict[str, Any]:
    block = evm.block(receipt.block_number)
    return {
        "transactionHash": f"0x{receipt.transaction_hash.hex()}",
        "transactionIndex": "0x0",
        "blockNumber": hex(receipt.block_number),
        "blockHash": f"0x{(block.hash if block else bytes(32)).hex()}",
    }


def _describe_logs(evm: Evm, receipt: Receipt) -> list[dict[str, Any]]:
    place = _place_of(evm, receipt)
    return [
        {
            "address": str(log.address),
            "topics": [f"0x{topic.hex()}" for topic in log.topics],
            "data": f"0x{log.data.hex()}",
            "logIndex": hex(index),
            "removed": False,
            **place,
        }
        for index, log in enumerate(receipt.logs)
    ]


def _describe_receipt(evm: Evm, receipt: Receipt, sender: Address, to: Address | None) -> dict[str, Any]:
    return {
        **_place_of(evm, receipt),
        "status": hex(receipt.is_success),
        "from": str(sender),
        "to": None if to is None else str(to),
        "contractAddress": None if receipt.contract is None else str(receipt.contract),
        "gasUsed": hex(receipt.gas_used),
        "cumulativeGasUsed": hex(receipt.gas_used),
        "effectiveGasPrice": "0x0",
        "type": "0x2",
        "logs": _describe_logs(evm, receipt),
    }


async def _chain_id(chain: PyEvmChain, _parameters: list[Any]) -> str:
    return hex(chain.chain_id)


async def _net_version(chain: PyEvmChain, _parameters: list[Any]) -> str:
    return str(chain.chain_id)


async def _client_version(_chain: PyEvmChain, _parameters: list[Any]) -> str:
    return f"srwan/{metadata.version('srwan')}/py-evm"


async def _zero(_chain: PyEvmChain, _parameters: list[Any]) -> str:
    return "0x0"


async def _accounts(_chain: PyEvmChain, _parameters: list[Any]) -> list[str]:
    return []


async def _block_number(chain: PyEvmChain, _parameters: list[Any]) -> str:
    return hex(await chain.run(lambda evm: evm.head.number))


async def _get_block(chain: PyEvmChain, parameters: list[Any]) -> dict[str, Any] | None:
    name = parameters[0] if parameters else "latest"
    block = await chain.run(lambda evm: _block_of(evm, name))
    return None if block is None else _describe_block(block)


async def _count(chain: PyEvmChain, parameters: list[Any]) -> str:
    address = Address(_bytes(parameters, 0, 20))
    return hex(await chain.run(lambda evm: evm.nonce(address)))


async def _get_code(chain: PyEvmChain, parameters: list[Any]) -> str:
    return f"0x{(await chain.code(Address(_bytes(parameters, 0, 20)))).hex()}"


async def _eth_call(chain: PyEvmChain, parameters: list[Any]) -> str | Failure:
    done = await _simulate(chain, parameters)
    return done if isinstance(done, Failure) else f"0x{done.output.hex()}"


async def _estimate(chain: PyEvmChain, parameters: list[Any]) -> str | Failure:
    done = await _simulate(chain, parameters)
    if isinstance(done, Failure):
        return done
    return hex(min(2 * done.gas_used, GAS_LIMIT // 2))  # twice: a refund counts only after the gas was there to be used


async def _send(chain: PyEvmChain, parameters: list[Any]) -> str:
    return f"0x{(await chain.submit(_bytes(parameters, 0))).transaction_hash.hex()}"


async def _get_receipt(chain: PyEvmChain, parameters: list[Any]) -> dict[str, Any] | None:
    name = _bytes(parameters, 0, 32)

    def look(evm: Evm) -> dict[str, Any] | None:
        found = evm.receipt(name)
        return None if found is None else _describe_receipt(evm, found[0], found[1].sender, found[1].transaction.to)

    return await chain.run(look)


async def _get_logs(chain: PyEvmChain, parameters: list[Any]) -> list[dict[str, Any]]:
    asked = parameters[0] if parameters else None
    if not isinstance(asked, dict):
        raise DecodeError("the first parameter is no filter")
    contract = Address(_hex(asked.get("address"), 20))

    def look(evm: Evm) -> list[dict[str, Any]]:
        ends = [_block_number_of(evm, asked.get(name, "latest")) for name in ("fromBlock", "toBlock")]
        return [
            log
            for receipt in evm.receipts()
            if ends[0] <= receipt.block_number <= ends[1]
            for log in _describe_logs(evm, receipt)
            if log["address"] == str(contract)
        ]

    return await chain.run(look)


def _block_number_of(evm: Evm, name: object) -> int:
    block = _block_of(evm, name)
    if block is None:
        raise DecodeError("there is no such block, or it is too long ago")
    return block.number


METHODS: dict[str, Method] = {
    "eth_accounts": _accounts,
    "eth_blockNumber": _block_number,
    "eth_call": _eth_call,
    "eth_chainId": _chain_id,
    "eth_estimateGas": _estimate,
    "eth_gasPrice": _zero,
    "eth_getBalance": _zero,
    "eth_getBlockByNumber": _get_block,
    "eth_getCode": _get_code,
    "eth_getLogs": _get_logs,
    "eth_getTransactionCount": _count,
    "eth_getTransactionReceipt": _get_receipt,
    "eth_maxPriorityFeePerGas": _zero,
    "eth_sendRawTransaction": _send,
    "net_version": _net_version,
    "web3_clientVersion": _client_version,
}
"""What can be asked."""
