"""Network segments read out of a DITEX: a directed pair of routers with its latency as published, where both are, and what it costs.

Theory of operation. Every group's newest verified report gives a matrix of raw latencies, the rows of which their members signed. From it
the clock offsets are estimated out ("recovered"), for humans, prices and service levels; path choice compares raw ones. Places and names
come from the members' own certificates, prices from the offer of the segment's sender, who would carry: all verified here, again, for a
store is not trusted. What was not measured is no segment.

Which groups are read is narrowed by the certificates' index (country, ASN) wherever a place is asked for: a search costs the groups it
finds, not the store.

Shell: reads a store, verifies in a worker thread. Not here: the command line (`srwan ditex search`), files (`export.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import attrs
import numpy as np
import trio

from srwan.errors import RemoteProtocolError
from srwan.gossip.clock_fit import recovered_ms
from srwan.gossip.row import decode_owl_ms, entry_id, jitter_ms, loss_share, open_row
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.read import GroupContents, read_matrix
from srwan.ledger_client.record import ASN_MAX, Key, Kind, Record, report_of, verify
from srwan.ledger_client.report import GroupReport
from srwan.ledger_client.statement import MARKET_GROUP
from srwan.ledger_client.store import PAGE_RECORDS_MAX, Query, RecordStore
from srwan.overlay.view import Member
from srwan.types import GeoAsn, NodeId

__all__ = [
    "Place",
    "Segment",
    "SegmentQuery",
    "SegmentSample",
    "distance_km",
    "find_segments",
    "read_offers",
    "read_records",
    "segment_history",
]

GROUPS_MAX = 2_000
"""Groups read by one search, about 200,000 routers."""
EARTH_RADIUS_KM = 6371.0


@attrs.frozen(slots=True)
class Place:
    """Which routers are meant; what is None does not filter.

    Raises:
        ValueError: an ASN without a country.
    """

    country: str | None = None
    """ISO 3166-1 alpha-2."""
    asn: int | None = None
    """Autonomous system number; needs a country."""

    def __attrs_post_init__(self) -> None:
        if self.country is None and self.asn is not None:
            raise ValueError("an ASN needs a country: the index is by country, then ASN")

    @classmethod
    def parse(cls, text: str) -> Place:
        """Return the place in "DE:3320" or "DE". Raises: ValueError: neither."""
        country, separator, asn = text.partition(":")
        if not (len(country) == 2 and country.isascii() and country.isalpha()) or (separator and not asn.isdecimal()):
            raise ValueError(f"{text!r} is not COUNTRY or COUNTRY:ASN")
        return cls(country.upper(), int(asn) if separator else None)

    def matches(self, location: GeoAsn) -> bool:
        """Say whether a router there is meant."""
        return self.country in (None, location.country) and self.asn in (None, location.asn)

    def query(self, kind: Kind) -> Query:
        """Return the question to a store."""
        asn = (self.asn, self.asn) if self.asn is not None else (0, ASN_MAX)
        return Query(kind=kind, country=self.country, asn_min=asn[0], asn_max=asn[1])


@attrs.frozen(slots=True)
class SegmentQuery:
    """Which segments; what is None does not filter."""

    sender: Place = Place()
    receiver: Place = Place()
    near: tuple[float, float] | None = None
    """Latitude and longitude, degrees: nearest senders first. Otherwise the quickest segments come first."""
    owl_ms_max: float | None = None
    """Recovered latency at most, ms."""
    price_microtoken_max: int | None = None
    """Price of a GB at most, microtokens; None also shows those that never carry."""
    limit: int = 100
    """Segments returned."""


@attrs.frozen(slots=True)
class Segment:
    """A directed pair of routers that was measured."""

    group: bytes
    """Group id, 32 B."""
    sender: NodeId
    receiver: NodeId
    sender_name: str
    receiver_name: str
    sender_place: GeoAsn
    """As its certificate claims; nowhere if there is none."""
    receiver_place: GeoAsn
    raw_ms: float
    """One-way latency as stamped, ms, with the difference of two clocks in it."""
    owl_ms: float
    """Recovered: without the clocks, ms; NaN where they cannot be told."""
    price_microtoken_per_gb: int | None
    """What the sender asks for carrying a GB; None: no valid offer, or it never carries."""
    epoch: int
    """Reporting epoch."""
    measured_ns: int
    """When the receiver made its row, ns of group time, which is near wall time."""
    is_attested: bool
    """The reporter vouches for just this row."""
    is_expired: bool
    """The report is older than it says it is good for."""

    @property
    def order_ms(self) -> float:
        """What to sort by, ms."""
        return self.owl_ms if math.isfinite(self.owl_ms) else self.raw_ms


@attrs.frozen(slots=True)
class SegmentSample:
    """One measurement out of the history of a segment."""

    measured_ns: int
    """When the receiver made its row, ns of group time."""
    boot: int
    """Of the receiver."""
    sequence: int
    """Round of the receiver."""
    raw_ms: float
    """One-way latency as stamped, ms."""
    jitter_ms: float
    loss_share: float
    """0..1."""


def distance_km(latitude: float, longitude: float, place: GeoAsn) -> float:
    """Return the great-circle distance from a point (degrees) to a router's place, km; infinite if it does not say where it is."""
    if place == GeoAsn(place.country, asn=place.asn):
        return math.inf
    phi, other = math.radians(latitude), math.radians(place.lat_cdeg / 100)
    half = (other - phi) / 2, math.radians(place.lon_cdeg / 100 - longitude) / 2
    haversine = math.sin(half[0]) ** 2 + math.cos(phi) * math.cos(other) * math.sin(half[1]) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, haversine)))


