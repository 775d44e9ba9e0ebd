"""The contract against an independent model of the money: anything in any order, with the sum of all places checked after every step.

The model keeps plain dictionaries by wallet, session and period, packs nothing, and computes every split from the beginning; it knows of
the contract only its rules (docs/settlement.md).
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from srwan.errors import SettlementRefused
from srwan.ledger_client.settlement.signing import Address, WalletKey
from srwan.ledger_client.settlement.terms import UINT128_MAX, PathTerms, shares_of
from srwan.testing.contract_chain import Receipt, terms_argument
from srwan.testing.settlement_bench import SettlementBench, wallet_key

FEE_BPS = 333
WINDOW_S = 1_000
DELAY_S = 700
SUPPLY = 10**9
SUBSIDY = 10**8
THREE_YEARS_S = 3 * 365 * 86_400
FEES = Address(bytes(20))
PEOPLE = tuple(wallet_key(f"person {number}") for number in range(3))
VALIDATORS = tuple(sorted((wallet_key(f"validator {number}") for number in range(3)), key=lambda key: key.address))
SEATS_MAX = 21

people = st.sampled_from(PEOPLE)
amounts = st.one_of(st.integers(0, 50), st.integers(0, 2_000_000), st.sampled_from((2**128 - 1, 2**256 - 1)))
waits_s = st.sampled_from((1, DELAY_S, WINDOW_S, WINDOW_S, WINDOW_S, 2 * WINDOW_S, 7 * WINDOW_S, THREE_YEARS_S // 5))


class Refused(Exception):
    """The model's refusal, with the word that the contract should give."""


def require(is_met: bool, word: str) -> None:
    if not is_met:
        raise Refused(word)


@attrs.define
class Session:
    terms: PathTerms
    opened_s: int
    paid: dict[int, int] = attrs.field(factory=lambda: collections.defaultdict(int))
    """By period, microtokens."""
    is_overturned: bool = False

    @property
    def settled(self) -> int:
        return sum(self.paid.values())


class Model:
    """All the money there is, and whose it is."""

    def __init__(self, founder: Address, now_s: int) -> None:
        self.now_s = self.start_s = self.validators_paid_s = now_s
        self.balance: dict[Address, int] = collections.defaultdict(int, {founder: SUPPLY - SUBSIDY})
        self.escrow: dict[Address, int] = collections.defaultdict(int)
        self.withdrawal: dict[Address, tuple[int, int]] = collections.defaultdict(lambda: (0, 0))
        self.vote: dict[Address, Address] = {}
        self.sessions: dict[bytes, Session] = {}
        self.collected: dict[tuple[Address, int], int] = collections.defaultdict(int)
        self.closed: list[Session] = []
        self.touched: dict[Address, int] = collections.defaultdict(int)
        self.pools = [0, 0]
        self.released = 0
        self.seats: list[Address] = []
        self.validators: Sequence[WalletKey] = VALIDATORS

    @property
    def period(self) -> int:
        return self.now_s // WINDOW_S

    def votes(self, candidate: Address) -> int:
        return sum(self.balance[wallet] for wallet, chosen in self.vote.items() if chosen == candidate)

    def earned(self, wallet: Address) -> dict[int, int]:
        """Earnings by period, of all sessions that ever were, less what was collected: from the beginning, every time."""
        earned: dict[int, int] = collections.defaultdict(int)
        for session in [*self.sessions.values(), *self.closed]:
            for period, paid in session.paid.items():
                fee = paid * FEE_BPS // 10_000
                shares = dict(zip(session.terms.payees, shares_of(paid - fee, session.terms.prices_microtoken), strict=True))
                earned[period] += fee if wallet == FEES else shares.get(wallet, 0)
        return {period: earned[period] - self.collected[wallet, period] for period in sorted(earned)}

    def take(self, wallet: Address, period: int) -> int:
        require(period + 1 < self.period, "early")
        earned = self.earned(wallet)
        last_collected = max(period, self.touched[wallet] - 2)  # what is older than that the contract does not tell apart
        taken = {each: amount for each, amount in earned.items() if each <= last_collected}
        for each, amount in taken.items():
            self.collected[wallet, each] += amount
        return sum(taken.values())

    def note(self, before: dict[Address, dict[int, int]]) -> None:
        """Remember in which period a wallet's earnings last began to change."""
        for wallet, earned in before.items():
            for period, amount in self.earned(wallet).items():
                if amount != earned.get(period, 0):
                    self.touched[wallet] = max(self.touched[wallet], period)

    def seat(self, candidate: Address) -> bool:
        if candidate in self.seats:
            return True
        if self.votes(candidate) and len(self.seats) < SEATS_MAX:
            self.seats.append(candidate)
            return True
        return False

    def pay_validators(self) -> int:
        share = self.pools[0] // len(self.validators)
        if share:
            for key in self.validators:
                self.balance[key.address] += share
            self.pools[0] -= share * len(self.validators)
            self.validators_paid_s = self.now_s
        return share * len(self.validators)


