# pragma version 0.4.3
# pragma evm-version cancun
# pragma optimize gas
"""
@title Settlement of path sessions
@license Apache-2.0
@notice Escrow, path sessions, batches of cumulative tickets paid by a quorum of validators, disputes, fees, subsidy, votes, dividend.
@dev
What this is not: a judge of traffic (validators are), a bridge or an ERC-20 token. It calls no other contract.

Theory of operation. Every microtoken is in one place: balance, escrow, withdrawal under way (of a wallet), reserve (of a session),
locked earnings (of a wallet, by period), locked fees (by period), validator pool, dividend pool, subsidy. Functions move, none makes or
destroys, so the sum of all places is the supply, always (`docs/settlement.md`).

A period is chain time divided by the window. What is paid in period p can be overturned in p and p + 1 and collected from p + 2 on.
What a session paid in one period, its tranche, is split as if it had been one payment: later claims of the period pay the difference.
So the split is a function of two numbers that the session keeps, and overturning takes back exactly what was paid, to the unit.

Words of storage are packed where batches write them: one for a session, one for the locked earnings of a wallet.
"""

# ---- what callers hand in -------------------------------------------------------------------------------------------

struct Terms:
    consumer: address
    payees: DynArray[address, 8]
    prices: DynArray[uint128, 8]
    cap: uint128
    expires: uint64
    plan: bytes32

struct Claim:
    terms: Terms
    octets: uint128
    amount: uint128
    v: uint8
    r: bytes32
    s: bytes32

struct Signature:
    v: uint8
    r: bytes32
    s: bytes32

# ---- what happened --------------------------------------------------------------------------------------------------

event Transfer:
    sender: indexed(address)
    receiver: indexed(address)
    amount: uint256

event Deposited:
    wallet: indexed(address)
    amount: uint256

event WithdrawRequested:
    wallet: indexed(address)
    amount: uint256
    withdrawAt: uint256

event Withdrawn:
    wallet: indexed(address)
    amount: uint256

event SessionOpened:
    session: indexed(bytes32)
    consumer: indexed(address)
    cap: uint256

event SessionClosed:
    session: indexed(bytes32)
    returned: uint256

event Settled:
    session: indexed(bytes32)
    consumer: indexed(address)
    octets: uint256
    paid: uint256
    fee: uint256

event Overturned:
    session: indexed(bytes32)
    returned: uint256
    evidence: bytes32

event Bound:
    node: indexed(bytes32)
    wallet: indexed(address)
    sequence: uint256

event Collected:
    wallet: indexed(address)
    period: uint256
    amount: uint256

event FeesCollected:
    period: uint256
    amount: uint256

event SubsidyReleased:
    amount: uint256

event Voted:
    wallet: indexed(address)
    candidate: indexed(address)

event Seated:
    candidate: indexed(address)
    displaced: indexed(address)

event DividendPaid:
    wallet: indexed(address)
    amount: uint256

event ValidatorPaid:
    wallet: indexed(address)
    amount: uint256

event ValidatorsChanged:
    quorum: uint256
    nonce: uint256

# ---- bounds ---------------------------------------------------------------------------------------------------------

GB: constant(uint256) = 10 ** 9
SUBSIDY_S: constant(uint256) = 3 * 365 * 86400
SEATS_MAX: constant(uint256) = 21
CAP_MAX: constant(uint256) = 2 ** 52 - 1  # of a session: 4.5 * 10**9 tokens
SUPPLY_MAX: constant(uint256) = 2 ** 72 - 1  # 4.7 * 10**15 tokens
TWO_FIELDS: constant(uint256) = 2 ** 144 - 1
OLDER_FIELD: constant(uint256) = (2 ** 72 - 1) << 144
PRICE_MAX: constant(uint128) = 2 ** 64 - 1
WINDOWS_MAX: constant(uint256) = 32_000  # life of a session in windows, so that its periods fit 15 bits
TIME_MAX: constant(uint256) = 2 ** 32 - 1  # no session lives beyond 2106
WINDOW_MAX: constant(uint256) = 2 ** 32
DELAY_MAX: constant(uint256) = 2 ** 40
BPS: constant(uint256) = 10_000
HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

