"""`srwan wallet` from a new key file to votes, on the embedded engine."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from srwan.cli import main, wallet_desk, wallet_keys
from srwan.cli.wallet import FEE_BPS
from srwan.identity import Identity
from srwan.ledger_client.accounting.journal import Journal
from srwan.ledger_client.accounting.payer_journal import opened_entry, sent_entry
from srwan.ledger_client.accounting.plan import NO_OFFER, PathPlan
from srwan.ledger_client.record import Key, Kind
from srwan.ledger_client.settlement.deploy import FEE_BPS_DEFAULT, Deployment
from srwan.ledger_client.settlement.keystore import create_wallet
from srwan.ledger_client.settlement.pyevm import PyEvmSettlement
from srwan.ledger_client.settlement.settlement import Claim, batch_digest
from srwan.ledger_client.settlement.signing import WalletKey
from srwan.ledger_client.settlement.terms import GB_OCTETS, PathTerms
from srwan.ledger_client.settlement.ticket import sign_ticket
from srwan.ledger_client.sqlite import SqliteStore
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.ledger_client.validation.binding import BINDING_TOPIC, BindingRequest

KEY, OTHER = WalletKey(bytes([1]) * 32), WalletKey(bytes([2]) * 32)
PHRASE = "correct horse battery"
TOKEN = 1_000_000
DAY_S = 86_400
Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with a contract on it and 100 tokens, all KEY's."""
    path = tmp_path_factory.mktemp("engine") / "settlement.journal"

    async def deploy() -> None:
        async with await PyEvmSettlement.deploy(path, KEY, Deployment((KEY.address,), 1, 100 * TOKEN)):
            pass

    trio.run(deploy)
    return path


