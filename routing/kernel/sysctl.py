"""The kernel switches that segment routing needs: set, remembered on disk, put back. A shell over /proc/sys.

What stood there before is written to a journal before anything is changed, so that a run that was killed does not make its own settings
the ones to restore: the next start takes the originals from the journal. A journal of another boot or another network namespace is
void. A switch that somebody else has changed since is left alone.

TRAP: writing `forwarding` of "all" (and ip_forward) sets it on every interface. So the values of all interfaces are remembered,
and put back after the general one.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from srwan.errors import ConfigError

__all__ = ["Sysctls", "namespace_mark", "wanted_sysctls"]

PROC_SYS = Path("/proc/sys/net")
_WIDE = {"ipv6/conf/all/forwarding": "ipv6/conf/*/forwarding", "ipv4/ip_forward": "ipv4/conf/*/forwarding"}
_LOOSE = "2"


def namespace_mark() -> str:
    """Return what names this boot and network namespace."""
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/net')}"


def wanted_sysctls(interfaces: tuple[str, ...], *, has_ipv4: bool, needs_hmac: bool) -> dict[str, str]:
    """Return the wanted values by path below /proc/sys/net.

    Args:
        interfaces: the underlay.
        has_ipv4: whether IPv4 is carried: it is forwarded then, and a strict reverse-path filter made loose, for a packet that was
            decapsulated seems to come in by the underlay.
        needs_hmac: whether packets without a right HMAC are dropped.
    """
    wanted = {"ipv6/conf/all/forwarding": "1", "ipv6/conf/all/seg6_enabled": "1"}
    for interface in interfaces:
        wanted[f"ipv6/conf/{interface}/seg6_enabled"] = "1"
        if needs_hmac:
            wanted[f"ipv6/conf/{interface}/seg6_require_hmac"] = "1"
    if not has_ipv4:
        return wanted
    wanted["ipv4/ip_forward"] = "1"
    for interface in interfaces:
        if max(_read(f"ipv4/conf/{name}/rp_filter") or "0" for name in ("all", interface)) == "1":
            wanted[f"ipv4/conf/{interface}/rp_filter"] = _LOOSE
    return wanted


def _read(name: str) -> str | None:
    try:
        return (PROC_SYS / name).read_text().strip()
    except OSError:
        return None


class Sysctls:
    """Switches that were changed, and what they were.

    Args:
        journal: file that outlives a crash.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._originals: dict[str, str] = {}
        self._written: dict[str, str] = {}

    def recover(self) -> None:
        """Take over what a crashed run of this namespace remembered. A damaged or foreign journal is ignored."""
        try:
            saved = json.loads(self._journal.read_text())
        except (OSError, ValueError):
            return
        if isinstance(saved, dict) and saved.get("namespace") == namespace_mark():
            self._originals = {str(name): str(value) for name, value in saved.get("originals", {}).items()}
            self._written = {str(name): str(value) for name, value in saved.get("written", {}).items()}

    def set(self, wanted: Mapping[str, str]) -> None:
        """Set switches, remembering what they were.

        Raises:
            ConfigError: a switch is missing or may not be written. Those before it stay set; call `restore`.
        """
        for name, value in wanted.items():
            for each in [name, *self._affected(name)]:
                before = _read(each)
                if before is not None:
                    self._originals.setdefault(each, before)
            self._written[name] = value
        self._save()
        for name, value in wanted.items():
            self._write(name, value)
            self._written |= dict.fromkeys(self._affected(name), value)
        self._save()

    def restore(self) -> None:
        """Put back what was there, and remove the journal. Switches that others changed since, or that are gone, are left alone."""
        for name in sorted(self._originals, key=lambda name: name not in _WIDE):
            if _read(name) == self._written.get(name, self._originals[name]):
                with contextlib.suppress(OSError):
                    (PROC_SYS / name).write_text(self._originals[name])
        for name in self._originals:
            is_below_wide = name.endswith("/forwarding") and name not in _WIDE
            if is_below_wide and _read(name) != self._originals[name]:
                with contextlib.suppress(OSError):
                    (PROC_SYS / name).write_text(self._originals[name])
        self._originals.clear()
        self._written.clear()
        with contextlib.suppress(OSError):
            self._journal.unlink(missing_ok=True)

    def _write(self, name: str, value: str) -> None:
        if _read(name) == value:
            return
        try:
            (PROC_SYS / name).write_text(value)
        except OSError as error:
            raise ConfigError(
                f"/proc/sys/net/{name}",
                f"cannot be set to {value} ({error.strerror})",
                "run with CAP_NET_ADMIN on a kernel with CONFIG_IPV6_SEG6_LWTUNNEL, and check kernel.interfaces",
            ) from None

    def _affected(self, name: str) -> list[str]:
        """Return the switches that writing this one changes, too."""
        pattern = _WIDE.get(name)
        if pattern is None:
            return []
        return sorted(str(path.relative_to(PROC_SYS)) for path in PROC_SYS.glob(pattern) if path != PROC_SYS / name)

    def _save(self) -> None:
        saved = {"namespace": namespace_mark(), "originals": self._originals, "written": self._written}
        partial = self._journal.with_suffix(".new")
        with contextlib.suppress(OSError):  # a folder that cannot be written costs the memory over a crash, not the run
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(saved))
            partial.replace(self._journal)