DOMAIN_TYPE: constant(bytes32) = keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
TICKET_TYPE: constant(bytes32) = keccak256("PathTicket(bytes32 session,uint128 octets,uint128 amount)")
BATCH_TYPE: constant(bytes32) = keccak256("Batch(bytes32 claims)")
BINDING_TYPE: constant(bytes32) = keccak256("Binding(bytes32 node,address wallet,uint64 sequence)")
OVERTURN_TYPE: constant(bytes32) = keccak256("Overturn(bytes32 session,uint128 settled,uint128 keep,bytes32 evidence)")
CHANGE_TYPE: constant(bytes32) = keccak256("ValidatorChange(bytes32 validators,uint256 quorum,uint256 nonce)")

# ---- state ----------------------------------------------------------------------------------------------------------

FEE_BPS: immutable(uint256)
SUPPLY: immutable(uint256)
SUBSIDY: immutable(uint256)
SUBSIDY_FROM: immutable(uint256)
WINDOW: immutable(uint256)
WITHDRAW_DELAY: immutable(uint256)
CHAIN: immutable(uint256)
DOMAIN: immutable(bytes32)

struct Account:
    balance: uint256
    escrow: uint256
    withdrawing: uint256
    withdrawAt: uint256
    vote: address
    votes: uint256

accounts: HashMap[address, Account]

# cap 52 | settled 52 | settled before the last period with a payment 52 | settled before the period before that 52 | opened 32
# | last period with a payment, counted from the period of opening, 15 | overturned 1. Zero: not open.
sessions: HashMap[bytes32, uint256]

# Earned in the last period with earnings 72 | in the one before it 72 | before that 72 | the last period with earnings 40.
# Fees are the earnings of the zero address.
earned: HashMap[address, uint256]

bindings: HashMap[bytes32, uint256]  # wallet 160 | sequence 64
validatorPool: uint256
dividendPool: uint256
released: uint256
seated: DynArray[address, 21]
seatOf: HashMap[address, uint256]  # place in `seated`, from 1; 0: none
validators: DynArray[address, 16]
placeOf: HashMap[address, uint256]  # place in `validators`, from 1; 0: none
quorum: uint256
nonce: uint256
paidAt: uint256  # time of the last payout to validators


@deploy
def __init__(
    fee_bps: uint256,
    validators: DynArray[address, 16],
    quorum: uint256,
    supply: uint256,
    subsidy: uint256,
    window_s: uint256,
    withdraw_delay_s: uint256,
):
    assert fee_bps <= BPS, "fee"
    assert supply <= SUPPLY_MAX, "supply"
    assert subsidy <= supply, "subsidy"
    assert window_s > 0 and window_s <= WINDOW_MAX, "window"
    assert withdraw_delay_s <= DELAY_MAX, "delay"
    FEE_BPS = fee_bps
    SUPPLY = supply
    SUBSIDY = subsidy
    SUBSIDY_FROM = block.timestamp
    WINDOW = window_s
    WITHDRAW_DELAY = withdraw_delay_s
    CHAIN = chain.id
    DOMAIN = keccak256(abi_encode(DOMAIN_TYPE, keccak256("srwan"), keccak256("1"), chain.id, self))
    self.accounts[msg.sender].balance = supply - subsidy
    self.paidAt = block.timestamp
    self._install(validators, quorum)
    log Transfer(sender=empty(address), receiver=msg.sender, amount=supply - subsidy)


# ---- signatures -----------------------------------------------------------------------------------------------------

@internal
@view
def _digest(struct_hash: bytes32) -> bytes32:
    domain: bytes32 = DOMAIN
    if chain.id != CHAIN:  # a copy of the chain under another id takes none of this one's signatures
        domain = keccak256(abi_encode(DOMAIN_TYPE, keccak256("srwan"), keccak256("1"), chain.id, self))
    return keccak256(concat(x"1901", domain, struct_hash))


