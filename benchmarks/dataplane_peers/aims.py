"""What the data planes are to reach, each against a peer of the same run."""

from __future__ import annotations

from dataplane_peers.figures import Aim

NATIVE, PORTABLE, KERNEL = "srwannative", "srwanportable", "srwankernel"

FAULTS = {
    "kill": "SIGKILL of the active relay",
    "blackhole": "blackhole",
    "forward": "one-way blackhole, forward",
    "back": "one-way blackhole, back",
    "loss": "30 % loss",
}

AIMS: tuple[Aim, ...] = (
    Aim("TCP, native / nebula", NATIVE, "tcp1_gbps", 3.0, is_most=False, other="nebula"),
    Aim("TCP, native / nebula, stretch (vnet_hdr)", NATIVE, "tcp1_gbps", 5.0, is_most=False, other="nebula"),
    Aim("TCP, native / kernel without offload", NATIVE, "tcp1_gbps", 0.6, is_most=False, other="kernelnooff"),
    Aim("relay CPU per 1,400 B, native / nebula", NATIVE, "relay_us", 0.25, is_most=True, other="nebula"),
    Aim("relay CPU per 1,400 B, L0 / wireguard-go", PORTABLE, "relay_us", 0.5, is_most=True, other="wireguard"),
    Aim("UDP 64 B packets/s, native / nebula", NATIVE, "udp64_pps", 2.0, is_most=False, other="nebula"),
    Aim("kernel SRv6 / forwarding, TCP, offload", "srv6", "tcp1_gbps", 0.9, is_most=False, other="kernel"),
    Aim("kernel SRv6 / forwarding, packets/s", "srv6", "udp64_pps", 0.55, is_most=False, other="kernel"),
    Aim("srwan --kernel / forwarding, TCP, offload", KERNEL, "tcp1_gbps", 0.9, is_most=False, other="kernel"),
    Aim("srwan --kernel / forwarding, packets/s", KERNEL, "udp64_pps", 0.55, is_most=False, other="kernel"),
    Aim(
        "added latency of a relay p50, L0",
        "relay-portable",
        "owl_p50_us",
        40.0,
        is_most=True,
        other="relay-kernel",
        is_difference=True,
        unit="us",
    ),
    Aim(
        "added latency of a relay p50, native",
        "relay-native",
        "owl_p50_us",
        20.0,
        is_most=True,
        other="relay-kernel",
        is_difference=True,
        unit="us",
    ),
    Aim("lost in a rekey at full load, L0", "relay-portable", "rekey_lost", 0.0, is_most=True, unit="packets"),
    Aim("lost in a rekey at full load, native", "relay-native", "rekey_lost", 0.0, is_most=True, unit="packets"),
    Aim("lost in roaming at full load, L0", "relay-portable", "roam_lost", 0.0, is_most=True, unit="packets"),
    Aim("lost in roaming at full load, native", "relay-native", "roam_lost", 0.0, is_most=True, unit="packets"),
    Aim("lost in a path switch at full load, L0", "relay-portable", "switch_lost", 0.0, is_most=True, unit="packets"),
    Aim("lost in a path switch at full load, native", "relay-native", "switch_lost", 0.0, is_most=True, unit="packets"),
    Aim("memory a path, 1,000 paths, L0", "relay-portable", "path_bytes", 2048.0, is_most=True, unit="B"),
    Aim("memory a path, 1,000 paths, native", "relay-native", "path_bytes", 2048.0, is_most=True, unit="B"),
    Aim("1,000 paths / 1 path, packets/s, L0", "relay-portable", "paths_ratio", 0.8, is_most=False),
    Aim("1,000 paths / 1 path, packets/s by CPU, L0", "relay-portable", "paths_cpu_ratio", 0.8, is_most=False),
    Aim("1,000 paths / 1 path, packets/s by CPU, native", "relay-native", "paths_cpu_ratio", 0.8, is_most=False),
    Aim("1,000 paths / 1 path, packets/s, native", "relay-native", "paths_ratio", 0.8, is_most=False),
    *(
        Aim(f"{title}: {what}", f"failover-{fault}", figure, bound, is_most=True, unit=unit)
        for fault, title in FAULTS.items()
        for what, figure, bound, unit in (
            ("gap, median", "gap_median_s", 0.5, "s"),
            ("gap, p99", "gap_p99_s", 1.5, "s"),
            ("duplicates", "duplicates", 0.0, "packets"),
            ("flaps back", "flaps", 0.0, ""),
        )
    ),
)
