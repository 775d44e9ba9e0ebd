"""An etcd cluster's JSON gateway over httpx on trio: requests with fail-over, transactions, leases and one streaming watch.

Theory of operation. One endpoint is in use; where it refuses, hangs, answers garbage or an older state than was seen before, the next one
is tried, until the deadline. Every request may be repeated safely: reads are linearizable, and the store's transactions compare what they
change. An answer is accepted only if it is JSON of the expected shape, not longer than ANSWER_BYTES_MAX, from the same cluster, and not
older than what this client saw before: a cluster restored from an old copy is noticed, not followed.

Traps of the gateway: zero, false and empty fields are omitted; 64-bit integers are strings; keys and values are base64.

Not here: what the keys mean (`etcd_keys.py`), and when to write (`etcd.py`).

Shell: the network. Invariants: no error of httpx leaves; no password or token reaches an error or a log. Source: etcd.io/docs/v3.4 (api
reference, gRPC gateway, authentication).
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import trio

from srwan.errors import StoreUnavailable
from srwan.ledger_client.shallow_json import parse_json

if TYPE_CHECKING:
    from srwan.ledger_client.http_client import HttpClient

__all__ = ["Answer", "Compare", "EtcdGateway", "EtcdSettings", "KeyValue", "delete_op", "put_op", "range_op"]

ANSWER_BYTES_MAX = 32 << 20
"""Longest answer that is read, bytes: 128 records of 33 kB in base64 take 6 MB."""
DEADLINE_S = 10.0
"""How long a request is tried at one endpoint after the other, s. An election takes 1 to 2 s."""
ATTEMPT_S = 0.8
"""First time-out at an endpoint, s; doubled after each round over all of them. Half of what an election takes."""
PAUSE_S = 0.05
"""Between two attempts, s."""

Json: TypeAlias = dict[str, Any]

_REMEDY = "check that the cluster is up and that this host can reach it"
_FATAL: Mapping[str, tuple[str, str]] = {
    "request is too large": ("refuses a transaction as too large", "raise its --max-request-bytes to the default of 1.5 MB at least"),
    "too many operations": ("refuses a transaction of so many operations", "raise its --max-txn-ops to the default of 128 at least"),
    "database space exceeded": ("has no space left", "compact and defragment it, disarm the alarm, or raise --quota-backend-bytes"),
    "permission denied": ("does not permit this user to do that", "grant the user's role read and write on the prefix"),
    "authentication failed": ("does not accept user or password", "check the user file"),
    "user name is empty": ("wants a user and a password", "name a user file in the settings of the store"),
    "authentication is not enabled": ("knows no users", "enable authentication on the cluster, or leave the user file out"),
}
"""What etcd says, what we say, and what to do. Asking again, or another endpoint, would not help."""


@attrs.frozen(slots=True)
class EtcdSettings:
    """Where a cluster is and how to get in.

    Raises:
        ValueError: no endpoints, or one that is no URL.
    """

    endpoints: tuple[str, ...]
    """Client URLs of its members, http or https; the order is the order of preference."""
    prefix: str = "srwan/ditex/"
    """Of all keys; several stores may share a cluster."""
    ca_file: Path | None = None
    """Certificates by which https members are recognised, PEM; None: those of the system."""
    certificate_file: Path | None = None
    """Certificate of this client, PEM, where the cluster asks for one."""
    key_file: Path | None = None
    """Its key, PEM."""
    user_file: Path | None = None
    """First line the user, second line the password; readable for its owner only."""

    def __attrs_post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("an etcd store needs one endpoint at least")
        for endpoint in self.endpoints:
            if not endpoint.startswith(("http://", "https://")):
                raise ValueError(f"an endpoint starts with http:// or https://, not {endpoint!r}")

    @property
    def where(self) -> str:
        """For errors."""
        return f"etcd at {self.endpoints[0]}" + (f" and {len(self.endpoints) - 1} more" if len(self.endpoints) > 1 else "")


@attrs.frozen(slots=True)
class KeyValue:
    """A key with its value."""

    key: bytes
    value: bytes
    mod_revision: int
    """etcd's revision of the last change of this key."""


@attrs.frozen(slots=True)
class Answer:
    """Of a transaction."""

    revision: int
    """etcd's revision when it was answered; of a transaction that wrote, its own."""
    is_done: bool
    """The comparisons held and the first list of operations was executed, else the second."""
    found: tuple[tuple[KeyValue, ...], ...]
    """Per operation in turn what it found; of puts and deletes nothing."""


