"""Getting a transaction into a chain for good: its nonce, its fee, its place in a block, and that the block stays.

Theory of operation. A wallet has at most one transaction that is in no block; its next one waits for that. So there are no gaps between
nonces of ours, and what a wallet signed is taken in order. From its block on, each is watched on its own until it is `confirmations` deep,
or the node calls its block final.

    signed -> sent -> in a block -> deep enough: done
    - no block yet: sent again now and then (a node that restarted has forgotten it); after `stuck_s`, or when the base fee has risen above
      what it offers, signed again with the same nonce and a fee higher by an eighth or more, up to the cap: one of them can be taken
    - its block is gone (reorganisation): as if it had none yet
    - its nonce was used by another process with the same wallet, for good: signed anew with the next nonce

Whoever waits may give up (cancelled, or `SettlementUnavailable`); the transaction is then left over. If the same wallet asks for the same
call again within an hour, that is the retry of the one left over, and is not sent twice; any other call waits until it is taken. With
an outbox this holds over a restart of the process too: each transaction is on the disk before it is sent.

What a node refuses is found before anything is sent, when the gas is estimated.

Source: EIP-1559; the words nodes refuse with are those of geth, Erigon, Nethermind, Besu and anvil; replacement needs a tenth more (geth:
PriceBump), an eighth is on the safe side of all.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import attrs
import trio

from srwan.errors import SettlementRefused, SettlementUnavailable
from srwan.ledger_client.settlement.chain import Log, Receipt, refusal
from srwan.ledger_client.settlement.outbox import Outbox
from srwan.ledger_client.settlement.rpc import NodeRefusal, RpcClient, address_of, bytes_of, number_of, to_hex
from srwan.ledger_client.settlement.signing import Address, WalletKey
from srwan.ledger_client.settlement.transaction import SignedTransaction, Transaction, sign_transaction

__all__ = ["NodeOptions", "Submission"]

GWEI = 10**9
POLL_S_MIN = 0.005
"""First pause between two looks for a receipt, s; grows by half up to `poll_s`."""
REPLACEMENTS_MAX = 24
"""Fees signed for one nonce: each an eighth more, so the last is 16 times the first."""
ADOPTION_S = 3600.0
"""How long a transaction left over is taken for the same call asked again, s."""
LOGS_MAX = 1024
"""Events of one transaction: 64 claims make 64."""
_RESENDS = 4
"""Times a transaction is sent before it counts as stuck."""
_TIP_WEI = GWEI
"""Offered to the block's maker where the node has no advice, wei."""


class _NeverTakenError(Exception):
    """A transaction that nobody waits for, whose nonce another one used: it can never be taken."""


@attrs.frozen(slots=True)
class NodeOptions:
    """How to deal with a node."""

    confirmations: int = 3
    """Blocks from the one of a transaction to the last, both counted, before it is taken for good. 1 on a development node."""
    fee_cap_wei: int = 200 * GWEI
    """The most to offer for one gas, wei."""
    stuck_s: float = 60.0
    """Without a block for so long, a transaction gets a higher fee, s."""
    patience_s: float = 600.0
    """For one step of one transaction, s; and then `SettlementUnavailable`."""
    poll_s: float = 2.0
    """The longest pause between two looks, s."""
    question_s: float = 10.0
    """For one attempt at a question, s."""
    outage_s: float = 30.0
    """For all attempts at one question, s: how long a node may be away."""


@attrs.define(slots=True)
class _Pending:
    """One operation on its way."""

    to: Address | None
    data: bytes
    gas: int
    nonce: int
    begun_s: float
    """When it was first signed, monotonic, s."""
    signed: list[SignedTransaction] = attrs.field(factory=list)
    """With rising fees; all have the nonce."""
    is_waited: bool = True
    """Somebody waits for it."""
    is_included: bool = False
    """It was seen in a block, and not since found gone."""
    was_sent: bool = False

    def is_same(self, to: Address | None, data: bytes) -> bool:
        return self.to == to and self.data == data