@internal
@pure
def _signer(digest: bytes32, v: uint8, r: bytes32, s: bytes32) -> address:
    assert convert(s, uint256) <= HALF_ORDER, "signature"  # EIP-2: the twin of a signature is refused
    signer: address = ecrecover(digest, v, r, s)
    assert signer != empty(address), "signature"
    return signer


@internal
@view
def _require_quorum(struct_hash: bytes32, signatures: DynArray[Signature, 16]):
    digest: bytes32 = self._digest(struct_hash)
    last: uint256 = 0
    for signature: Signature in signatures:
        signer: address = self._signer(digest, signature.v, signature.r, signature.s)
        place: uint256 = self.placeOf[signer]
        assert place > 0, "validator"
        assert convert(signer, uint256) > last, "order"  # strictly rising: nobody counts twice
        last = convert(signer, uint256)
    assert len(signatures) >= self.quorum, "quorum"


@internal
def _install(validators: DynArray[address, 16], quorum: uint256):
    assert quorum >= 1 and quorum <= len(validators), "quorum"
    last: uint256 = 0
    place: uint256 = 0
    for validator: address in validators:
        assert convert(validator, uint256) > last, "order"  # also: not zero, none twice
        last = convert(validator, uint256)
        place += 1
        self.placeOf[validator] = place
    self.validators = validators
    self.quorum = quorum


# ---- wallets --------------------------------------------------------------------------------------------------------

@internal
def _credit(wallet: address, amount: uint256):
    self.accounts[wallet].balance += amount
    candidate: address = self.accounts[wallet].vote
    if candidate != empty(address):
        self.accounts[candidate].votes += amount


@internal
def _debit(wallet: address, amount: uint256):
    balance: uint256 = self.accounts[wallet].balance
    assert amount <= balance, "balance"
    self.accounts[wallet].balance = balance - amount
    candidate: address = self.accounts[wallet].vote
    if candidate != empty(address):
        self.accounts[candidate].votes -= amount


@external
def transfer(to: address, amount: uint256):
    assert to != empty(address), "address"
    self._debit(msg.sender, amount)
    self._credit(to, amount)
    log Transfer(sender=msg.sender, receiver=to, amount=amount)


@external
def deposit(amount: uint256):
    self._debit(msg.sender, amount)
    self.accounts[msg.sender].escrow += amount
    log Deposited(wallet=msg.sender, amount=amount)


@external
def request_withdraw(amount: uint256):
    """Ask escrow back; replaces an earlier request. Zero takes it back."""
    account: Account = self.accounts[msg.sender]
    free: uint256 = account.escrow + account.withdrawing
    assert amount <= free, "escrow"
    due: uint256 = 0
    if amount > 0:
        due = block.timestamp + WITHDRAW_DELAY
    self.accounts[msg.sender].escrow = free - amount
    self.accounts[msg.sender].withdrawing = amount
    self.accounts[msg.sender].withdrawAt = due
    log WithdrawRequested(wallet=msg.sender, amount=amount, withdrawAt=due)


@external
def withdraw() -> uint256:
    amount: uint256 = self.accounts[msg.sender].withdrawing
    assert amount > 0, "nothing"
    assert block.timestamp >= self.accounts[msg.sender].withdrawAt, "early"
    self.accounts[msg.sender].withdrawing = 0
    self.accounts[msg.sender].withdrawAt = 0
    self._credit(msg.sender, amount)
    log Withdrawn(wallet=msg.sender, amount=amount)
    return amount


@external
def bind(
    node: bytes32,
    wallet: address,
    sequence: uint64,
    walletSignature: Signature,
    signatures: DynArray[Signature, 16],
):
    """Bind a router to a wallet. The EVM cannot check the router's Ed25519 signature: the validators have."""
    assert wallet != empty(address), "address"
    assert convert(sequence, uint256) > self.bindings[node] >> 160, "sequence"
    struct_hash: bytes32 = keccak256(abi_encode(BINDING_TYPE, node, wallet, sequence))
    signer: address = self._signer(self._digest(struct_hash), walletSignature.v, walletSignature.r, walletSignature.s)
    assert signer == wallet, "signature"
    self._require_quorum(struct_hash, signatures)
    self.bindings[node] = convert(wallet, uint256) | (convert(sequence, uint256) << 160)
    log Bound(node=node, wallet=wallet, sequence=convert(sequence, uint256))


