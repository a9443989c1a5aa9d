"""A real Linux host around its packages: boot, kernels, services, hooks. `HostSystem` over files and programs."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from device_agent.boot.restart import REBOOT, restart
from device_agent.packages.port import Waiting
from device_agent.packages.programs import run_program
from device_agent.ports import Effects
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind

log = logging.getLogger(__name__)
TOOL_S = 120.0
MAX_SERVICES = 256
_VERSION_PARTS = re.compile(r"\d+|\D+")
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}")


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

    def waiting(self) -> Waiting:
        """By what packages asked for, the kernels in `/boot`, and `needrestart`, where it is installed."""
        needs, why = self._needs(), self._why_restart()
        return Waiting(
            restart=why or self._why_by_needrestart(needs), is_certain=why is not None, services=needs.services
        )

    def _why_restart(self) -> str | None:
        """A package asked for it, or the newest kernel doesn't run."""
        if self._effects.size(self._tools.root / "run/reboot-required") is not None:
            return "a package asks for a restart (/run/reboot-required)"
        newest, running = self.newest_kernel(), self.kernel()
        if newest is not None and newest != running and self._is_own(running):
            return f"kernel {running} runs and {newest} is installed"
        return None

    def _why_by_needrestart(self, needs: "Needs") -> str | None:
        """It sees another build of the same release, by words in the kernel's file which it may take for others; which release is
        the newest is ours to say wherever `/boot` tells."""
        running = self.kernel()
        if needs.kernel is KernelState.NEWER_BUILD and self._is_own(running):
            return f"kernel {running} runs in an older build than the installed one"
        if needs.kernel is KernelState.NEWER_RELEASE and self._is_own(running) and self.newest_kernel() is None:
            return f"kernel {running} runs and {needs.expected or 'a newer one'} is installed"
        return None

    def _is_own(self, kernel: str) -> bool:
        """Whether it is installed here. A container runs its host's."""
        names = self._effects.names(self._tools.root / "boot")
        return f"vmlinuz-{kernel}" in names or (self._tools.root / "lib/modules" / kernel).is_dir()

    def _needs(self) -> "Needs":
        if not self._tools.needrestart:
            return Needs()
        code, said = self._run(self._tools.needrestart, {})
        if code != 0:
            log.info("needrestart can't tell", extra={"reason": said})
            return Needs()
        return parse_needrestart(said)

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


class KernelState(IntEnum):
    """needrestart's KSTA: whether a kernel waits for a restart."""

    UNKNOWN = 0
    CURRENT = 1
    NEWER_BUILD = 2
    NEWER_RELEASE = 3


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What needrestart says. `expected`: the release of the kernel that it expects to run (KEXP)."""

    kernel: KernelState = KernelState.UNKNOWN
    expected: str = ""
    services: tuple[str, ...] = ()


def parse_needrestart(text: str) -> Needs:
    """Its batch output: `NEEDRESTART-KSTA: 1`, `NEEDRESTART-SVC: name.service`, a line each. A state that isn't known is none."""
    kernel, expected, services = KernelState.UNKNOWN, "", []
    for line in text.splitlines():
        name, _, value = line.partition(":")
        value = value.strip()
        if name == "NEEDRESTART-KSTA":
            kernel = next((one for one in KernelState if str(one.value) == value), KernelState.UNKNOWN)
        elif name == "NEEDRESTART-KEXP" and _RELEASE.fullmatch(value):
            expected = value
        elif name == "NEEDRESTART-SVC" and re.fullmatch(r"[A-Za-z0-9:_.@\\-]{1,255}", value) and value[0] != "-":
            services.append(value)
    return Needs(kernel=kernel, expected=expected, services=tuple(services[:MAX_SERVICES]))


def _by_version(name: str) -> list[tuple[int, int, str]]:
    """Numbers by value, the rest by letter: `6.1.0-9` comes before `6.1.0-10`."""
    parts = _VERSION_PARTS.findall(name)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]