# --- reading verified records ---


def _verified(records: Iterable[Record]) -> list[Record]:
    good: list[Record] = []
    for record in records:
        try:
            verify(record)
        except RemoteProtocolError:
            continue
        good.append(record)
    return good


async def read_records(store: RecordStore, query: Query, *, limit: int | None = None) -> list[Record]:
    """Return up to `limit` of the newest records that match and verify, by rising revision; None returns all.

    Raises:
        StoreUnavailable: the store cannot be read.

    Cost: 60 us a record, in a worker thread.
    """
    found: list[Record] = []
    after = query.after
    while page := await store.range(attrs.evolve(query, after=after)):
        found += await trio.to_thread.run_sync(_verified, [stored.record for stored in page])
        after = page[-1].revision
        if len(page) < query.limit or (limit is not None and len(found) >= limit):
            break
    return found if limit is None else found[:limit]


async def read_offers(store: RecordStore, place: Place, *, wall_ns: int, limit: int | None = None) -> list[Offer]:
    """Return the newest verified, unexpired offers of a place; what verifies but is no well-formed offer is left out."""
    offers: list[Offer] = []
    query = attrs.evolve(place.query(Kind.OFFER), unexpired_ns=wall_ns)
    for record in await read_records(store, query, limit=limit):
        try:
            offers.append(Offer.of_record(record))
        except RemoteProtocolError:
            continue
    return offers


# --- segments ---


async def find_segments(store: RecordStore, query: SegmentQuery, *, wall_ns: int) -> list[Segment]:
    """Return the segments that match, the nearest or the quickest first.

    Args:
        store: trusted for nothing but being there.
        query: which.
        wall_ns: wall time now, ns since 1970; expired offers set no price, expired reports are shown and marked.

    Raises:
        StoreUnavailable: the store cannot be read.

    Cost: per group found, 100 signatures and O(n^3) for the clocks, about 30 ms for 100 members; a search without a place reads all groups.
    """
    groups = await _groups_of(store, query)
    segments: list[Segment] = []
    for group in groups[:GROUPS_MAX]:
        contents = await read_matrix(store, wall_ns=wall_ns, group=group)
        for each in contents.groups:
            segments += await trio.to_thread.run_sync(_segments_of, each, query)
    prices = await _prices(store, {segment.sender for segment in segments}, wall_ns)
    priced = [attrs.evolve(segment, price_microtoken_per_gb=prices.get(segment.sender)) for segment in segments]
    return _chosen(priced, query)


async def _groups_of(store: RecordStore, query: SegmentQuery) -> list[bytes]:
    """Groups that may hold such segments: by the more selective place that was given, or all that have a report."""
    for place in sorted((query.sender, query.receiver), key=lambda place: (place.country is None, place.asn is None)):
        if place.country is not None:
            return sorted({record.group for record in await read_records(store, place.query(Kind.NODE))})
    return sorted({record.group for record in await read_records(store, Query(kind=Kind.REPORT))})


class _Router(NamedTuple):
    """What is known of one end."""

    node: NodeId
    name: str
    place: GeoAsn


