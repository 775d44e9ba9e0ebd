"""What `srwan wallet history` shows: the contract's events that concern a wallet, as sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from srwan.cli.wallet_desk import Desk, Shown, at, tokens
from srwan.ledger_client.settlement.history import ContractEvent
from srwan.ledger_client.settlement.signing import Address

__all__ = ["history"]


async def history(desk: Desk) -> Shown:
    """Show what happened to a wallet on the engine."""
    address = desk.address()
    async with desk.open_settlement() as settlement:
        events = await settlement.history(address, blocks=desk.options.blocks)
    lines = [f"{at(event.time_s)}  {sentence(event, address)}" for event in events]
    return Shown({"address": str(address), "events": [_facts(event) for event in events]}, lines or ["nothing happened yet"])


def _facts(event: ContractEvent) -> dict[str, Any]:
    values = {name: _plain(value) for name, value in event.values.items()}
    return {"time_s": event.time_s, "block": event.block_number, "event": event.name, **values}


def _plain(value: Any) -> Any:
    if isinstance(value, Address):
        return str(value)
    return value.hex() if isinstance(value, bytes) else value


def sentence(event: ContractEvent, wallet: Address) -> str:
    """Say what an event means for a wallet."""
    values: dict[str, Any] = {name: tokens(value) if name in _AMOUNTS else value for name, value in event.values.items()}
    if "session" in values:
        values["session"] = values["session"].hex()[:16]
    if event.name in _TOLD_BY_SIDE:
        return _TOLD_BY_SIDE[event.name](values, wallet)
    template = _SENTENCES.get(event.name)
    return event.name if template is None else template.format(**values)


_AMOUNTS = frozenset({"amount", "cap", "returned", "paid", "fee"})
_SENTENCES = {
    "Deposited": "{amount} moved into escrow",
    "Withdrawn": "{amount} taken out of escrow",
    "SessionOpened": "session {session}: {cap} reserved",
    "SessionClosed": "session {session}: closed, {returned} back in escrow",
    "Settled": "session {session}: {paid} paid, {fee} of it fee, for {octets:,} octets since it was opened",
    "Overturned": "session {session}: overturned, {returned} back in its reserve",
    "Collected": "{amount} earned and collected",
    "DividendPaid": "{amount} of the dividend received",
    "ValidatorPaid": "{amount} received as validator",
}


def _transfer(values: Mapping[str, Any], wallet: Address) -> str:
    sender, receiver = values["sender"], values["receiver"]
    if receiver != wallet:
        return f"{values['amount']} given to {receiver}"
    return f"{values['amount']} received from {sender if any(sender) else 'the deployment'}"


def _withdraw_requested(values: Mapping[str, Any], _wallet: Address) -> str:
    if not values["withdrawAt"]:
        return "the request for escrow was taken back"
    return f"{values['amount']} of the escrow asked back, due {at(values['withdrawAt'])}"


def _voted(values: Mapping[str, Any], wallet: Address) -> str:
    if values["wallet"] != wallet:
        return f"got the vote of {values['wallet']}"
    return f"voted for {values['candidate']}" if any(values["candidate"]) else "vote taken back"


def _seated(values: Mapping[str, Any], wallet: Address) -> str:
    return "took a seat for the dividend" if values["candidate"] == wallet else f"lost its seat to {values['candidate']}"


def _bound(values: Mapping[str, Any], _wallet: Address) -> str:
    return f"router {values['node'].hex()} bound to this wallet"


_TOLD_BY_SIDE: dict[str, Callable[[Mapping[str, Any], Address], str]] = {
    "Transfer": _transfer,
    "WithdrawRequested": _withdraw_requested,
    "Voted": _voted,
    "Seated": _seated,
    "Bound": _bound,
}
