"""The embedded engine: what it keeps, what it refuses, and that killing it loses nothing acknowledged and pays nothing twice.

This file is also a program: `python test_pyevm.py JOURNAL ROUNDS SEED` forks, for each round, a process that settles on a copy of the
journal and tells its parent what was acknowledged; the parent kills it, opens the copy and compares.
"""

from __future__ import annotations

import errno
import functools
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from srwan.errors import ConfigError, SettlementRefused, SettlementUnavailable
from srwan.ledger_client.settlement import transaction_log
from srwan.ledger_client.settlement.deploy import Deployment
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.settlement.settlement import Claim, batch_digest
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.ledger_client.settlement.terms import PathTerms
from srwan.ledger_client.settlement.ticket import sign_ticket
from srwan.ledger_client.settlement.transaction_log import Entry, LogHead, TransactionLog

START_S = 1_780_000_000
GB = 10**9
MB = 10**6


@pytest.fixture
async def journal(tmp_path: Path, deployer: WalletKey, deployment: Deployment, clock: Any) -> Path:
    path = tmp_path / "settlement.journal"
    async with await PyEvmSettlement.deploy(path, deployer, deployment, clock_s=clock):
        return path


async def test_what_was_acknowledged_is_there_when_it_is_opened_again(journal: Path, consumer: WalletKey, clock: Any) -> None:
    async with await PyEvmSettlement.open(journal, clock_s=clock) as first:
        await first.deposit(consumer, 7)
        clock.now_s += 100
        await first.request_withdraw(consumer, 3)
        before = await first.account(consumer.address)
        domain = first.domain
    assert START_S + 100 + 600 == before.withdraw_at_s

    async with await PyEvmSettlement.open(journal, clock_s=clock) as second:
        assert before == await second.account(consumer.address)
        assert domain == second.domain
        await second.check()


async def test_its_time_never_goes_back(journal: Path, consumer: WalletKey, clock: Any) -> None:
    async with await PyEvmSettlement.open(journal, clock_s=clock) as engine:
        clock.now_s += 5_000
        await engine.deposit(consumer, 1)
        period = await engine.period()
        clock.now_s -= 4_000

        assert START_S + 5_000 == await engine.now_s()
        await engine.deposit(consumer, 1)
        assert period == await engine.period()
    async with await PyEvmSettlement.open(journal, clock_s=clock) as engine:
        assert START_S + 5_000 == await engine.now_s()


async def test_a_refused_command_leaves_nothing_behind(journal: Path, consumer: WalletKey, clock: Any) -> None:
    async with await PyEvmSettlement.open(journal, clock_s=clock) as engine:
        size = journal.stat().st_size
        for _ in range(3):
            with pytest.raises(SettlementRefused, match="balance"):
                await engine.deposit(consumer, 10**13)
        assert size == journal.stat().st_size
        await engine.deposit(consumer, 1)
        assert size < journal.stat().st_size


async def test_one_process_holds_a_journal(journal: Path, clock: Any) -> None:
    async with await PyEvmSettlement.open(journal, clock_s=clock):
        with pytest.raises(SettlementUnavailable, match="another process holds it"):
            await PyEvmSettlement.open(journal, clock_s=clock)
    await (await PyEvmSettlement.open(journal, clock_s=clock)).aclose()


async def test_deploying_over_a_journal_is_refused(journal: Path, deployer: WalletKey, deployment: Deployment) -> None:
    before = journal.read_bytes()
    with pytest.raises(SettlementUnavailable, match="there is a journal already"):
        await PyEvmSettlement.deploy(journal, deployer, deployment)
    assert before == journal.read_bytes()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"quorum": 6}, "quorum"), ({"quorum": 0}, "quorum"), ({"fee_bps": 10_001}, "fee"), ({"supply_microtoken": 2**128 - 1}, "supply")],
)
async def test_a_deployment_that_cannot_be_leaves_no_file(
    tmp_path: Path, deployer: WalletKey, deployment: Deployment, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SettlementRefused, match=reason):
        await PyEvmSettlement.deploy(tmp_path / "new", deployer, attrs.evolve(deployment, **changes))
    assert [] == list(tmp_path.iterdir())


async def test_a_full_disk_stops_the_engine_and_the_journal_holds_what_was_acknowledged(
    journal: Path, consumer: WalletKey, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await PyEvmSettlement.open(journal, clock_s=clock)
    await engine.deposit(consumer, 5)

    def write_half(descriptor: int, content: bytes) -> None:
        os.write(descriptor, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transaction_log, "_write", write_half)
    with pytest.raises(SettlementUnavailable, match="No space left"):
        await engine.deposit(consumer, 6)
    monkeypatch.undo()
    for command in (engine.deposit(consumer, 7), engine.account(consumer.address)):
        with pytest.raises(SettlementUnavailable, match="restart"):
            await command
    await engine.aclose()

    async with await PyEvmSettlement.open(journal, clock_s=clock) as engine:
        assert 5 == (await engine.account(consumer.address)).escrow_microtoken


async def test_a_journal_that_gives_another_state_is_refused(tmp_path: Path, journal: Path) -> None:
    log, entries = TransactionLog.open(journal)
    log.close()
    forged = tmp_path / "forged"
    TransactionLog.create(forged, log.head, [attrs.evolve(entries[0], digest=bytes(8)), *entries[1:]]).close()
    with pytest.raises(SettlementUnavailable, match="transaction 1 does not do what it did"):
        await PyEvmSettlement.open(forged)
    forged.unlink()
    TransactionLog.create(forged, log.head, entries[1:]).close()
    with pytest.raises(SettlementUnavailable, match="transaction 1 does not do what it did"):
        await PyEvmSettlement.open(forged)
    forged.unlink()
    TransactionLog.create(forged, log.head).close()
    with pytest.raises(SettlementUnavailable, match="there is no contract in it"):
        await PyEvmSettlement.open(forged)


async def test_a_missing_journal_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettlementUnavailable, match="`deploy` makes the journal"):
        await PyEvmSettlement.open(tmp_path / "none")