@pytest.fixture
def folder(tmp_path: Path, engine: Path) -> Path:
    """A state folder with a wallet and an engine."""
    create_wallet(tmp_path / "wallet.json", PHRASE, key=KEY, scrypt_n=2)
    phrase = tmp_path / "phrase"
    phrase.touch(0o600)
    phrase.write_text(PHRASE)
    shutil.copy(engine, tmp_path / "settlement.journal")
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `srwan wallet ACTION ...` and returns exit status and JSON."""

    def call(action: str, *words: str) -> tuple[int, dict[str, Any]]:
        given = ["--state-dir", str(folder), "--url", "embedded", "--passphrase-file", str(folder / "phrase"), "--yes", "--json"]
        status = main(["wallet", action, *words, *given])
        printed = capsys.readouterr()
        return status, json.loads(printed.out) if printed.out else {"error": printed.err}

    return call


def words_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["wallet", *words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


# --- keys ------------------------------------------------------------------------------------------------------------


def test_from_nothing_to_an_engine_with_all_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wallet_keys, "create_wallet", functools.partial(create_wallet, scrypt_n=2))
    (tmp_path / "phrase").touch(0o600)
    (tmp_path / "phrase").write_text(PHRASE)
    shared = ["--state-dir", str(tmp_path / "s"), "--url", "embedded", "--passphrase-file", str(tmp_path / "phrase"), "--yes"]

    status, created, _ = words_of(capsys, "create", *shared)
    address = created.split("\n")[0]
    assert 0 == status
    assert f"{address}\n" in words_of(capsys, "show", "--check", *shared)[1]
    assert (2, "") == words_of(capsys, "balance", *shared)[:2]  # no engine yet
    assert (
        "1000 tokens are"
        in words_of(capsys, "deploy", "--supply", "1000", *[word for word in shared if word not in ("--url", "embedded")])[1]
    )
    assert (tmp_path / "s" / "settlement.journal").exists()
    assert "free      1000 tokens\n" in words_of(capsys, "balance", *shared)[1]
    assert (2, "") == words_of(capsys, "create", *shared)[:2]
    assert (2, "") == words_of(capsys, "deploy", *shared)[:2]


def test_the_fee_that_is_deployed_is_the_librarys() -> None:
    assert FEE_BPS_DEFAULT == FEE_BPS


def test_a_passphrase_comes_from_a_descriptor(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "phrase").open() as file:
        status, out, _ = words_of(capsys, "show", "--check", "--state-dir", str(folder), "--passphrase-fd", str(os.dup(file.fileno())))
    assert (0, str(KEY.address)) == (status, out.split()[0])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["balance"], "no key file is named"),
        (["create"], "no key file is named"),
        (["show", "--keystore", "none.json"], "no key file; create one"),
        (["tickets"], "no accounting journal is named"),
        (["balance", str(KEY.address)], "settlement.url: no settlement engine"),
        (["balance", str(KEY.address), "--url", "embedded"], "no place for its state"),
        (["balance", str(KEY.address), "--url", "http://127.0.0.1:1"], "settlement.contract: is missing"),
        (["balance", str(KEY.address), "--url", "http://h", "--contract", f"0x5AA{str(KEY.address)[5:]}", "--chain-id", "1"], "checksum"),
        (["balance", str(KEY.address), "--url", "ftp://h"], "settlement.url"),
        (["bind"], "no router is named"),
        (["serve", "--url", "http://h", "--contract", str(KEY.address), "--chain-id", "1"], "only the embedded engine"),
    ],
)
def test_what_is_missing_is_named_with_the_remedy(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = words_of(capsys, *words)

    assert (2, "") == (status, out)
    assert err.startswith("srwan: ")
    assert problem in err


@pytest.mark.parametrize(
    "words",
    [
        ["deposit", "1.2345678"],
        ["deposit", "-1"],
        ["deposit", "1e3"],
        ["transfer", "0x12", "1"],
        ["transfer", str(KEY.address)[:-1] + "x", "1"],
        ["balance", "--periods", "0"],
        ["deploy", "--fee-bps", "10001"],
        ["unknown"],
        [],
    ],
)
def test_words_that_make_no_sense_are_refused_at_once(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["wallet", *words])
    assert 2 == ended.value.code
    assert "error: " in capsys.readouterr().err


# --- money -----------------------------------------------------------------------------------------------------------


def test_tokens_go_into_escrow_and_are_asked_back(run: Run) -> None:
    status, account = run("deposit", "12.5")
    assert (0, 87_500_000, 12_500_000, 12_500_000) == (
        status,
        account["balance_microtoken"],
        account["escrow_microtoken"],
        account["deposited_microtoken"],
    )
    _, asked = run("withdraw", "2500000u")
    assert (10_000_000, 2_500_000, 2_500_000) == (
        asked["escrow_microtoken"],
        asked["withdrawing_microtoken"],
        asked["requested_microtoken"],
    )
    status, early = run("withdraw")
    assert (1, 0) == (status, early["withdrawn_microtoken"])
    assert early["problem"].startswith("2.5 tokens asked back can be taken from 20")
    _, account = run("escrow")
    assert account["withdraw_at_s"] - account["now_s"] in range(DAY_S - 60, DAY_S + 1)
    _, taken_back = run("withdraw", "0")
    assert (12_500_000, 0) == (taken_back["escrow_microtoken"], taken_back["withdrawing_microtoken"])
    status, nothing = run("withdraw")
    assert (1, "nothing is asked back; ask with `srwan wallet withdraw AMOUNT`") == (status, nothing["problem"])


def test_all_means_all(run: Run) -> None:
    assert 0 == run("deposit", "all")[1]["balance_microtoken"]
    assert 100 * TOKEN == run("withdraw", "all")[1]["withdrawing_microtoken"]


def test_what_is_due_is_taken(folder: Path, run: Run) -> None:
    (folder / "settlement.journal").unlink()
    run("deploy", "--supply", "10", "--withdraw-delay", "0")
    run("deposit", "3")
    run("withdraw", "2")

    status, account = run("withdraw", "--wait")
    assert (0, 2 * TOKEN, 9 * TOKEN) == (status, account["withdrawn_microtoken"], account["balance_microtoken"])


def test_tokens_are_given_to_another_wallet(run: Run) -> None:
    _, given = run("transfer", str(OTHER.address), "0.000001")
    assert (1, 100 * TOKEN - 1) == (given["transferred_microtoken"], given["balance_microtoken"])
    assert 1 == run("balance", str(OTHER.address))[1]["balance_microtoken"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["transfer", str(OTHER.address), "100.000001"], "100.000001 tokens is more than the 100 tokens that are free"),
        (["transfer", str(OTHER.address), "0"], "nothing to move"),
        (["transfer", str(KEY.address), "1"], "that is this wallet itself"),
        (["deposit", f"{2**128 - 1}u"], "is more than the 100 tokens"),
        (["withdraw", "1u"], "0.000001 tokens is more than the 0 tokens in escrow"),
        (["withdraw", "all"], "nothing to move"),
    ],
)
def test_what_a_wallet_has_not_it_cannot_move(run: Run, words: list[str], problem: str) -> None:
    status, printed = run(*words)
    assert 2 == status
    assert problem in printed["error"]
    assert 100 * TOKEN == run("balance")[1]["balance_microtoken"]


def test_votes_move_no_token(run: Run) -> None:
    _, voted = run("vote", str(OTHER.address))
    assert (str(OTHER.address), 100 * TOKEN, True) == (voted["vote"], voted["balance_microtoken"], voted["is_seated"])
    _, seated = run("seat", str(OTHER.address))
    assert (100 * TOKEN, 1) == (seated["votes_microtoken"], seated["seats"])
    assert run("unvote")[1]["vote"] is None


def test_a_contracts_refusal_is_told_with_its_word(run: Run) -> None:
    status, printed = run("seat", str(OTHER.address))
    assert (2, "srwan: the settlement contract refused seat: votes\n") == (status, printed["error"])


def test_a_wrong_passphrase_moves_nothing_and_is_not_shown(folder: Path, run: Run) -> None:
    (folder / "phrase").write_text("wrong horse battery")
    status, printed = run("deposit", "1")
    assert 2 == status
    assert "the passphrase is wrong" in printed["error"]
    assert "wrong horse" not in printed["error"]


def test_an_engine_that_another_process_holds_is_told(folder: Path, run: Run) -> None:
    async def beside() -> dict[str, Any]:
        async with await PyEvmSettlement.open(folder / "settlement.journal"):
            return (await trio.to_thread.run_sync(run, "balance"))[1]

    assert "another process holds it" in trio.run(beside)["error"]


# --- asking ----------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "is_done"), [("y\n", True), ("Yes\n", True), ("\n", False), ("n\n", False), ("", False)])
def test_what_moves_tokens_asks_first(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: str, is_done: bool
) -> None:
    shared = ["--state-dir", str(folder), "--url", "embedded", "--passphrase-file", str(folder / "phrase")]
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    try:
        status = main(["wallet", "transfer", str(OTHER.address), "1", *shared])
    except SystemExit as ended:
        status = int(str(ended.code))
    asked = capsys.readouterr().err

    assert (0 if is_done else 1) == status
    assert f"give 1 token to {OTHER.address}? [y/N] " in asked
    assert main(["wallet", "balance", "--json", *shared]) == 0
    assert (99 if is_done else 100) * TOKEN == json.loads(capsys.readouterr().out)["balance_microtoken"]


def test_without_a_terminal_yes_must_be_said(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    status, _, err = words_of(capsys, "deposit", "1", "--state-dir", str(folder), "--url", "embedded")
    assert 2 == status
    assert "give it to do so without being asked" in err


# --- what relays earn ------------------------------------------------------------------------------------------------


def test_earnings_are_shown_collected_and_told(folder: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Earned three days ago, so they can be disputed no more."""
    path = folder / "settlement.journal"
    path.unlink()
    now = [0]

    async def earn() -> None:
        now[0] = int(time.time()) - 3 * DAY_S
        deployment = Deployment((KEY.address,), 1, 100 * TOKEN)
        async with await PyEvmSettlement.deploy(path, KEY, deployment, clock_s=lambda: now[0]) as settlement:
            terms = PathTerms(KEY.address, (OTHER.address,), (10 * TOKEN,), 10 * TOKEN, now[0] + 60, bytes(32))
            await settlement.deposit(KEY, 10 * TOKEN)
            await settlement.open_session(KEY, terms)
            claims = [Claim(terms, sign_ticket(KEY, settlement.domain, terms, GB_OCTETS, 10 * TOKEN))]
            await settlement.settle(KEY, claims, [KEY.sign(batch_digest(settlement.domain, claims))])

    trio.run(earn)
    (earned,) = run("balance", str(OTHER.address))[1]["earned"]
    assert 9_900_000 == earned["amount_microtoken"]
    assert 9_900_000 == run("collect", str(OTHER.address))[1]["collected_microtoken"]
    status, again = run("collect", str(OTHER.address))
    assert (0, 0, 9_900_000) == (status, again["collected_microtoken"], again["balance_microtoken"])

    names = [event["event"] for event in run("history")[1]["events"]]
    assert ["Transfer", "Deposited", "SessionOpened", "Settled"] == names
    assert main(["wallet", "history", str(OTHER.address), "--state-dir", str(folder), "--url", "embedded"]) == 0
    assert "9.9 tokens earned and collected\n" in capsys.readouterr().out
    assert main(["wallet", "history", "--state-dir", str(folder), "--url", "embedded"]) == 0
    told = capsys.readouterr().out
    assert "100 tokens received from the deployment\n" in told
    assert "10 tokens paid, 0.1 tokens of it fee, for 1,000,000,000 octets since it was opened\n" in told
    assert [] == run("history", "--blocks", "1")[1]["events"]  # the last block holds the other one's collection