@attrs.define(slots=True)
class _Wallet:
    turn: trio.Lock = attrs.field(factory=trio.Lock)
    pending: list[_Pending] = attrs.field(factory=list)


class _Sent(enum.Enum):
    TAKEN = enum.auto()
    UNDERPRICED = enum.auto()
    NONCE_USED = enum.auto()


_WORDS: tuple[tuple[str, _Sent], ...] = (
    ("already known", _Sent.TAKEN),
    ("already imported", _Sent.TAKEN),
    ("alreadyknown", _Sent.TAKEN),
    ("known transaction", _Sent.TAKEN),
    ("underpriced", _Sent.UNDERPRICED),
    ("base fee", _Sent.UNDERPRICED),
    ("feetoolow", _Sent.UNDERPRICED),
    ("fee too low", _Sent.UNDERPRICED),
    ("gas price too low", _Sent.UNDERPRICED),
    ("nonce too low", _Sent.NONCE_USED),
    ("nonce is too low", _Sent.NONCE_USED),
    ("oldnonce", _Sent.NONCE_USED),
    ("nonce has already been used", _Sent.NONCE_USED),
)


class Submission:
    """Transactions of any number of wallets to one node.

    Args:
        client: the node.
        options: how patient to be, and what a gas may cost.
    """

    def __init__(self, client: RpcClient, options: NodeOptions) -> None:
        self._client = client
        self._options = options
        self._outbox: Outbox | None = None
        self._wallets: dict[Address, _Wallet] = {}

    def restore(self, outbox: Outbox) -> None:
        """Keep transactions in an outbox from now on, and take up what an earlier process left in it."""
        self._outbox = outbox
        for signed in outbox.left:
            transaction = signed.transaction
            wallet = self._wallets.setdefault(signed.sender, _Wallet())
            same = [left for left in wallet.pending if left.nonce == transaction.nonce and left.is_same(transaction.to, transaction.data)]
            if same:
                same[0].signed.append(signed)
                continue
            left = _Pending(transaction.to, transaction.data, transaction.gas, transaction.nonce, trio.current_time(), [signed])
            left.is_waited, left.was_sent = False, True
            wallet.pending.append(left)

    async def _finish(self, wallet: _Wallet, pending: _Pending) -> None:
        """It is settled what became of an operation; from here on, asking for the same again is a new one."""
        wallet.pending.remove(pending)
        if self._outbox is not None and pending.signed:
            with trio.CancelScope(shield=True):
                await self._outbox.finish(pending.signed[-1])

    async def execute(self, key: WalletKey, to: Address | None, data: bytes) -> Receipt:
        """See `Chain.execute`."""
        wallet = self._wallets.setdefault(key.address, _Wallet())
        async with wallet.turn:
            pending = await self._adopt_or_begin(key, wallet, to, data)
            try:
                receipt = await self._include(key, wallet, pending)
            except BaseException:
                pending.is_waited = False
                raise
        try:
            receipt = await self._confirm(key, wallet, pending, receipt)
        finally:
            pending.is_waited = False
        await self._finish(wallet, pending)
        if not receipt.is_success:
            raise await self._reason(key.address, pending, receipt)
        return receipt

    async def _adopt_or_begin(self, key: WalletKey, wallet: _Wallet, to: Address | None, data: bytes) -> _Pending:
        horizon = trio.current_time() - ADOPTION_S
        wallet.pending[:] = [left for left in wallet.pending if left.is_waited or not left.is_included or left.begun_s > horizon]
        for left in [left for left in wallet.pending if not (left.is_waited or left.is_included)]:
            if left.is_same(to, data):
                left.is_waited = True
                return left
            try:
                await self._include(key, wallet, left)
            except _NeverTakenError:
                await self._finish(wallet, left)
        for left in wallet.pending:
            if not left.is_waited and left.is_same(to, data):
                left.is_waited = True
                return left
        gas = await self._estimate(key.address, to, data)
        pending = _Pending(to, data, gas, await self._next_nonce(key.address, wallet), trio.current_time())
        await self._sign(key, pending, *await self._fees())
        wallet.pending.append(pending)  # after the outbox has it, without a chance to be cancelled in between
        return pending

    async def _next_nonce(self, address: Address, wallet: _Wallet) -> int:
        counted = await self._count(address, "pending")
        return max([counted, *(pending.nonce + 1 for pending in wallet.pending)])

    async def _count(self, address: Address, block: str) -> int:
        answer = await self.ask("eth_getTransactionCount", str(address), block)
        return number_of(self._client, "a nonce", answer)

    async def _estimate(self, sender: Address, to: Address | None, data: bytes) -> int:
        call = {"from": str(sender), "data": to_hex(data)} | ({} if to is None else {"to": str(to)})
        found = number_of(self._client, "an estimate of gas", await self.ask("eth_estimateGas", call))
        return found + found // 4 + 10_000

    async def _sign(self, key: WalletKey, pending: _Pending, fee_max_wei: int, priority_wei: int | None) -> None:
        assert self._client.chain_id is not None
        made = Transaction(self._client.chain_id, pending.nonce, pending.to, pending.data, pending.gas, fee_max_wei, priority_wei)
        signed = sign_transaction(key, made)
        if self._outbox is not None:
            await self._outbox.keep(signed)
        pending.signed.append(signed)

    # ---- into a block

    async def _include(self, key: WalletKey, wallet: _Wallet, pending: _Pending) -> Receipt:
        """Return the receipt of an operation as soon as it is in a block."""
        begun = trio.current_time()
        raise_at, send_at, pause_s = begun + self._options.stuck_s, begun, POLL_S_MIN
        while True:
            receipt = await self._find(pending) if pending.was_sent else None
            if receipt is not None:
                pending.is_included = True
                return receipt
            now = trio.current_time()
            if now >= begun + self._options.patience_s:
                raise self._client.unavailable(
                    f"a transaction is in no block after {self._options.patience_s:g} s", "raise fee_cap_wei or wait, then do it again"
                )
            if now >= send_at:
                send_at = now + self._options.stuck_s / _RESENDS
                sent = await self._send(key, wallet, pending)
                if sent is _Sent.NONCE_USED:
                    await self._renumber(key, wallet, pending)
                    send_at = send_at if pending.was_sent else now
                elif now >= raise_at or sent is _Sent.UNDERPRICED or await self._is_price_risen(pending):
                    raise_at = now + self._options.stuck_s
                    send_at = now if await self._raise_fee(key, pending) else send_at
                    continue
            await trio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, self._options.poll_s)

    async def _send(self, key: WalletKey, wallet: _Wallet, pending: _Pending) -> _Sent:
        was_sent, pending.was_sent = pending.was_sent, True
        answer = await self._client.ask("eth_sendRawTransaction", to_hex(pending.signed[-1].raw))
        if not isinstance(answer, NodeRefusal):
            return _Sent.TAKEN
        text = answer.message.lower()
        meaning = next((meaning for words, meaning in _WORDS if words in text), None)
        if meaning is None:
            if not was_sent:  # no node has it
                await self._finish(wallet, pending)
            raise self._poor(key.address) if "insufficient funds" in text else self._refused(answer)
        if meaning is _Sent.NONCE_USED and not was_sent:
            pending.was_sent = False
        return meaning

    async def _renumber(self, key: WalletKey, wallet: _Wallet, pending: _Pending) -> None:
        """Take the next nonce, once it is certain that another transaction used this one: as deep as we ask of our own."""
        if pending.was_sent:
            deep = max(0, await self.head() - self._options.confirmations + 1)
            if await self._count(key.address, hex(deep)) <= pending.nonce or await self._find(pending) is not None:
                return
        if not pending.is_waited:
            raise _NeverTakenError
        pending.nonce = max(await self._next_nonce(key.address, wallet), pending.nonce + 1)
        pending.signed.clear()
        pending.was_sent = False
        await self._sign(key, pending, *await self._fees())

    async def _find(self, pending: _Pending) -> Receipt | None:
        for signed in reversed(pending.signed):
            answer = await self.ask("eth_getTransactionReceipt", to_hex(signed.hash))
            if answer is not None:
                return self._receipt(signed.hash, answer)
        return None

    def _receipt(self, name: bytes, answer: object) -> Receipt:
        client = self._client
        if not isinstance(answer, Mapping) or not isinstance(answer.get("logs"), list) or len(answer["logs"]) > LOGS_MAX:
            raise client.unavailable("a receipt is malformed", "the node answers nonsense: use another one")
        if bytes_of(client, "a receipt's hash", answer.get("transactionHash"), 32) != name:
            raise client.unavailable("a receipt of another transaction", "the node answers nonsense: use another one")
        contract = answer.get("contractAddress")
        return Receipt(
            transaction_hash=name,
            block_number=number_of(client, "a block's number", answer.get("blockNumber")),
            is_success=number_of(client, "a status", answer.get("status")) == 1,
            contract=None if contract is None else address_of(client, "a contract's address", contract),
            gas_used=number_of(client, "gas used", answer.get("gasUsed")),
            logs=tuple(self._log(log) for log in answer["logs"]),
        )

    def _log(self, log: object) -> Log:
        if not isinstance(log, Mapping) or not isinstance(log.get("topics"), list) or len(log["topics"]) > 4:
            raise self._client.unavailable("an event is malformed", "the node answers nonsense: use another one")
        topics = tuple(bytes_of(self._client, "a topic", topic, 32) for topic in log["topics"])
        address = address_of(self._client, "an event's address", log.get("address"))
        return Log(address, topics, bytes_of(self._client, "an event's data", log.get("data")))

    # ---- fees

    async def _fees(self) -> tuple[int, int | None]:
        """Return the most to offer for a gas and the part of it for the block's maker, wei; None for a chain without base fee."""
        cap = self._options.fee_cap_wei
        base = await self._base_fee()
        if base is None:
            price = number_of(self._client, "a gas price", await self.ask("eth_gasPrice"))
            self._require_affordable(price)
            return min(price + price // 4, cap), None
        self._require_affordable(base)
        answer = await self._client.ask("eth_maxPriorityFeePerGas")
        advised = None if isinstance(answer, NodeRefusal) else number_of(self._client, "a priority fee", answer)
        tip = advised if advised is not None else _TIP_WEI if base else 0
        most = min(2 * base + tip, cap)
        return most, min(tip, most)

    async def _base_fee(self) -> int | None:
        fee = (await self.block("latest")).get("baseFeePerGas")
        return None if fee is None else number_of(self._client, "a base fee", fee)

    def _require_affordable(self, price_wei: int) -> None:
        if price_wei > self._options.fee_cap_wei:
            raise self._client.unavailable(
                f"gas costs {price_wei} wei, the cap is {self._options.fee_cap_wei}", "wait, or raise fee_cap_wei; nothing was sent"
            )

    async def _is_price_risen(self, pending: _Pending) -> bool:
        base = await self._base_fee()
        return base is not None and base > pending.signed[-1].transaction.fee_max_wei

    async def _raise_fee(self, key: WalletKey, pending: _Pending) -> bool:
        """Sign it again with a fee that nodes take for a replacement; False where the cap or the count of replacements is reached."""
        before = pending.signed[-1].transaction
        try:
            fee, priority = await self._fees()
        except SettlementUnavailable:
            return False  # gas is dearer than the cap, or the node is away: wait
        fee = max(fee, before.fee_max_wei * 9 // 8 + 1)
        if priority is not None and before.priority_wei is not None:
            priority = max(priority, before.priority_wei * 9 // 8 + 1)
        if max(fee, priority or 0) > self._options.fee_cap_wei or len(pending.signed) >= REPLACEMENTS_MAX:
            return False
        await self._sign(key, pending, max(fee, priority or 0), priority)
        return True

    # ---- for good

    async def _confirm(self, key: WalletKey, wallet: _Wallet, pending: _Pending, receipt: Receipt) -> Receipt:
        """Return the receipt of an operation when its block is deep enough, whichever block that is in the end."""
        begun, pause_s = trio.current_time(), POLL_S_MIN
        while True:
            depth = await self.head() - receipt.block_number + 1
            if depth >= self._options.confirmations or await self._is_final(receipt):
                return receipt
            if trio.current_time() >= begun + self._options.patience_s:
                raise self._client.unavailable(
                    f"a transaction has {depth} of {self._options.confirmations} confirmations after {self._options.patience_s:g} s",
                    "wait and do it again, or ask for fewer confirmations on a node that makes blocks on demand only",
                )
            await trio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, self._options.poll_s)
            found = await self._find(pending)
            if found is None:
                pending.is_included = False
                found = await self._include(key, wallet, pending)
            receipt = found

    async def _is_final(self, receipt: Receipt) -> bool:
        try:
            block = await self.block("finalized")
        except SettlementUnavailable:
            return False  # many nodes have no such block
        return number_of(self._client, "a block's number", block.get("number")) >= receipt.block_number

    async def _reason(self, sender: Address, pending: _Pending, receipt: Receipt) -> SettlementRefused:
        """Return why a transaction that was taken was refused, by asking again as of the block before its own, and as of its own."""
        call = {"from": str(sender), "data": to_hex(pending.data)} | ({} if pending.to is None else {"to": str(pending.to)})
        for number in (receipt.block_number - 1, receipt.block_number):
            answer = await self._client.ask("eth_call", call, hex(max(0, number)))
            if isinstance(answer, NodeRefusal):
                return reverted(self._client, answer) or refusal(b"")
        return refusal(b"")

    # ---- questions

    async def ask(self, method: str, *parameters: Any) -> Any:
        """Ask the node something.

        Raises:
            SettlementRefused: the contract refused. SettlementUnavailable: the node did, or see `RpcClient.ask`.
        """
        answer = await self._client.ask(method, *parameters)
        if isinstance(answer, NodeRefusal):
            raise self._refused(answer)
        return answer

    async def head(self) -> int:
        """Return the number of the last block."""
        return number_of(self._client, "a block's number", await self.ask("eth_blockNumber"))

    async def block(self, name: str) -> Mapping[str, Any]:
        """Return a block, without its transactions.

        Raises:
            SettlementUnavailable: there is none of this name.
        """
        answer = await self.ask("eth_getBlockByNumber", name, False)
        if not isinstance(answer, Mapping):
            raise self._client.unavailable(f"there is no {name} block", "the node answers nonsense: use another one")
        return answer

    def _refused(self, error: NodeRefusal) -> SettlementRefused | SettlementUnavailable:
        if "insufficient funds" in error.message.lower():
            return self._poor(None)
        return reverted(self._client, error) or self._client.unavailable(
            f"the node refuses {error.method} ({error.message})", "see what it says; nothing was sent"
        )

    def _poor(self, address: Address | None) -> SettlementUnavailable:
        who = "the wallet" if address is None else str(address)
        return self._client.unavailable(f"{who} cannot pay for gas", "send it some of the chain's own coin")


def reverted(client: RpcClient, error: NodeRefusal) -> SettlementRefused | None:
    """Return the contract's refusal in a node's error, None if it is an error of the node."""
    data: object = error.data
    if isinstance(data, Mapping):
        data = data.get("data")
    if error.code != 3 and "revert" not in error.message.lower():
        return None
    try:
        found = bytes_of(client, "a reason", data)
    except SettlementUnavailable:
        found = b""
    _, _, text = error.message.partition("reverted: ")
    return refusal(found, text.strip().strip("'\""))
