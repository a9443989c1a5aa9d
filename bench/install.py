"""A full image onto a loop device: our installer against `rauc install` and `swupdate -i`, in the same run.

Each is a process of its own, its start included, and reads its update from a local file. What is written counts as done when the
device was flushed, whoever did it. `install.written` ends there; `install.read_back` is the same with what only we do: everything
is read from the medium again, past the caches, and hashed.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.measure import in_turns
from bench.plan import Plan
from bench.result import Outcome, Skipped, against_peer
from bench.updaters import Rauc, SwUpdate, make_key, missing_programs
from firmware.manifest import WINDOW_BYTES, Image, Manifest, describe, encode_manifest

SIZE_BYTES = 256 << 20
ROUNDS = 7
TIMEOUT_S = 600.0
FIGURES = ("install.written", "install.read_back")


def install(plan: Plan) -> list[Outcome]:
    """Seconds for the image, with and without reading it back."""
    why = _why_not()
    if why is not None:
        return [Skipped(name=name, reason=why) for name in FIGURES]
    size = plan.size(SIZE_BYTES) // WINDOW_BYTES * WINDOW_BYTES
    image = plan.scratch / "root.img"
    _make(image, size)
    manifest = plan.scratch / "manifest.json"
    manifest.write_bytes(encode_manifest(_manifest(image)))
    with contextlib.ExitStack() as ends:
        first, second = (ends.enter_context(_loop(plan.scratch / f"slot-{name}.img", size)) for name in "ab")
        folders = {name: plan.scratch / name for name in ("rauc", "swupdate")}
        for folder in folders.values():
            folder.mkdir()
            make_key(folder)
        rauc = Rauc(folders["rauc"], image, (first, second))
        swupdate = SwUpdate(folders["swupdate"], image, second)
        ends.enter_context(rauc.serving())
        ours, theirs, others = in_turns(
            plan.rounds(ROUNDS),
            lambda: _ours(manifest, image, first, second),
            lambda: _peer(rauc.install, second, image),
            lambda: _peer(swupdate.install, second, image),
        )
    outcomes: list[Outcome] = []
    for figure, values in zip(FIGURES, zip(*ours, strict=True), strict=True):
        outcomes.append(
            against_peer(f"{figure}.rauc", "s", "lower", values, "rauc install", [took for took, _ in theirs])
        )
        outcomes.append(
            against_peer(f"{figure}.swupdate", "s", "lower", values, "swupdate -i", [took for took, _ in others])
        )
    return outcomes


def _why_not() -> str | None:
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        return "This needs root and loop devices."
    missing = missing_programs()
    return f"Install {', '.join(missing)}; deploy/bench-tools.sh does." if missing else None


def _ours(manifest: Path, image: Path, first: Path, second: Path) -> tuple[float, float]:
    """Seconds until written and flushed, and until it was read back too."""
    _spoil(second)
    began = time.monotonic()
    command = [sys.executable, "-m", "bench.install_work", *map(str, (manifest, image, first, second))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    said = json.loads(done.stdout)
    _require_same(image, second)
    return said["written"] - began, said["done"] - began


def _peer(install: Callable[[], None], device: Path, image: Path) -> tuple[float, float]:
    """Seconds until written and flushed."""
    _spoil(device)
    began = time.monotonic()
    install()
    _flush(device)
    took_s = time.monotonic() - began
    _require_same(image, device)
    return took_s, took_s


def _spoil(device: Path) -> None:
    """Make sure that nothing of the image is in the device's first window, and that nothing waits to be written."""
    with device.open("r+b", buffering=0) as file:
        file.write(bytes(WINDOW_BYTES))
    _flush(device)


def _flush(device: Path) -> None:
    descriptor = os.open(device, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_same(image: Path, device: Path) -> None:
    """Raise `RuntimeError` unless the device holds the image: who does nothing is quick."""
    with image.open("rb") as wanted, device.open("rb") as found:
        while block := wanted.read(WINDOW_BYTES):
            if found.read(len(block)) != block:
                raise RuntimeError("An installation ended well and the image is not on the device.")


def _make(image: Path, size: int) -> None:
    with image.open("wb") as file:
        for _ in range(size // WINDOW_BYTES):
            file.write(os.urandom(WINDOW_BYTES))


def _manifest(image: Path) -> Manifest:
    with image.open("rb") as file:
        found = describe(file)
    listed = Image(path="releases/bench/1/root.img", length=found.length, sha256=found.sha256, windows=found.windows)
    return Manifest(product="bench", version="1", counter=1, hardware=["bench"], images=[listed])


@contextlib.contextmanager
def _loop(path: Path, size: int) -> Iterator[Path]:
    """A loop device over a preallocated file."""
    with path.open("xb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    found = subprocess.run(["losetup", "--find", "--show", str(path)], capture_output=True, text=True, check=True)
    device = found.stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=False)