# ---- path sessions --------------------------------------------------------------------------------------------------

@internal
@pure
def _require_terms(terms: Terms):
    count: uint256 = len(terms.payees)
    assert count > 0 and len(terms.prices) == count, "payees"
    place: uint256 = 0
    for payee: address in terms.payees:
        assert payee != empty(address), "payees"
        for other: uint256 in range(place, bound=8):
            assert terms.payees[other] != payee, "payees"
        place += 1
    for price: uint128 in terms.prices:
        assert price <= PRICE_MAX, "price"
    assert terms.cap > 0 and convert(terms.cap, uint256) <= CAP_MAX, "cap"


@external
def open_session(terms: Terms):
    """Reserve the cap. Opening an open session again changes nothing."""
    assert msg.sender == terms.consumer, "consumer"
    session: bytes32 = keccak256(abi_encode(terms))
    if self.sessions[session] != 0:
        return
    self._require_terms(terms)
    expires: uint256 = convert(terms.expires, uint256)
    assert block.timestamp < expires, "expired"
    assert expires <= min(block.timestamp + WINDOWS_MAX * WINDOW, TIME_MAX), "expires"
    cap: uint256 = convert(terms.cap, uint256)
    escrow: uint256 = self.accounts[msg.sender].escrow
    assert cap <= escrow, "escrow"
    self.accounts[msg.sender].escrow = escrow - cap
    self.sessions[session] = cap | (block.timestamp << 208)
    log SessionOpened(session=session, consumer=msg.sender, cap=cap)


@external
def close_session(terms: Terms) -> uint256:
    """Return what is left of the reserve to the consumer's escrow, when no claim and no dispute can come any more. Anyone may."""
    session: bytes32 = keccak256(abi_encode(terms))
    held: uint256 = self.sessions[session]
    assert held != 0, "closed"
    assert block.timestamp > convert(terms.expires, uint256) + 2 * WINDOW, "early"
    assert block.timestamp // WINDOW > self._last_period(held) + 1, "early"
    left: uint256 = (held & CAP_MAX) - ((held >> 52) & CAP_MAX)
    self.sessions[session] = 0
    self.accounts[terms.consumer].escrow += left
    log SessionClosed(session=session, returned=left)
    return left


@internal
@view
def _last_period(held: uint256) -> uint256:
    return ((held >> 208) & (2 ** 32 - 1)) // WINDOW + ((held >> 240) & (2 ** 15 - 1))


@internal
@pure
def _rolled(word: uint256) -> uint256:
    """Return the amounts of a wallet's earnings one period later: what was latest is previous, what was previous is older. Their sum is
    below the supply, so no field runs over."""
    return unsafe_add((word & TWO_FIELDS) << 72, word & OLDER_FIELD)


@internal
def _pay(payee: address, period: uint256, before: uint256, after: uint256):
    """Let a payee's locked earnings of a period, this or the last one, hold `after` where they held `before` of a session."""
    if before == after:
        return
    word: uint256 = self.earned[payee]
    last: uint256 = word >> 216
    place: uint256 = 0
    if period > last:
        if period > unsafe_add(last, 1):
            word = self._rolled(word)
        word = self._rolled(word) | (period << 216)
    elif period < last:
        place = 72
    held: uint256 = (word >> place) & SUPPLY_MAX
    self.earned[payee] = unsafe_add(unsafe_sub(word, held << place), (held + after - before) << place)


