"""What a settlement engine does, whichever it is: the embedded EVM, or any EVM node over JSON-RPC. One contract, one set of tests.

Theory of operation. All amounts are microtokens in one of these places, and their sum never changes:
balance (free, of a wallet) - escrow (of a consumer) - withdrawal under way - reserve (of a path session) - locked earnings (of a wallet, by
period, open to dispute until the period after it has ended) - locked fees (by period) - validator pool - dividend pool - subsidy.

Claims are settled in batches that a quorum of validators has signed. Every claim is cumulative, so a batch that is sent twice pays
nothing twice; claims that claim nothing new are passed over.

Not here: when to do what. Every method waits until the engine has taken the operation for good (`JsonRpcSettlement`: so many blocks deep).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey, keccak256, type_hash, word
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.ledger_client.settlement.ticket import PathTicket
from srwan.types import NodeId

__all__ = [
    "Account",
    "Claim",
    "Pools",
    "SessionState",
    "Settled",
    "Settlement",
    "ValidatorSet",
    "batch_digest",
    "binding_digest",
    "overturn_digest",
    "validator_change_digest",
]

CLAIMS_MAX = 64
"""Claims of one batch."""
VALIDATORS_MAX = 16


@attrs.frozen(slots=True)
class Claim:
    """One session's last ticket with the terms that give it meaning."""

    terms: PathTerms
    ticket: PathTicket

    def abi_hash(self) -> bytes:
        """Keccak-256 over session id, octets and amount, as three words: what a validator's signature covers of a claim."""
        return keccak256(self.ticket.session + word(self.ticket.octets) + word(self.ticket.amount_microtoken))


@attrs.frozen(slots=True)
class Account:
    """What a wallet has."""

    balance_microtoken: int
    """Free."""
    escrow_microtoken: int
    """Deposited for use, not yet reserved or being withdrawn."""
    withdrawing_microtoken: int
    """Asked back."""
    withdraw_at_s: int
    """Chain time from which that can be taken out, s since 1970; 0 if nothing is asked back."""
    vote: Address | None
    """Whom its balance votes for."""
    votes_microtoken: int
    """Balances that vote for it."""


@attrs.frozen(slots=True)
class SessionState:
    """What the engine holds of a path session."""

    reserve_microtoken: int
    """What is left of the cap."""
    settled_microtoken: int
    """Paid out of it so far, fees included: the cumulative amount of the last ticket settled."""
    opened_s: int
    """Chain time of opening, s since 1970."""


@attrs.frozen(slots=True)
class Settled:
    """What became of one claim of a batch."""

    session: bytes
    """Its id, 32 B."""
    paid_microtoken: int
    """Paid now, fee included; 0 for one that claimed nothing new."""
    fee_microtoken: int
    """Fee within it."""


@attrs.frozen(slots=True)
class Pools:
    """Where fees and subsidy lie."""

    validators_microtoken: int
    """For the validators that signed since they were paid last, microtokens."""
    dividend_microtoken: int
    """For the wallets that have a seat, by their votes, microtokens."""
    subsidy_microtoken: int
    """Not yet released, microtokens."""


@attrs.frozen(slots=True)
class ValidatorSet:
    """Who signs batches."""

    addresses: tuple[Address, ...]
    """Wallets, by rising address."""
    quorum: int
    """Signatures a batch needs."""
    nonce: int
    """Rises with every change of the set."""


