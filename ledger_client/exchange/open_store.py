"""From what a user writes to an open store: a path is an SQLite file, "etcd:URL,URL,..." a cluster. A shell.

`etcd:http://10.0.0.1:2379,http://10.0.0.2:2379?prefix=srwan/ditex/&ca=FILE&certificate=FILE&key=FILE&user=FILE` names everything;
what follows the question mark may be left out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import trio

from srwan.errors import ConfigError
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.store import RecordStore
from srwan.ledger_client.verify_pool import VerifyPool

if TYPE_CHECKING:
    from srwan.ledger_client.etcd_gateway import EtcdSettings

__all__ = ["ETCD_PREFIX", "open_store_at"]

ETCD_PREFIX = "etcd:"
_FILES = {"ca": "ca_file", "certificate": "certificate_file", "key": "key_file", "user": "user_file"}
_REMEDY = 'write "etcd:http://HOST:2379,http://HOST:2379" and, if needed, "?prefix=..&ca=FILE&certificate=FILE&key=FILE&user=FILE"'


@asynccontextmanager
async def open_store_at(where: str, *, is_read_only: bool = False, verify_processes: int = 0) -> AsyncIterator[RecordStore]:
    """Open a store for the duration of the block.

    Args:
        where: a path, or "etcd:" and client URLs.
        is_read_only: of a file: change nothing, create nothing. A cluster knows no such thing.
        verify_processes: of a file: processes in which large batches are checked (`VerifyPool`), 0..PROCESSES_MAX. 0: threads do it.

    Raises:
        ConfigError: malformed. StoreUnavailable: it cannot be opened; says what to do.
    """
    store: RecordStore
    verifier = VerifyPool(verify_processes) if verify_processes else None
    if where.startswith(ETCD_PREFIX):
        store = await _open_etcd(where)
    else:
        store = await SqliteStore.open(_path_of(where, is_read_only=is_read_only), is_read_only=is_read_only, verifier=verifier)
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):
            await store.aclose()
            if verifier is not None:
                await verifier.aclose()


def _path_of(where: str, *, is_read_only: bool) -> Path:
    path = Path(where).expanduser()
    if not is_read_only:
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


async def _open_etcd(where: str) -> RecordStore:
    from srwan.ledger_client.etcd import EtcdStore  # noqa: PLC0415 - httpx is an extra, and 0.2 s

    return await EtcdStore.open(_settings_of(where))


def _settings_of(where: str) -> EtcdSettings:
    from srwan.ledger_client.etcd_gateway import EtcdSettings  # noqa: PLC0415

    urls, _, options = where.removeprefix(ETCD_PREFIX).partition("?")
    settings: dict[str, Any] = {}
    for name, value in parse_qsl(options, keep_blank_values=True):
        if name == "prefix":
            settings["prefix"] = value
        elif name in _FILES:
            settings[_FILES[name]] = Path(value).expanduser()
        else:
            raise ConfigError(where, f"{name!r} is no option of a store", _REMEDY)
    try:
        return EtcdSettings(tuple(url.strip().rstrip("/") for url in urls.split(",") if url.strip()), **settings)
    except ValueError as error:
        raise ConfigError(where, str(error), _REMEDY) from None