def _segments_of(contents: GroupContents, query: SegmentQuery) -> list[Segment]:
    published = contents.matrix()
    recovered = recovered_ms(published.owl_ms)
    routers = [_router_of(node, contents.nodes.get(node)) for node in published.roster]
    is_sender = np.array([query.sender.matches(router.place) for router in routers])
    is_receiver = np.array([query.receiver.matches(router.place) for router in routers])
    is_wanted = np.isfinite(published.owl_ms) & is_sender[:, None] & is_receiver
    if query.owl_ms_max is not None:
        is_wanted &= recovered <= query.owl_ms_max  # NaN is not
    stamps_ns = {node: open_row(node, row.record.row_content).row.stamp_ns for node, row in contents.rows.items()}
    segments: list[Segment] = []
    for i, j in np.argwhere(is_wanted):
        sender, receiver = routers[i], routers[j]
        segment = Segment(
            group=contents.report.group,
            sender=sender.node,
            receiver=receiver.node,
            sender_name=sender.name,
            receiver_name=receiver.name,
            sender_place=sender.place,
            receiver_place=receiver.place,
            raw_ms=float(published.owl_ms[i, j]),
            owl_ms=float(recovered[i, j]),
            price_microtoken_per_gb=None,
            epoch=contents.report.epoch,
            measured_ns=stamps_ns[receiver.node],
            is_attested=contents.rows[receiver.node].is_attested,
            is_expired=contents.is_expired,
        )
        segments.append(segment)
    return segments


def _router_of(node: NodeId, record: Record | None) -> _Router:
    """Name and place as in its verified certificate, whether or not that has expired."""
    if record is not None:
        try:
            member = Member.open(record.envelope, wall_ns=record.expires_ns - 1)
        except RemoteProtocolError:
            return _Router(node, str(node)[:12], GeoAsn())
        return _Router(node, member.name or str(node)[:12], member.location)
    return _Router(node, str(node)[:12], GeoAsn())


async def _prices(store: RecordStore, senders: set[NodeId], wall_ns: int) -> Mapping[NodeId, int | None]:
    """What these routers ask for a GB now."""
    keys = [Key(Kind.OFFER, MARKET_GROUP, sender) for sender in sorted(senders)]
    prices: dict[NodeId, int | None] = {}
    for start in range(0, len(keys), PAGE_RECORDS_MAX):
        found = await store.get_many(keys[start : start + PAGE_RECORDS_MAX])
        for record in await trio.to_thread.run_sync(_verified, [stored.record for stored in found if stored is not None]):
            try:
                prices[record.subject] = Offer.of_record(record).price_at(wall_ns // 1_000_000_000)
            except RemoteProtocolError:
                continue
    return prices


def _chosen(segments: Sequence[Segment], query: SegmentQuery) -> list[Segment]:
    if query.price_microtoken_max is not None:
        price_max = query.price_microtoken_max
        segments = [each for each in segments if each.price_microtoken_per_gb is not None and each.price_microtoken_per_gb <= price_max]

    def order(segment: Segment) -> tuple[float, float, bytes, bytes]:
        far_km = 0.0 if query.near is None else distance_km(*query.near, segment.sender_place)
        return far_km, segment.order_ms, segment.sender, segment.receiver

    return sorted(segments, key=order)[: query.limit]


# --- history ---


async def segment_history(store: RecordStore, group: bytes, sender: NodeId, receiver: NodeId, *, limit: int = 100) -> list[SegmentSample]:
    """Return what `receiver` measured of `sender` in the versions of its row that the store still holds, newest first.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    rosters = await _rosters(store, group)
    versions = await store.history(Key(Kind.ROW, group, receiver), limit=min(limit, PAGE_RECORDS_MAX))
    good = await trio.to_thread.run_sync(_verified, [stored.record for stored in versions])
    samples = (_sample_of(record, sender, rosters) for record in good)
    return [sample for sample in samples if sample is not None]


async def _rosters(store: RecordStore, group: bytes) -> dict[bytes, tuple[NodeId, ...]]:
    """Rosters by the digest under which rows in slot order name them, from all reports held."""
    newest = await store.range(Query(kind=Kind.REPORT, group=group))
    rosters: dict[bytes, tuple[NodeId, ...]] = {}
    for stored in newest:
        versions = await store.history(stored.record.key)
        for record in await trio.to_thread.run_sync(_verified, [each.record for each in versions]):
            report: GroupReport = report_of(record)
            rosters.setdefault(report.roster_digest, tuple(sorted(report.roster)))
    return rosters


def _sample_of(record: Record, sender: NodeId, rosters: Mapping[bytes, tuple[NodeId, ...]]) -> SegmentSample | None:
    row = open_row(record.subject, record.row_content).row
    ids = row.ids
    roster = rosters.get(row.roster_digest, ())
    if ids is not None:
        places = np.flatnonzero(ids == entry_id(sender))
    elif len(roster) == row.count and sender in roster:
        places = np.array([roster.index(sender)])
    else:
        return None
    if len(places) != 1 or not math.isfinite(raw_ms := float(decode_owl_ms(row.owl, row.base_us)[places[0]])):
        return None
    place = int(places[0])
    return SegmentSample(row.stamp_ns, row.boot, row.seq, raw_ms, float(jitter_ms(row.jitter)[place]), float(loss_share(row.loss)[place]))
