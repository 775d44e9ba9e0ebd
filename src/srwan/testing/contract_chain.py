"""The settlement contract on a bare EVM, for tests and measurements: one call, one transaction, at whatever time the caller says.

What it is not: a chain (no blocks, no fees, no signatures of transactions) and not a settlement engine; those are in
`srwan.ledger_client.settlement`. It is the py-evm interpreter with its state in memory, so a transaction costs 1-2 ms, time goes where a
test wants it and the whole state can be put back to an earlier one. Gas is that of a transaction of the Prague fork, calldata and refunds
included.

Needs the extra `srwan[settlement]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from eth.chains.base import MiningChain
from eth.constants import CREATE_CONTRACT_ADDRESS
from eth.db.atomic import AtomicDB
from eth.exceptions import Revert
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.prague import PragueVM
from eth.vm.message import Message
from eth.vm.spoof import SpoofTransaction
from eth_abi.abi import decode, encode

from srwan.errors import SettlementRefused
from srwan.ledger_client.contract.artefact import Artefact, load_artefact
from srwan.ledger_client.settlement.settlement import Claim
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, keccak256
from srwan.ledger_client.settlement.terms import PathTerms

__all__ = ["CHAIN_ID", "ContractChain", "Event", "Receipt", "claim_argument", "signature_argument", "terms_argument"]

CHAIN_ID = 131277322940537
GENESIS_S = 1_780_000_000
GAS_LIMIT = 30_000_000
_NOBODY: Any = bytes(20)
_ERROR = keccak256(b"Error(string)")[:4]


@attrs.frozen(slots=True)
class Event:
    """One log entry of the contract."""

    name: str
    values: Mapping[str, Any]
    """By the names of the ABI; addresses as `Address`."""


@attrs.frozen(slots=True)
class Receipt:
    """What a transaction did."""

    gas: int
    """Gas used, after refunds."""
    output: Any
    """What the function returned; a tuple if several values."""
    events: tuple[Event, ...]

    def only(self, name: str) -> list[Mapping[str, Any]]:
        """Return the values of the events of one name, in order."""
        return [event.values for event in self.events if event.name == name]


def terms_argument(terms: PathTerms) -> tuple[Any, ...]:
    """Return terms as the ABI wants them."""
    return (terms.consumer, list(terms.payees), list(terms.prices_microtoken), terms.cap_microtoken, terms.expires_s, terms.plan)


def signature_argument(signature: bytes) -> tuple[int, bytes, bytes]:
    """Return a signature of 65 B as v, r, s."""
    return signature[64], signature[:32], signature[32:64]


def claim_argument(claim: Claim) -> tuple[Any, ...]:
    """Return a claim as the ABI wants it."""
    ticket = claim.ticket
    return (terms_argument(claim.terms), ticket.octets, ticket.amount_microtoken, *signature_argument(ticket.signature))


class ContractChain:
    """One deployed settlement contract.

    Args:
        deployer: who gets the supply less the subsidy.
        arguments: of the constructor, in the order of the ABI.
        artefact: the contract; as shipped by default.
        now_s: chain time of the deployment, s since 1970.
        chain_id: EIP-155.

    Raises:
        SettlementRefused: the constructor refused its arguments.
    """

    def __init__(
        self,
        deployer: Address,
        arguments: Sequence[Any],
        *,
        artefact: Artefact | None = None,
        now_s: int = GENESIS_S,
        chain_id: int = CHAIN_ID,
    ) -> None:
        self._artefact = artefact or load_artefact()
        self.now_s = now_s
        """Chain time of the next transaction, s since 1970."""
        self.chain_id = chain_id
        self._functions = {entry["name"]: entry for entry in self._artefact.abi if entry["type"] == "function"}
        self._events = {_topic(entry): entry for entry in self._artefact.abi if entry["type"] == "event"}
        self._selectors = {name: keccak256(_signature(entry).encode())[:4] for name, entry in self._functions.items()}
        self._database = AtomicDB()
        self._state = _empty_state(self._database)
        (constructor,) = [entry for entry in self._artefact.abi if entry["type"] == "constructor"]
        data = self._artefact.bytecode + encode([_type(field) for field in constructor["inputs"]], list(arguments))
        receipt, computation = self._apply(deployer, CREATE_CONTRACT_ADDRESS, data, "the deployment")
        self.address: Any = Address(computation.msg.storage_address)
        self.deployment = receipt

    @property
    def domain(self) -> SettlementDomain:
        """What signatures must be made for."""
        return SettlementDomain(self.chain_id, self.address)

    @property
    def code(self) -> bytes:
        """The code as deployed."""
        return bytes(self._state.get_code(self.address))

    def send(self, sender: Address, function: str, *arguments: Any) -> Receipt:
        """Execute a function as a transaction.

        Raises:
            SettlementRefused: the contract refused; nothing changed.
        """
        return self._apply(sender, self.address, self.encode(function, arguments), function)[0]

    def call(self, function: str, *arguments: Any) -> Any:
        """Return what a function returns, and undo what it did.

        Raises:
            SettlementRefused: the contract refused.
        """
        state = self._state
        state.execution_context = _context(self.now_s, self.chain_id)
        checkpoint = state.snapshot()
        try:
            message = Message(GAS_LIMIT, self.address, _NOBODY, 0, self.encode(function, arguments), self.code)
            context = state.get_transaction_context_class()(gas_price=1, origin=_NOBODY)
            computation = state.computation_class.apply_message(state, message, context)
            if computation.is_error:
                raise SettlementRefused(function, _reason(computation))
            return self._output(function, computation.output)
        finally:
            state.revert(checkpoint)

    def encode(self, function: str, arguments: Sequence[Any]) -> bytes:
        """Return the calldata of a call."""
        entry = self._functions[function]
        return self._selectors[function] + encode([_type(field) for field in entry["inputs"]], list(arguments))

    def snapshot(self) -> tuple[int, bytes]:
        """Return a handle of the state as it is, time included. Cost: 2 ms."""
        self._state.persist()
        return self.now_s, self._state.state_root

    def revert(self, snapshot: tuple[int, bytes]) -> None:
        """Put the state back; any snapshot may be returned to, any number of times."""
        self.now_s, root = snapshot
        state = self._state
        self._state = type(state)(self._database, state.execution_context, root)

    def _apply(self, sender: Address, to: bytes, data: bytes, operation: str) -> tuple[Receipt, Any]:
        self._state.set_balance(sender, 2 * GAS_LIMIT)
        self._state.lock_changes()
        computation = self._execute(sender, to, data, operation)
        gas = 2 * GAS_LIMIT - self._state.get_balance(sender)
        self._state.lock_changes()
        events = tuple(self._event(topics, log) for _, topics, log in computation.get_log_entries())
        return Receipt(gas, self._output(operation, computation.output), events), computation

    def _execute(self, sender: bytes, to: bytes, data: bytes, operation: str) -> Any:
        state = self._state
        state.execution_context = _context(self.now_s, self.chain_id)
        made = dict[str, Any](nonce=state.get_nonce(sender), gas_price=1, gas=GAS_LIMIT, to=to, value=0, data=data)
        computation = state.apply_transaction(SpoofTransaction(PragueVM.create_unsigned_transaction(**made), from_=sender))
        if computation.is_error:
            raise SettlementRefused(operation, _reason(computation))
        return computation

    def _output(self, function: str, output: bytes) -> Any:
        if function not in self._functions:
            return None
        fields = self._functions[function]["outputs"]
        values = _named(fields, decode([_type(field) for field in fields], output))
        return values[0] if len(values) == 1 else tuple(values) or None

    def _event(self, topics: Sequence[int], log: bytes) -> Event:
        entry = self._events[topics[0]]
        indexed = [field for field in entry["inputs"] if field["indexed"]]
        plain = [field for field in entry["inputs"] if not field["indexed"]]
        words = [decode([_type(field)], topic.to_bytes(32, "big"))[0] for field, topic in zip(indexed, topics[1:], strict=True)]
        values = dict(zip([field["name"] for field in indexed], _named(indexed, words), strict=True))
        values |= zip([field["name"] for field in plain], _named(plain, decode([_type(field) for field in plain], log)), strict=True)
        return Event(entry["name"], values)


def _empty_state(database: AtomicDB) -> Any:
    """Return the state of a chain on which nothing ever happened."""
    chain_class = MiningChain.configure(__name__="ContractChain", vm_configuration=((0, PragueVM),), chain_id=CHAIN_ID)
    chain = chain_class.from_genesis(database, {"timestamp": 1, "difficulty": 0, "gas_limit": GAS_LIMIT}, {})
    return chain.get_vm().state


def _context(now_s: int, chain_id: int) -> ExecutionContext:
    """Return the block in which a transaction finds itself."""
    nothing: Any = bytes(32)
    number: Any = 1
    return ExecutionContext(_NOBODY, now_s, number, 0, nothing, GAS_LIMIT, (), chain_id, base_fee_per_gas=1, excess_blob_gas=0)


def _type(field: Mapping[str, Any]) -> str:
    if field["type"].startswith("tuple"):
        parts = ",".join(_type(part) for part in field["components"])
        return f"({parts}){str(field['type']).removeprefix('tuple')}"
    return str(field["type"])


def _signature(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']}({','.join(_type(field) for field in entry['inputs'])})"


def _topic(entry: Mapping[str, Any]) -> int:
    return int.from_bytes(keccak256(_signature(entry).encode()), "big")


def _named(fields: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> list[Any]:
    """Turn what eth-abi decodes (addresses as hexadecimal text) into our types."""
    made: list[Any] = []
    for field, value in zip(fields, values, strict=True):
        if field["type"] == "address":
            made.append(Address.parse(value))
        elif field["type"] == "address[]":
            made.append(tuple(map(Address.parse, value)))
        else:
            made.append(value)
    return made


def _reason(computation: Any) -> str:
    """Return the contract's word for a refusal; the interpreter's where the contract said nothing."""
    output = bytes(computation.output)
    if output[:4] == _ERROR:
        return str(decode(["string"], output[4:])[0])
    return "" if isinstance(computation.error, Revert) else type(computation.error).__name__
