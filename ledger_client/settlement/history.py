"""What happened to a wallet, told from the contract's events. Pure; where the events come from is a chain's business.

A wallet is concerned by events that name it, and by those of sessions that it opened. What a relay earns by a settled claim is named by no
event of its own; it appears when it is collected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from srwan.ledger_client.settlement.signing import Address

__all__ = ["ContractEvent", "happened_to"]


@attrs.frozen(slots=True)
class ContractEvent:
    """One event of the contract, decoded."""

    block_number: int
    """The block that it is in."""
    time_s: int
    """Of that block, s since 1970."""
    name: str
    values: Mapping[str, Any]
    """Its fields by the contract's names: addresses, 32-byte words, numbers (amounts in microtokens)."""


def happened_to(wallet: Address, events: Iterable[ContractEvent]) -> list[ContractEvent]:
    """Return the events that concern a wallet, in their order.

    Args:
        wallet: whose history is told.
        events: of the contract, oldest first; sessions opened before the first of them are not recognised when they close.
    """
    sessions: set[bytes] = set()
    found: list[ContractEvent] = []
    for event in events:
        is_named = any(isinstance(value, Address) and value == wallet for value in event.values.values())
        if is_named and "session" in event.values:
            sessions.add(event.values["session"])
        if is_named or event.values.get("session") in sessions:
            found.append(event)
    return found