@internal
def _pay_tranche(
    payees: DynArray[address, 8], prices: DynArray[uint128, 8], total: uint256, period: uint256, before: uint256, after: uint256
) -> (uint256, uint256):
    """Change what a session pays in a period, and return the fee within it before and after."""
    # Unchecked: amounts are below 2^52, prices below 2^64, the fee is at most everything, and rounded shares sum to no more than the net.
    fee_before: uint256 = unsafe_div(unsafe_mul(before, FEE_BPS), BPS)
    fee_after: uint256 = unsafe_div(unsafe_mul(after, FEE_BPS), BPS)
    net_before: uint256 = unsafe_sub(before, fee_before)
    net_after: uint256 = unsafe_sub(after, fee_after)
    first_before: uint256 = net_before
    first_after: uint256 = net_after
    for place: uint256 in range(1, len(payees), bound=7):
        price: uint256 = convert(prices[place], uint256)
        share_before: uint256 = unsafe_div(unsafe_mul(net_before, price), total)
        share_after: uint256 = unsafe_div(unsafe_mul(net_after, price), total)
        first_before = unsafe_sub(first_before, share_before)
        first_after = unsafe_sub(first_after, share_after)
        self._pay(payees[place], period, share_before, share_after)
    self._pay(payees[0], period, first_before, first_after)
    return fee_before, fee_after


@internal
@pure
def _sum(prices: DynArray[uint128, 8]) -> uint256:
    total: uint256 = 0
    for price: uint128 in prices:
        total += convert(price, uint256)
    return total


@external
def settle(claims: DynArray[Claim, 64], signatures: DynArray[Signature, 16]):
    """Pay a batch that a quorum has signed. Claims that claim nothing new, and of overturned sessions, are passed over."""
    assert len(claims) > 0, "empty"
    hashes: DynArray[bytes32, 64] = []
    paid: uint256 = 0
    fees: uint256 = 0
    period: uint256 = block.timestamp // WINDOW
    for claim: Claim in claims:
        session: bytes32 = keccak256(abi_encode(claim.terms))
        hashes.append(keccak256(abi_encode(session, claim.octets, claim.amount)))
        held: uint256 = self.sessions[session]
        assert held != 0, "closed"
        settled: uint256 = (held >> 52) & CAP_MAX
        amount: uint256 = convert(claim.amount, uint256)
        if amount <= settled or held >> 255 != 0:
            continue
        assert amount <= held & CAP_MAX, "cap"
        total: uint256 = 0
        for price: uint128 in claim.terms.prices:
            total = unsafe_add(total, convert(price, uint256))  # below 2^67: of an open session, so each is below 2^64
        assert unsafe_mul(amount, GB) <= unsafe_mul(convert(claim.octets, uint256), total), "price"
        assert block.timestamp <= convert(claim.terms.expires, uint256) + WINDOW, "expired"
        digest: bytes32 = self._digest(keccak256(abi_encode(TICKET_TYPE, session, claim.octets, claim.amount)))
        assert self._signer(digest, claim.v, claim.r, claim.s) == claim.terms.consumer, "signature"
        opened: uint256 = ((held >> 208) & (2 ** 32 - 1)) // WINDOW
        last: uint256 = opened + ((held >> 240) & (2 ** 15 - 1))
        base: uint256 = (held >> 104) & CAP_MAX
        base_before: uint256 = (held >> 156) & CAP_MAX
        if period > last:
            base_before = settled
            if period == last + 1:
                base_before = base
            base = settled
        before: uint256 = unsafe_sub(settled, base)
        after: uint256 = unsafe_sub(amount, base)
        fee_before: uint256 = 0
        fee_after: uint256 = 0
        fee_before, fee_after = self._pay_tranche(claim.terms.payees, claim.terms.prices, total, period, before, after)
        self.sessions[session] = (
            (held & (((2 ** 32 - 1) << 208) | CAP_MAX))
            | (amount << 52)
            | (base << 104)
            | (base_before << 156)
            | ((period - opened) << 240)
        )
        fee: uint256 = unsafe_sub(fee_after, fee_before)
        now_paid: uint256 = unsafe_sub(amount, settled)
        log Settled(
            session=session, consumer=claim.terms.consumer, octets=convert(claim.octets, uint256), paid=now_paid, fee=fee
        )
        paid += now_paid
        fees += fee
    encoded: Bytes[2112] = abi_encode(hashes)
    members: bytes32 = keccak256(slice(encoded, 64, 32 * len(hashes)))
    self._require_quorum(keccak256(abi_encode(BATCH_TYPE, members)), signatures)
    self._pay(empty(address), period, 0, fees)


