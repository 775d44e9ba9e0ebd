"""Token buckets: their rates, their bounds, and what counts as one source."""

from __future__ import annotations

import pytest

from srwan.errors import RemoteProtocolError
from srwan.overlay.admission import PER_SOURCE_BURST, SOURCES_MAX, RequestLimiter, TokenBucket


def test_bucket_refills_at_its_rate_up_to_its_burst() -> None:
    bucket = TokenBucket(2.0, 3, 10.0)
    assert [True, True, True, False] == [bucket.take(10.0) for _ in range(4)]
    assert [True, False] == [bucket.take(10.5) for _ in range(2)]
    assert [True, True, True, False] == [bucket.take(100.0) for _ in range(4)]


def test_limiter_counts_an_ipv6_64_as_one_source_and_stays_bounded() -> None:
    limiter = RequestLimiter()
    for i in range(PER_SOURCE_BURST):
        limiter.admit(f"2001:db8::{i:x}", 0.0, is_known=False)
    with pytest.raises(RemoteProtocolError) as caught:
        limiter.admit("2001:db8::ffff", 0.0, is_known=False)
    assert "source-rate" == caught.value.reason
    limiter.admit("2001:db8:0:1::1", 0.0, is_known=False)
    for i in range(2 * SOURCES_MAX):
        limiter.admit(f"host {i}", 1000.0 + i, is_known=False)
    assert SOURCES_MAX == len(limiter._sources)
