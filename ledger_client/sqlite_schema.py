"""The tables, indexes and statements of the embedded record store, apart from the code that runs them (`sqlite.py`).

Theory of operation. One row per version held; `is_newest` marks the one in force of each key, and the indexes that answer questions are
partial, over those rows only. AUTOINCREMENT makes revisions that are never given twice. `records_superseded` holds the history alone, so
that pruning it never walks what is in force.
"""

from __future__ import annotations

from srwan.ledger_client.store import EQUIVOCATIONS_MAX

SCHEMA_VERSION = 2
"""Version 2 added topics. A file of version 1 is brought up when it is opened for writing."""
APPLICATION_ID = 0x53525744
"""Marks the file as ours in its header: "SRWD"."""

INDEXES = """
CREATE UNIQUE INDEX records_version ON records (grp, kind, subject, topic, era, sequence);
CREATE UNIQUE INDEX records_newest ON records (grp, kind, subject, topic) WHERE is_newest = 1;
CREATE INDEX records_superseded ON records (grp, kind, subject, topic, era, sequence) WHERE is_newest = 0;
CREATE INDEX records_kind ON records (kind) WHERE is_newest = 1;
CREATE INDEX records_place ON records (country, asn) WHERE is_newest = 1;
CREATE INDEX records_subject ON records (subject) WHERE is_newest = 1;
CREATE INDEX records_topic ON records (topic) WHERE is_newest = 1 AND topic <> x'';
CREATE INDEX records_expiry ON records (expires_ns);
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder BLOB NOT NULL,
    until_ns INTEGER NOT NULL
) STRICT;
"""

EQUIVOCATIONS = """
CREATE TABLE equivocations (
    number INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    grp BLOB NOT NULL,
    subject BLOB NOT NULL,
    era INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    held BLOB NOT NULL,
    held_expires_ns INTEGER NOT NULL,
    other BLOB NOT NULL,
    other_expires_ns INTEGER NOT NULL,
    topic BLOB NOT NULL DEFAULT x'',
    UNIQUE (grp, kind, subject, topic)
) STRICT;
"""

SCHEMA = f"""
CREATE TABLE records (
    revision INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    grp BLOB NOT NULL,
    subject BLOB NOT NULL,
    era INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    expires_ns INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    country TEXT NOT NULL,
    asn INTEGER NOT NULL,
    is_newest INTEGER NOT NULL,
    envelope BLOB NOT NULL,
    topic BLOB NOT NULL DEFAULT x''
) STRICT;
{INDEXES}
{EQUIVOCATIONS}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

FROM_VERSION_1 = f"""
DROP INDEX records_version;
DROP INDEX records_newest;
DROP INDEX records_kind;
DROP INDEX records_place;
DROP INDEX records_expiry;
ALTER TABLE records ADD COLUMN topic BLOB NOT NULL DEFAULT x'';
ALTER TABLE equivocations RENAME TO equivocations_1;
{EQUIVOCATIONS}
INSERT INTO equivocations SELECT *, x'' FROM equivocations_1;
DROP TABLE equivocations_1;
{INDEXES}
PRAGMA user_version = {SCHEMA_VERSION};
"""  # noqa: S608 (constants only, here and below)

COLUMNS = "revision, kind, grp, subject, topic, era, sequence, expires_ns, epoch, country, asn, envelope"
OF_KEY = "grp = ? AND kind = ? AND subject = ? AND topic = ?"
GET_NEWEST = f"SELECT {COLUMNS} FROM records WHERE {OF_KEY} AND is_newest = 1"  # noqa: S608
GET_NEWEST_VERSION = f"SELECT grp, kind, subject, topic, era, sequence FROM records WHERE {OF_KEY} AND is_newest = 1"  # noqa: S608
GET_VERSION = f"SELECT {COLUMNS} FROM records WHERE {OF_KEY} AND era = ? AND sequence = ?"  # noqa: S608
HISTORY = f"SELECT {COLUMNS} FROM records WHERE {OF_KEY} ORDER BY era DESC, sequence DESC LIMIT ?"  # noqa: S608
ABOVE = f"SELECT {COLUMNS} FROM records WHERE revision > ? ORDER BY revision LIMIT ?"  # noqa: S608
INSERT = f"INSERT INTO records ({COLUMNS}, is_newest) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)"  # noqa: S608
SUPERSEDE = f"UPDATE records SET is_newest = 0 WHERE {OF_KEY} AND is_newest = 1"  # noqa: S608
PROOF_COLUMNS = "kind, grp, subject, topic, era, sequence, held, held_expires_ns, other, other_expires_ns"
PROOFS = f"SELECT {PROOF_COLUMNS} FROM equivocations ORDER BY number LIMIT ?"  # noqa: S608
ADD_PROOF = (
    f"INSERT INTO equivocations ({PROOF_COLUMNS}) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ? "  # noqa: S608
    f"WHERE (SELECT count(*) FROM equivocations) < {EQUIVOCATIONS_MAX} ON CONFLICT DO NOTHING"
)
EXPIRED_NEWEST = "SELECT grp, kind, subject, topic FROM records WHERE expires_ns <= ? AND is_newest = 1 LIMIT ?"
DELETE_KEY = f"DELETE FROM records WHERE {OF_KEY}"  # noqa: S608
EXPIRED_OLD = "SELECT revision FROM records WHERE expires_ns <= ? AND is_newest = 0 LIMIT ?"
DELETE_OLD = f"DELETE FROM records WHERE revision IN ({EXPIRED_OLD})"  # noqa: S608
SUPERFLUOUS = (
    "SELECT revision FROM (SELECT revision, row_number() OVER (PARTITION BY grp, kind, subject, topic ORDER BY era DESC, sequence DESC)"
    " AS place FROM records INDEXED BY records_superseded WHERE is_newest = 0) WHERE place > ? LIMIT ?"
)
TAKE_LEASE = (
    "INSERT INTO leases (name, holder, until_ns) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE"
    " SET holder = ?2, until_ns = ?3 WHERE holder = ?2 OR until_ns <= ?4"
)

FILTERS = (
    " AND (:kind IS NULL OR kind = :kind) AND (:grp IS NULL OR grp = :grp) AND (:subject IS NULL OR subject = :subject)"
    " AND (:topic IS NULL OR topic = :topic) AND (:country IS NULL OR country = :country)"
    " AND asn BETWEEN :asn_min AND :asn_max AND expires_ns > :unexpired_ns AND revision > :after ORDER BY revision LIMIT :limit"
)


def _range_by(index: str, condition: str) -> str:
    return f"SELECT {COLUMNS} FROM records {index} WHERE is_newest = 1{condition}{FILTERS}"  # noqa: S608


# The index is named because the planner, without statistics, may prefer walking the revisions in order.
RANGE_OF_PLACE = _range_by("INDEXED BY records_place", " AND country = :country")
RANGE_OF_TOPIC = _range_by("INDEXED BY records_topic", " AND topic <> x'' AND topic = :topic")
RANGE_OF_SUBJECT = _range_by("INDEXED BY records_subject", " AND subject = :subject")
RANGE_OF_GROUP = _range_by("INDEXED BY records_newest", " AND grp = :grp")
RANGE_OF_KIND = _range_by("INDEXED BY records_kind", " AND kind = :kind")
RANGE = _range_by("NOT INDEXED", "")