@attrs.frozen(slots=True)
class Compare:
    """A condition of a transaction: the key's last change was at this etcd revision, 0 meaning that there is no such key."""

    key: bytes
    mod_revision: int
    """etcd's revision of the last change; 0 = there is no such key."""

    def as_json(self) -> Json:
        """Return it as the gateway wants it."""
        return {"key": _b64(self.key), "target": "MOD", "result": "EQUAL", "mod_revision": str(self.mod_revision)}


def put_op(key: bytes, value: bytes, lease: int = 0) -> Json:
    """Return an operation that puts."""
    return {"request_put": {"key": _b64(key), "value": _b64(value), **({"lease": str(lease)} if lease else {})}}


def delete_op(key: bytes) -> Json:
    """Return an operation that deletes one key."""
    return {"request_delete_range": {"key": _b64(key)}}


def range_op(
    key: bytes,
    end: bytes | None = None,
    *,
    limit: int = 0,
    is_descending: bool = False,
    is_by_age: bool = False,
    is_keys_only: bool = False,
) -> Json:
    """Return an operation that reads one key, or those from `key` to before `end`.

    Args:
        key: the first one.
        end: after the last one; None reads one key.
        limit: at most so many; 0 all.
        is_descending: from the last key down.
        is_by_age: by time of creation in place of key.
        is_keys_only: without values.
    """
    asked: Json = {"key": _b64(key)}
    if end is not None:
        asked["range_end"] = _b64(end)
    if limit:
        asked["limit"] = str(limit)
    if is_descending or is_by_age:
        asked |= {"sort_order": "DESCEND" if is_descending else "ASCEND", "sort_target": "CREATE" if is_by_age else "KEY"}
    if is_keys_only:
        asked["keys_only"] = True
    return {"request_range": asked}


_GARBAGE = (KeyError, IndexError, TypeError, ValueError)
"""What parsing raises; bad base64 and bad JSON are ValueErrors."""


class _Refused(Exception):
    """An endpoint refused, or answered what cannot be used; the next one may not."""


class _NotAuthenticated(_Refused):
    """The token is no longer known."""


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes_of(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in place of base64")
    return base64.b64decode(value, validate=True)


def _object(value: object) -> Json:
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} in place of an object")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} in place of a list")
    return value


def key_value_of(value: object) -> KeyValue:
    """Parse a key with its value as the gateway tells it.

    Raises:
        TypeError, ValueError: another shape.
    """
    told = _object(value)
    return KeyValue(_bytes_of(told.get("key", "")), _bytes_of(told.get("value", "")), int(told.get("mod_revision", 0)))


def found_by(response: object) -> tuple[KeyValue, ...]:
    """Parse the answer to one operation of a transaction.

    Raises:
        TypeError, ValueError: another shape.
    """
    told = _object(_object(response).get("response_range", {}))
    return tuple(key_value_of(each) for each in _list(told.get("kvs", [])))


