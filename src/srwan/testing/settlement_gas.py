"""What every operation of the settlement contract costs in gas. Deterministic: the same contract gives the same figures everywhere.

Scenarios of `settle`: so many consumers, each with one session and one claim, quorum 3 of 5.

- shared: all paths go over the same relays. distinct: no relay is in two paths, the dearest case.
- first: the first batch ever, in which each relay gets its word of storage, once in the life of a wallet. later: the same sessions again in
  the same period. next: the same sessions again in the next period.
"""

from __future__ import annotations

from srwan.ledger_client.contract.artefact import Artefact
from srwan.ledger_client.settlement.settlement import Claim
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.testing.contract_chain import claim_argument
from srwan.testing.settlement_bench import GB_OCTETS, SettlementBench, wallet_key
from srwan.types import NodeId

__all__ = ["BATCHES", "batch_gas", "batch_name", "calldata_octets", "operation_gas"]

BATCHES = tuple(
    (claims, relays, is_shared) for claims in (1, 10, 50) for relays in (1, 3) for is_shared in (True, False) if claims > 1 or is_shared
)
"""(claims of a batch, relays of a path, whether all paths share them)."""


def batch_name(claims: int, relays: int, *, is_shared: bool) -> str:
    """Return how figures of a batch are called."""
    return f"{claims} claim{'s' * (claims > 1)}, {relays} relay{'s' * (relays > 1)}, {'shared' if is_shared else 'distinct'}"


def _prepared(claims: int, relays: int, *, is_shared: bool, artefact: Artefact | None) -> tuple[SettlementBench, list[PathTerms]]:
    bench = SettlementBench(artefact=artefact)
    opened: list[PathTerms] = []
    bench.wait_windows(1)
    for number in range(claims):
        consumer = wallet_key(f"consumer {number}")
        bench.fund(consumer, escrow=10**10)
        first = 0 if is_shared else number * relays
        payees = [wallet_key(f"relay {first + place}").address for place in range(relays)]
        terms = bench.terms(consumer, payees, plan=number.to_bytes(2, "big"))
        bench.open(terms)
        opened.append(terms)
    return bench, opened


def _claims(bench: SettlementBench, opened: list[PathTerms], gigabytes: int) -> list[Claim]:
    keys = [wallet_key(f"consumer {number}") for number in range(len(opened))]
    return [bench.claim(key, terms, gigabytes * GB_OCTETS) for key, terms in zip(keys, opened, strict=True)]


def batch_gas(claims: int, relays: int, *, is_shared: bool, artefact: Artefact | None = None) -> dict[str, int]:
    """Return gas per claim, rounded up, of the first batch, a later one, and one of the next period. Cost: 30 ms a claim."""
    bench, opened = _prepared(claims, relays, is_shared=is_shared, artefact=artefact)
    gas = {"first": bench.settle(_claims(bench, opened, 1)).gas, "later": bench.settle(_claims(bench, opened, 2)).gas}
    bench.wait_windows(1)
    gas["next"] = bench.settle(_claims(bench, opened, 3)).gas
    return {name: -(-used // claims) for name, used in gas.items()}


def calldata_octets(claims: int, relays: int) -> int:
    """Return the octets of calldata of a batch with three signatures."""
    bench, opened = _prepared(claims, relays, is_shared=True, artefact=None)
    made = [claim_argument(claim) for claim in _claims(bench, opened, 1)]
    return len(bench.chain.encode("settle", (made, bench.sign(bytes(32)))))


def operation_gas(artefact: Artefact | None = None) -> dict[str, int]:
    """Return the gas of every other operation, by its name."""
    bench = SettlementBench(artefact=artefact)
    chain, founder = bench.chain, bench.founder.address
    alice, bob = wallet_key("alice"), wallet_key("bob")
    relays = [wallet_key(f"relay {number}").address for number in range(3)]
    gas = {"deploy": chain.deployment.gas}
    gas["transfer"] = chain.send(founder, "transfer", alice.address, 10**10).gas
    gas["deposit"] = chain.send(alice.address, "deposit", 10**9).gas
    gas["deposit again"] = chain.send(alice.address, "deposit", 10**9).gas
    for count in (1, 3):
        gas[f"open_session, {count} relay{'s' * (count > 1)}"] = bench.open(bench.terms(alice, relays[:count], cap=10**8)).gas
    terms = bench.terms(alice, relays, cap=10**8)
    bench.settle([bench.claim(alice, terms, 2 * GB_OCTETS)])
    gas["overturn"] = bench.overturn(terms, 19_800_000, 9_900_000).gas
    period = chain.call("period")
    gas["bind"] = bench.bind(NodeId(bytes([1]) * 32), alice, 1).gas
    gas["bind again"] = bench.bind(NodeId(bytes([1]) * 32), bob, 2).gas
    bench.wait_windows(2)
    gas["collect"] = chain.send(founder, "collect", relays[0], period).gas
    gas["collect_fees"] = chain.send(founder, "collect_fees", period).gas
    gas["release_subsidy"] = chain.send(founder, "release_subsidy").gas
    gas["pay_validators, 5"] = chain.send(founder, "pay_validators").gas
    gas["request_withdraw"] = chain.send(alice.address, "request_withdraw", 10**8).gas
    chain.now_s = terms.expires_s + 2 * bench.window_s + 1
    gas["withdraw"] = chain.send(alice.address, "withdraw").gas
    gas["close_session"] = bench.close(terms).gas
    gas["vote"] = chain.send(alice.address, "vote", bob.address).gas
    gas["vote again"] = chain.send(alice.address, "vote", alice.address).gas
    gas["unvote"] = chain.send(alice.address, "unvote").gas
    gas["change_validators, 5"] = bench.change_validators([key.address for key in bench.validators], 4).gas
    gas |= _seat_gas(bench)
    return gas


def _seat_gas(bench: SettlementBench) -> dict[str, int]:
    """Gas where all 21 seats are taken: the dearest vote, seat and dividend."""
    chain, founder = bench.chain, bench.founder.address
    for number in range(23):
        voter, candidate = wallet_key(f"voter {number}"), wallet_key(f"candidate {number}")
        bench.fund(voter, balance=1_000 - number)
        chain.send(voter.address, "vote", candidate.address)
    rich, late = wallet_key("rich"), wallet_key("candidate 21")
    bench.fund(rich, balance=10**6)
    gas = {"vote, displacing": chain.send(rich.address, "vote", late.address).gas}
    bench.fund(wallet_key("voter 22"), balance=2_000)
    gas["seat"] = chain.send(founder, "seat", wallet_key("candidate 22").address).gas
    gas["pay_dividend, 21"] = chain.send(founder, "pay_dividend").gas
    return gas
