"""The last step of the demonstration, the money: what was carried is ticketed, claimed, judged by validators, settled and paid out.

Nothing is told by the script: the consumer's router opened path sessions when its traffic took relays, egress and consumer signed receipts
and tickets meanwhile, and relays file claims. Here they are only asked to do so now rather than after a GB, and the contract is read.
"""

from __future__ import annotations

from typing import Any

import attrs
import trio

from srwan.demo.observer import Observer, StepFailed
from srwan.demo.treasury import PRICE_MICROTOKEN, WINDOW_S, Accounts, Treasury
from srwan.swarm.supervisor import Event, RouterProcess
from srwan.types import NodeId

__all__ = ["Settling"]

DEPOSIT_MICROTOKEN = 8 * PRICE_MICROTOKEN
"""Escrow of the consumer: a session reserves the price of a GB, and every path is a session of its own."""
RECEIPT_S = 3.0
"""Receipts come every two seconds; so long after the last packet the last ticket is with the relays."""
BOUND_TIMEOUT_S = 30.0
SETTLED_TIMEOUT_S = 120.0
"""On an idle machine it takes 15 s; a relay that starts again has to be a member first, and a late claim waits for another turn."""
LOOK_S = 0.25
ASK_AGAIN_S = 5.0
"""A relay that started again is given its last ticket only once the consumer reaches it, and may have claimed an older one by then."""


@attrs.define
class _Money:
    """What was seen."""

    first_period: int = 0
    """Of the contract, when the consumer deposited."""
    before: Accounts | None = None


