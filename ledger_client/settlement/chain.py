"""What the settlement needs of an EVM chain: ask a contract, and have a transaction taken for good.

Two implementations: the embedded machine (`pyevm.py`) and any node over JSON-RPC (`jsonrpc.py`). What is the contract's business is in
`engine.py`, above both.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from srwan.errors import SettlementRefused
from srwan.ledger_client.settlement.abi import revert_reason
from srwan.ledger_client.settlement.signing import Address, WalletKey

__all__ = ["Chain", "Log", "PastLog", "Receipt", "refusal"]


def refusal(data: bytes, text: str = "") -> SettlementRefused:
    """Return the error for a call that the contract refused; `engine.py`, which knows the operation, names it.

    Args:
        data: what the contract gave back.
        text: what the node says of it, in case that the contract gave no reason.
    """
    return SettlementRefused("a call", revert_reason(data) or text)


@attrs.frozen(slots=True)
class Log:
    """One event, as the chain holds it."""

    address: Address
    """The contract that reported it."""
    topics: tuple[bytes, ...]
    """Its kind and its indexed fields, 32 B each."""
    data: bytes
    """Its other fields."""


@attrs.frozen(slots=True)
class PastLog:
    """One event of the past, and when it was."""

    block_number: int
    """The block that it is in, counted from the chain's first."""
    time_s: int
    """Of that block, s since 1970."""
    log: Log


@attrs.frozen(slots=True)
class Receipt:
    """What became of a transaction."""

    transaction_hash: bytes
    """Its name, 32 B."""
    block_number: int
    """The block that it is in, counted from the chain's first."""
    is_success: bool
    """False if the contract refused it; it used up its nonce all the same."""
    contract: Address | None
    """The contract that it deployed."""
    gas_used: int
    """Gas."""
    logs: tuple[Log, ...]
    """What contracts reported."""


class Chain(Protocol):
    """One chain, by one way to it. May be used by several tasks; transactions of one wallet take turns.

    Every method raises `SettlementUnavailable` where the chain cannot be reached, lost its state or answers nonsense.
    """

    @property
    def chain_id(self) -> int:
        """EIP-155 chain id."""
        ...

    @property
    def where(self) -> str:
        """What to call it in errors: a file, or scheme, host and port; nothing secret."""
        ...

    async def now_s(self) -> int:
        """Return the chain's time, s since 1970."""
        ...

    async def call(self, to: Address, data: bytes) -> bytes:
        """Return what a contract answers to a call that changes nothing.

        Raises:
            SettlementRefused: it refused.
        """
        ...

    async def code(self, address: Address) -> bytes:
        """Return the code of the contract at an address, empty if there is none."""
        ...

    async def execute(self, key: WalletKey, to: Address | None, data: bytes) -> Receipt:
        """Have a call of a contract (None: a deployment) taken into the chain for good, and return what became of it: success.

        Raises:
            SettlementRefused: the contract refused it.
        """
        ...

    async def past_logs(self, contract: Address, blocks: int) -> list[PastLog]:
        """Return what a contract reported in the last blocks, oldest first; the newest ones if there are too many."""
        ...

    async def aclose(self) -> None:
        """Close it. Closing twice is fine; whatever is called after that raises `trio.ClosedResourceError`."""
        ...
