"""The errors of srwan: one tree, so that `except SrwanError` catches all of it and nothing else.

An error carries the offending values as fields, its message says what was wrong and what to do, and its docstring says what
state it leaves. Errors caused by a peer (`RemoteProtocolError`) never leave a receive loop: the datagram is dropped, counted by
peer and reason, and reported as a `PeerMisbehaved` event.
"""

from __future__ import annotations

__all__ = [
    "BadSignature",
    "ConfigError",
    "DecodeError",
    "Equivocation",
    "InsufficientEscrow",
    "LedgerError",
    "LimitExceeded",
    "LocalProtocolError",
    "NoOffer",
    "NoPath",
    "NoSession",
    "OverlayError",
    "PathClosed",
    "ProtocolError",
    "RemoteProtocolError",
    "RoutingError",
    "SettlementRefused",
    "SettlementUnavailable",
    "SrwanError",
    "StaleRecord",
    "StoreUnavailable",
    "TicketSpent",
    "UnknownNode",
    "WalletLocked",
]


class SrwanError(Exception):
    """Root of all errors raised by srwan. State: as the subclass says."""


class ConfigError(SrwanError):
    """A setting, a file or a port is not usable. Raised before anything is started or written; nothing is left behind."""

    def __init__(self, key: str, problem: str, remedy: str) -> None:
        super().__init__(f"{key}: {problem}; {remedy}")
        self.key = key
        """What was set: a dotted configuration key, a path or an address."""
        self.problem = problem
        self.remedy = remedy


class ProtocolError(SrwanError):
    """A rule of a protocol was broken, by us (`LocalProtocolError`) or by a peer (`RemoteProtocolError`)."""


class LocalProtocolError(ProtocolError):
    """The caller broke a rule of the protocol object. The object is unchanged."""


class RemoteProtocolError(ProtocolError):
    """A peer broke a rule. The input was dropped and nothing changed; `reason` is the name it is counted under."""

    reason = "protocol"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class DecodeError(RemoteProtocolError):
    """Bytes that are no valid encoding: truncated, oversized, wrong version, not canonical. Nothing changed."""

    reason = "decode"


class BadSignature(RemoteProtocolError):
    """A signature or authentication tag does not match. Nothing of the content was used."""

    reason = "signature"


class StaleRecord(RemoteProtocolError):
    """Older than what is held already, or expired. What is held stays."""

    reason = "stale"


class Equivocation(RemoteProtocolError):
    """A node signed two different bodies under one version: self-contained evidence against it. The one held first stays."""

    reason = "equivocation"

    def __init__(self, node_id: bytes, first: bytes, second: bytes) -> None:
        super().__init__(f"{node_id.hex()[:12]} signed two different bodies under one version; keep both as evidence")
        self.node_id = node_id
        """Who signed both: not necessarily who sent them."""
        self.first = first
        """The signed bytes that were held."""
        self.second = second
        """The signed bytes that arrived and were dropped."""


class LimitExceeded(RemoteProtocolError):
    """More than the documented bound of a size, count or rate. The excess was dropped."""

    reason = "limit"


class OverlayError(SrwanError):
    """Finding or reaching other routers failed. The node keeps what it knows and may try again."""


class UnknownNode(OverlayError):
    """A name or id matches no member of the view, or more than one. Nothing was sent."""

    def __init__(self, destination: str, problem: str) -> None:
        super().__init__(f"{destination}: {problem}; `node.view()` lists the members")
        self.destination = destination


class NoSession(OverlayError):
    """No encrypted session with a peer could be made. Queued packets for it were dropped and counted."""


class RoutingError(SrwanError):
    """A path could not be used. Packets already handed over may be lost; the path object says its state."""


class NoPath(RoutingError):
    """No path satisfies the policy, not even the direct one. Nothing was sent."""


class PathClosed(RoutingError):
    """The path was closed, here or by the far side. Nothing was sent; open a new one."""


class LedgerError(SrwanError):
    """A record store or settlement refused or failed. What was acknowledged before stays."""


class StoreUnavailable(LedgerError):
    """The record store cannot be opened, read or written. The last transaction was rolled back."""

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem}; {remedy}")
        self.where = where
        self.problem = problem
        self.remedy = remedy


class SettlementUnavailable(LedgerError):
    """The settlement engine cannot be reached, answers nonsense, or lost its state. Whether a transaction under way was taken is unknown.

    Sending the same again is safe for everything but a transfer or a deposit, which may then happen twice: look at the balance first.
    """

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem}; {remedy}")
        self.where = where
        self.problem = problem
        self.remedy = remedy


class SettlementRefused(LedgerError):
    """The settlement contract refused an operation. Nothing changed on it."""

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(f"the settlement contract refused {operation}: {reason}")
        self.operation = operation
        """Function of the contract."""
        self.reason = reason
        """The contract's word for it, see docs/settlement.md; empty if it gave none."""


class InsufficientEscrow(LedgerError):
    """A wallet has less than an operation needs. Nothing was sent."""

    def __init__(self, what: str, needed_microtoken: int, held_microtoken: int) -> None:
        super().__init__(
            f"{what}: needs {needed_microtoken} microtokens, {held_microtoken} are free; deposit more, or lower the cap of the session"
        )
        self.needed_microtoken = needed_microtoken
        self.held_microtoken = held_microtoken


class TicketSpent(LedgerError):
    """A ticket claims nothing beyond what was settled or signed before. What was paid stays paid, once."""


class NoOffer(LedgerError):
    """A path cannot be bought now: a relay offers nothing, or not at this price. Nothing was reserved or sent."""

    def __init__(self, relay: bytes, problem: str, remedy: str) -> None:
        super().__init__(f"relay {relay.hex()[:12]}: {problem}; {remedy}")
        self.relay = relay
        """NodeId of the relay at which it failed, or of the first if it is the sum."""
        self.problem = problem
        self.remedy = remedy


class WalletLocked(LedgerError):
    """A wallet file cannot be opened: missing, damaged, or the passphrase is wrong. Nothing was signed."""

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem}; {remedy}")
        self.where = where
        self.problem = problem
        self.remedy = remedy
