"""A computer made by QEMU: power, a serial console to read, a shell inside to type into, and a plug to pull.

KVM is used when a kernel really boots under it; having `/dev/kvm` is not enough. A power cut is SIGKILL to QEMU: what the guest
has not yet handed to its disk is gone. It can come at a line of the console, or as a write to a part of the disk begins.

A restart of the guest's ends QEMU, and a new one is started. An emulator that goes on keeps what it translated of the previous
system; where the firmware's stack comes to lie in a page of that, each push takes so long that the firmware does nothing but
handle its timer: such a machine stood in GRUB for minutes.
"""

import contextlib
import functools
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from device_agent.boot.leash import leashed
from tests.boot.disk import Disk

WRITES = re.compile(r"virtio_blk_handle_write .*sector (\d+) nsectors (\d+)")
PROBE_S = 8.0
POLL_S = 0.05


class BootError(AssertionError):
    """A guest did not do in time what it should have done."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """What is soldered on: QEMU's program and machine, its firmware's options, and the watchdog and the like."""

    program: str
    machine: tuple[str, ...]
    firmware: tuple[str, ...] = ()
    memory_mib: int = 512


@dataclass
class Machine:
    """A board with its disk. `port`: nothing is forwarded to it; it reaches this machine's loopback at 10.0.2.2."""

    board: Board
    disk: Disk
    folder: Path
    claim: Path
    on_write: Callable[[int, int], bool] | None = None
    _process: subprocess.Popen[bytes] | None = None
    _on: bool = False
    _text: str = ""
    _grown: threading.Condition = field(default_factory=threading.Condition)
    _runner: threading.Thread | None = None

    @property
    def console(self) -> str:
        """All that was printed since the machine was made."""
        with self._grown:
            return self._text

    @property
    def powered(self) -> bool:
        return self._on

    def power_on(self) -> None:
        """Switch it on."""
        self._print("\n=== power on ===\n")
        self._on = True
        self._runner = threading.Thread(target=self._run, daemon=True)
        self._runner.start()

    def power_cut(self) -> None:
        """Pull the plug."""
        self._kill()
        if self._runner is not None:
            self._runner.join(timeout=30)
            self._runner = None

    def wait_for(self, pattern: str, timeout_s: float, *, after: int = 0, cut: bool = False) -> re.Match[str]:
        """The first match on the console behind `after` characters; with `cut` the plug is pulled in that moment."""
        regex, end = re.compile(pattern), time.monotonic() + timeout_s
        with self._grown:
            while not (found := regex.search(self._text, after)):
                left = end - time.monotonic()
                if left <= 0 or not self.powered:
                    why = (
                        f"no {pattern!r} within {timeout_s:g} s" if self.powered else f"it is off, without {pattern!r}"
                    )
                    raise BootError(f"{why}:\n{self._text[after:][-6000:]}")
                self._grown.wait(min(left, 0.5))
        if cut:
            self.power_cut()
        return found

    def wait_for_cut(self, timeout_s: float) -> None:
        """Until `on_write` has pulled the plug."""
        end = time.monotonic() + timeout_s
        while self.powered:
            if time.monotonic() > end:
                raise BootError(f"no such write within {timeout_s:g} s:\n{self.console[-6000:]}")
            time.sleep(POLL_S)
        self.power_cut()

    def shell(self, command: str, timeout_s: float = 120.0) -> tuple[int, str]:
        """Run a command in the guest; its exit code, and what it printed."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(timeout_s)
            line.connect(str(self._shell_path))
            line.sendall(f'{{ {command}; }} 2>&1; echo "=$?=ended"\n'.encode())
            said = b""
            while not (found := re.search(rb"=(\d+)=ended\n", said)):
                got = line.recv(65536)
                if not got:
                    raise BootError(f"the guest's shell is gone: {said[-500:]!r}")
                said += got
        return int(found[1]), said[: found.start()].decode(errors="replace").strip()

    @property
    def _shell_path(self) -> Path:
        return self.folder / "shell"

    def _devices(self) -> list[str]:
        self._shell_path.unlink(missing_ok=True)
        return [
            *(
                "-m",
                str(self.board.memory_mib),
                "-display",
                "none",
                "-serial",
                "stdio",
                "-monitor",
                "none",
                "-no-user-config",
                "-nodefaults",
            ),
            *("-drive", f"file={self.disk.path},format=raw,if=none,id=disk", "-device", "virtio-blk-pci,drive=disk"),
            *("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="),
            *("-device", "i6300esb", "-action", "watchdog=reset,reboot=shutdown"),
            *("-device", "virtio-serial-pci", "-device", "virtconsole,chardev=shell"),
            *("-chardev", f"socket,id=shell,path={self._shell_path},server=on,wait=off"),
            *("-fw_cfg", f"name=opt/otaria/claim,file={self.claim}"),
            *("-trace", "virtio_blk_handle_write"),
        ]

    def _run(self) -> None:
        """QEMU, as often as the guest restarts: it ends with 0 then, and only then. Of one thread, which it must not outlive."""
        argv = [self.board.program, *self.board.machine, *self.board.firmware]
        code = 0
        while code == 0:
            with self._grown:
                if not self._on:
                    return
                self._process = process = subprocess.Popen(
                    leashed([*argv, *self._devices()]),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            with process:
                tracer = threading.Thread(target=self._trace, args=(process,), daemon=True)
                tracer.start()
                self._listen(process)
                code = process.wait()
                tracer.join()
        with self._grown:
            self._on = False
            self._grown.notify_all()

    def _kill(self) -> None:
        with self._grown:
            self._on = False
            if self._process is not None and self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, 9)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), 65536):
            self._print(data.decode(errors="replace").replace("\r", ""))

    def _trace(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            found = WRITES.search(line.decode(errors="replace"))
            if not found:
                self._print(f"[qemu] {line.decode(errors='replace')}")
            elif self.on_write is not None and self.on_write(int(found[1]) * 512, int(found[2]) * 512):
                self.on_write = None
                self._kill()

    def _print(self, text: str) -> None:
        with self._grown, (self.folder / "console").open("a") as kept:
            kept.write(text)
            self._text += text
            self._grown.notify_all()


@functools.cache
def accelerator(kernel: Path) -> str:
    """`kvm` when this kernel boots under it as far as to miss its root file system; otherwise `tcg`."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    argv = [
        "qemu-system-x86_64",
        "-M",
        "q35,accel=kvm",
        "-cpu",
        "host",
        "-m",
        "256",
        "-nographic",
        "-no-reboot",
        "-net",
        "none",
    ]
    argv += ["-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_S, check=False)
    except subprocess.TimeoutExpired:
        return "tcg"
    return "kvm" if b"Kernel panic - not syncing: VFS" in done.stdout else "tcg"
