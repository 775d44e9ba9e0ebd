"""What `srwan wallet` does with the settlement engine: look, move, withdraw, collect, vote."""

from __future__ import annotations

import time

import trio

from srwan.cli.wallet_desk import Desk, Shown, at, tokens
from srwan.errors import ConfigError
from srwan.ledger_client.settlement.engine import ContractSettlement
from srwan.ledger_client.settlement.settlement import Account
from srwan.ledger_client.settlement.signing import Address

__all__ = ["balance", "collect", "deposit", "escrow", "seat", "transfer", "unvote", "vote", "withdraw"]

ALL = -1
"""The amount that the word "all" stands for."""


async def time_s(settlement: ContractSettlement) -> int:
    """Return the time of the next block, s since 1970: a chain on which nothing happens lags behind."""
    return max(await settlement.now_s(), int(time.time()))


async def locked_earnings(settlement: ContractSettlement, address: Address, periods: int) -> list[tuple[int, int]]:
    """Return periods with earnings that are open to dispute or not collected, and how much, microtokens, oldest first."""
    now = await settlement.period()
    found = [(period, await settlement.locked(address, period)) for period in range(max(0, now - periods + 1), now + 1)]
    return [(period, amount) for period, amount in found if amount]


def withdrawal_line(account: Account, now_s: int) -> str:
    """Say what is asked back, and when it can be taken."""
    if not account.withdrawing_microtoken:
        return "nothing is asked back"
    amount = tokens(account.withdrawing_microtoken)
    if now_s >= account.withdraw_at_s:
        return f"{amount} asked back can be taken now: `srwan wallet withdraw`"
    return f"{amount} asked back can be taken from {at(account.withdraw_at_s)}, in {_span(account.withdraw_at_s - now_s)}"


def _span(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{number} {unit}" for number, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")) if number]
    return " ".join(parts[:2]) or "0 s"


def account_facts(address: Address, account: Account) -> dict[str, object]:
    """Return what --json shows of an account."""
    return {
        "address": str(address),
        "balance_microtoken": account.balance_microtoken,
        "escrow_microtoken": account.escrow_microtoken,
        "withdrawing_microtoken": account.withdrawing_microtoken,
        "withdraw_at_s": account.withdraw_at_s,
        "vote": None if account.vote is None else str(account.vote),
        "votes_microtoken": account.votes_microtoken,
    }


async def balance(desk: Desk) -> Shown:
    """Show all that a wallet has on the engine."""
    address = desk.address()
    async with desk.open_settlement() as settlement:
        account = await settlement.account(address)
        locked = await locked_earnings(settlement, address, desk.options.periods)
        period, window_s, now_s = await settlement.period(), await settlement.window_s(), await time_s(settlement)
    lines = [
        f"{address}",
        f"free      {tokens(account.balance_microtoken)}",
        f"escrow    {tokens(account.escrow_microtoken)}",
        f"withdraw  {withdrawal_line(account, now_s)}",
    ]
    for number, amount in locked:
        when = "collect it: `srwan wallet collect`" if number + 2 <= period else f"open to dispute until {at((number + 2) * window_s)}"
        lines.append(f"earned    {tokens(amount)}, {when}")
    lines.append(f"vote      {'none' if account.vote is None else account.vote}")
    if account.votes_microtoken:
        lines.append(f"votes     {tokens(account.votes_microtoken)} for this wallet")
    facts = account_facts(address, account) | {
        "earned": [
            {"period": number, "amount_microtoken": amount, "collectable_from_s": (number + 2) * window_s} for number, amount in locked
        ],
        "now_s": now_s,
    }
    return Shown(facts, lines)


async def escrow(desk: Desk) -> Shown:
    """Show what a wallet has put aside for sending."""
    address = desk.address()
    async with desk.open_settlement() as settlement:
        account, now_s = await settlement.account(address), await time_s(settlement)
    lines = [f"{tokens(account.escrow_microtoken)} can be reserved for path sessions", withdrawal_line(account, now_s)]
    lines.append("what is reserved by open sessions: `srwan wallet sessions`")
    return Shown(account_facts(address, account) | {"now_s": now_s}, lines)


def _amount(asked: int, held: int, what: str) -> int:
    if asked == ALL:
        asked = held
    if asked > held:
        raise ConfigError("AMOUNT", f"{tokens(asked)} is more than the {tokens(held)} {what}", "see `srwan wallet balance`")
    if asked <= 0:
        raise ConfigError("AMOUNT", "nothing to move", "see `srwan wallet balance`")
    return asked


def _spoken(amount: int) -> str:
    return "all" if amount == ALL else tokens(amount)


async def deposit(desk: Desk) -> Shown:
    """Move free tokens into escrow."""
    desk.confirm(f"move {_spoken(desk.options.amount)} into escrow")
    key = await desk.unlock()
    async with desk.open_settlement(is_sending=True) as settlement:
        amount = _amount(desk.options.amount, (await settlement.account(key.address)).balance_microtoken, "that are free")
        async with desk.sending():
            await settlement.deposit(key, amount)
        account = await settlement.account(key.address)
    line = f"{tokens(amount)} moved; {tokens(account.escrow_microtoken)} in escrow, {tokens(account.balance_microtoken)} free"
    return Shown(account_facts(key.address, account) | {"deposited_microtoken": amount}, [line])