@external
def overturn(terms: Terms, keep: uint128, evidence: bytes32, signatures: DynArray[Signature, 16]) -> uint256:
    """Take back what was settled beyond `keep`, as far as it is open to dispute, into the reserve. The session is paid no more."""
    session: bytes32 = keccak256(abi_encode(terms))
    held: uint256 = self.sessions[session]
    assert held != 0, "closed"
    settled: uint256 = (held >> 52) & CAP_MAX
    kept: uint256 = convert(keep, uint256)
    assert kept < settled, "keep"
    self._require_quorum(keccak256(abi_encode(OVERTURN_TYPE, session, settled, kept, evidence)), signatures)
    period: uint256 = block.timestamp // WINDOW
    last: uint256 = self._last_period(held)
    assert period <= last + 1, "final"
    base: uint256 = (held >> 104) & CAP_MAX
    base_before: uint256 = (held >> 156) & CAP_MAX
    total: uint256 = self._sum(terms.prices)
    fee_before: uint256 = 0
    fee_after: uint256 = 0
    fee_before, fee_after = self._pay_tranche(terms.payees, terms.prices, total, last, settled - base, max(kept, base) - base)
    self._pay(empty(address), last, fee_before, fee_after)
    if kept < base:
        assert period == last and kept >= base_before, "final"
        fee_before, fee_after = self._pay_tranche(terms.payees, terms.prices, total, last - 1, base - base_before, kept - base_before)
        self._pay(empty(address), last - 1, fee_before, fee_after)
        base = kept
    kept_bits: uint256 = held & (((2 ** 47 - 1) << 208) | (CAP_MAX << 156) | CAP_MAX)
    self.sessions[session] = kept_bits | (kept << 52) | (base << 104) | (1 << 255)
    log Overturned(session=session, returned=settled - kept, evidence=evidence)
    return settled - kept


# ---- earnings, fees, subsidy ----------------------------------------------------------------------------------------

@internal
def _take(wallet: address, period: uint256) -> uint256:
    """Take the earnings of a period and of those before it from a wallet's locked ones, and return them."""
    assert period < block.timestamp // WINDOW and period + 1 < block.timestamp // WINDOW, "early"
    word: uint256 = self.earned[wallet]
    last: uint256 = word >> 216
    amount: uint256 = (word >> 144) & SUPPLY_MAX
    rest: uint256 = word & TWO_FIELDS
    if last <= period + 1:
        amount += rest >> 72
        rest &= SUPPLY_MAX
    if last <= period:
        amount += rest
        rest = 0
    if amount > 0:
        self.earned[wallet] = rest | (last << 216)
    return amount


@external
def collect(wallet: address, period: uint256) -> uint256:
    """Move earnings of a period and of those before it to the balance of their wallet, when they can be overturned no more. Anyone may."""
    assert wallet != empty(address), "address"  # whose earnings are the fees
    amount: uint256 = self._take(wallet, period)
    if amount > 0:
        self._credit(wallet, amount)
        log Collected(wallet=wallet, period=period, amount=amount)
    return amount


@external
def collect_fees(period: uint256) -> uint256:
    """Move the fees of a period and of those before it into the pools, when they can be overturned no more. Anyone may."""
    amount: uint256 = self._take(empty(address), period)
    if amount > 0:
        self.validatorPool += amount // 4
        self.dividendPool += amount - amount // 4
        log FeesCollected(period=period, amount=amount)
    return amount


