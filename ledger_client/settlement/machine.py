"""py-evm, as much of it as the embedded engine uses. Imported by `evm.py` when a machine is made, and by nothing else.

The state is one object for the life of the process. A transaction is applied to it in place; a call is applied and taken back. What
py-evm raises for a transaction that must not be taken at all becomes a `RemoteProtocolError`.
"""

from __future__ import annotations

from typing import Any

import attrs
from eth.constants import BLANK_ROOT_HASH, ZERO_HASH32
from eth.db.atomic import AtomicDB
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.prague import PragueVM
from eth.vm.forks.prague.state import PragueState
from eth.vm.spoof import SpoofTransaction
from eth_utils.exceptions import ValidationError

from srwan.errors import RemoteProtocolError

__all__ = ["Done", "Machine"]


@attrs.frozen(slots=True)
class Done:
    """What a transaction did."""

    is_success: bool
    output: bytes
    """What it gave back, or why it was refused."""
    gas_used: int
    """Gas, refunds taken off."""
    contract: bytes
    """Address of what it deployed, 20 B; empty if nothing."""
    logs: tuple[tuple[bytes, tuple[int, ...], bytes], ...]
    """Address, topics, data."""


class Machine:
    """A state and what changes it.

    Args:
        chain_id: EIP-155 chain id.
        gas_limit: of a block, gas.
    """

    def __init__(self, chain_id: int, gas_limit: int) -> None:
        self._chain_id = chain_id
        self._gas_limit = gas_limit
        self._builder: Any = PragueVM.get_transaction_builder()
        self._state: Any = PragueState(AtomicDB(), self._context(0, 0), BLANK_ROOT_HASH)

    def _context(self, number: int, time_s: int) -> ExecutionContext:
        return ExecutionContext(
            coinbase=bytes(20),  # type: ignore[arg-type]
            timestamp=time_s,
            block_number=number,  # type: ignore[arg-type]
            difficulty=0,
            mix_hash=ZERO_HASH32,
            gas_limit=self._gas_limit,
            prev_hashes=(),
            chain_id=self._chain_id,
            base_fee_per_gas=0,
            excess_blob_gas=0,
        )

    def apply(self, raw: bytes, number: int, time_s: int, is_refusal_kept: bool) -> Done:
        """Apply a signed transaction in a block of its own; one that is refused only if that is to be kept.

        Raises:
            RemoteProtocolError: it must not be taken at all. Nothing changed.
        """
        return self._run(self._builder.decode(raw), number, time_s, is_kept=True, is_refusal_kept=is_refusal_kept)

    def call(self, sender: bytes, to: bytes | None, data: bytes, number: int, time_s: int) -> Done:
        """Say what a call would do; nothing changes."""
        transaction = self._builder.new_unsigned_dynamic_fee_transaction(
            chain_id=self._chain_id,
            nonce=self._state.get_nonce(sender),
            max_priority_fee_per_gas=0,
            max_fee_per_gas=0,
            gas=self._gas_limit,
            to=to or b"",
            value=0,
            data=data,
            access_list=(),
        )
        return self._run(SpoofTransaction(transaction, from_=sender), number, time_s, is_kept=False, is_refusal_kept=False)

    def _run(self, transaction: Any, number: int, time_s: int, *, is_kept: bool, is_refusal_kept: bool) -> Done:
        state = self._state
        state.execution_context = self._context(number, time_s)
        state.lock_changes()
        snapshot = state.snapshot()
        try:
            done = self._apply(transaction)
        except BaseException:
            state.revert(snapshot)
            raise
        if is_kept and (done.is_success or is_refusal_kept):
            state.commit(snapshot)
        else:
            state.revert(snapshot)
        return done

    def _apply(self, transaction: Any) -> Done:
        try:
            computation = self._state.apply_transaction(transaction)
        except ValidationError as error:
            raise RemoteProtocolError(f"not taken: {error}", reason="transaction") from None
        except RecursionError:
            raise RemoteProtocolError("not taken: it calls too deeply for this machine", reason="transaction") from None
        is_success = not computation.is_error
        return Done(
            is_success=is_success,
            output=bytes(computation.output),
            gas_used=PragueVM.finalize_gas_used(transaction, computation),
            contract=bytes(computation.msg.storage_address) if computation.msg.is_create else b"",
            logs=tuple((bytes(address), tuple(topics), bytes(data)) for address, topics, data in computation.get_log_entries()),
        )

    def nonce(self, address: bytes) -> int:
        """Return how many transactions of a wallet were taken."""
        return int(self._state.get_nonce(address))

    def code(self, address: bytes) -> bytes:
        """Return the code at an address."""
        return bytes(self._state.get_code(address))
