"""A settlement contract with validators, money and wallets, ready to be used, abused and measured: for tests and benchmarks.

What it is not: an engine (`srwan.ledger_client.settlement` has those), and it checks nothing before it sends, so that tests can send what
no honest program would. Everything is deterministic: wallets come from their names, signatures are RFC 6979.

Needs the extra `srwan[settlement]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srwan.ledger_client.contract.artefact import Artefact
from srwan.ledger_client.settlement.settlement import (
    Claim,
    batch_digest,
    binding_digest,
    overturn_digest,
    validator_change_digest,
)
from srwan.ledger_client.settlement.signing import Address, WalletKey, keccak256, type_hash, word
from srwan.ledger_client.settlement.terms import PathTerms, price_of
from srwan.ledger_client.settlement.ticket import PathTicket
from srwan.testing.contract_chain import ContractChain, Receipt, claim_argument, signature_argument, terms_argument
from srwan.types import NodeId

__all__ = ["FEE_BPS", "QUORUM", "SUBSIDY", "SUPPLY", "WINDOW_S", "WITHDRAW_DELAY_S", "SettlementBench", "wallet_key"]

FEE_BPS = 100
QUORUM = 3
VALIDATORS = 5
SUPPLY = 10**15
"""Microtokens: a thousand million tokens."""
SUBSIDY = 10**14
WINDOW_S = 3_600
WITHDRAW_DELAY_S = 600
GB_OCTETS = 10**9
_TICKET = type_hash("PathTicket(bytes32 session,uint128 octets,uint128 amount)")


def wallet_key(name: str) -> WalletKey:
    """Return the key of a wallet for tests; anyone can compute it."""
    return WalletKey(keccak256(b"srwan test wallet " + name.encode()))


class SettlementBench:
    """One contract, its founder who has all tokens less the subsidy, and its validators.

    Args:
        fee_bps: fee, hundredths of a percent.
        validators: how many.
        quorum: signatures a batch needs.
        supply: microtokens.
        subsidy: part of them, microtokens.
        window_s: dispute window, s.
        withdraw_delay_s: s.
        artefact: the contract; as shipped by default.
    """

    def __init__(
        self,
        *,
        fee_bps: int = FEE_BPS,
        validators: int = VALIDATORS,
        quorum: int = QUORUM,
        supply: int = SUPPLY,
        subsidy: int = SUBSIDY,
        window_s: int = WINDOW_S,
        withdraw_delay_s: int = WITHDRAW_DELAY_S,
        artefact: Artefact | None = None,
    ) -> None:
        self.founder = wallet_key("founder")
        """Has all tokens less the subsidy."""
        self.validators = sorted((wallet_key(f"validator {number}") for number in range(validators)), key=lambda key: key.address)
        """By rising address."""
        self.quorum = quorum
        self.window_s = window_s
        addresses = [key.address for key in self.validators]
        arguments = [fee_bps, addresses, quorum, supply, subsidy, window_s, withdraw_delay_s]
        self.chain = ContractChain(self.founder.address, arguments, artefact=artefact)

    # ---- what wallets do

    def fund(self, key: WalletKey, *, balance: int = 0, escrow: int = 0) -> None:
        """Give a wallet tokens of the founder's, and let it deposit some more of them."""
        self.chain.send(self.founder.address, "transfer", key.address, balance + escrow)
        if escrow:
            self.chain.send(key.address, "deposit", escrow)

    def terms(
        self,
        consumer: WalletKey,
        payees: Sequence[Address],
        *,
        prices: Sequence[int] | None = None,
        cap: int = 10**9,
        life_s: int = 86_400,
        plan: bytes = b"",
    ) -> PathTerms:
        """Make terms; 3.3 tokens a GB for each payee unless `prices` says otherwise."""
        asked = tuple(prices) if prices is not None else (3_300_000,) * len(payees)
        return PathTerms(consumer.address, tuple(payees), asked, cap, self.chain.now_s + life_s, keccak256(plan))

    def open(self, terms: PathTerms) -> Receipt:
        """Open a session as its consumer."""
        return self.chain.send(terms.consumer, "open_session", terms_argument(terms))

    def close(self, terms: PathTerms) -> Receipt:
        """Close a session as the founder."""
        return self.chain.send(self.founder.address, "close_session", terms_argument(terms))

    def claim(self, key: WalletKey, terms: PathTerms, octets: int, amount: int | None = None) -> Claim:
        """Sign a ticket, whether or not it promises too much; the full price of the octets unless `amount` is given."""
        owed = price_of(octets, terms.price_microtoken) if amount is None else amount
        digest = self.chain.domain.digest(keccak256(_TICKET + terms.session_id + word(octets) + word(owed)))
        return Claim(terms, PathTicket(terms.session_id, octets, owed, key.sign(digest)))

    def balance(self, wallet: Address) -> int:
        """Return the free balance of a wallet."""
        return int(self.chain.call("account", wallet)[0])

    # ---- what validators do

    def sign(self, digest: bytes, signers: Sequence[WalletKey] | None = None) -> list[tuple[int, bytes, bytes]]:
        """Let validators, the first few unless given, sign a digest; in the order given."""
        chosen = self.validators[: self.quorum] if signers is None else signers
        return [signature_argument(key.sign(digest)) for key in chosen]

    def settle(self, claims: Sequence[Claim], signers: Sequence[WalletKey] | None = None) -> Receipt:
        """Settle a batch as the founder."""
        signatures = self.sign(batch_digest(self.chain.domain, claims), signers)
        return self.chain.send(self.founder.address, "settle", [claim_argument(claim) for claim in claims], signatures)

    def overturn(
        self, terms: PathTerms, settled: int, keep: int, *, evidence: bytes = bytes(32), signers: Sequence[WalletKey] | None = None
    ) -> Receipt:
        """Overturn what was settled beyond `keep` as the founder."""
        signatures = self.sign(overturn_digest(self.chain.domain, terms.session_id, settled, keep, evidence), signers)
        return self.chain.send(self.founder.address, "overturn", terms_argument(terms), keep, evidence, signatures)

    def bind(self, node: NodeId, wallet: WalletKey, sequence: int, signers: Sequence[WalletKey] | None = None) -> Receipt:
        """Bind a router to a wallet as the founder."""
        digest = binding_digest(self.chain.domain, node, wallet.address, sequence)
        own = signature_argument(wallet.sign(digest))
        return self.chain.send(self.founder.address, "bind", node, wallet.address, sequence, own, self.sign(digest, signers))

    def change_validators(self, addresses: Sequence[Address], quorum: int, signers: Sequence[WalletKey] | None = None) -> Receipt:
        """Replace the validators as the founder; `self.validators` and `self.quorum` stay as they are."""
        nonce = self.chain.call("validatorSet")[2]
        signatures = self.sign(validator_change_digest(self.chain.domain, addresses, quorum, nonce), signers)
        return self.chain.send(self.founder.address, "change_validators", list(addresses), quorum, signatures)

    # ---- what time does

    def wait_windows(self, count: int) -> None:
        """Go to the beginning of the period `count` periods from now."""
        self.chain.now_s = (self.chain.now_s // self.window_s + count) * self.window_s

    # ---- what must hold

    def total(self, wallets: Sequence[Address], sessions: Sequence[bytes]) -> int:
        """Return the sum of all places of money, microtokens: of these wallets, the founder, the validators and these sessions."""
        everybody = {*wallets, self.founder.address, *(key.address for key in self.validators)}
        held = sum(sum(self.chain.call("account", wallet)[:3]) for wallet in sorted(everybody))
        locked = sum(sum(self.chain.call("earnings", wallet)[:3]) for wallet in [*sorted(everybody), bytes(20)])
        reserved = sum(self.chain.call("session", session)[0] for session in sorted(set(sessions)))
        pools: tuple[Any, ...] = self.chain.call("pools")
        return int(held + locked + reserved + sum(pools))