@external
def release_subsidy() -> uint256:
    """Move what is due of the subsidy, in even steps over three years, into the pools. Anyone may, as often as they like."""
    before: uint256 = self.released
    due: uint256 = SUBSIDY * min(block.timestamp - SUBSIDY_FROM, SUBSIDY_S) // SUBSIDY_S
    if due == before:
        return 0
    self.released = due
    part: uint256 = due // 4 - before // 4  # of the whole: asking often does not shift the quarter by rounding
    self.validatorPool += part
    self.dividendPool += due - before - part
    log SubsidyReleased(amount=due - before)
    return due - before


# ---- votes and dividend ---------------------------------------------------------------------------------------------

@internal
def _vote(wallet: address, candidate: address):
    balance: uint256 = self.accounts[wallet].balance
    old: address = self.accounts[wallet].vote
    if old != empty(address):
        self.accounts[old].votes -= balance
    if candidate != empty(address):
        self.accounts[candidate].votes += balance
    self.accounts[wallet].vote = candidate
    log Voted(wallet=wallet, candidate=candidate)


@internal
def _seat(candidate: address) -> bool:
    """Give a candidate a seat if one is free or held by a candidate with fewer votes; say whether it has one now."""
    if self.seatOf[candidate] != 0:
        return True
    votes: uint256 = self.accounts[candidate].votes
    least: uint256 = votes
    weakest: address = empty(address)
    seat: uint256 = len(self.seated)
    if seat < SEATS_MAX:
        if votes == 0:
            return False
        self.seated.append(candidate)
        self.seatOf[candidate] = seat + 1
        log Seated(candidate=candidate, displaced=weakest)
        return True
    place: uint256 = 0
    for holder: address in self.seated:
        held: uint256 = self.accounts[holder].votes
        if held < least:
            least = held
            weakest = holder
            seat = place
        place += 1
    if weakest == empty(address):
        return False
    self.seatOf[weakest] = 0
    self.seated[seat] = candidate
    self.seatOf[candidate] = seat + 1
    log Seated(candidate=candidate, displaced=weakest)
    return True


@external
def vote(candidate: address):
    """Let the caller's balance, whatever it will be, count for a candidate; a vote before is taken back. Moves no tokens. The candidate
    takes its seat if it has one coming."""
    assert candidate != empty(address), "address"
    self._vote(msg.sender, candidate)
    self._seat(candidate)


@external
def unvote():
    self._vote(msg.sender, empty(address))


@external
def seat(candidate: address):
    """Give a candidate, whose votes may have risen with its voters' balances, the seat that it has coming. Anyone may, for anyone."""
    assert self._seat(candidate), "votes"


@external
def pay_dividend() -> uint256:
    """Pay the dividend pool to all who have a seat, by their votes now; what rounding leaves stays in the pool. Anyone may."""
    holders: DynArray[address, 21] = self.seated
    votes: DynArray[uint256, 21] = []
    total: uint256 = 0
    for holder: address in holders:
        held: uint256 = self.accounts[holder].votes
        votes.append(held)
        total += held
    assert total > 0, "votes"
    pool: uint256 = self.dividendPool
    paid: uint256 = 0
    place: uint256 = 0
    for holder: address in holders:
        share: uint256 = pool * votes[place] // total
        place += 1
        if share > 0:
            paid += share
            self._credit(holder, share)
            log DividendPaid(wallet=holder, amount=share)
    assert paid > 0, "nothing"
    self.dividendPool = pool - paid
    return paid


# ---- validators -----------------------------------------------------------------------------------------------------

@internal
def _pay_validators() -> uint256:
    """Equal parts, whoever signed: were signing what counts, a validator would pay a claim of its own and pick the signatures under it."""
    holders: DynArray[address, 16] = self.validators
    share: uint256 = self.validatorPool // len(holders)
    if share == 0:
        return 0
    self.validatorPool -= share * len(holders)
    self.paidAt = block.timestamp
    for holder: address in holders:
        self._credit(holder, share)
        log ValidatorPaid(wallet=holder, amount=share)
    return share * len(holders)


@external
def pay_validators() -> uint256:
    """Pay the validator pool in equal parts to all present validators, at most once a window, whatever was settled and by whom it was
    signed; what rounding leaves stays in the pool. Anyone may."""
    assert block.timestamp >= self.paidAt + WINDOW, "early"
    paid: uint256 = self._pay_validators()
    assert paid > 0, "nothing"
    return paid


