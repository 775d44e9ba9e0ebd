"""What `benchmarks/dataplane.py` compares and how it measures: one module per system, and one per thing measured.

- `chain.py`: three namespaces ingress - relay - egress for each system, and what every system has in common; `roster.py`: all of them.
- `kernel.py` `nebula.py` `wireguard.py` `tinc.py` `yggdrasil.py` `srwan_tun.py`: the systems.
- `measures.py`: what is measured of a chain; `iperf.py` `load.py` `cpu.py`: with what.
- `relay_alone.py` `relay_changes.py`, with `relay_rig.py` `relay_load.py` `bench_relay.py`: one router without gateways: latency, many
  paths, loss at changes; `failover_part.py`: benchmarks/failover.py.
- `figures.py` `report.py`: medians, ratios, aims, the table.
"""
