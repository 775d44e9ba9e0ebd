"""A small group whose members make real certificates, rows and reports: what the tests of the DITEX put into stores."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from srwan.gossip.report import Report
from srwan.gossip.row import Row, SignedRow, encode_owl, seal_row
from srwan.identity import Identity
from srwan.ledger_client.record import Kind, Record, Version
from srwan.ledger_client.report import NS_PER_S, GroupReport, RowReference, row_digest
from srwan.ledger_client.statement import MARKET_GROUP, Statement
from srwan.overlay.view import Member, Role
from srwan.types import GeoAsn

WALL_NS = 1_780_000_000 * NS_PER_S
GROUP = bytes(range(32))
ROSTER_DIGEST = b"roster-1"
BOOT = 7_000
PLACES = (GeoAsn("LT", 5469, 2528, 8764), GeoAsn("DE", 5012, 868, 3320), GeoAsn("DE", 5252, 1340, 24940), GeoAsn("SG", 129, 10385, 16509))
IDENTITIES = tuple(sorted((Identity(bytes([number]) * 32) for number in range(1, 5)), key=lambda identity: identity.node_id))


def certificate_of(
    index: int, seq: int = 1, *, boot: int = BOOT, issued_ns: int = WALL_NS, name: str = "", is_leaving: bool = False
) -> bytes:
    """Member `index`'s certificate, valid for 10 min from issue."""
    identity = IDENTITIES[index]
    member = Member(
        node_id=identity.node_id,
        boot=boot,
        seq=seq,
        name=name,
        udp=(("127.0.0.1", 4000 + index),),
        control=(),
        location=PLACES[index],
        roles=Role.RELAY,
        issued_ns=issued_ns,
        expires_ns=issued_ns + 600 * NS_PER_S,
        is_leaving=is_leaving,
        group=GROUP[:8],
    )
    return member.seal(identity)


def signed_row_of(
    index: int, seq: int = 1, *, boot: int = BOOT, octets: int = 0, group: bytes = GROUP, roster_digest: bytes = ROSTER_DIGEST
) -> SignedRow:
    """Member `index`'s row: member i is heard after 10 i + index ms. `octets` makes another content of the same version."""
    raw_ms = np.array([10.0 * sender + index for sender in range(len(IDENTITIES))])
    base_us, owl = encode_owl(raw_ms)
    zeros = np.zeros(len(IDENTITIES), np.uint8)
    identity = IDENTITIES[index]
    row = Row(
        node_id=identity.node_id,
        boot=boot,
        seq=seq,
        stamp_ns=WALL_NS,
        roster_digest=roster_digest,
        clock_epoch=0,
        health=0,
        octets_in=octets,
        octets_out=0,
        octets_relayed=0,
        base_us=base_us,
        count=len(IDENTITIES),
        is_described=False,
        entries=Row.pack_entries(None, owl, zeros, zeros),
    )
    return seal_row(row, identity, group)


def row_record_of(index: int, seq: int = 1, *, boot: int = BOOT, octets: int = 0, expires_s: float = 900, epoch: int = 0) -> Record:
    """Member `index`'s row as a record."""
    signed = signed_row_of(index, seq, boot=boot, octets=octets)
    expires_ns = WALL_NS + round(expires_s * NS_PER_S)
    return Record.of_row(signed.node_id, signed.content, group=GROUP, expires_ns=expires_ns, epoch=epoch, place=PLACES[index])


def node_record_of(index: int, seq: int = 1, *, name: str = "") -> Record:
    """Member `index`'s certificate as a record."""
    return Record.of_member(certificate_of(index, seq, name=name), group=GROUP, wall_ns=WALL_NS)


def group_report_of(*rows: SignedRow, epoch: int = 5, sequence: int = 0, reporter: int = 0, lifetime_s: int = 900) -> GroupReport:
    """What `reporter` says of these rows, given in roster order."""
    return GroupReport(
        group=GROUP,
        epoch=epoch,
        sequence=sequence,
        reporter=IDENTITIES[reporter].node_id,
        roster=tuple(identity.node_id for identity in IDENTITIES),
        roster_digest=ROSTER_DIGEST,
        rows=tuple(RowReference(row.node_id, row.row.boot, row.row.seq, row_digest(row.content)) for row in rows),
        issued_ns=WALL_NS,
        expires_ns=WALL_NS + lifetime_s * NS_PER_S,
    )


def report_record_of(*rows: SignedRow, epoch: int = 5, sequence: int = 0, reporter: int = 0, lifetime_s: int = 900) -> Record:
    """The same, signed, as a record."""
    report = group_report_of(*rows, epoch=epoch, sequence=sequence, reporter=reporter, lifetime_s=lifetime_s)
    return Record.of_report(report, IDENTITIES[reporter])


def statement_of(
    index: int,
    seq: int = 1,
    *,
    kind: Kind = Kind.OFFER,
    topic: bytes = b"",
    content: bytes = b"\x01",
    group: bytes = MARKET_GROUP,
    lifetime_s: int = 900,
) -> Statement:
    """What member `index` says under `topic`."""
    times = (WALL_NS, WALL_NS + lifetime_s * NS_PER_S)
    return Statement(kind, group, IDENTITIES[index].node_id, topic, Version(BOOT, seq), *times, content)


