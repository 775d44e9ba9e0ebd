"""Every decoder of the ledger against hostile bytes: `python benchmarks/fuzz_ledger.py --seconds 600 [--seed N] [--only NAME]`.

What a peer, a store or a journal hands over must come out as a value or as a `RemoteProtocolError`; fuzzing.py says what the bytes are.
What is found is printed as hexadecimal with the seed, and the exit status is 1. tests/ledger_client/test_decoders.py runs the same for a
few seconds and sees to it that no decoder is missing here.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import attrs
import msgpack
from fuzzing import Decoder, run_fuzzer

from srwan.gossip.reporter import epoch_of
from srwan.gossip.row import Row, seal_row
from srwan.identity import Identity
from srwan.ledger_client import etcd_keys
from srwan.ledger_client.accounting.counters import (
    NeighbourCount,
    RouterCounters,
    SessionCount,
    SessionRole,
    counters_of_statement,
)
from srwan.ledger_client.accounting.journal_entry import read_entry
from srwan.ledger_client.accounting.messages import Answer, SessionNotice, TicketNotice
from srwan.ledger_client.accounting.payer_journal import kept_of, opened_entry, sent_entry, ticket_entry
from srwan.ledger_client.accounting.plan import NO_OFFER, PathPlan
from srwan.ledger_client.accounting.receipt import Receipt, receipt_of_statement
from srwan.ledger_client.accounting.relay_journal import carried_of, claimed_entry, count_entry, paid_entry, session_entry
from srwan.ledger_client.complaint import complaint_of, omission_of
from srwan.ledger_client.contract.artefact import load_artefact
from srwan.ledger_client.evidence import evidence_of, is_equivocation, proof_in
from srwan.ledger_client.exchange import messages as exchange
from srwan.ledger_client.exchange.digest_tree import Entry, position_of
from srwan.ledger_client.market.bond import sign_bond
from srwan.ledger_client.market.offer import Limits, Offer, Promise
from srwan.ledger_client.market.schedule import Schedule, Window
from srwan.ledger_client.market.sla import Agreement, measurements_of
from srwan.ledger_client.record import ENVELOPE_KINDS, Kind, Record, Version, authenticate, report_of
from srwan.ledger_client.report import NS_PER_S, GroupReport, RowReference
from srwan.ledger_client.settlement.abi import Interface, revert_reason
from srwan.ledger_client.settlement.settlement import Claim
from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey, keccak256
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.ledger_client.settlement.ticket import PathTicket, sign_ticket
from srwan.ledger_client.settlement.transaction import Transaction, read_transaction, sign_transaction
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.ledger_client.statement_body import StatementBody
from srwan.ledger_client.store import EquivocationProof
from srwan.ledger_client.validation.batch import BatchItem, SignedBatch
from srwan.ledger_client.validation.binding import BindingRequest, BindingVote
from srwan.ledger_client.validation.claim import ClaimFiling, filing_of, terms_of_abi
from srwan.ledger_client.validation.dispute import DisputeEvidence, OverturnVote
from srwan.ledger_client.validation.verdict import ClaimVerdict
from srwan.wire import Envelope, pack

NOW_NS = 1_780_000_000 * NS_PER_S
EXPIRES_NS = NOW_NS + 3600 * NS_PER_S
NODES = tuple(Identity(bytes([number]) * 32) for number in range(1, 6))
KEYS = tuple(WalletKey(bytes([number]) * 32) for number in range(1, 6))
DOMAIN = SettlementDomain(31337, Address(bytes(range(20))))
SEAT = KEYS[0].sign(bytes(32))
VERSION = Version(7, 9)


# --- samples ---------------------------------------------------------------------------------------------------------

PLAN = PathPlan(
    NODES[0].node_id, (NODES[1].node_id, NODES[2].node_id), NODES[3].node_id, (NO_OFFER, bytes(range(32))), 40_000, -90_000, 5000, bytes(16)
)
TERMS = PathTerms(KEYS[0].address, (KEYS[1].address, KEYS[2].address), (3_000_000, 4_000_000), 5_000_000, 1_780_003_600, PLAN.digest)
SESSION = TERMS.session_id
TICKET = sign_ticket(KEYS[0], DOMAIN, TERMS, 500_000_000, 3_500_000)
RECEIPT = (
    Receipt(SESSION, PLAN.consumer, PLAN.egress, 1, 2, 600_000_000, 5000, 40_000, 41_000, -90_000, NOW_NS)
    .sign(NODES[3])
    .countersign(NODES[0])
)
COUNTERS = RouterCounters(
    7,
    9,
    10**12,
    2**63 - 1,
    tuple(sorted(NeighbourCount(node.node_id, 5, 6) for node in NODES[1:3])),
    (SessionCount(SESSION, SessionRole.RELAYED, 5, 6000),),
)
FILING = ClaimFiling(Claim(TERMS, TICKET), PLAN, RECEIPT)
VERDICT = ClaimVerdict(SESSION, 500_000_000, 3_500_000, "price", SEAT, (("least-octets", 2**128 - 1), ("price", 0)))
BATCH = SignedBatch(5, (BatchItem(SESSION, 5, 2**128 - 1), BatchItem(bytes(32), 0, 0)), SEAT, "", SEAT)
REQUEST = BindingRequest.sign(NODES[1], KEYS[1], DOMAIN, 3)
VOTE = BindingVote(NODES[1].node_id, KEYS[1].address, 3, SEAT, "", SEAT)
NOTICE = SessionNotice(TERMS, PLAN, 3, (5, 2**64 - 1))
OFFER = Offer(
    seller=NODES[1].node_id,
    version=VERSION,
    price_microtoken_per_gb=10**18,
    wallet=KEYS[1].address,
    issued_ns=NOW_NS,
    expires_ns=EXPIRES_NS,
    schedule=Schedule((Window(1_780_000_000, 1_780_000_060), Window(1_780_000_100, 1_780_000_200))),
    limits=Limits(1000, 10**12),
    label="night",
    is_premium=True,
    saved_full_us=20_000,
    promises=(Promise("DE:3320", 30_000, 1000),),
    bond=sign_bond(KEYS[1], DOMAIN, NODES[1].node_id, 10**9),
    country="DE",
    asn=3320,
)
REPORT = GroupReport(
    bytes(range(32)), 5, 0, NODES[0].node_id, tuple(sorted(node.node_id for node in NODES)), bytes(8),
    (RowReference(min(node.node_id for node in NODES), 1, 2, bytes(32)),), NOW_NS, EXPIRES_NS,
)  # fmt: skip
AGREEMENT = Agreement(
    provider=NODES[0].node_id, wallet=KEYS[0].address, owl_us_max=40_000, price_max_microtoken=10**6, budget_microtoken=10**9
)
SLA_EVIDENCE = pack(["sla", AGREEMENT.digest, NOW_NS, [[NOW_NS, 50_000, 30_000], [NOW_NS + 1, 1, 0]]])


def statement_of(kind: Kind, content: bytes, *, topic: bytes = b"", subject: Identity = NODES[1]) -> Statement:
    return Statement(kind, MARKET_GROUP, subject.node_id, topic, VERSION, NOW_NS, EXPIRES_NS, content)


def signed_record(kind: Kind, body: bytes, topic: bytes = b"") -> Record:
    """A record whose subject really signed these bytes: what a hostile router can publish."""
    envelope = Envelope.seal(NODES[1], ENVELOPE_KINDS[kind], body).encode()
    return Record(kind, MARKET_GROUP, NODES[1].node_id, VERSION, EXPIRES_NS, envelope, topic=topic)


RECORD = OFFER.record(NODES[1])
OTHER_RECORD = statement_of(Kind.COUNTERS, COUNTERS.encode(), topic=SESSION).record(NODES[1])
PROOF = EquivocationProof.of(RECORD, attrs.evolve(RECORD, envelope=RECORD.envelope[:-1] + b"\0"))
ENTRY = Entry(position_of(RECORD.key), VERSION, bytes(16))
EVIDENCE = DisputeEvidence(SESSION, ((OTHER_RECORD.envelope, OTHER_RECORD.envelope),))
OVERTURN = OverturnVote(SESSION, 2**128 - 1, 5, EVIDENCE.digest, SEAT, SEAT)


def _bytes_of_body(content: bytes, topic: bytes = b"") -> bytes:
    return StatementBody(MARKET_GROUP, topic, *VERSION, NOW_NS, EXPIRES_NS, "DE", 3320, content).encode()


def _authenticate(kind: Kind) -> Callable[[bytes], Any]:
    return lambda data: authenticate(Record(kind, MARKET_GROUP, NODES[1].node_id, VERSION, EXPIRES_NS, data))


def _record_round(decode: Callable[[Any], Any]) -> Callable[[bytes], Any]:
    """Values that are no bytes, as they come out of msgpack."""

    def run(data: bytes) -> Any:
        try:
            value = msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True)
        except (ValueError, RecursionError, msgpack.exceptions.UnpackException):
            return None
        return decode(value)

    return run


@functools.cache
def decoders() -> tuple[Decoder, ...]:
    """Return all ways into the ledger."""
    rooms = (_of_settlement, _of_accounting, _of_validation, _of_market, _of_stores, _of_evidence, _of_exchange)
    return tuple(decoder for room in rooms for decoder in room())


def _of_settlement() -> list[Decoder]:
    interface = Interface(load_artefact().abi)
    calls = Transaction(31337, 5, KEYS[1].address, b"data" * 20, 10**6, 10**9, 10**9)
    transfer = keccak256(b"Transfer(address,address,uint256)") + bytes(12) + KEYS[0].address + bytes(12) + KEYS[1].address + bytes(32)
    account = b"".join(value.to_bytes(32, "big") for value in (5, 6, 7, 8, 9, 10))
    validators = b"".join(value.to_bytes(32, "big") for value in (96, 2, 0, 2, 10, 11))
    return [
        Decoder("settlement.ticket.PathTicket.decode", PathTicket.decode, (TICKET.encode(),), PathTicket.encode),
        Decoder("settlement.transaction.read_transaction", read_transaction, (sign_transaction(KEYS[1], calls).raw,)),
        Decoder("settlement.abi.Interface.decode_result", lambda data: interface.decode_result("validatorSet", data), (validators,)),
        Decoder("settlement.abi.decode_all", lambda data: interface.decode_result("account", data), (account,)),
        Decoder(
            "settlement.abi.Interface.decode_event",
            lambda data: interface.decode_event([data[:32], data[32:64], data[64:96]], data[96:]),
            (transfer,),
        ),
        Decoder("settlement.abi.revert_reason", revert_reason, (bytes.fromhex("08c379a0") + account,), errors=()),
    ]


def _of_accounting() -> list[Decoder]:
    ticket_notice = TicketNotice(TICKET, RECEIPT)
    paid = (opened_entry(TERMS, PLAN), ticket_entry(TICKET, RECEIPT, 5, 6), sent_entry(SESSION, 7, 8))
    carried = (session_entry(NOTICE), paid_entry(TICKET, RECEIPT), count_entry(SESSION, 5, 6, 7), claimed_entry(SESSION, 2**128 - 1))
    return [
        Decoder("accounting.plan.PathPlan.decode", PathPlan.decode, (PLAN.encode(),), PathPlan.encode),
        Decoder("accounting.receipt.Receipt.decode", Receipt.decode, (RECEIPT.encode(),), Receipt.encode),
        Decoder(
            "accounting.receipt.receipt_of_statement",
            lambda data: receipt_of_statement(statement_of(Kind.PATH, data[:16384], topic=SESSION, subject=NODES[3])),
            (RECEIPT.encode(),),
        ),
        Decoder("accounting.counters.RouterCounters.decode", RouterCounters.decode, (COUNTERS.encode(),), RouterCounters.encode),
        Decoder(
            "accounting.counters.counters_of_statement",
            lambda data: counters_of_statement(statement_of(Kind.COUNTERS, data[:16384], topic=SESSION)),
            (COUNTERS.encode(),),
        ),
        Decoder("accounting.messages.SessionNotice.decode", SessionNotice.decode, (NOTICE.encode(),), SessionNotice.encode),
        Decoder(
            "accounting.messages.SessionNotice.decode_from",
            functools.partial(SessionNotice.decode_from, PLAN.consumer),
            (NOTICE.encode(),),
            SessionNotice.encode,
        ),
        Decoder("accounting.messages.TicketNotice.decode", TicketNotice.decode, (ticket_notice.encode(),), TicketNotice.encode),
        Decoder("accounting.messages.Answer.decode", Answer.decode, (Answer("stale", RECEIPT.encode()).encode(),), Answer.encode),
        Decoder("accounting.journal_entry.read_entry", read_entry, (*paid, *carried)),
        Decoder("accounting.payer_journal.kept_of", lambda data: kept_of([paid[0], data]), paid),
        Decoder("accounting.relay_journal.carried_of", lambda data: carried_of([carried[0], data]), carried),
    ]


def _of_validation() -> list[Decoder]:
    node = NODES[1].node_id
    return [
        Decoder("validation.claim.terms_of_abi", terms_of_abi, (TERMS.abi(),), PathTerms.abi),
        Decoder("validation.claim.ClaimFiling.decode", ClaimFiling.decode, (FILING.encode(),), ClaimFiling.encode),
        Decoder(
            "validation.claim.filing_of",
            lambda data: filing_of(statement_of(Kind.CLAIM, data[:16384], topic=SESSION)),
            (FILING.encode(),),
        ),
        Decoder("validation.verdict.ClaimVerdict.decode", ClaimVerdict.decode, (VERDICT.encode(),), ClaimVerdict.encode),
        Decoder("validation.batch.SignedBatch.decode", SignedBatch.decode, (BATCH.encode(),), SignedBatch.encode),
        Decoder(
            "validation.binding.BindingRequest.decode",
            lambda data: BindingRequest.decode(node, data),
            (REQUEST.encode(),),
            BindingRequest.encode,
        ),
        Decoder("validation.binding.BindingVote.decode", BindingVote.decode, (VOTE.encode(),), BindingVote.encode),
        Decoder("validation.dispute.DisputeEvidence.decode", DisputeEvidence.decode, (EVIDENCE.encode(),), DisputeEvidence.encode),
        Decoder("validation.dispute.OverturnVote.decode", OverturnVote.decode, (OVERTURN.encode(),), OverturnVote.encode),
    ]


def _of_market() -> list[Decoder]:
    content = OFFER.statement().content
    return [
        Decoder(
            "market.offer.Offer.of_record",
            lambda data: Offer.of_record(signed_record(Kind.OFFER, data)),
            (_bytes_of_body(content),),
        ),
        Decoder(
            "market.offer._fields_of",
            lambda data: Offer.of_record(signed_record(Kind.OFFER, _bytes_of_body(data))),
            (content,),
            lambda offer: bytes(offer.statement().content),
        ),
        Decoder(
            "market.sla.measurements_of",
            lambda data: measurements_of(statement_of(Kind.EVIDENCE, data[:16384], topic=AGREEMENT.digest), AGREEMENT),
            (SLA_EVIDENCE,),
        ),
    ]


def _of_stores() -> list[Decoder]:
    value_error = (ValueError,)
    newest = etcd_keys.Newest.of(5, RECORD)
    key = etcd_keys.key_bytes(OTHER_RECORD.key)
    report = REPORT.encode()
    report_record = Record.of_report(REPORT, NODES[0])
    return [
        Decoder("report.GroupReport.decode", GroupReport.decode, (report,), GroupReport.encode),
        Decoder("record.report_of", lambda data: report_of(attrs.evolve(report_record, envelope=data)), (report_record.envelope,)),
        Decoder("record.authenticate", _authenticate(Kind.OFFER), (RECORD.envelope,)),
        Decoder(
            "statement_body.StatementBody.decode",
            lambda data: StatementBody.decode(data, content_bytes_max=16384),
            (_bytes_of_body(b"\xc0"),),
            StatementBody.encode,
        ),
        Decoder(
            "statement.Statement.of_record",
            lambda data: Statement.of_record(signed_record(Kind.COUNTERS, data)),
            (_bytes_of_body(COUNTERS.encode(), SESSION),),
        ),
        Decoder("etcd_keys.Newest.decode", etcd_keys.Newest.decode, (newest.encode(),), etcd_keys.Newest.encode, value_error),
        Decoder("etcd_keys.number_of", etcd_keys.number_of, (bytes(8),), etcd_keys.number, value_error),
        Decoder("etcd_keys.key_of", etcd_keys.key_of, (key,), etcd_keys.key_bytes, value_error),
        Decoder("etcd_keys.key_and_version_of", etcd_keys.key_and_version_of, (key + bytes(16),), None, value_error),
        Decoder(
            "etcd_keys.stored_of", lambda data: etcd_keys.stored_of(bytes(8), data), (etcd_keys.record_bytes(RECORD),), None, value_error
        ),
        Decoder("etcd_keys.proof_of", etcd_keys.proof_of, (etcd_keys.proof_bytes(PROOF),), etcd_keys.proof_bytes, value_error),
    ]


def _of_evidence() -> list[Decoder]:
    """What others quote: each part is signed by somebody, and a hostile router signs what it likes."""
    member, reporter = NODES[1], NODES[0]
    group = bytes(range(32))
    epoch = epoch_of(NOW_NS)
    numbers = (NOW_NS, bytes(8), 0, 0, 0, 0, 0, 0, 5)  # stamp, roster, epoch and health, octets, base, count
    row = seal_row(Row(member.node_id, 7, 9, *numbers, is_described=False, entries=bytes(15)), member, group)
    filed_row = Record.of_row(member.node_id, row.content, group=group, expires_ns=EXPIRES_NS)
    report = Record.of_report(attrs.evolve(REPORT, group=group, epoch=epoch, rows=()), reporter)
    complaint = complaint_of(report, filed_row, wall_ns=NOW_NS)
    body = StatementBody(group, complaint.topic, *complaint.version, NOW_NS, EXPIRES_NS, "ZZ", 0, complaint.content).encode()
    twins = [statement_of(Kind.COUNTERS, pack(each), topic=SESSION).record(member) for each in (1, 2)]
    evidence = evidence_of(EquivocationProof.of(*twins), member.node_id, wall_ns=NOW_NS)
    row_body, report_body = (Envelope.decode(each.envelope, bytes_max=1 << 20).body for each in (filed_row, report))

    layout = msgpack.unpackb(complaint.content)[0]

    def complain(row_bytes: bytes, report_bytes: bytes) -> Any:
        quoted_row = Envelope.seal(member, ENVELOPE_KINDS[Kind.ROW], row_bytes).encode()
        quoted_report = Envelope.seal(reporter, ENVELOPE_KINDS[Kind.REPORT], report_bytes).encode()
        content = pack([layout, quoted_report, quoted_row])
        filed = StatementBody(group, complaint.topic, *complaint.version, NOW_NS, EXPIRES_NS, "ZZ", 0, content).encode()
        return omission_of(signed_record(Kind.COMPLAINT, filed, complaint.topic))

    return [
        Decoder("complaint.omission_of", lambda data: omission_of(signed_record(Kind.COMPLAINT, data, complaint.topic)), (body,)),
        Decoder("complaint.row", lambda data: complain(data, report_body), (row_body,)),
        Decoder("complaint.report", lambda data: complain(row_body, data), (report_body,)),
        Decoder(
            "evidence.proof_in",
            lambda data: proof_in(signed_record(Kind.EVIDENCE, _bytes_of_body(data), evidence.topic)),
            (evidence.content,),
        ),
        Decoder(
            "evidence.is_equivocation",
            lambda data: is_equivocation(signed_record(Kind.EVIDENCE, _bytes_of_body(data))),
            (evidence.content,),
        ),
    ]


def _of_exchange() -> list[Decoder]:
    questions = (
        exchange.Compare((("0f", bytes(16)), ("", bytes(16)))).encode(),
        exchange.Fetch((bytes(16), ENTRY.position)).encode(),
        exchange.Push((RECORD, PROOF)).encode(),
    )
    ranges = exchange.encode_ranges(
        [exchange.RangeAnswer(), exchange.RangeAnswer(parts=(bytes(16),) * 16), exchange.RangeAnswer(entries=(ENTRY,))]
    )
    taken = exchange.Taken(1, 1, ((0, "stale"),)).encode()
    items = exchange.encode_items([None, RECORD, PROOF])
    busy = exchange.encode_busy(5)
    return [
        Decoder("exchange.digest_tree.Entry.decode_many", Entry.decode_many, (ENTRY.encode(),)),
        Decoder("exchange.messages.decode_record", _record_round(exchange.decode_record), (pack(exchange.encode_record(RECORD)),)),
        Decoder("exchange.messages.decode_question", exchange.decode_question, questions),
        Decoder("exchange.messages.decode_answer", lambda data: exchange.decode_answer(data, "ranges"), (ranges, busy)),
        Decoder("exchange.messages.decode_ranges", lambda data: exchange.decode_ranges(data, 3), (ranges, busy), exchange.encode_ranges),
        Decoder("exchange.messages.decode_items", lambda data: exchange.decode_items(data, [ENTRY.position] * 3), (items, busy)),
        Decoder("exchange.messages.decode_taken", lambda data: exchange.decode_taken(data, 3), (taken, busy)),
    ]


if __name__ == "__main__":
    sys.exit(run_fuzzer(decoders, __doc__))