async def transfer(desk: Desk) -> Shown:
    """Give free tokens to another wallet."""
    to: Address = desk.options.to
    desk.confirm(f"give {_spoken(desk.options.amount)} to {to}")
    key = await desk.unlock()
    if to == key.address:
        raise ConfigError("TO", "that is this wallet itself", "name another one")
    async with desk.open_settlement(is_sending=True) as settlement:
        amount = _amount(desk.options.amount, (await settlement.account(key.address)).balance_microtoken, "that are free")
        async with desk.sending():
            await settlement.transfer(key, to, amount)
        account = await settlement.account(key.address)
    facts = account_facts(key.address, account) | {"transferred_microtoken": amount, "to": str(to)}
    return Shown(facts, [f"{tokens(amount)} given to {to}; {tokens(account.balance_microtoken)} free"])


async def withdraw(desk: Desk) -> Shown:
    """Ask escrow back, or take what is due."""
    if desk.options.amount is not None:
        return await _request_withdraw(desk)
    key = await desk.unlock()
    async with desk.open_settlement(is_sending=True) as settlement:
        account, now_s = await settlement.account(key.address), await time_s(settlement)
        while desk.options.wait and account.withdrawing_microtoken and now_s < account.withdraw_at_s:
            desk.tell(withdrawal_line(account, now_s))
            await trio.sleep(min(60, account.withdraw_at_s - now_s))
            account, now_s = await settlement.account(key.address), await time_s(settlement)
        facts = account_facts(key.address, account) | {"withdrawn_microtoken": 0}
        if not account.withdrawing_microtoken:
            return Shown(facts, [], "nothing is asked back; ask with `srwan wallet withdraw AMOUNT`")
        if now_s < account.withdraw_at_s:
            return Shown(facts, [], withdrawal_line(account, now_s))
        async with desk.sending():
            taken = await settlement.withdraw(key)
        account = await settlement.account(key.address)
    facts = account_facts(key.address, account) | {"withdrawn_microtoken": taken}
    return Shown(facts, [f"{tokens(taken)} taken out of escrow; {tokens(account.balance_microtoken)} free"])


async def _request_withdraw(desk: Desk) -> Shown:
    asked: int = desk.options.amount
    desk.confirm(f"ask {_spoken(asked)} of the escrow back" if asked else "take back what was asked for")
    key = await desk.unlock()
    async with desk.open_settlement(is_sending=True) as settlement:
        before = await settlement.account(key.address)
        if before.withdrawing_microtoken and asked:
            desk.tell(f"this replaces the {tokens(before.withdrawing_microtoken)} asked back before; the delay begins again")
        if asked:
            asked = _amount(asked, before.escrow_microtoken + before.withdrawing_microtoken, "in escrow")
        async with desk.sending():
            await settlement.request_withdraw(key, asked)
        account, now_s = await settlement.account(key.address), await time_s(settlement)
    facts = account_facts(key.address, account) | {"requested_microtoken": asked}
    return Shown(facts, [withdrawal_line(account, now_s), f"{tokens(account.escrow_microtoken)} left in escrow"])


async def collect(desk: Desk) -> Shown:
    """Move earnings that can be disputed no more to the free balance of their wallet."""
    address = desk.address()
    async with desk.open_settlement(is_sending=True) as settlement:
        period, window_s = await settlement.period(), await settlement.window_s()
        locked = await locked_earnings(settlement, address, desk.options.periods)
        ready = sum(amount for number, amount in locked if number + 2 <= period)
        later = [(number, amount) for number, amount in locked if number + 2 > period]
        collected = 0
        if ready:
            key = await desk.unlock()
            async with desk.sending():
                collected = await settlement.collect(key, address, period - 2)
        account = await settlement.account(address)
    lines = [f"{tokens(collected)} collected; {tokens(account.balance_microtoken)} free"]
    lines += [f"{tokens(amount)} can be collected from {at((number + 2) * window_s)}" for number, amount in later]
    facts = account_facts(address, account) | {
        "collected_microtoken": collected,
        "later": [{"amount_microtoken": amount, "collectable_from_s": (number + 2) * window_s} for number, amount in later],
    }
    return Shown(facts, lines)


async def vote(desk: Desk) -> Shown:
    """Let the free balance count for a candidate."""
    return await _vote(desk, desk.options.candidate)


async def unvote(desk: Desk) -> Shown:
    """Take the vote back."""
    return await _vote(desk, None)


async def _vote(desk: Desk, candidate: Address | None) -> Shown:
    key = await desk.unlock()
    async with desk.open_settlement(is_sending=True) as settlement:
        async with desk.sending():
            await settlement.vote(key, candidate)
        account = await settlement.account(key.address)
        is_seated = candidate is not None and candidate in await settlement.seats()
    lines = ["the vote is taken back; no token moved"]
    if candidate is not None:
        lines = [f"{tokens(account.balance_microtoken)}, and what the wallet will have, count for {candidate}; no token moved"]
        if not is_seated:
            lines.append(
                f"it has no share of the dividend yet: that takes more votes than the last of 21 has; then `srwan wallet seat {candidate}`"
            )
    return Shown(account_facts(key.address, account) | {"is_seated": is_seated}, lines)


async def seat(desk: Desk) -> Shown:
    """Give a candidate its seat among those who share the dividend."""
    candidate: Address = desk.options.candidate
    key = await desk.unlock()
    async with desk.open_settlement(is_sending=True) as settlement:
        seats = await settlement.seats()
        if candidate not in seats:
            async with desk.sending():
                await settlement.seat(key, candidate)
            seats = await settlement.seats()
        account = await settlement.account(candidate)
    facts = {"candidate": str(candidate), "votes_microtoken": account.votes_microtoken, "seats": len(seats)}
    return Shown(facts, [f"{candidate} has a seat, with {tokens(account.votes_microtoken)} voting for it; {len(seats)} of 21 are taken"])
