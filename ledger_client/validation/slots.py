"""Whose turn it is, and what the validators said in each slot.

Theory of operation. Wall time is cut into slots of equal length; slot s belongs to the validator s mod n of the set, by rising address.
Who is down loses its slot, the next one has the next: standbys are later slots. The owner's batch is the proposal; those of others are
answers to it and count if they sign the same list. Everything is kept for SLOTS_KEPT slots, so a crowd of old batches costs nothing.

Settling is the proposer's, too. If the settlement does not show it, the next in order does it one slot later, and so on: paying a batch
twice pays nothing twice.
"""

from __future__ import annotations

import attrs

from srwan.ledger_client.settlement.settlement import ValidatorSet
from srwan.ledger_client.settlement.signing import Address
from srwan.ledger_client.validation.batch import SignedBatch

__all__ = ["SLOTS_AHEAD_MAX", "SLOTS_KEPT", "Slot", "SlotBook", "owner_of", "proposal_of"]

SLOTS_KEPT = 64
"""Past slots of which batches count."""
SLOTS_AHEAD_MAX = 1
"""Slots by which another validator's clock may be ahead."""
NS_PER_S = 10**9


def owner_of(slot: int, validators: ValidatorSet) -> Address:
    """Return the validator whose turn a slot is."""
    return validators.addresses[slot % len(validators.addresses)]


@attrs.define(slots=True, eq=False)
class Slot:
    """What was said in one slot."""

    number: int
    """Wall time divided by the length of a slot."""
    answers: dict[Address, SignedBatch] = attrs.field(factory=dict[Address, SignedBatch])
    """By validator, verified; one each."""
    first_seen: float | None = None
    """Monotonic seconds when the proposal came."""
    settle_at: float | None = None
    """Monotonic seconds from which this validator settles it; None while there is no quorum, or it is done with."""
    tries: int = 0
    """How often this validator tried to settle it."""
    is_finished: bool = False
    """Settled, or given up."""

    def signatures(self, proposal: SignedBatch) -> dict[Address, bytes]:
        """Return the signatures under the proposal's list, by validator, by rising address."""
        signed = {wallet: answer for wallet, answer in self.answers.items() if answer.is_signed and answer.items == proposal.items}
        return {wallet: signed[wallet].signature for wallet in sorted(signed)}


class SlotBook:
    """The slots that count.

    Args:
        slot_s: length of a slot, s.
    """

    def __init__(self, slot_s: int) -> None:
        self.slot_s = slot_s
        self._slots: dict[int, Slot] = {}
        self.newest = -1
        """Greatest slot number that this validator's clock has reached; never falls, whatever the clock does."""

    def advance(self, wall_ns: int) -> bool:
        """Take note of the time; say whether a new slot began. A clock that was set back begins none again."""
        number = wall_ns // (self.slot_s * NS_PER_S)
        if number <= self.newest:
            return False
        self.newest = number
        for old in [slot for slot in self._slots if slot < number - SLOTS_KEPT]:
            del self._slots[old]
        return True

    def is_current(self, number: int) -> bool:
        """Say whether batches of a slot count now."""
        return self.newest - SLOTS_KEPT <= number <= self.newest + SLOTS_AHEAD_MAX

    def slot(self, number: int) -> Slot:
        """Return a slot that is current."""
        return self._slots.setdefault(number, Slot(number))

    def slots(self) -> list[Slot]:
        """Return the slots in which something was said, oldest first."""
        return [self._slots[number] for number in sorted(self._slots)]

    def due(self) -> list[float]:
        """Return when batches are to be settled by this validator, monotonic s."""
        return [slot.settle_at for slot in self._slots.values() if slot.settle_at is not None]


def proposal_of(slot: Slot, validators: ValidatorSet) -> SignedBatch | None:
    """Return the batch that the owner of a slot proposes; None if it is silent."""
    answer = slot.answers.get(owner_of(slot.number, validators))
    return answer if answer is not None and answer.is_signed else None
