"""Real loop devices for tests: made on demand, given back at the end, skipped with a reason where there are none."""

import fcntl
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

MIB = 1 << 20


def run(*command: str, text: str | None = None) -> str:
    """Run a tool of the system; its output. An error shows what it said."""
    done = subprocess.run(command, capture_output=True, text=True, input=text, timeout=30, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout.strip()


class Bench:
    """A folder, and loop devices and mounts that end with the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.tag = secrets.token_hex(3)
        """Goes into every name that the whole machine can see: tests run side by side."""

    def file(self, name: str, size: int) -> Path:
        path = self.folder / name
        with path.open("wb") as file:
            file.truncate(size)
        return path

    def loop(self, file: Path, *options: str) -> Path:
        """A loop device over the file."""
        device = Path(run("losetup", "--find", "--show", *options, str(file)))
        self._stack.callback(lambda: subprocess.run(["losetup", "-d", str(device)], capture_output=True, check=False))
        return device

    def partitions(self, device: Path, table: str) -> list[Path]:
        """Write a table with sfdisk and make its partitions known, whatever the kernel itself can read."""
        run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(device), text=table)
        subprocess.run(["partx", "-d", str(device)], capture_output=True, check=False)
        run("partx", "-a", str(device))
        self._stack.callback(lambda: subprocess.run(["partx", "-d", str(device)], capture_output=True, check=False))
        return sorted(device.parent.glob(f"{device.name}p*"))

    def mount(self, device: Path, *options: str) -> Path:
        point = self.folder / f"mount-{device.name}"
        point.mkdir(exist_ok=True)
        run("mount", *options, str(device), str(point))
        self._stack.callback(lambda: subprocess.run(["umount", str(point)], capture_output=True, check=False))
        return point

    def unmount(self, point: Path) -> None:
        run("umount", str(point))

    def swap(self, device: Path) -> None:
        run("mkswap", "-q", str(device))
        run("swapon", str(device))
        self._stack.callback(lambda: subprocess.run(["swapoff", str(device)], capture_output=True, check=False))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Skips where this user may not make loop devices."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("loop devices need root and /dev/loop-control; run the tests as root to have these")
    with _alone(), ExitStack() as stack:
        made = Bench(tmp_path, stack)
        probe = made.file("probe", MIB)
        found = subprocess.run(["losetup", "--find", "--show", str(probe)], capture_output=True, text=True, check=False)
        if found.returncode:
            pytest.skip(f"no loop device can be made here: {found.stderr.strip()}")
        run("losetup", "-d", found.stdout.strip())
        yield made


@contextmanager
def _alone() -> Iterator[None]:
    """Loop devices are the whole machine's, and a search for a label opens all of them: one test at a time."""
    with (Path(tempfile.gettempdir()) / "otaria-loop-devices.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
