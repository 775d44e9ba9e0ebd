"""What is published: the records of the DITEX, the stores that hold them, publishing and verified reading.

Start at `record.py` for what a record is, `store.py` for what a store does, `read.py` for reading one that is not trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from srwan.lazy import lazy_names

if TYPE_CHECKING:
    from srwan.ledger_client.memory import MemoryStore
    from srwan.ledger_client.publish import Publication, records_of_report
    from srwan.ledger_client.read import DitexContents, GroupContents, read_file, read_matrix
    from srwan.ledger_client.record import Kind, Record, Version
    from srwan.ledger_client.report import GroupReport
    from srwan.ledger_client.sqlite import SqliteStore
    from srwan.ledger_client.store import Query, RecordStore, StoredRecord

__all__ = [
    "DitexContents",
    "GroupContents",
    "GroupReport",
    "Kind",
    "MemoryStore",
    "Publication",
    "Query",
    "Record",
    "RecordStore",
    "SqliteStore",
    "StoredRecord",
    "Version",
    "read_file",
    "read_matrix",
    "records_of_report",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DitexContents": "read",
        "GroupContents": "read",
        "GroupReport": "report",
        "Kind": "record",
        "MemoryStore": "memory",
        "Publication": "publish",
        "Query": "store",
        "Record": "record",
        "RecordStore": "store",
        "SqliteStore": "sqlite",
        "StoredRecord": "store",
        "Version": "record",
        "read_file": "read",
        "read_matrix": "read",
        "records_of_report": "publish",
    },
)
