"""What applications, and srwan itself, test with: simulated networks of real routers, and stand-ins. Public API.

Start at `swarm.py`: `simulate(SimulationOptions(nodes=1000, minutes=10, seed=1))` runs the real cores of overlay and gossip under virtual
time. `faults.py` says what can go wrong, `invariants.py` what must hold all the same, `result.py` what comes out; docs/simulation.md
shows how to use it.

Public are the names below. The modules behind them: `simnet.py` is the event heap of one group, `router.py` wires the cores of one router,
`links.py` and `weather.py` are what happens to datagrams, `frames.py` the cheap stand-ins for tags and pair keys, `fuzz.py` hostile
members, `trace.py` the hash over all that happened, `jobs.py` several groups at once. `namespaces.py` makes network namespaces for tests
and benchmarks. `packets.py`, `paths.py` and `session_pair.py` simulate single paths and sessions. `contract_chain.py`,
`settlement_bench.py` and `settlement_gas.py` are the settlement contract on a bare EVM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from srwan.lazy import lazy_names

if TYPE_CHECKING:
    from srwan.testing.faults import Fault, Faults, load_faults
    from srwan.testing.frames import SimFrameCodec, SimIdentity
    from srwan.testing.invariants import InvariantViolated
    from srwan.testing.links import LinkLatencies
    from srwan.testing.result import FaultOutcome, SimulationResult
    from srwan.testing.router import SimRouter
    from srwan.testing.simnet import SimGroup, SimNode
    from srwan.testing.swarm import Simulation, SimulationOptions, simulate

__all__ = [
    "Fault",
    "FaultOutcome",
    "Faults",
    "InvariantViolated",
    "LinkLatencies",
    "SimFrameCodec",
    "SimGroup",
    "SimIdentity",
    "SimNode",
    "SimRouter",
    "Simulation",
    "SimulationOptions",
    "SimulationResult",
    "load_faults",
    "simulate",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Fault": "faults",
        "FaultOutcome": "result",
        "Faults": "faults",
        "InvariantViolated": "invariants",
        "LinkLatencies": "links",
        "SimFrameCodec": "frames",
        "SimGroup": "simnet",
        "SimIdentity": "frames",
        "SimNode": "simnet",
        "SimRouter": "router",
        "Simulation": "swarm",
        "SimulationOptions": "swarm",
        "SimulationResult": "result",
        "load_faults": "faults",
        "simulate": "swarm",
    },
)
