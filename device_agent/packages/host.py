"""A real Linux host around its packages: boot, kernels, services, hooks. `HostSystem` over files and programs."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_agent.boot.restart import REBOOT, restart
from device_agent.packages.programs import run_program
from device_agent.ports import Effects
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind

log = logging.getLogger(__name__)
TOOL_S = 120.0
MAX_SERVICES = 256
_VERSION_PARTS = re.compile(r"\d+|\D+")


@dataclass(frozen=True, kw_only=True)
class HostTools:
    """Where things are, and the programs that tell. An empty `needrestart` isn't asked."""

    root: Path = Path("/")
    boot_id: Path = Path("/proc/sys/kernel/random/boot_id")
    kernel: Path = Path("/proc/sys/kernel/osrelease")
    needrestart: Sequence[str] = ("needrestart", "-b")
    restart_service: Sequence[str] = ("systemctl", "restart")
    reboot: Sequence[str] = REBOOT


class Host:
    """The host that the agent runs on."""

    def __init__(self, effects: Effects, tools: HostTools = HostTools()) -> None:
        self._effects, self._tools = effects, tools

    def boot_id(self) -> str:
        return self._line(self._tools.boot_id).replace("-", "")

    def kernel(self) -> str:
        return self._line(self._tools.kernel)

    def newest_kernel(self) -> str | None:
        """By the kernels in `/boot`."""
        names = self._effects.names(self._tools.root / "boot")
        found = [name.removeprefix("vmlinuz-") for name in names if name.startswith("vmlinuz-")]
        return max(found, key=_by_version, default=None)

    def restart_needed(self) -> str | None:
        """A package asked for it, or the newest kernel doesn't run. Each kernel counts only where its like is installed: a
        container runs its host's."""
        if self._effects.size(self._tools.root / "run/reboot-required") is not None:
            return "a package asks for a restart (/run/reboot-required)"
        newest, running = self.newest_kernel(), self.kernel()
        names = self._effects.names(self._tools.root / "boot")
        known = f"vmlinuz-{running}" in names or (self._tools.root / "lib/modules" / running).is_dir()
        if newest is not None and known and newest != running:
            return f"kernel {running} runs and {newest} is installed"
        return None

    def services_to_restart(self) -> list[str]:
        """By `needrestart`, where it is installed."""
        if not self._tools.needrestart:
            return []
        ran = self._run(self._tools.needrestart, {})
        if ran[0] != 0:
            log.info("needrestart can't tell", extra={"reason": ran[1]})
            return []
        return parse_needrestart(ran[1]).services

    def restart_services(self, names: Sequence[str]) -> None:
        """Raises `RefusedError` (`package-failed`)."""
        failed = [name for name in names if self._run((*self._tools.restart_service, name), {})[0] != 0]
        if failed:
            raise RefusedError(ReasonKind.PACKAGE_FAILED, f"Services did not start again: {', '.join(failed)[:600]}.")

    def restart(self) -> None:
        restart(self._effects, self._tools.reboot)

    def hook(self, argv: Sequence[str], facts: Mapping[str, str], *, timeout_s: float) -> str | None:
        code, said = self._run(argv, {f"OTARIA_{name.upper()}": value for name, value in facts.items()}, timeout_s)
        return None if code == 0 else f"{argv[0]} ended with {code}: {said[-400:]}"

    def _run(
        self, argv: Sequence[str], environment: Mapping[str, str], timeout_s: float = TOOL_S
    ) -> tuple[int | None, str]:
        ran = run_program(argv, environment=environment, folder=Path("/"), timeout_s=timeout_s)
        return ran.code, ran.output if ran.fine else ran.said

    def _line(self, path: Path) -> str:
        return self._effects.read_at(path, 0, 256).decode(errors="replace").strip()


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What needrestart says. `kernel_state`: its KSTA (0 unknown, 1 none, 2 ABI-compatible, 3 an upgrade waits)."""

    kernel_state: int
    services: list[str]


def parse_needrestart(text: str) -> Needs:
    """Its batch output: `NEEDRESTART-KSTA: 1`, `NEEDRESTART-SVC: name.service`, a line each."""
    state, services = 0, []
    for line in text.splitlines():
        name, _, value = line.partition(":")
        value = value.strip()
        if name == "NEEDRESTART-KSTA" and value.isdecimal():
            state = int(value)
        elif name == "NEEDRESTART-SVC" and re.fullmatch(r"[A-Za-z0-9:_.@\\-]{1,255}", value) and value[0] != "-":
            services.append(value)
    return Needs(kernel_state=state, services=services[:MAX_SERVICES])


def _by_version(name: str) -> list[tuple[int, int, str]]:
    """Numbers by value, the rest by letter: `6.1.0-9` comes before `6.1.0-10`."""
    parts = _VERSION_PARTS.findall(name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]
