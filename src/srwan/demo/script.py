"""The eight steps of the demonstration, on real processes and sockets. Nothing is canned: each step waits for what routers report.

1. routers find their group through one introducer; 2. every member holds the full matrix of one-way latencies; 3. the elected reporter
publishes it, a second process verifies it; 4. an application streams over the direct path; 5. the direct link is congested and traffic
moves to a relayed path; 6. the relay and the reporter are killed with SIGKILL; 7. congestion ends and traffic goes back;
8. the killed routers start again, and what all carried is claimed, judged by three validators, settled and paid.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
import trio

from srwan.demo.cluster import open_cluster
from srwan.demo.observer import Observer, StepFailed
from srwan.demo.settling import Settling
from srwan.demo.traffic import Arrival, gap_around, median_delay_ms, report_traffic
from srwan.demo.treasury import PRICE_MICROTOKEN, VALIDATORS, Treasury, open_treasury
from srwan.gossip.reporter import EPOCH_S, rank
from srwan.sole_error import sole_error
from srwan.swarm.regions import World, load_regions
from srwan.swarm.supervisor import Event, RouterProcess, Swarm, open_swarm
from srwan.types import NodeId

__all__ = ["DemoOptions", "Demonstration", "StepFailed"]

CLOCK_OFFSET_S_MAX = 5.0
CLOCK_DRIFT_PPM_MAX = 50.0
CONGESTION_MS = 150.0
CONGESTION_LOSS = 0.05
STREAM_RATE_PER_S = 50.0
ADDRESS_PREFIX = "127.77.0."
STEP_TIMEOUT_S = 30.0
START_TIMEOUT_S = 60.0
"""Each process imports libp2p first: 1.3 s of CPU, more on a loaded machine."""
INTRODUCERS = 3
"""Living routers whose addresses a restarted one is given: the first introducer may be dead by then."""
VALIDATOR_KINDS_SHOWN = frozenset({"accepted", "refused", "settled", "not-settled", "exposed"})
QUIET_S = 3.0
"""How long a calm phase is watched: direct traffic before congestion, no flapping after the return."""


@attrs.frozen(kw_only=True)
class DemoOptions:
    """What `srwan demo` was asked to do."""

    routers: int = 12
    """Router processes, 5..19."""
    seed: int = 1
    """Draws asymmetries, clocks and link noise."""
    seconds: float = 150.0
    """The whole demonstration is cut off after this."""
    with_congestion: bool = True
    """Without it, nothing is congested or killed, and traffic must stay on the direct path."""
    evm_url: str | None = None
    """Of an EVM development node to settle on; None for the embedded engine."""
    etcd: str | None = None
    """Client URLs of a cluster to publish to, with commas between; empty: a cluster is started; None for an SQLite file."""


class Demonstration:
    """Runs the steps and gathers the result.

    Args:
        options: what to do.
        on_line: called for every event worth showing.
    """

    def __init__(self, options: DemoOptions, on_line: Callable[[float, str, str], None]) -> None:
        self.options = options
        self.world: World = load_regions(options.routers, options.seed)
        self.observer = Observer(time.monotonic(), on_line)
        self.result: dict[str, Any] = {"routers": options.routers, "processes": 0, "seed": options.seed}
        self._addresses = [f"{ADDRESS_PREFIX}{i + 1}" for i in range(options.routers)]
        self._swarm: Swarm
        self._pair = (0, 0)
        self._folder = Path()
        self._arrivals: list[Arrival] = []
        self._sent: list[float] = []
        self._treasury: Treasury
        self._settling: Settling
        self._settings: list[dict[str, Any]] = []

    async def run(self) -> dict[str, Any]:
        """Run all steps and return the result.

        Raises:
            StepFailed: a step did not happen; the result so far is in `self.result`. All processes are stopped either way.
        """
        with tempfile.TemporaryDirectory(prefix="srwan-demo-") as folder:
            self._folder = Path(folder)
            try:
                with sole_error(), trio.move_on_after(self.options.seconds) as limit:
                    async with AsyncExitStack() as stack:
                        self._store = await self._open_store(stack)
                        self._treasury = await stack.enter_async_context(
                            open_treasury(self._folder, self.options.routers, evm_url=self.options.evm_url)
                        )
                        self._note_treasury()
                        self._swarm = await stack.enter_async_context(open_swarm(self._receive))
                        await self._run_steps()
            finally:
                self._account()
            if limit.cancelled_caught:
                raise StepFailed(f"not finished after {self.options.seconds:g} s; raise --seconds or look at the last step shown")
            self._check_nothing_left()
        return self.result

    async def _open_store(self, stack: AsyncExitStack) -> str:
        """Return where the DITEX is, as settings say it."""
        if self.options.etcd is None:
            return str(self._folder / "ditex.sqlite")
        urls = self.options.etcd or await stack.enter_async_context(open_cluster(self._folder))
        self.observer.note("etcd", f"the DITEX is at {urls}")
        return f"etcd:{urls}"

    async def _run_steps(self) -> None:
        await self._start()
        await self._form_group()
        await self._fill_matrix()
        await self._publish()
        async with self._treasury.validating(self._folder, self._store, self._receive_of_validator):
            await self._run_traffic()

    async def _run_traffic(self) -> None:
        await self._stream_direct()
        if self.options.with_congestion:
            congested_at = await self._congest()
            relay_killed_at = await self._kill_relay(congested_at)
            await self._kill_reporter()
            await self._return_to_direct(relay_killed_at, congested_at)
        else:
            await self._stay_direct()
        await self._read_traffic()
        await self._settle()

    # --- steps ------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        rng = random.Random(f"srwan/demo/{self.options.seed}")
        network = f"demo-{rng.getrandbits(32):08x}"
        self.observer.note("start", f"{self.options.routers} router processes, clocks off by up to 5 s, drifting up to 50 ppm")
        bootstrap: list[str] = []
        for index, region in enumerate(self.world.regions):
            self.observer.routers[index] = {"name": region.name}
            settings = {
                "index": index,
                "routers": self.options.routers,
                "seed": self.options.seed,
                "network": network,
                "addresses": self._addresses,
                "bootstrap": bootstrap,
                "state_dir": str(self._folder / region.name),
                "ditex": self._store,
                "purse": self._treasury.purse_of(index),
                "clock_offset_s": rng.uniform(-CLOCK_OFFSET_S_MAX, CLOCK_OFFSET_S_MAX),
                "clock_drift_ppm": rng.uniform(-CLOCK_DRIFT_PPM_MAX, CLOCK_DRIFT_PPM_MAX),
            }
            self._settings.append(settings)
            await self._swarm.start(settings)
            if index == 0:
                await self._wait_up(1)
                bootstrap = [self.observer.routers[0]["up"]["multiaddr"]]
                self.observer.note("introducer", f"{region.name} at {bootstrap[0]}: the only address the others know")
        await self._wait_up(self.options.routers)
        self.result["processes"] = len(self.processes)
        self._all_up_at = max(facts["up"]["t"] for facts in self.observer.routers.values())
        self.observer.note("up", "the last process is up", self._all_up_at)

    async def _form_group(self) -> None:
        def is_agreed() -> bool:
            views = [facts.get("ViewChanged", {}) for facts in self.observer.routers.values()]
            return all(view.get("size") == self.options.routers for view in views) and len({view["digest"] for view in views}) == 1

        await self.observer.wait_for(
            is_agreed, timeout_s=STEP_TIMEOUT_S, failure="step 1: the routers did not agree on one view of the group"
        )
        agreed_at = max(facts["ViewChanged"]["t"] for facts in self.observer.routers.values())
        self._agreed_at = agreed_at
        self.result["view_agreed_after_s"] = round(max(0.0, agreed_at - self._all_up_at), 3)
        self.observer.note("view", f"all {self.options.routers} routers hold the same view of the group", agreed_at)

    async def _fill_matrix(self) -> None:
        edges = self.options.routers * (self.options.routers - 1)

        def is_full() -> bool:
            return all(facts.get("MatrixFilled", {}).get("edges") == edges for facts in self.observer.routers.values())

        await self.observer.wait_for(
            is_full, timeout_s=STEP_TIMEOUT_S, failure=f"step 2: not every router holds all {edges} directed latencies"
        )
        full_at = max(facts["MatrixFilled"]["t"] for facts in self.observer.routers.values())
        self.result["matrix_full_after_s"] = round(max(0.0, full_at - self._agreed_at), 3)
        self.result["matrix_edges"] = edges
        self.observer.note("matrix", f"the full directed matrix, {edges} one-way latencies, is at every router", full_at)

    async def _publish(self) -> None:
        await self.observer.wait_for(
            lambda: self._latest_report().get("rows") == self.options.routers,
            timeout_s=STEP_TIMEOUT_S,
            failure="step 3: no reporter published the group's matrix",
        )
        reporter = self._reporter()
        self.result["reporter"] = self.observer.name(reporter)
        command = [sys.executable, "-m", "srwan", "ditex", "show", self._store, "--json"]
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        if done.returncode != 0:
            raise StepFailed(f"step 3: the store could not be verified: {done.stderr.decode('utf-8', 'replace').strip()[-300:]}")
        shown = json.loads(done.stdout)
        self.result["ditex_records"] = shown["records"]
        self.result["ditex_verified"] = shown["verified"]
        self.result["ditex_matrix"] = shown["groups"]
        if shown["verified"] != shown["records"] or shown["records"] < self.options.routers + 1:
            raise StepFailed(f"step 3: {shown['verified']} of {shown['records']} records verify")
        self.observer.note(
            "verified", f"a second process verified {shown['verified']} signed records published by {self.observer.name(reporter)}"
        )

    async def _stream_direct(self) -> None:
        self._pair = self._choose_pair()
        source, target = self._pair
        self._settling = Settling(self._treasury, self.observer, [region.name for region in self.world.regions])
        await self._settling.wait_bound([NodeId(bytes.fromhex(member)) for member in self.result["ditex_matrix"][0]["members"]])
        await self._settling.deposit(source)
        self._stream_at = time.monotonic()
        words = {"to": self.observer.name(target), "rate": STREAM_RATE_PER_S, "price_max_microtoken": PRICE_MICROTOKEN}
        await self.processes[source].command("stream", **words)
        await self.observer.wait_for(
            lambda: "path_open" in self.observer.routers[source],
            timeout_s=STEP_TIMEOUT_S,
            failure="step 4: the application could not open a path",
        )
        self._stream_at = self.observer.routers[source]["path_open"]["t"]
        self.observer.note("stream", f"{self.observer.name(source)} sends 50 datagrams/s to {self.observer.name(target)}: direct path")
        await trio.sleep(QUIET_S)
        if self.observer.find(("PathSwitched",), since=self._stream_at, router=source) is not None:
            raise StepFailed("step 4: the application's traffic left the direct path although nothing was congested")

    async def _congest(self) -> float:
        source, target = self._pair
        congested_at = time.monotonic()
        self.observer.note("congestion", f"direct link {self.observer.name(source)} - {self.observer.name(target)}: +150 ms, 5 % loss")
        for here, there in ((source, target), (target, source)):
            await self.processes[here].command("congest", ip=self._addresses[there], ms=CONGESTION_MS, loss=CONGESTION_LOSS)
        await self.observer.wait_for(
            lambda: self.observer.find(("PathSwitched",), since=congested_at, router=source) is not None,
            timeout_s=STEP_TIMEOUT_S,
            failure="step 5: traffic stayed on the congested direct path",
        )
        switched = self._find(("PathSwitched",), congested_at)
        detected = self.observer.find(("PathDegraded",), since=congested_at, router=source)
        detected_t = min(switched["t"], detected[1]["t"]) if detected else switched["t"]
        self.result["detected_after_s"] = round(detected_t - congested_at, 3)
        self.result["rerouted_after_s"] = round(switched["t"] - congested_at, 3)
        self.result["relays"] = switched["to_relays"]
        await trio.sleep(QUIET_S)
        return congested_at

    async def _kill_relay(self, congested_at: float) -> float:
        source, _ = self._pair
        relays = self._relays_in_use(congested_at)
        if not relays:
            raise StepFailed("step 5: traffic went back to the congested direct path")
        relay = self._index_of(relays[0])
        killed_at = time.monotonic()
        self.observer.note("kill", f"SIGKILL to the relay {relays[0]} while it carries traffic")
        self.processes[relay].kill()
        await self.observer.wait_for(
            lambda: self.observer.find(("PathSwitched",), since=killed_at, router=source) is not None,
            timeout_s=STEP_TIMEOUT_S,
            failure="step 6: no other path took over from the killed relay",
        )
        await trio.sleep(QUIET_S)
        return killed_at

    async def _kill_reporter(self) -> None:
        await self.observer.wait_for(
            lambda: self._reporter() not in self._pair,
            timeout_s=EPOCH_S + STEP_TIMEOUT_S,
            failure="step 6: an end of the stream stayed the reporter for longer than an epoch",
        )
        reporter = self._reporter()
        killed_at = time.monotonic()
        if not self.processes[reporter].is_killed:
            self.observer.note("kill", f"SIGKILL to the reporter {self.observer.name(reporter)}")
            self.processes[reporter].kill()

        def reports_of_others() -> list[Event]:
            return [event for index, event in self._own_reports(killed_at) if index != reporter]

        await self.observer.wait_for(
            lambda: bool(reports_of_others()),
            timeout_s=STEP_TIMEOUT_S,
            failure="step 6: no standby took over from the killed reporter",
        )
        self.result["reporter_takeover_s"] = round(reports_of_others()[0]["t"] - killed_at, 3)

    async def _return_to_direct(self, relay_killed_at: float, congested_at: float) -> None:
        source, target = self._pair
        cleared_at = time.monotonic()
        self.observer.note("congestion", "congestion ends")
        for here, there in ((source, target), (target, source)):
            await self.processes[here].command("congest", ip=self._addresses[there], ms=0.0, loss=0.0)
        await self.observer.wait_for(
            lambda: not self._relays_in_use(cleared_at) and self.observer.count(("PathSwitched",), since=cleared_at, router=source) > 0,
            timeout_s=STEP_TIMEOUT_S,
            failure="step 7: traffic did not go back to the direct path",
        )
        returned = self._find(("PathSwitched",), cleared_at)
        self.result["returned_after_s"] = round(returned["t"] - cleared_at, 3)
        await trio.sleep(QUIET_S)
        if self.observer.count(("PathSwitched",), since=cleared_at, router=source) > 1:
            raise StepFailed("step 7: the path flapped after congestion had ended")
        self._phases = (congested_at, relay_killed_at, cleared_at)

    async def _stay_direct(self) -> None:
        source, _ = self._pair
        await trio.sleep(8.0)
        if self.observer.find(("PathSwitched",), since=self._stream_at, router=source) is not None:
            raise StepFailed("step 5 happened without congestion: traffic left the direct path")
        self.observer.note("quiet", "no congestion: traffic stayed on the direct path")

    async def _read_traffic(self) -> None:
        source, target = self._pair
        await self.processes[source].command("stop_stream")
        await self.observer.wait_for(
            lambda: "stream_ended" in self.observer.routers[source], timeout_s=5.0, failure="step 7: the application did not stop"
        )
        await trio.sleep(1.0)
        read_at = time.monotonic()
        await self.processes[target].command("arrivals")
        await self.observer.wait_for(
            lambda: "arrivals" in self.observer.routers[target], timeout_s=5.0, failure="step 7: the receiver's log could not be read"
        )
        self._sent = self.observer.routers[source]["stream_ended"]["sent"]
        self._arrivals = [(number, sent, arrived) for number, sent, arrived in self.observer.routers[target]["arrivals"]["arrivals"]]
        self.result.update(attrs.asdict(report_traffic(self._sent, self._arrivals, read_at=read_at + 1.0)))
        phases = getattr(self, "_phases", None)
        end = phases[0] if phases else read_at
        self.result["direct_ms"] = median_delay_ms(self._arrivals, start=self._stream_at, end=end)
        if phases:
            congested_at, killed_at, _ = phases
            rerouted_at = congested_at + self.result["rerouted_after_s"]
            self.result["congested_direct_ms"] = median_delay_ms(self._arrivals, start=congested_at, end=rerouted_at)
            self.result["relayed_ms"] = median_delay_ms(self._arrivals, start=rerouted_at + 0.05, end=killed_at)
            self.result["relay_kill_gap_s"] = gap_around(self._arrivals, start=killed_at, end=killed_at + QUIET_S)

    async def _settle(self) -> None:
        source, _ = self._pair
        await self._restart([process.index for process in self.processes if process.is_killed])
        figures = await self._settling.settle(source, [process for process in self.processes if process.is_running])
        self.result.update(figures)
        earned = ", ".join(f"{name} {amount}" for name, amount in figures["earned"].items()) or "nobody anything"
        self.observer.note(
            "settled",
            f"{self.observer.name(source)} paid {figures['paid']} microtokens for {figures['octets']} octets; earned: {earned}; "
            f"fees {figures['fees']}; {'all tokens are accounted for' if figures['conserved'] else 'TOKENS WERE MADE OR LOST'}",
        )

    async def _restart(self, killed: list[int]) -> None:
        """Start routers that were killed again, with their folders and wallets: any of them may have carried what nobody else is owed."""
        living = [process.index for process in self.processes if process.is_running]
        introducers = [self.observer.routers[index]["up"]["multiaddr"] for index in living[:INTRODUCERS]]
        for index in killed:
            self.observer.note("restart", f"{self.observer.name(index)}, which was killed, starts again: what it is owed is in its journal")
            del self.observer.routers[index]["up"], self.observer.routers[index]["ViewChanged"]
            await self._swarm.start({**self._settings[index], "bootstrap": introducers}, instead_of=self.processes[index])
        await self._wait_up(len(living) + len(killed))
        await self.observer.wait_for(
            lambda: all("ViewChanged" in self.observer.routers[index] for index in killed),
            timeout_s=START_TIMEOUT_S,
            failure="step 8: a killed router did not come back",
        )

    @property
    def processes(self) -> list[RouterProcess]:
        """The router processes, by index."""
        return self._swarm.routers

    # --- what the script looks up -----------------------------------------------------------------------------------

    def _receive(self, router: RouterProcess, event: Event) -> None:
        self.observer.receive(router, event)

    def _receive_of_validator(self, event: Event) -> None:
        if event["kind"] in VALIDATOR_KINDS_SHOWN:
            self.observer.note(event["kind"], f"validator {event['validator']}: {event['detail']}")

    def _note_treasury(self) -> None:
        where = self.options.evm_url or "the embedded engine"
        self.observer.note("treasury", f"a settlement contract on {where}, a wallet for each router, {VALIDATORS} validators")

    async def _wait_up(self, count: int) -> None:
        def is_up() -> bool:
            for process in self.processes:
                if not process.is_running and not process.is_killed:
                    last = process.errors[-1] if process.errors else "no message"
                    raise StepFailed(f"{self.observer.name(process.index)} ended with status {process.process.returncode}: {last}")
            return sum("up" in facts for facts in self.observer.routers.values()) >= count

        await self.observer.wait_for(is_up, timeout_s=START_TIMEOUT_S, failure="the router processes did not come up")

    def _choose_pair(self) -> tuple[int, int]:
        """Keep the reporters of this and the next epoch out of the traffic, so that killing one does not end the stream."""
        group = self.result["ditex_matrix"][0]
        names = dict(zip((NodeId(bytes.fromhex(member)) for member in group["members"]), group["names"], strict=True))
        epochs = (group["epoch"], group["epoch"] + 1)
        coming = {self._index_of(names[rank(tuple(names), bytes.fromhex(group["group"]), epoch)[0]]) for epoch in epochs}
        try:
            return self.world.demonstration_pair(CONGESTION_MS, exclude=frozenset(coming | {self._reporter()}))
        except ValueError:  # a small world has no other pair
            return self.world.demonstration_pair(CONGESTION_MS, exclude=frozenset({self._reporter()}))

    def _find(self, kinds: tuple[str, ...], since: float) -> Event:
        found = self.observer.find(kinds, since=since)
        assert found is not None
        return found[1]

    def _latest_report(self) -> Event:
        reports = self._own_reports()
        return reports[-1][1] if reports else {}

    def _own_reports(self, since: float = 0.0) -> list[tuple[int, Event]]:
        """Return the reports told by those who published them, in order."""
        return [
            (index, event)
            for index, event in self.observer.raw
            if event["kind"] == "ReportPublished" and event["t"] >= since and event["node_id"] == self.observer.name(index)
        ]

    def _reporter(self) -> int:
        """Return the router that published last."""
        return self._own_reports()[-1][0]

    def _relays_in_use(self, since: float) -> list[str]:
        """Return the relays the application's traffic takes by the last switch since a monotonic time; empty for direct or no switch."""
        source, _ = self._pair
        switches = [
            event for index, event in self.observer.raw if index == source and event["kind"] == "PathSwitched" and event["t"] >= since
        ]
        return list(switches[-1]["to_relays"]) if switches else []

    def _index_of(self, name: str) -> int:
        return next(i for i, region in enumerate(self.world.regions) if region.name == name)

    def _account(self) -> None:
        self.result["events"] = self.observer.events
        everybody = [*self.processes, *self._swarm.ended] if hasattr(self, "_swarm") else []
        self.result["cpu_s"] = round(sum(process.cpu_s for process in everybody), 1)
        self.result["rss_mb_max"] = round(sum(process.rss_mb for process in everybody), 1)

    def _check_nothing_left(self) -> None:
        left = [process.process.pid for process in self.processes if process.is_running]
        if left:
            raise StepFailed(f"step 7: processes {left} are still running")
        for facts in self.observer.routers.values():
            for kind, address in _sockets_of(facts["up"]):
                if _is_bound(kind, address):
                    raise StepFailed(f"step 7: {address[0]}:{address[1]} is still bound")


def _sockets_of(up: Event) -> list[tuple[socket.SocketKind, tuple[str, int]]]:
    """Return a router's sockets as it told them when it came up."""
    _, _, ip, _, port, *_ = up["multiaddr"].split("/")
    return [(socket.SOCK_STREAM, (ip, int(port))), (socket.SOCK_DGRAM, (up["udp"][0], int(up["udp"][1])))]


def _is_bound(kind: socket.SocketKind, address: tuple[str, int]) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind is socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
        try:
            probe.bind(address)
        except OSError:
            return True
    return False