class EtcdGateway:
    """Made by `open`; close it with `aclose`. May be used by several tasks at once."""

    def __init__(self, settings: EtcdSettings, client: HttpClient, user: tuple[str, str] | None, deadline_s: float) -> None:
        self._settings = settings
        self._client = client
        self._user = user
        self._token = ""
        self._deadline_s = deadline_s
        self._is_closed = False
        self._in_use = 0
        self._seen_revision = 0
        self._cluster = ""
        self.failures = 0
        """Attempts that failed and made the gateway turn to another endpoint."""

    @classmethod
    def open(cls, settings: EtcdSettings, *, deadline_s: float = DEADLINE_S) -> EtcdGateway:
        """Prepare the connections; nothing is sent yet.

        Raises:
            StoreUnavailable: httpx is not installed, or a file of the settings cannot be used.
        """
        try:
            from srwan.ledger_client.http_client import HttpClient  # noqa: PLC0415 (only those who use a cluster have httpx)
        except ImportError:
            problem, remedy = "the etcd store needs httpx, which is not installed", 'pip install "srwan[etcd]"'
            raise StoreUnavailable(settings.where, problem, remedy) from None
        return cls(settings, HttpClient(_tls_of(settings)), _user_of(settings), deadline_s)

    async def aclose(self) -> None:
        """Close all connections. Requests under way raise `trio.ClosedResourceError`."""
        self._is_closed = True
        await self._client.aclose()

    def unavailable(self, problem: str, remedy: str = _REMEDY) -> StoreUnavailable:
        """Return the error for a problem with this cluster."""
        return StoreUnavailable(self._settings.where, problem, remedy)

    async def transact(self, compares: Sequence[Compare], then: Sequence[Json], otherwise: Sequence[Json] = ()) -> Answer:
        """Execute one list of operations atomically if all comparisons hold, else the other. Each list has up to 128 of them.

        Raises:
            StoreUnavailable: no endpoint gave a usable answer in time. Whether it was executed is then unknown.
        """
        asked = {"compare": [each.as_json() for each in compares], "success": list(then), "failure": list(otherwise)}
        told = await self._ask("/v3/kv/txn", asked, _transaction_of)
        assert isinstance(told, Answer)
        return told

    async def read(self, operation: Json) -> tuple[KeyValue, ...]:
        """Execute one `range_op`.

        Raises:
            StoreUnavailable: no endpoint gave a usable answer in time.
        """
        return (await self.transact((), [operation])).found[0]

    async def grant(self, lease_s: int) -> int:
        """Return the id of a new lease.

        Raises:
            StoreUnavailable: no endpoint gave a usable answer in time.
        """
        return int(await self._ask("/v3/lease/grant", {"TTL": str(lease_s)}, lambda told: int(told["ID"])))

    async def revoke(self, lease: int) -> None:
        """End a lease; the keys under it go. One that is gone already is fine.

        Raises:
            StoreUnavailable: no endpoint gave a usable answer in time.
        """
        await self._ask("/v3/lease/revoke", {"ID": str(lease)}, lambda _told: None, is_absence_fine=True)

    async def watch(self, key: bytes, end: bytes, revision: int, *, quiet_s: float) -> list[KeyValue]:
        """Wait for what is put between `key` and `end` from this etcd revision on, and return the first message of it, in order.

        Returns:
            Nothing if the stream ended before: the endpoint failed, said nothing for `quiet_s`, or has compacted the revision away. Read
            again then, and watch again.

        Raises:
            StoreUnavailable: credentials or certificates are refused.
        """
        asked = {"create_request": {"key": _b64(key), "range_end": _b64(end), "start_revision": str(revision)}}
        reader, refusal = _WatchReader(), bytearray()

        def take(status: int, part: bytes) -> bool:
            if status == 200:
                return reader.take(part)
            refusal.extend(part)
            return len(refusal) < ANSWER_BYTES_MAX

        with trio.move_on_after(quiet_s):
            try:
                status = await self._client.post(self._endpoint + "/v3/watch", _encoded(asked), await self._headers(), take)
                self._require_success(status, bytes(refusal))
            except (ConnectionError, _Refused):
                reader.is_broken = True
        if reader.is_broken:
            self._turn_away()
        return reader.puts

    @property
    def _endpoint(self) -> str:
        return self._settings.endpoints[self._in_use].rstrip("/")

    def _turn_away(self) -> None:
        self.failures += 1
        self._in_use = (self._in_use + 1) % len(self._settings.endpoints)

    async def _headers(self) -> dict[str, str]:
        if self._user is None:
            return {}
        if not self._token:
            told = await self._post("/v3/auth/authenticate", {"name": self._user[0], "password": self._user[1]}, {})
            self._token = str(told["token"])
        return {"Authorization": self._token}

    async def _ask(self, path: str, asked: Json, parse: Any, *, is_absence_fine: bool = False) -> Any:
        """Ask endpoint after endpoint until one gives an answer that can be used."""
        give_up_at = trio.current_time() + self._deadline_s
        attempt_s, problem, attempts = ATTEMPT_S, "", 0
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("the record store is closed")
            left_s = give_up_at - trio.current_time()
            if left_s <= 0:
                raise self.unavailable(f"no endpoint gave a usable answer within {self._deadline_s:g} s ({problem})")
            this_s = min(attempt_s, left_s)
            try:
                seen_revision = self._seen_revision  # before asking: an answer to an earlier question may come later
                with trio.fail_after(this_s):
                    told = await self._post(path, asked, await self._headers())
                return self._accepted(told, parse(told), seen_revision)
            except _NotAuthenticated as error:
                self._token, problem = "", str(error)
            except trio.TooSlowError:
                if this_s == attempt_s or not problem:  # one that the deadline cut short says less than the one before
                    problem = f"{self._endpoint} did not answer"
                self._turn_away()
            except (ConnectionError, _Refused) as error:
                if is_absence_fine and "not found" in str(error):
                    return None
                problem = f"{self._endpoint}: {str(error) or type(error).__name__}"
                self._turn_away()
            except _GARBAGE as error:
                problem = f"{self._endpoint} gave what is no answer of etcd: {error}"
                self._turn_away()
            attempts += 1
            if attempts % len(self._settings.endpoints) == 0:
                attempt_s = min(2 * attempt_s, self._deadline_s)
            await trio.sleep(PAUSE_S)

    async def _post(self, path: str, asked: Json, headers: Mapping[str, str]) -> Json:
        content = bytearray()

        def take(_status: int, part: bytes) -> bool:
            content.extend(part)
            return len(content) <= ANSWER_BYTES_MAX

        status = await self._client.post(self._endpoint + path, _encoded(asked), headers, take)
        if len(content) > ANSWER_BYTES_MAX:
            raise _Refused(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
        self._require_success(status, bytes(content))
        return _object(parse_json(content))

    def _require_success(self, status: int, content: bytes) -> None:
        """Return if the HTTP status is 200, else raise what the answer means."""
        if status == 200:
            return
        try:
            said = str(_object(parse_json(content)).get("error", ""))[:200]
        except (TypeError, ValueError):
            said = ""
        if "invalid auth token" in said:
            raise _NotAuthenticated("the token is no longer known")
        for words, (problem, remedy) in _FATAL.items():
            if words in said:
                raise self.unavailable(f"the cluster {problem}", remedy)
        raise _Refused(said or f"HTTP status {status}")

    def _accepted(self, told: Json, parsed: Any, seen_revision: int) -> Any:
        """Return what was parsed, if it comes from the cluster known and is not older than what was seen before the question."""
        header = _object(told.get("header", {}))
        revision, cluster = int(header.get("revision", 0)), str(header.get("cluster_id", ""))
        if self._cluster and cluster and cluster != self._cluster:
            raise _Refused("this is another cluster than before")
        if revision and revision < seen_revision:
            raise _Refused(f"an older state ({revision}) than was seen before ({seen_revision})")
        self._cluster = cluster or self._cluster
        self._seen_revision = max(revision, self._seen_revision)
        return parsed


class _WatchReader:
    """Takes a stream of lines apart until one tells of a put."""

    def __init__(self) -> None:
        self.puts: list[KeyValue] = []
        self.is_broken = False
        self._buffer = bytearray()

    def take(self, part: bytes) -> bool:
        """Take some bytes; say whether more are wanted."""
        self._buffer += part
        if b"\n" not in part:
            self.is_broken = len(self._buffer) > ANSWER_BYTES_MAX
            return not self.is_broken
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        try:
            return all(self._is_more_wanted_after(line) for line in lines)
        except _GARBAGE:
            self.is_broken = True
            return False

    def _is_more_wanted_after(self, line: bytes) -> bool:
        told = _object(_object(parse_json(line))["result"])
        events = [_object(each) for each in _list(told.get("events", []))]
        self.puts = [key_value_of(each["kv"]) for each in events if each.get("type", "PUT") == "PUT"]
        return not (self.puts or told.get("canceled"))


def _encoded(asked: Json) -> bytes:
    return json.dumps(asked, separators=(",", ":")).encode()


def _transaction_of(told: Json) -> Answer:
    revision = int(_object(told["header"])["revision"])
    return Answer(revision, bool(told.get("succeeded", False)), tuple(found_by(each) for each in _list(told.get("responses", []))))


def _tls_of(settings: EtcdSettings) -> ssl.SSLContext | None:
    if not any(endpoint.startswith("https://") for endpoint in settings.endpoints):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.certificate_file is not None:
            context.load_cert_chain(settings.certificate_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        raise StoreUnavailable(
            settings.where, f"a certificate or key cannot be used ({error})", "check the files in the settings"
        ) from None
    return context


def _user_of(settings: EtcdSettings) -> tuple[str, str] | None:
    if settings.user_file is None:
        return None
    try:
        user, password = settings.user_file.read_text(encoding="utf-8").splitlines()[:2]
    except (OSError, UnicodeError, ValueError):
        remedy = "write the user into its first line and the password into its second"
        raise StoreUnavailable(settings.where, f"{settings.user_file} cannot be read as a user file", remedy) from None
    return user, password