class Settling:
    """Follows the money of one stream.

    Args:
        treasury: engine, wallets, validators.
        observer: of the routers' events.
        names: of the routers, by index.
    """

    def __init__(self, treasury: Treasury, observer: Observer, names: list[str]) -> None:
        self._treasury = treasury
        self._observer = observer
        self._names = names
        self._money = _Money()

    async def wait_bound(self, members: list[NodeId]) -> None:
        """Wait until validators have bound every router to its wallet, without which no relay takes a session.

        Raises:
            StepFailed: not in time.
        """
        left = list(members)
        with trio.move_on_after(BOUND_TIMEOUT_S):
            while left:
                left = [node for node in left if await self._treasury.settlement.wallet_of(node) is None]
                await trio.sleep(LOOK_S)
        if left:
            raise StepFailed(f"step 4: {len(left)} of {len(members)} routers were not bound to their wallets within {BOUND_TIMEOUT_S:g} s")
        self._observer.note("bound", f"validators have bound all {len(members)} routers to their wallets")

    async def deposit(self, source: int) -> None:
        """Put what the consumer may spend into its escrow."""
        treasury = self._treasury
        await treasury.settlement.deposit(treasury.routers[source], DEPOSIT_MICROTOKEN)
        self._money.first_period = await treasury.settlement.period()
        self._money.before = await self._accounts()
        self._observer.note("escrow", f"{self._names[source]} deposits {_tokens(DEPOSIT_MICROTOKEN)} tokens in escrow")

    async def settle(self, source: int, processes: list[RouterProcess]) -> dict[str, Any]:
        """Wait until all that was ticketed is claimed, judged, settled and paid out; return the figures.

        Raises:
            StepFailed: it was not, in time, or tokens were made or lost.
        """
        await trio.sleep(RECEIPT_S)
        tickets = self._tickets(source)
        await self._wait_settled(tickets, processes)
        accounts = await self._pay_out()
        result = await self._figures(source, tickets, accounts)
        supply = await self._treasury.settlement.supply()
        if not result["conserved"]:
            raise StepFailed(f"step 8: {accounts.total} microtokens are where {supply} should be")
        return result

    # --- what routers told ------------------------------------------------------------------------------------------

    def _sessions(self) -> dict[bytes, Event]:
        """Return the path sessions that were opened, by id."""
        opened = (event for _, event in self._observer.raw if event["kind"] == "SessionOpened")
        return {bytes.fromhex(event["session"]): event for event in opened}

    def _tickets(self, source: int) -> dict[bytes, Event]:
        """Return the last ticket that the consumer signed for each session, if it owes anything."""
        signed = (event for index, event in self._observer.raw if index == source and event["kind"] == "TicketSigned")
        return {bytes.fromhex(event["session"]): event for event in signed if event["amount_microtoken"]}

    # --- the contract -----------------------------------------------------------------------------------------------

    async def _wait_settled(self, tickets: dict[bytes, Event], processes: list[RouterProcess]) -> None:
        settlement = self._treasury.settlement
        left = dict(tickets)
        ask_at = trio.current_time()
        with trio.move_on_after(SETTLED_TIMEOUT_S):
            while left:
                if trio.current_time() >= ask_at:
                    ask_at += ASK_AGAIN_S
                    for process in processes:
                        await process.command("settle_up")
                for session, ticket in tuple(left.items()):
                    state = await settlement.session(session)
                    if state is not None and state.settled_microtoken >= ticket["amount_microtoken"]:
                        del left[session]
                await trio.sleep(LOOK_S)
        if left:
            refused = {event["reason"] for event in self._treasury.events if event["kind"] in {"refused", "binding"} and event["reason"]}
            words = f"; validators said: {', '.join(sorted(refused))}" if refused else ""
            raise StepFailed(f"step 8: {len(left)} of {len(tickets)} tickets were not settled within {SETTLED_TIMEOUT_S:g} s{words}")

    async def _pay_out(self) -> Accounts:
        """Wait until nothing can be disputed any more, and have all earnings paid out; anyone may, so the holder does.

        A node that makes a block when it has a transaction has the time of its last block: a transfer of the holder to itself moves it on.
        """
        settlement, holder = self._treasury.settlement, self._treasury.holder
        settled_in = await settlement.period()
        while await settlement.period() < settled_in + 2:
            await trio.sleep(WINDOW_S / 3)
            await settlement.transfer(holder, holder.address, 1)
        for period in range(self._money.first_period, settled_in + 1):
            for key in self._treasury.routers:
                if await settlement.locked(key.address, period):
                    await settlement.collect(holder, key.address, period)
            if await settlement.locked_fees(period):
                await settlement.collect_fees(holder, period)
        return await self._accounts()

    async def _accounts(self) -> Accounts:
        period = await self._treasury.settlement.period()
        return await self._treasury.accounts(list(self._sessions()), range(self._money.first_period, period + 1), self._names)

    async def _figures(self, source: int, tickets: dict[bytes, Event], accounts: Accounts) -> dict[str, Any]:
        before = self._money.before
        assert before is not None
        consumer = self._names[source]
        earned = {
            name: accounts.balances[name] - before.balances[name]
            for name in self._names
            if name != consumer and accounts.balances[name] != before.balances[name]
        }
        accepted = {event["session"] for event in self._treasury.events if event["kind"] == "accepted"}
        refused = [event for event in self._treasury.events if event["kind"] == "refused"]
        escrow_before = before.escrow[consumer] + before.reserves
        escrow_after = accounts.escrow[consumer] + accounts.reserves
        return {
            "settled": len(tickets),
            "claims": len(accepted),
            "refused": len({event["session"] for event in refused} - accepted),
            "octets": sum(ticket["octets"] for ticket in tickets.values()),
            "paid": escrow_before - escrow_after,
            "escrow_before": escrow_before,
            "escrow_after": escrow_after,
            "earned": earned,
            "fees": accounts.pools - before.pools,
            "conserved": accounts.total == await self._treasury.settlement.supply()
            and escrow_before - escrow_after == sum(earned.values()) + accounts.pools - before.pools,
        }


def _tokens(microtoken: int) -> str:
    return f"{microtoken // 10**6}.{microtoken % 10**6:06}"