async def test_without_py_evm_it_says_what_to_install(deployer: WalletKey, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "srwan.ledger_client.settlement.machine", raising=False)
    monkeypatch.setitem(sys.modules, "eth.vm.forks.prague", None)
    monkeypatch.delattr("srwan.ledger_client.settlement.machine", raising=False)

    with pytest.raises(ConfigError, match=r'pip install "srwan\[settlement\]"'):
        await PyEvmSettlement.deploy(None, deployer, deployment)


def test_zeros_that_a_power_cut_left_are_cut_off_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "log"
    entries = [Entry(1, b"12345678", b"one"), Entry(2, b"12345678", b"two")]
    TransactionLog.create(path, LogHead(5, 0), entries).close()
    whole = path.read_bytes()

    for tail in (bytes(3), bytes(500), whole[-20:-16] + bytes(16)):
        path.write_bytes(whole + tail)
        if any(tail):
            with pytest.raises(SettlementUnavailable, match="entry 3, at byte"):
                TransactionLog.open(path)
            assert whole + tail == path.read_bytes()
            continue
        log, found = TransactionLog.open(path)
        log.close()
        assert entries == found
        assert whole == path.read_bytes()


# --- kill -9 ---------------------------------------------------------------------------------------------------------

DEPLOYER, CONSUMER, RELAY, VALIDATOR = (WalletKey(bytes([number]) * 32) for number in (1, 2, 3, 4))
TERMS = PathTerms(CONSUMER.address, (RELAY.address,), (10 * MB,), 1_000 * MB, START_S + 3_000, b"\5" * 32)
OPERATIONS_MAX = 400


async def settle_to(engine: PyEvmSettlement, number: int) -> int:
    """Pay the ticket over `number` MB; return what it paid, microtokens."""
    claims = [Claim(TERMS, sign_ticket(CONSUMER, engine.domain, TERMS, number * MB, number * 10_000))]
    (settled,) = await engine.settle(DEPLOYER, claims, [VALIDATOR.sign(batch_digest(engine.domain, claims))])
    return settled.paid_microtoken


async def make_journal(path: Path) -> None:
    deployment = Deployment((VALIDATOR.address,), 1, 10**12, genesis=((CONSUMER.address, 10**10),))
    async with await PyEvmSettlement.deploy(path, DEPLOYER, deployment, clock_s=lambda: START_S) as engine:
        await engine.deposit(CONSUMER, 1_000 * MB)
        await engine.open_session(CONSUMER, TERMS)


async def write(path: Path, acknowledge: Callable[[int], object]) -> None:
    """Settle one ticket after the other, each worth one MB more, and deposit one microtoken after each."""
    async with await PyEvmSettlement.open(path, clock_s=lambda: START_S + 1) as engine:
        for number in range(1, OPERATIONS_MAX, 2):
            await settle_to(engine, number)
            acknowledge(number)
            await engine.deposit(CONSUMER, 1)
            acknowledge(number + 1)


async def compare(path: Path, acknowledged: int) -> None:
    """The state is that after the last acknowledged operation, or after the one that was on its way; and what is sent again pays once."""
    async with await PyEvmSettlement.open(path, clock_s=lambda: START_S + 2) as engine:
        held = await engine.session(TERMS.session_id)
        assert held is not None
        settled = held.settled_microtoken // 10_000
        deposits = (await engine.account(CONSUMER.address)).escrow_microtoken
        done = max(settled, 2 * deposits)
        assert acknowledged <= done <= acknowledged + 1, (acknowledged, settled, deposits)
        assert (settled, deposits) == (done - 1 + done % 2 if done else 0, done // 2)
        again = done + 1 + done % 2
        assert (again - settled) * 10_000 == await settle_to(engine, again)
        assert 0 == await settle_to(engine, again)
        period = await engine.period()
        assert again * 9_900 == await engine.locked(RELAY.address, period)
        assert again * 100 == await engine.locked_fees(period)


def acknowledge_to(descriptor: int, number: int) -> None:
    os.write(descriptor, b"%d\n" % number)


def one_round(base: Path, rng: random.Random) -> None:
    path = base.with_name("round")
    shutil.copy(base, path)
    ours, theirs = os.pipe()
    writer = os.fork()
    if writer == 0:
        trio.run(write, path, functools.partial(acknowledge_to, theirs))
        os._exit(0)
    os.close(theirs)
    acknowledged = 0
    with os.fdopen(ours, "rb") as told:
        for _ in range(rng.randrange(25)):
            acknowledged = int(told.readline())
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 0.012))
        signal.sigwait({signal.SIGALRM})
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        acknowledged = max([acknowledged, *map(int, told.read().split())])
    trio.run(compare, path, acknowledged)


def main(base: Path, rounds: int, seed: int) -> None:
    importlib.import_module("srwan.ledger_client.settlement.machine")  # py-evm, once rather than in every fork
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    trio.run(make_journal, base)
    rng = random.Random(seed)
    for _ in range(rounds):
        one_round(base, rng)
    sys.stdout.write(f"{rounds} rounds\n")


@pytest.fixture(params=[8, pytest.param(200, marks=pytest.mark.slow)])
def rounds(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_killed_amid_settlements_it_loses_nothing_acknowledged_and_pays_nothing_twice(tmp_path: Path, rounds: int) -> None:
    command = [sys.executable, __file__, str(tmp_path / "base"), str(rounds), "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)

    assert (0, f"{rounds} rounds\n") == (done.returncode, done.stdout), done.stderr


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