@external
def change_validators(validators: DynArray[address, 16], quorum: uint256, signatures: DynArray[Signature, 16]):
    """Replace the validators by a quorum's decision of the present ones, who are paid first what is in the pool by now."""
    encoded: Bytes[576] = abi_encode(validators)
    members: bytes32 = keccak256(slice(encoded, 64, 32 * len(validators)))
    self._require_quorum(keccak256(abi_encode(CHANGE_TYPE, members, quorum, self.nonce)), signatures)
    self._pay_validators()
    for validator: address in self.validators:
        self.placeOf[validator] = 0
    self._install(validators, quorum)
    self.nonce += 1
    log ValidatorsChanged(quorum=quorum, nonce=self.nonce)


# ---- views ----------------------------------------------------------------------------------------------------------

@external
@view
def account(wallet: address) -> (uint256, uint256, uint256, uint256, address, uint256):
    """Balance, escrow, withdrawal under way, when it is due, whom the balance votes for, votes received."""
    held: Account = self.accounts[wallet]
    return held.balance, held.escrow, held.withdrawing, held.withdrawAt, held.vote, held.votes


@external
@view
def session(session: bytes32) -> (uint256, uint256, uint256):
    """Reserve, settled, when opened; all zero if not open."""
    held: uint256 = self.sessions[session]
    settled: uint256 = (held >> 52) & CAP_MAX
    return (held & CAP_MAX) - settled, settled, (held >> 208) & (2 ** 32 - 1)


@external
@view
def isOverturned(session: bytes32) -> bool:
    return self.sessions[session] >> 255 != 0


@internal
@view
def _locked(wallet: address, period: uint256) -> uint256:
    word: uint256 = self.earned[wallet]
    last: uint256 = word >> 216
    if period > last or period + 2 < last:
        return 0
    return (word >> (72 * (last - period))) & SUPPLY_MAX


@external
@view
def locked(wallet: address, period: uint256) -> uint256:
    """Earnings of a period that are open to dispute or not collected. Where a wallet has earned in period p, what it has left from before
    p - 2 is shown with those of p - 2."""
    assert wallet != empty(address), "address"
    return self._locked(wallet, period)


@external
@view
def earnings(wallet: address) -> (uint256, uint256, uint256, uint256):
    """All that is locked of a wallet: older, of the period before its last one with earnings, of that last one, and which that is. Of the
    zero address: the fees."""
    word: uint256 = self.earned[wallet]
    return (word >> 144) & SUPPLY_MAX, (word >> 72) & SUPPLY_MAX, word & SUPPLY_MAX, word >> 216


@external
@view
def lockedFees(period: uint256) -> uint256:
    """Fees of a period, shown as `locked` shows earnings."""
    return self._locked(empty(address), period)


@external
@view
def period() -> uint256:
    return block.timestamp // WINDOW


@external
@view
def walletOf(node: bytes32) -> address:
    return convert(self.bindings[node] & (2 ** 160 - 1), address)


@external
@view
def bindingSequence(node: bytes32) -> uint64:
    return convert(self.bindings[node] >> 160, uint64)


@external
@view
def validatorSet() -> (DynArray[address, 16], uint256, uint256):
    """By rising address; quorum; nonce of the set."""
    return self.validators, self.quorum, self.nonce


@external
@view
def seats() -> DynArray[address, 21]:
    return self.seated


@external
@view
def pools() -> (uint256, uint256, uint256):
    """Of validators, of the dividend, and what is not released of the subsidy."""
    return self.validatorPool, self.dividendPool, SUBSIDY - self.released


@external
@view
def feeBps() -> uint256:
    return FEE_BPS


@external
@view
def supply() -> uint256:
    return SUPPLY


@external
@view
def windowS() -> uint256:
    return WINDOW


@external
@view
def withdrawDelayS() -> uint256:
    return WITHDRAW_DELAY
