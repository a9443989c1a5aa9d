"""What no target may do, measured in the process that runs it: crash, hang, grow past its bound, or write outside its place."""

import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fuzz.inputs import Target

_WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_MODES = set("wax+")


class ForbiddenError(BaseException):
    """Not an `Exception`, so that nothing under test can swallow it."""


def forbid_writes_outside(scratch: Path) -> None:
    """From now on, for the rest of this process, changing a file outside `scratch`, a socket or a child process raises."""
    allowed = str(scratch.resolve())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, int) or not ((mode and _MODES & set(mode)) or flags & 3):
                return
            paths = [path]
        elif event in _WRITES:
            paths = [one for one in arguments if isinstance(one, str | bytes | Path)]
        elif event in ("subprocess.Popen", "os.system", "os.exec", "socket.connect", "socket.bind"):
            raise ForbiddenError(f"{event} {arguments[0]!r}")
        else:
            return
        folder = arguments[-1] if event in _WRITES and isinstance(arguments[-1], int) else -1
        base = Path.cwd() if folder < 0 else Path(f"/proc/self/fd/{folder}")
        for one in paths:
            place = str((base / (one.decode() if isinstance(one, bytes) else one)).resolve())
            if place != "/dev/null" and not f"{place}/".startswith(f"{allowed}/"):
                raise ForbiddenError(f"{event} {place}")

    sys.addaudithook(hook)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `ForbiddenError` in what runs longer."""

    def late(*_: object) -> None:
        raise ForbiddenError(f"hangs: more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak_bytes() -> int:
    """The most memory this process has had resident."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10


def check(name: str, target: Target, *, runs: int, seed: int) -> list[str]:
    """Run a target on its seeds and on `runs` mutated ones; the sentences say what it did wrong, with the input in hex."""
    chance = random.Random(f"{name}{seed}")
    before = peak_bytes()
    inputs = [*target.seeds, *(mutated(chance.choice(target.seeds), chance) for _ in range(runs))]
    out = []
    for data in inputs:
        try:
            with at_most(target.seconds):
                target.run(data)
        except (Exception, ForbiddenError) as error:  # noqa: BLE001  # finding them is what this is for
            out.append(f"{name}: {type(error).__name__}: {error} on {data[:2000].hex()}")
    grown = peak_bytes() - before - sum(map(len, inputs))
    if grown > target.growth_bytes:
        out.append(f"{name}: grew by {grown >> 20} MiB; at most {target.growth_bytes >> 20} are allowed")
    return out


_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_TEXTS = (b"..", b"/", b"../../x", b"\\u0000", b"null", b"-1", b"1e999", b"[[[[", b"{}", b"99999999999999999999")


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one to four changes of the kinds that break parsers."""
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(out) + 1) if chance.random() < 0.5 else chance.randrange(min(len(out), 2200) + 1)
        kind = chance.randrange(6)
        if kind == 0:
            out = out[:at]
        elif kind == 1:
            out[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 2:
            size = chance.choice((1, 2, 4, 8))
            number = chance.choice(_NUMBERS) % (1 << 8 * size)
            out[at : at + size] = number.to_bytes(size, chance.choice(("little", "big")))
        elif kind == 3:
            start = chance.randrange(len(out) + 1)
            out[at:at] = out[start : start + chance.randrange(1, 600)]
        elif kind == 4:
            out[at : at + chance.randrange(1, 64)] = b""
        else:
            text = chance.choice(_TEXTS)
            out[at : at + len(text)] = text
    return bytes(out)