def test_sessions_and_tickets_are_read_beside_a_running_router(folder: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [Identity(bytes([number]) * 32).node_id for number in range(3)]
    plan = PathPlan(nodes[0], (nodes[1],), nodes[2], (NO_OFFER,), 1000, 2000, 0, bytes(16))
    terms = PathTerms(KEY.address, (OTHER.address,), (10 * TOKEN,), 3 * TOKEN, 2**33, plan.digest)
    with Journal(folder / "accounting.journal") as journal:
        journal.append(b"p" + opened_entry(terms, plan), b"p" + sent_entry(terms.session_id, 3, 4000), b"e?")
        _, shown = run("sessions")
        _, tickets = run("tickets")
        assert main(["wallet", "sessions", "--state-dir", str(folder), "--url", "embedded"]) == 0
        assert "not open on the engine" in capsys.readouterr().out
        journal.append(b"pnonsense")
        assert "holds an entry that is none" in run("tickets")[1]["error"]

    (session,) = shown["sessions"]
    assert (terms.session_id.hex(), "pays", False, 3 * TOKEN) == (
        session["session"],
        session["role"],
        session["is_open"],
        session["cap_microtoken"],
    )
    (ticket,) = tickets["tickets"]
    assert (4000, 0, None) == (ticket["sent_octets"], ticket["amount_microtoken"], ticket["signature"])


def test_a_request_to_be_bound_is_filed_for_the_validators(folder: Path, run: Run) -> None:
    identity = Identity.load_or_create(folder / "identity")
    status, asked = run("bind")
    assert (0, str(identity.node_id), False) == (status, asked["node_id"], asked["is_bound"])

    async def filed() -> BindingRequest:
        async with (
            await SqliteStore.open(folder / "ditex.sqlite") as store,
            await PyEvmSettlement.open(folder / "settlement.journal") as engine,
        ):
            stored = await store.get(Key(Kind.CLAIM, MARKET_GROUP, identity.node_id, BINDING_TOPIC))
            assert stored is not None
            request = BindingRequest.decode(identity.node_id, Statement.of_record(stored.record).content)
            request.verify(engine.domain)
            return request

    request = trio.run(filed)
    assert (KEY.address, 1) == (request.wallet, request.sequence)


def test_options_stand_over_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "srwan.toml"
    file.write_text(f'state_dir = "{folder}"\n[settlement]\nurl = "http://127.0.0.1:1"\ncontract = "{KEY.address}"\nchain_id = 5\n')
    assert main(["wallet", "balance", "--config", str(file), "--url", "embedded"]) == 0
    assert "100 tokens" in capsys.readouterr().out
    file.write_text(f'state_dir = "{folder}"\n[settlement]\nurl = "embedded"\n')
    assert main(["wallet", "balance", "--config", str(file)]) == 0
    assert main(["wallet", "balance", "--config", str(folder / "none.toml")]) == 2


# --- a node ----------------------------------------------------------------------------------------------------------


class Forgetful(http.server.BaseHTTPRequestHandler):
    """Stands before a node and passes everything on, but keeps the answer to the first transaction to itself for ever."""

    upstream = ""
    was_sent: threading.Event
    is_over: threading.Event

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        request = urllib.request.Request(self.upstream, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            content = answer.read()
        if b"eth_sendRawTransaction" in body and not self.was_sent.is_set():
            self.was_sent.set()
            self.is_over.wait()
            return
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - as the base class calls it
        """Say nothing."""


@contextlib.contextmanager
def forgetful_node(upstream: str) -> Iterator[tuple[str, threading.Event]]:
    """Yields its URL, and what is set as soon as the node has the transaction."""

    class Handler(Forgetful):
        was_sent, is_over = threading.Event(), threading.Event()

    Handler.upstream = upstream
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", Handler.was_sent
        finally:
            Handler.is_over.set()
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[dict[str, Any]]:
    """The engine of a folder, served by another process."""
    command = [sys.executable, "-m", "srwan", "wallet", "serve", "--state-dir", str(folder), "--url", "embedded", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())
        finally:
            server.send_signal(signal.SIGINT)
        assert 0 == server.wait(20)


def test_a_transfer_killed_while_it_was_sent_is_followed_up_and_not_sent_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a state folder, too: what is on its way is kept beside the key file."""
    with served(folder) as engine, forgetful_node(engine["url"]) as (url, was_sent):
        named = ["--url", url, "--contract", engine["contract"], "--chain-id", str(engine["chain_id"]), "--confirmations", "1"]
        shared = [*named, "--keystore", str(folder / "wallet.json"), "--passphrase-file", str(folder / "phrase")]
        transfer = ["wallet", "transfer", str(OTHER.address), "7", *shared, "--yes"]
        with subprocess.Popen([sys.executable, "-m", "srwan", *transfer], stderr=subprocess.DEVNULL) as killed:
            assert was_sent.wait(60)
            assert 0 == main(["wallet", "balance", *shared, "--json"]), "one can look meanwhile"
            assert 93 * TOKEN == json.loads(capsys.readouterr().out)["balance_microtoken"]
            killed.kill()
        assert (folder / "wallet.json.outbox.wallet").exists()
        assert 0 == main(transfer)
        assert f"7 tokens given to {OTHER.address}; 93 tokens free\n" == capsys.readouterr().out
        assert 0 == main(transfer), "it is settled what became of the first: this is another one"
        assert "; 86 tokens free" in capsys.readouterr().out


def test_a_served_engine_is_used_by_its_url(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process, as several routers of a machine use it."""
    with served(folder) as engine:
        url = engine["url"]
        shared = ["--state-dir", str(folder), "--url", url, "--contract", engine["contract"], "--chain-id", str(engine["chain_id"])]
        secret = ["--passphrase-file", str(folder / "phrase"), "--yes"]
        assert 0 == main(["wallet", "deposit", "5", *shared, *secret])
        printed = capsys.readouterr()
        assert "5 tokens moved; 5 tokens in escrow, 95 tokens free\n" == printed.out
        assert "sending; it counts when it is 12 blocks deep, or final\n" == printed.err
        assert 0 == main(["wallet", "history", *shared, "--json"])
        assert ["Transfer", "Deposited"] == [event["event"] for event in json.loads(capsys.readouterr().out)["events"]]
        assert 0 == main(["wallet", "deploy", "--supply", "7", "--confirmations", "1", "--url", url, *shared[:2], *secret])
        assert "7 tokens are " in capsys.readouterr().out
    monkeypatch.setattr(wallet_desk, "OUTAGE_S", 0.1)
    assert 2 == main(["wallet", "balance", *shared])
    assert "the node cannot be reached" in capsys.readouterr().err
