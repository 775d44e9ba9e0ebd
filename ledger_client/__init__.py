"""What is published, traded and paid: the DITEX and its records, the market, accounts, validators, settlement.

Start at `record.py` for what a record is, `store.py` for what a store does, `read.py` for reading one that is not trusted; in `market/` for
what relays ask, `accounting/` for who counts what, `validation/` for who checks it, `settlement/` for who is paid, `exchange/` for how
stores become equal, `contract/` for what is final.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from srwan.lazy import lazy_names

if TYPE_CHECKING:
    from srwan.ledger_client.accounting.counters import RouterCounters
    from srwan.ledger_client.accounting.plan import PathPlan
    from srwan.ledger_client.accounting.receipt import Receipt
    from srwan.ledger_client.complaint import Omission
    from srwan.ledger_client.etcd import EtcdStore
    from srwan.ledger_client.exchange.open_store import open_store_at
    from srwan.ledger_client.exchange.segments import find_segments
    from srwan.ledger_client.exchange.service import ExchangeService
    from srwan.ledger_client.market.book import OfferBook
    from srwan.ledger_client.market.network import NetworkSpec, VirtualNetwork, plan_network
    from srwan.ledger_client.market.offer import Offer
    from srwan.ledger_client.market.quote import Quote, quote_for
    from srwan.ledger_client.market.schedule import Schedule, Window
    from srwan.ledger_client.market.sla import Agreement, SlaAccount
    from srwan.ledger_client.memory import MemoryStore
    from srwan.ledger_client.publish import Publication, records_of_report
    from srwan.ledger_client.read import DitexContents, GroupContents, read_file, read_matrix
    from srwan.ledger_client.record import Kind, Record, Version
    from srwan.ledger_client.report import GroupReport
    from srwan.ledger_client.settlement.deploy import Deployment
    from srwan.ledger_client.settlement.devnode import open_devnode
    from srwan.ledger_client.settlement.jsonrpc import JsonRpcSettlement
    from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
    from srwan.ledger_client.settlement.settlement import Claim, Settlement
    from srwan.ledger_client.settlement.signing import Address, SettlementDomain, WalletKey
    from srwan.ledger_client.settlement.terms import PathTerms
    from srwan.ledger_client.settlement.ticket import PathTicket, sign_ticket
    from srwan.ledger_client.sqlite import SqliteStore
    from srwan.ledger_client.statement import Statement
    from srwan.ledger_client.store import Query, RecordStore, StoredRecord
    from srwan.ledger_client.validation.checks import check_claim
    from srwan.ledger_client.validation.claim import ClaimFiling
    from srwan.ledger_client.validation.service import ValidatorService

__all__ = [
    "Address",
    "Agreement",
    "Claim",
    "ClaimFiling",
    "Deployment",
    "DitexContents",
    "EtcdStore",
    "ExchangeService",
    "GroupContents",
    "GroupReport",
    "JsonRpcSettlement",
    "Kind",
    "MemoryStore",
    "NetworkSpec",
    "Offer",
    "OfferBook",
    "Omission",
    "PathPlan",
    "PathTerms",
    "PathTicket",
    "Publication",
    "PyEvmSettlement",
    "Query",
    "Quote",
    "Receipt",
    "Record",
    "RecordStore",
    "RouterCounters",
    "Schedule",
    "Settlement",
    "SettlementDomain",
    "SlaAccount",
    "SqliteStore",
    "Statement",
    "StoredRecord",
    "ValidatorService",
    "Version",
    "VirtualNetwork",
    "WalletKey",
    "Window",
    "check_claim",
    "find_segments",
    "open_devnode",
    "open_store_at",
    "plan_network",
    "quote_for",
    "read_file",
    "read_matrix",
    "records_of_report",
    "sign_ticket",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Address": "settlement.signing",
        "Agreement": "market.sla",
        "Claim": "settlement.settlement",
        "ClaimFiling": "validation.claim",
        "Deployment": "settlement.deploy",
        "DitexContents": "read",
        "EtcdStore": "etcd",
        "ExchangeService": "exchange.service",
        "GroupContents": "read",
        "GroupReport": "report",
        "JsonRpcSettlement": "settlement.jsonrpc",
        "Kind": "record",
        "MemoryStore": "memory",
        "NetworkSpec": "market.network",
        "Offer": "market.offer",
        "OfferBook": "market.book",
        "Omission": "complaint",
        "PathPlan": "accounting.plan",
        "PathTerms": "settlement.terms",
        "PathTicket": "settlement.ticket",
        "Publication": "publish",
        "PyEvmSettlement": "settlement.pyevm",
        "Query": "store",
        "Quote": "market.quote",
        "Receipt": "accounting.receipt",
        "Record": "record",
        "RecordStore": "store",
        "RouterCounters": "accounting.counters",
        "Schedule": "market.schedule",
        "Settlement": "settlement.settlement",
        "SettlementDomain": "settlement.signing",
        "SlaAccount": "market.sla",
        "SqliteStore": "sqlite",
        "Statement": "statement",
        "StoredRecord": "store",
        "ValidatorService": "validation.service",
        "Version": "record",
        "VirtualNetwork": "market.network",
        "WalletKey": "settlement.signing",
        "Window": "market.schedule",
        "check_claim": "validation.checks",
        "find_segments": "exchange.segments",
        "open_devnode": "settlement.devnode",
        "open_store_at": "exchange.open_store",
        "plan_network": "market.network",
        "quote_for": "market.quote",
        "read_file": "read",
        "read_matrix": "read",
        "records_of_report": "publish",
        "sign_ticket": "settlement.ticket",
    },
)