class Settlement(Protocol):
    """One engine. Its methods may be called by several tasks; transactions of one wallet take turns.

    Every method raises `SettlementUnavailable` when the engine cannot be reached or answers nonsense, and every command
    `SettlementRefused` with the contract's word when it refuses. `trio.ClosedResourceError` after `aclose`.
    """

    @property
    def domain(self) -> SettlementDomain:
        """What signatures must be made for."""
        ...

    async def now_s(self) -> int:
        """Return the chain's time, s since 1970: of its last block, or of the next for an engine that mines on demand."""
        ...

    async def account(self, address: Address) -> Account:
        """Return what a wallet has."""
        ...

    async def locked(self, address: Address, period: int) -> int:
        """Return earnings of a wallet in a period that are still open to dispute or not collected, microtokens."""
        ...

    async def period(self) -> int:
        """Return the current period: chain time divided by the dispute window."""
        ...

    async def session(self, session_id: bytes) -> SessionState | None:
        """Return what is held of a session; None if it was never opened or is closed."""
        ...

    async def wallet_of(self, node: NodeId) -> Address | None:
        """Return the wallet to which a quorum of validators has bound a router, or None."""
        ...

    async def binding_sequence(self, node: NodeId) -> int:
        """Return the sequence of a router's binding, 0 if it has none: the next one must be greater."""
        ...

    async def validators(self) -> ValidatorSet:
        """Return the validators."""
        ...

    async def pools(self) -> Pools:
        """Return the pools."""
        ...

    async def fee_bps(self) -> int:
        """Return the fee, hundredths of a percent of every payment."""
        ...

    async def supply(self) -> int:
        """Return the sum of all microtokens there are; never changes."""
        ...

    # ---- commands; the key signs the transaction

    async def transfer(self, key: WalletKey, to: Address, amount_microtoken: int) -> None:
        """Move free balance to another wallet."""
        ...

    async def deposit(self, key: WalletKey, amount_microtoken: int) -> None:
        """Move free balance into escrow."""
        ...

    async def request_withdraw(self, key: WalletKey, amount_microtoken: int) -> None:
        """Ask escrow back; it can be taken after the delay. A second request replaces the first."""
        ...

    async def withdraw(self, key: WalletKey) -> int:
        """Take what was asked back and is due into the free balance, and return how much, microtokens."""
        ...

    async def open_session(self, key: WalletKey, terms: PathTerms) -> None:
        """Reserve the cap of these terms. Opening it again changes nothing."""
        ...

    async def close_session(self, key: WalletKey, terms: PathTerms) -> int:
        """After expiry and the time for claims, return what is left of the reserve to escrow, and how much, microtokens."""
        ...

    async def settle(self, key: WalletKey, claims: Sequence[Claim], signatures: Sequence[bytes]) -> tuple[Settled, ...]:
        """Pay a batch that a quorum has signed (`batch_digest`). `signatures` in any order, 65 B each; 1..CLAIMS_MAX claims."""
        ...

    async def overturn(self, key: WalletKey, terms: PathTerms, keep_microtoken: int, evidence: bytes, signatures: Sequence[bytes]) -> int:
        """Within the dispute window, take back what was settled beyond `keep_microtoken`, by a quorum's decision (`overturn_digest`).

        Returns:
            What went back into the session's reserve, microtokens.
        """
        ...

    async def bind(
        self, key: WalletKey, node: NodeId, wallet: Address, sequence: int, wallet_signature: bytes, signatures: Sequence[bytes]
    ) -> None:
        """Bind a router to a wallet: the wallet and a quorum sign `binding_digest`; validators sign only what the router's key signed."""
        ...

    async def collect(self, key: WalletKey, address: Address, period: int) -> int:
        """Move earnings of a period that is no longer open to dispute to the free balance of their wallet; anyone may. Returns how much."""
        ...

    async def collect_fees(self, key: WalletKey, period: int) -> int:
        """Move the fees of a period that is no longer open to dispute into the pools; anyone may. Returns how much."""
        ...

    async def release_subsidy(self, key: WalletKey) -> int:
        """Move what has become due of the subsidy into the pools, and return how much."""
        ...

    async def vote(self, key: WalletKey, candidate: Address | None) -> None:
        """Let the wallet's balance vote for a candidate; None takes the vote back. Moves no tokens."""
        ...

    async def seat(self, key: WalletKey, candidate: Address) -> None:
        """Give a candidate one of the seats that share the dividend: a free one, or that of a holder with fewer votes. Anyone may."""
        ...

    async def pay_dividend(self, key: WalletKey) -> int:
        """Pay the dividend pool to those who have a seat, by their votes, and return how much."""
        ...

    async def pay_validators(self, key: WalletKey) -> int:
        """Pay the validator pool in equal parts to all present validators, whoever signed, once a window at most; return how much."""
        ...

    async def change_validators(self, key: WalletKey, addresses: Sequence[Address], quorum: int, signatures: Sequence[bytes]) -> None:
        """Replace the validators by a quorum's decision of the present ones (`validator_change_digest`)."""
        ...

    async def aclose(self) -> None:
        """Close it. Closing twice is fine."""
        ...


_BATCH = type_hash("Batch(bytes32 claims)")
_BINDING = type_hash("Binding(bytes32 node,address wallet,uint64 sequence)")
_OVERTURN = type_hash("Overturn(bytes32 session,uint128 settled,uint128 keep,bytes32 evidence)")
_CHANGE = type_hash("ValidatorChange(bytes32 validators,uint256 quorum,uint256 nonce)")


def batch_digest(domain: SettlementDomain, claims: Sequence[Claim]) -> bytes:
    """Return what validators sign for a batch: Batch(keccak of the claims' hashes in order)."""
    return domain.digest(keccak256(_BATCH + keccak256(b"".join(claim.abi_hash() for claim in claims))))


def binding_digest(domain: SettlementDomain, node: NodeId, wallet: Address, sequence: int) -> bytes:
    """Return what wallet and validators sign to bind a router; the sequence must be greater than that of the binding it replaces."""
    return domain.digest(keccak256(_BINDING + node + word(wallet) + word(sequence)))


def overturn_digest(domain: SettlementDomain, session: bytes, settled_microtoken: int, keep_microtoken: int, evidence: bytes) -> bytes:
    """Return what validators sign to take back a payment; naming what is settled now makes it good for once."""
    return domain.digest(keccak256(_OVERTURN + session + word(settled_microtoken) + word(keep_microtoken) + evidence))


def validator_change_digest(domain: SettlementDomain, addresses: Sequence[Address], quorum: int, nonce: int) -> bytes:
    """Return what the present validators sign to be replaced; `nonce` is that of the present set, addresses by rising value."""
    members = keccak256(b"".join(word(address) for address in addresses))
    return domain.digest(keccak256(_CHANGE + members + word(quorum) + word(nonce)))
