"""Settlement by the contract, on whatever chain: what is common to the embedded engine and to a node over JSON-RPC.

Theory of operation. A query is a call of one of the contract's views. A command is a transaction, of which the chain says when it is
taken for good; what it gave is read from the contract's events. Validators' signatures are brought into the order that the contract
asks for, and what the contract refuses becomes `SettlementRefused` with its word.

Not here: how a transaction gets into a chain (`pyevm.py`, `jsonrpc.py`), how the contract is put there (`deploy.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import trio

from srwan.errors import BadSignature, DecodeError, SettlementRefused, SettlementUnavailable
from srwan.ledger_client.contract.artefact import load_artefact
from srwan.ledger_client.settlement.abi import Interface
from srwan.ledger_client.settlement.chain import Chain, Receipt
from srwan.ledger_client.settlement.history import ContractEvent, happened_to
from srwan.ledger_client.settlement.settlement import (
    CLAIMS_MAX,
    VALIDATORS_MAX,
    Account,
    Claim,
    Pools,
    SessionState,
    Settled,
    ValidatorSet,
    batch_digest,
    binding_digest,
    overturn_digest,
    validator_change_digest,
)
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey, recover
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.types import NodeId

__all__ = ["ContractSettlement"]

_NOBODY = Address(bytes(20))


class ContractSettlement:
    """Implements `Settlement` on a chain. Use it as an async context manager, or close it with `aclose`.

    Args:
        chain: a way to the chain; closed with this.
        contract: where the contract is.
    """

    def __init__(self, chain: Chain, contract: Address) -> None:
        self._chain = chain
        self._domain = SettlementDomain(chain.chain_id, contract)
        self._interface = Interface(load_artefact().abi)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    @property
    def domain(self) -> SettlementDomain:
        """See `Settlement.domain`."""
        return self._domain

    async def check(self) -> None:
        """Return if there is a settlement contract where it should be.

        Raises:
            SettlementUnavailable: there is none, or something else.
        """
        code = await self._chain.code(self._domain.contract)
        if not code:
            raise self._lost()
        if not load_artefact().matches(code):
            raise SettlementUnavailable(
                self._chain.where,
                f"the contract at {self._domain.contract} is not this version's settlement contract",
                "check its address, or use the srwan that deployed it",
            )

    def _lost(self) -> SettlementUnavailable:
        return SettlementUnavailable(
            self._chain.where,
            f"there is no settlement contract at {self._domain.contract} on chain {self._domain.chain_id}",
            "check contract and URL; a development node that was restarted without its state has lost it: deploy again",
        )

    # ---- queries

    async def _query(self, name: str, *values: Any) -> tuple[Any, ...]:
        try:
            data = await self._chain.call(self._domain.contract, self._interface.encode_call(name, *values))
            return self._interface.decode_result(name, data) if data else await self._refuse_nothing()
        except DecodeError as error:
            raise SettlementUnavailable(
                self._chain.where, f"the answer to {name} is malformed ({error})", "check that the contract is srwan's"
            ) from error
        except SettlementRefused as error:
            raise SettlementRefused(name, error.reason) from None

    async def _refuse_nothing(self) -> tuple[Any, ...]:
        raise self._lost()

    async def now_s(self) -> int:
        """See `Settlement.now_s`."""
        return await self._chain.now_s()

    async def account(self, address: Address) -> Account:
        """See `Settlement.account`."""
        balance, escrow, withdrawing, withdraw_at, vote, votes = await self._query("account", address)
        return Account(balance, escrow, withdrawing, withdraw_at, _somebody(vote), votes)

    async def locked(self, address: Address, period: int) -> int:
        """See `Settlement.locked`."""
        return int((await self._query("locked", address, period))[0])

    async def locked_fees(self, period: int) -> int:
        """Return the fees of a period that were not collected, microtokens."""
        return int((await self._query("lockedFees", period))[0])

    async def period(self) -> int:
        """See `Settlement.period`."""
        return int((await self._query("period"))[0])

    async def window_s(self) -> int:
        """Return the length of a period, s."""
        return int((await self._query("windowS"))[0])

    async def session(self, session_id: bytes) -> SessionState | None:
        """See `Settlement.session`."""
        reserve, settled, opened_s = await self._query("session", session_id)
        return SessionState(reserve, settled, opened_s) if opened_s else None

    async def wallet_of(self, node: NodeId) -> Address | None:
        """See `Settlement.wallet_of`."""
        return _somebody((await self._query("walletOf", node))[0])

    async def binding_sequence(self, node: NodeId) -> int:
        """Return the sequence of a router's binding; the next must be greater. 0 if it has none."""
        return int((await self._query("bindingSequence", node))[0])

    async def validators(self) -> ValidatorSet:
        """See `Settlement.validators`."""
        addresses, quorum, nonce = await self._query("validatorSet")
        return ValidatorSet(addresses, quorum, nonce)

    async def pools(self) -> Pools:
        """See `Settlement.pools`."""
        return Pools(*await self._query("pools"))

    async def fee_bps(self) -> int:
        """See `Settlement.fee_bps`."""
        return int((await self._query("feeBps"))[0])

    async def supply(self) -> int:
        """See `Settlement.supply`."""
        return int((await self._query("supply"))[0])

    async def seats(self) -> tuple[Address, ...]:
        """Return who shares the dividend, in no particular order."""
        return tuple((await self._query("seats"))[0])

    async def history(self, wallet: Address, *, blocks: int = 100_000) -> list[ContractEvent]:
        """Return what happened to a wallet in the last blocks, oldest first; see `history.happened_to`."""
        events: list[ContractEvent] = []
        for past in await self._chain.past_logs(self._domain.contract, blocks):
            try:
                decoded = self._interface.decode_event(past.log.topics, past.log.data)
            except DecodeError as error:
                raise SettlementUnavailable(
                    self._chain.where, f"an event is malformed ({error})", "check that the contract is srwan's"
                ) from error
            if decoded is not None:
                events.append(ContractEvent(past.block_number, past.time_s, *decoded))
        return happened_to(wallet, events)

    # ---- commands

    async def _command(self, key: WalletKey, name: str, *values: Any) -> list[tuple[str, dict[str, Any]]]:
        """Have a call taken for good, and return the contract's events."""
        try:
            data = self._interface.encode_call(name, *values)
        except ValueError as error:
            raise SettlementRefused(name, f"cannot be said to the contract: {error}") from None
        try:
            receipt = await self._chain.execute(key, self._domain.contract, data)
        except SettlementRefused as error:
            raise SettlementRefused(name, error.reason) from None
        return self._events(name, receipt)

    def _events(self, name: str, receipt: Receipt) -> list[tuple[str, dict[str, Any]]]:
        try:
            decoded = [self._interface.decode_event(log.topics, log.data) for log in receipt.logs if log.address == self._domain.contract]
        except DecodeError as error:
            raise SettlementUnavailable(
                self._chain.where, f"an event of {name} is malformed ({error})", "check that the contract is srwan's"
            ) from error
        return [event for event in decoded if event is not None]

    async def _amount(self, event: str, field: str, key: WalletKey, name: str, *values: Any) -> int:
        """Have a call taken for good, and return the sum of a field of one kind of event."""
        return sum(fields[field] for kind, fields in await self._command(key, name, *values) if kind == event)

    async def transfer(self, key: WalletKey, to: Address, amount_microtoken: int) -> None:
        """See `Settlement.transfer`."""
        await self._command(key, "transfer", to, amount_microtoken)

    async def deposit(self, key: WalletKey, amount_microtoken: int) -> None:
        """See `Settlement.deposit`."""
        await self._command(key, "deposit", amount_microtoken)

    async def request_withdraw(self, key: WalletKey, amount_microtoken: int) -> None:
        """See `Settlement.request_withdraw`."""
        await self._command(key, "request_withdraw", amount_microtoken)

    async def withdraw(self, key: WalletKey) -> int:
        """See `Settlement.withdraw`."""
        return await self._amount("Withdrawn", "amount", key, "withdraw")

    async def open_session(self, key: WalletKey, terms: PathTerms) -> None:
        """See `Settlement.open_session`. One that is open already costs no transaction."""
        if await self.session(terms.session_id) is None:
            await self._command(key, "open_session", _plain_terms(terms))

    async def close_session(self, key: WalletKey, terms: PathTerms) -> int:
        """See `Settlement.close_session`."""
        return await self._amount("SessionClosed", "returned", key, "close_session", _plain_terms(terms))

    async def settle(self, key: WalletKey, claims: Sequence[Claim], signatures: Sequence[bytes]) -> tuple[Settled, ...]:
        """See `Settlement.settle`.

        Raises:
            ValueError: no claim, or more than CLAIMS_MAX.
        """
        if not 1 <= len(claims) <= CLAIMS_MAX:
            raise ValueError(f"a batch has 1..{CLAIMS_MAX} claims, not {len(claims)}")
        plain = [
            (_plain_terms(claim.terms), claim.ticket.octets, claim.ticket.amount_microtoken, *_plain_signature(claim.ticket.signature))
            for claim in claims
        ]
        quorum = _in_order("settle", batch_digest(self._domain, claims), signatures)
        events = await self._command(key, "settle", plain, quorum)
        paid: dict[bytes, tuple[int, int]] = {}
        for kind, fields in events:
            if kind == "Settled":
                before, fee_before = paid.get(fields["session"], (0, 0))
                paid[fields["session"]] = (before + fields["paid"], fee_before + fields["fee"])
        # A session that comes twice in a batch is paid for once: what it got is named at its first claim.
        return tuple(Settled(claim.ticket.session, *paid.pop(claim.ticket.session, (0, 0))) for claim in claims)

    async def overturn(self, key: WalletKey, terms: PathTerms, keep_microtoken: int, evidence: bytes, signatures: Sequence[bytes]) -> int:
        """See `Settlement.overturn`."""
        held = await self.session(terms.session_id)
        if held is None:
            raise SettlementRefused("overturn", "closed")
        digest = overturn_digest(self._domain, terms.session_id, held.settled_microtoken, keep_microtoken, evidence)
        quorum = _in_order("overturn", digest, signatures)
        return await self._amount("Overturned", "returned", key, "overturn", _plain_terms(terms), keep_microtoken, evidence, quorum)

    async def bind(
        self, key: WalletKey, node: NodeId, wallet: Address, sequence: int, wallet_signature: bytes, signatures: Sequence[bytes]
    ) -> None:
        """See `Settlement.bind`."""
        quorum = _in_order("bind", binding_digest(self._domain, node, wallet, sequence), signatures)
        await self._command(key, "bind", node, wallet, sequence, _plain_signature(wallet_signature), quorum)

    async def collect(self, key: WalletKey, address: Address, period: int) -> int:
        """See `Settlement.collect`."""
        return await self._amount("Collected", "amount", key, "collect", address, period)

    async def collect_fees(self, key: WalletKey, period: int) -> int:
        """See `Settlement.collect_fees`."""
        return await self._amount("FeesCollected", "amount", key, "collect_fees", period)

    async def release_subsidy(self, key: WalletKey) -> int:
        """See `Settlement.release_subsidy`."""
        return await self._amount("SubsidyReleased", "amount", key, "release_subsidy")

    async def vote(self, key: WalletKey, candidate: Address | None) -> None:
        """See `Settlement.vote`."""
        await (self._command(key, "unvote") if candidate is None else self._command(key, "vote", candidate))

    async def seat(self, key: WalletKey, candidate: Address) -> None:
        """See `Settlement.seat`."""
        await self._command(key, "seat", candidate)

    async def pay_dividend(self, key: WalletKey) -> int:
        """See `Settlement.pay_dividend`."""
        return await self._amount("DividendPaid", "amount", key, "pay_dividend")

    async def pay_validators(self, key: WalletKey) -> int:
        """See `Settlement.pay_validators`."""
        return await self._amount("ValidatorPaid", "amount", key, "pay_validators")

    async def change_validators(self, key: WalletKey, addresses: Sequence[Address], quorum: int, signatures: Sequence[bytes]) -> None:
        """See `Settlement.change_validators`. Addresses in any order."""
        in_order = sorted(addresses)
        if len(in_order) > VALIDATORS_MAX:
            raise SettlementRefused("change_validators", f"{len(in_order)} validators, at most {VALIDATORS_MAX}")
        digest = validator_change_digest(self._domain, in_order, quorum, (await self.validators()).nonce)
        await self._command(key, "change_validators", in_order, quorum, _in_order("change_validators", digest, signatures))

    async def aclose(self) -> None:
        """See `Settlement.aclose`."""
        with trio.CancelScope(shield=True):
            await self._chain.aclose()


def _somebody(address: Address) -> Address | None:
    return None if address == _NOBODY else address


def _plain_terms(terms: PathTerms) -> tuple[Any, ...]:
    return (terms.consumer, terms.payees, terms.prices_microtoken, terms.cap_microtoken, terms.expires_s, terms.plan)


def _plain_signature(signature: bytes) -> tuple[int, bytes, bytes]:
    if len(signature) != 65:
        raise SettlementRefused("signature", f"{len(signature)} bytes are no signature")
    return signature[64], signature[:32], signature[32:64]


def _in_order(operation: str, digest: bytes, signatures: Sequence[bytes]) -> list[tuple[int, bytes, bytes]]:
    """Return signatures by rising address of their signer, each signer once, as the contract asks."""
    by_signer: dict[Address, bytes] = {}
    for signature in signatures:
        try:
            by_signer.setdefault(recover(digest, signature), signature)
        except BadSignature:
            raise SettlementRefused(operation, "signature") from None
    if len(by_signer) > VALIDATORS_MAX:
        raise SettlementRefused(operation, f"{len(by_signer)} signatures, at most {VALIDATORS_MAX}")
    return [_plain_signature(by_signer[signer]) for signer in sorted(by_signer)]