class Money(RuleBasedStateMachine):
    """Each rule does the same to contract and model, and compares what they answer."""

    bench: SettlementBench
    start: tuple[int, bytes]

    def __init__(self) -> None:
        super().__init__()
        self.bench.chain.revert(self.start)
        self.chain = self.bench.chain
        self.model = Model(self.bench.founder.address, self.chain.now_s)
        self.earners = [key.address for key in PEOPLE]
        self.wallets = [*self.earners, *(key.address for key in VALIDATORS), self.bench.founder.address]
        self.plans = 0
        for key in PEOPLE:
            self.chain.send(self.bench.founder.address, "transfer", key.address, 5_000_000)
            self.chain.send(key.address, "deposit", 2_000_000)
            self.model.balance[self.bench.founder.address] -= 5_000_000
            self.model.balance[key.address] += 3_000_000
            self.model.escrow[key.address] += 2_000_000
        for first, key in enumerate(PEOPLE):
            self.open_session(key, [*PEOPLE[first:], *PEOPLE[:first]], [2, 1, 2], 1_000_000, 5)

    def same(self, act: Callable[[], Receipt], expect: Callable[[], Any]) -> None:
        """Let the contract act and the model say what should come of it."""
        expected: Any = None
        word = said = None
        try:
            expected = expect()
        except Refused as refused:
            word = str(refused)
        try:
            output = act().output
        except SettlementRefused as error:
            output, said = None, error.reason
        assert (word, expected) == (said, output)

    # ---- rules

    @rule(seconds=waits_s)
    def wait(self, seconds: int) -> None:
        self.chain.now_s += seconds
        self.model.now_s += seconds

    @rule(key=people, other=people, amount=amounts, act=st.sampled_from(("transfer", "deposit", "request", "withdraw")))
    def move(self, key: WalletKey, other: WalletKey, amount: int, act: str) -> None:
        match act:
            case "transfer":
                self.transfer(key, other, amount)
            case "deposit":
                self.deposit(key, amount)
            case "request":
                self.request_withdraw(key, amount)
            case _:
                self.withdraw(key)

    def transfer(self, sender: WalletKey, receiver: WalletKey, amount: int) -> None:
        def expect() -> None:
            require(amount <= self.model.balance[sender.address], "balance")
            self.model.balance[sender.address] -= amount
            self.model.balance[receiver.address] += amount

        self.same(lambda: self.chain.send(sender.address, "transfer", receiver.address, amount), expect)

    def deposit(self, key: WalletKey, amount: int) -> None:
        def expect() -> None:
            require(amount <= self.model.balance[key.address], "balance")
            self.model.balance[key.address] -= amount
            self.model.escrow[key.address] += amount

        self.same(lambda: self.chain.send(key.address, "deposit", amount), expect)

    def request_withdraw(self, key: WalletKey, amount: int) -> None:
        def expect() -> None:
            free = self.model.escrow[key.address] + self.model.withdrawal[key.address][0]
            require(amount <= free, "escrow")
            self.model.escrow[key.address] = free - amount
            self.model.withdrawal[key.address] = (amount, self.model.now_s + DELAY_S if amount else 0)

        self.same(lambda: self.chain.send(key.address, "request_withdraw", amount), expect)

    def withdraw(self, key: WalletKey) -> None:
        def expect() -> int:
            amount, due_s = self.model.withdrawal.pop(key.address, (0, 0))
            require(amount > 0, "nothing")
            if self.model.now_s < due_s:
                self.model.withdrawal[key.address] = (amount, due_s)
                raise Refused("early")
            self.model.balance[key.address] += amount
            return amount

        self.same(lambda: self.chain.send(key.address, "withdraw"), expect)

    @rule(
        key=people,
        order=st.permutations(PEOPLE),
        prices=st.lists(st.integers(0, 3), min_size=1, max_size=3),
        cap=st.integers(1, 1_000_000),
        life_windows=st.integers(1, 4),
    )
    def open_session(self, key: WalletKey, order: list[WalletKey], prices: list[int], cap: int, life_windows: int) -> None:
        self.plans += 1
        payees = [payee.address for payee in order[: len(prices)]]
        plan = self.plans.to_bytes(2, "big")
        terms = self.bench.terms(key, payees, prices=prices, cap=cap, life_s=life_windows * WINDOW_S, plan=plan)

        def expect() -> None:
            require(cap <= self.model.escrow[key.address], "escrow")
            self.model.escrow[key.address] -= cap
            self.model.sessions[terms.session_id] = Session(terms, self.model.now_s)

        self.same(lambda: self.bench.open(terms), expect)

    def session(self, data: st.DataObject) -> Session:
        known = self.model.sessions
        return known[data.draw(st.sampled_from(sorted(known)), label="session")]

    @precondition(lambda self: self.model.sessions)
    @rule(data=st.data(), signers=st.sampled_from(((0, 1), (0, 2), (1, 2), (0, 1, 2))), count=st.integers(1, 3))
    def settle(self, data: st.DataObject, signers: tuple[int, ...], count: int) -> None:
        batch: list[tuple[Session, int]] = []
        for _ in range(count):
            session = self.session(data)
            more = data.draw(st.one_of(st.integers(0, 40), st.integers(0, 200_000)), label="more")
            batch.append((session, session.settled + more))
        self.pay(batch, [VALIDATORS[number] for number in signers])

    def pay(self, batch: list[tuple[Session, int]], signers: Sequence[WalletKey]) -> None:
        """Settle these sessions up to these amounts."""
        model = self.model
        keys = {key.address: key for key in PEOPLE}
        claims = [self.bench.claim(keys[session.terms.consumer], session.terms, UINT128_MAX, amount) for session, amount in batch]
        before = {wallet: model.earned(wallet) for wallet in [*self.earners, FEES]}
        undo = [(session, dict(session.paid)) for session, _ in batch]

        def expect() -> None:
            for session, amount in batch:
                if amount <= session.settled or session.is_overturned:
                    continue
                require(amount <= session.terms.cap_microtoken, "cap")
                require(session.terms.price_microtoken > 0, "price")
                require(model.now_s <= session.terms.expires_s + WINDOW_S, "expired")
                session.paid[model.period] += amount - session.settled
            require(all(key in model.validators for key in signers), "validator")
            model.note(before)

        def expect_all_or_nothing() -> None:
            try:
                expect()
            except Refused:
                for session, paid in undo:
                    session.paid = collections.defaultdict(int, paid)
                raise

        self.same(lambda: self.bench.settle(claims, signers), expect_all_or_nothing)

    @precondition(lambda self: self.model.sessions)
    @rule(
        data=st.data(),
        gaps=st.lists(st.sampled_from((1, 1, 0, 2)), min_size=1, max_size=2),
        numerators=st.lists(st.integers(0, 15), min_size=1, max_size=2),
        later=st.integers(0, 2),
    )
    def pay_in_some_periods_and_overturn(self, data: st.DataObject, gaps: list[int], numerators: list[int], later: int) -> None:
        session = self.session(data)
        for gap in (0, *gaps):
            self.wait(gap * WINDOW_S)
            self.pay([(session, session.settled + data.draw(st.integers(1, 5_000), label="more"))], self.model.validators[:2])
        for numerator in numerators:
            self.overturn(session, numerator)
        if later:
            self.wait(later * WINDOW_S)
            self.collect(PEOPLE[0], later)

    def overturn(self, session: Session, numerator: int) -> None:
        settled = session.settled
        keep = settled * numerator // 16

        def expect() -> int:
            require(keep < settled, "keep")
            last = max(session.paid)
            floor = sum(paid for period, paid in session.paid.items() if period < self.model.period - 1)
            require(self.model.period <= last + 1 and keep >= floor, "final")
            excess = settled - keep
            for period in sorted(session.paid, reverse=True):
                taken = min(excess, session.paid[period])
                session.paid[period] -= taken
                excess -= taken
            session.is_overturned = True
            return settled - keep

        self.same(lambda: self.bench.overturn(session.terms, settled, keep, signers=self.model.validators[:2]), expect)

    @precondition(lambda self: self.model.sessions)
    @rule(data=st.data())
    def close_session(self, data: st.DataObject) -> None:
        session = self.session(data)

        def expect() -> int:
            model, terms = self.model, session.terms
            last = max(session.paid, default=session.opened_s // WINDOW_S)
            require(model.now_s > terms.expires_s + 2 * WINDOW_S and model.period > last + 1, "early")
            left = terms.cap_microtoken - session.settled
            model.escrow[terms.consumer] += left
            model.closed.append(model.sessions.pop(terms.session_id))
            return left

        self.same(lambda: self.chain.send(PEOPLE[0].address, "close_session", terms_argument(session.terms)), expect)

    @rule(key=people, back=st.integers(0, 5))
    def collect(self, key: WalletKey, back: int) -> None:
        period = self.model.period - back

        def expect() -> int:
            amount = self.model.take(key.address, period)
            self.model.balance[key.address] += amount
            return amount

        self.same(lambda: self.chain.send(PEOPLE[0].address, "collect", key.address, period), expect)

    @rule(back=st.integers(0, 5), act=st.sampled_from(("fees", "subsidy", "validators")))
    def fill_and_empty_pools(self, back: int, act: str) -> None:
        match act:
            case "fees":
                self.collect_fees(back)
            case "subsidy":
                self.release_subsidy()
            case _:
                self.pay_validators()

    def collect_fees(self, back: int) -> None:
        period = self.model.period - back

        def expect() -> int:
            amount = self.model.take(FEES, period)
            self.model.pools[0] += amount // 4
            self.model.pools[1] += amount - amount // 4
            return amount

        self.same(lambda: self.chain.send(PEOPLE[0].address, "collect_fees", period), expect)

    def release_subsidy(self) -> None:
        def expect() -> int:
            model = self.model
            due = SUBSIDY * min(model.now_s - model.start_s, THREE_YEARS_S) // THREE_YEARS_S
            more = due - model.released
            part = due // 4 - model.released // 4
            model.pools[0] += part
            model.pools[1] += more - part
            model.released = due
            return more

        self.same(lambda: self.chain.send(PEOPLE[0].address, "release_subsidy"), expect)

    @rule(key=people, candidate=people, act=st.sampled_from(("vote", "unvote", "seat", "dividend")))
    def elect(self, key: WalletKey, candidate: WalletKey, act: str) -> None:
        match act:
            case "vote":
                self.vote(key, candidate)
            case "unvote":
                self.unvote(key)
            case "seat":
                self.seat(candidate)
            case _:
                self.pay_dividend()

    def vote(self, key: WalletKey, candidate: WalletKey) -> None:
        self.chain.send(key.address, "vote", candidate.address)
        self.model.vote[key.address] = candidate.address
        self.model.seat(candidate.address)

    def unvote(self, key: WalletKey) -> None:
        self.chain.send(key.address, "unvote")
        self.model.vote.pop(key.address, None)

    def seat(self, candidate: WalletKey) -> None:
        self.same(
            lambda: self.chain.send(PEOPLE[0].address, "seat", candidate.address),
            lambda: require(self.model.seat(candidate.address), "votes"),
        )

    def pay_dividend(self) -> None:
        def expect() -> int:
            model = self.model
            votes = {wallet: model.votes(wallet) for wallet in model.seats}
            total = sum(votes.values())
            require(total > 0, "votes")
            shares = {wallet: model.pools[1] * count // total for wallet, count in votes.items()}
            require(sum(shares.values()) > 0, "nothing")
            for wallet, share in shares.items():
                model.balance[wallet] += share
            model.pools[1] -= sum(shares.values())
            return sum(shares.values())

        self.same(lambda: self.chain.send(PEOPLE[0].address, "pay_dividend"), expect)

    def pay_validators(self) -> None:
        def expect() -> int:
            model = self.model
            require(model.now_s >= model.validators_paid_s + WINDOW_S, "early")
            paid = model.pay_validators()
            require(paid > 0, "nothing")
            return paid

        self.same(lambda: self.chain.send(PEOPLE[0].address, "pay_validators"), expect)

    @rule(members=st.sampled_from(((0, 1), (0, 2), (1, 2), (0, 1, 2))), signers=st.sampled_from((None, None, None, (0, 1), (1, 2))))
    def change_validators(self, members: tuple[int, ...], signers: tuple[int, int] | None) -> None:
        made = [VALIDATORS[number] for number in members]
        chosen = [VALIDATORS[number] for number in signers] if signers else self.model.validators[:2]

        def expect() -> None:
            require(all(key in self.model.validators for key in chosen), "validator")
            self.model.pay_validators()
            self.model.validators = made

        self.same(lambda: self.bench.change_validators([key.address for key in made], 2, chosen), expect)

    # ---- what must hold after every step

    @invariant()
    def the_sum_stays_and_contract_and_model_hold_the_same(self) -> None:
        model, call = self.model, self.chain.call
        total = 0
        for wallet in self.wallets:
            if wallet not in self.earners and not model.balance[wallet]:
                continue  # a validator that was never paid; were it paid wrongly, the sum would say so
            escrow, (withdrawing, due_s) = model.escrow[wallet], model.withdrawal.get(wallet, (0, 0))
            held = (model.balance[wallet], escrow, withdrawing, due_s, model.vote.get(wallet, FEES), model.votes(wallet))
            assert held == call("account", wallet)
            total += sum(held[:3])
        for wallet in [*self.earners, FEES]:
            last, earned = model.touched[wallet], model.earned(wallet)
            older = sum(amount for period, amount in earned.items() if period < last - 1)
            assert (older, earned.get(last - 1, 0), earned.get(last, 0), last) == call("earnings", wallet)
            total += sum(earned.values())
        for session_id, session in sorted(model.sessions.items()):
            left = session.terms.cap_microtoken - session.settled
            assert (left, session.settled, session.opened_s) == call("session", session_id)
            total += left
        assert (*model.pools, SUBSIDY - model.released) == call("pools")
        assert tuple(model.seats) == call("seats")
        assert tuple(key.address for key in model.validators) == call("validatorSet")[0]
        assert SUPPLY == total + sum(call("pools"))


@pytest.fixture(scope="module")
def small_bench() -> SettlementBench:
    bench = SettlementBench(
        fee_bps=FEE_BPS, validators=len(VALIDATORS), quorum=2, supply=SUPPLY, subsidy=SUBSIDY, window_s=WINDOW_S, withdraw_delay_s=DELAY_S
    )
    assert [key.address for key in VALIDATORS] == [key.address for key in bench.validators]
    return bench


def run(bench: SettlementBench, examples: int, steps: int) -> None:
    Money.bench, Money.start = bench, bench.chain.snapshot()
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
        print_blob=True,
    )
    run_state_machine_as_test(Money, settings=chosen)


def test_any_order_of_operations_keeps_the_sum_and_agrees_with_the_model(small_bench: SettlementBench) -> None:
    run(small_bench, examples=6, steps=20)


@pytest.mark.slow
def test_long_histories_keep_the_sum_and_agree_with_the_model(small_bench: SettlementBench) -> None:
    run(small_bench, examples=20, steps=50)