def statement_record_of(index: int, seq: int = 1, **changes: Any) -> Record:
    """The same, signed, as a record in member `index`'s place."""
    return statement_of(index, seq, **changes).record(IDENTITIES[index], PLACES[index])


def gossip_report_of(rows: Sequence[SignedRow], *, epoch: int = 5, sequence: int = 0, reporter: int = 0) -> Report:
    """What gossip hands over to be published."""
    roster = tuple(identity.node_id for identity in IDENTITIES)
    return Report(GROUP, epoch, sequence, IDENTITIES[reporter].node_id, roster, ROSTER_DIGEST, tuple(rows))


class EtcdCluster:
    """Real etcd members on loopback, each killed by its own process id."""

    def __init__(self, folder: Path, members: int) -> None:
        ports = free_ports(2 * members)
        self.endpoints = tuple(f"http://127.0.0.1:{port}" for port in ports[:members])
        peers = [f"http://127.0.0.1:{port}" for port in ports[members:]]
        cluster = ",".join(f"m{index}={peer}" for index, peer in enumerate(peers))
        self._arguments = [
            [
                "etcd", "--name", f"m{index}", "--data-dir", str(folder / f"m{index}"),
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", cluster, "--initial-cluster-state", "new",
            ]
            for index, (client, peer) in enumerate(zip(self.endpoints, peers, strict=True))
        ]  # fmt: skip
        self._log = (folder / "etcd.log").open("wb")
        self.processes = [self._start(arguments) for arguments in self._arguments]

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(arguments, stdout=self._log, stderr=self._log, env={**os.environ, "ETCD_LOG_LEVEL": "error"})

    def post(self, index: int, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Ask one member of the cluster over its gateway."""
        request = urllib.request.Request(self.endpoints[index] + path, json.dumps(asked).encode())
        with urllib.request.urlopen(request, timeout=10) as response:
            told: dict[str, Any] = json.loads(response.read())
        return told

    def wait_ready(self) -> None:
        """Return when every member answers with a leader."""
        for index in range(len(self.endpoints)):
            for _attempt in range(300):
                with contextlib.suppress(OSError, ValueError):
                    if self.post(index, "/v3/maintenance/status", {}).get("leader", "0") != "0":
                        break
                assert self.processes[index].poll() is None, "etcd ended"
                time.sleep(0.05)
            else:
                raise AssertionError("etcd does not answer")

    def leader(self) -> int:
        """Index of the member that leads."""
        for index in range(len(self.endpoints)):
            if self.processes[index].poll() is None:
                told = self.post(index, "/v3/maintenance/status", {})
                if told["header"]["member_id"] == told["leader"]:
                    return index
        raise AssertionError("nobody leads")

    def kill(self, index: int) -> None:
        """SIGKILL a member."""
        self.processes[index].kill()
        self.processes[index].wait()

    def stop(self) -> None:
        """End all members."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        self._log.close()


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def start_etcd(tmp_path: Path) -> Iterator[Callable[[int], EtcdCluster]]:
    """Starts clusters of so many members; they end with the test."""
    with contextlib.ExitStack() as started:

        def start(members: int) -> EtcdCluster:
            cluster = EtcdCluster(tmp_path, members)
            started.callback(cluster.stop)
            cluster.wait_ready()
            return cluster

        yield start


@pytest.fixture(scope="module")
def etcd_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One member for all tests of a module; each test takes a prefix of its own."""
    cluster = EtcdCluster(tmp_path_factory.mktemp("etcd"), 1)
    try:
        cluster.wait_ready()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def wall_ns() -> int:
    """The time at which everything here is issued."""
    return WALL_NS


@pytest.fixture
def group() -> bytes:
    """The group's id."""
    return GROUP


@pytest.fixture
def identities() -> tuple[Identity, ...]:
    """Four members by rising NodeId."""
    return IDENTITIES


@pytest.fixture
def make_certificate() -> Callable[..., bytes]:
    """`certificate_of`."""
    return certificate_of


@pytest.fixture
def make_signed_row() -> Callable[..., SignedRow]:
    """`signed_row_of`."""
    return signed_row_of


@pytest.fixture
def make_row() -> Callable[..., Record]:
    """`row_record_of`."""
    return row_record_of


@pytest.fixture
def make_node() -> Callable[..., Record]:
    """`node_record_of`."""
    return node_record_of


@pytest.fixture
def make_group_report() -> Callable[..., GroupReport]:
    """`group_report_of`."""
    return group_report_of


@pytest.fixture
def make_report() -> Callable[..., Record]:
    """`report_record_of`."""
    return report_record_of


@pytest.fixture
def make_statement() -> Callable[..., Statement]:
    """`statement_of`."""
    return statement_of


@pytest.fixture
def make_statement_record() -> Callable[..., Record]:
    """`statement_record_of`."""
    return statement_record_of


@pytest.fixture
def make_gossip_report() -> Callable[..., Report]:
    """`gossip_report_of`."""
    return gossip_report_of


@pytest.fixture
def own_certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Files with a certificate for 127.0.0.1, signed by itself and good for a day, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    built = x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=secret.public_key())
    built = built.serial_number(x509.random_serial_number())
    built = built.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(days=1))
    built = built.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate.write_bytes(built.sign(secret, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(secret.private_bytes(*form))
    return certificate, key
