"""The offers a validator has seen: what it judges claims by when the store has pruned them, over a restart, too. A shell.

Theory of operation. A claim may come weeks after the offer it stands on expired or was replaced, and stores prune both. So every offer
that comes by is remembered by its digest, the one seen longest ago going first when there are OFFERS_KEPT_MAX. With a journal each is
appended to it as it was filed; what the journal holds when it is opened is remembered again, but for offers that expired more than KEPT_S
ago. Nothing waits for the disk: an offer that a power cut took is mostly still in the store, and is read from there at the next start.

Not here: where else an offer may be found (`gather.py`).

Cost: of an offer, one verified signature and its bytes in memory and in the file. When the file has grown to four times what matters it
is written anew, in place: the caller waits for the disk then.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

from srwan.errors import RemoteProtocolError, StoreUnavailable
from srwan.ledger_client.accounting.journal import RECORD_BYTES_MAX, Journal
from srwan.ledger_client.exchange.messages import decode_record, encode_record
from srwan.ledger_client.market.offer import Offer
from srwan.ledger_client.record import Record, verify
from srwan.ledger_client.report import NS_PER_S
from srwan.wire import pack, unpack

__all__ = ["OfferShelf"]

OFFERS_KEPT_MAX = 16_384
KEPT_S = 60 * 86_400
"""After its expiry, s: a session opened on it may run 32 days, and what is filed about that counts 14 days longer."""

logger = logging.getLogger("srwan.ledger_client")


class OfferShelf:
    """Offers by digest.

    Args:
        journal: just opened, and closed by whoever opened it; None: they are remembered as long as the process runs.
        wall_ns: wall time now, ns since 1970.

    Raises:
        RemoteProtocolError: the journal holds what is no offer: it is another's.
    """

    def __init__(self, journal: Journal | None = None, wall_ns: int = 0) -> None:
        self._journal = journal
        self._offers: OrderedDict[bytes, Offer] = OrderedDict()
        self._filed: dict[bytes, bytes] = {}
        if journal is None:
            return
        for payload in journal.records:
            offer = Offer.of_record(decode_record(unpack(payload, bytes_max=RECORD_BYTES_MAX)))
            if offer.expires_ns + KEPT_S * NS_PER_S > wall_ns:
                self._take(offer, payload)
        journal.forget_records()
        self._compact_if_worth(journal)

    def __len__(self) -> int:
        return len(self._offers)

    def get(self, digest: bytes) -> Offer | None:
        """Return the offer of a digest, None if it never came by or had to go."""
        return self._offers.get(digest)

    def put(self, record: Record) -> None:
        """Remember an offer, if the record is one and its signature is good; the store that it comes from is not trusted."""
        try:
            verify(record)
            offer = Offer.of_record(record)
        except RemoteProtocolError as error:
            logger.warning("the store holds an offer that is not what it should be: %s", error)
            return
        if offer.digest in self._offers:
            self._offers.move_to_end(offer.digest)
            return
        payload = pack(encode_record(record))
        self._take(offer, payload)
        if self._journal is None:
            return
        try:
            self._journal.append(payload)
        except StoreUnavailable as error:
            logger.warning("an offer is remembered until this process ends, and no longer: %s", error)
        self._compact_if_worth(self._journal)

    def _take(self, offer: Offer, payload: bytes) -> None:
        self._offers[offer.digest] = offer
        if self._journal is not None:
            self._filed[offer.digest] = payload
        while len(self._offers) > OFFERS_KEPT_MAX:
            digest, _ = self._offers.popitem(last=False)
            self._filed.pop(digest, None)

    def _compact_if_worth(self, journal: Journal) -> None:
        if not journal.is_worth_compacting:
            return
        try:
            journal.compact(self._filed[digest] for digest in self._offers)
        except StoreUnavailable as error:
            logger.warning("the journal of offers was not compacted: %s", error)
