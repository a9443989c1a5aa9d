"""The delta factory: makes deltas for campaigns in a process of its own.

Matching needs much memory and all processors for seconds, and images come from outside: so the work is done by a
worker (`python -m server.campaigns.deltas`) with limits on its memory and time and a lower priority. Whatever happens to
it is a typed error here. A delta that saves less than `MIN_SAVING` of the full image is not worth offering.
"""

import argparse
import asyncio
import json
import os
import resource
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from firmware.delta.facts import DeltaFacts
from firmware.delta.format import DEFAULT_LEVEL, DeltaEnds
from firmware.errors import OtariaError, UnavailableError
from server.campaigns.private_deltas import EncryptedDelta, Secrets, make_encrypted_delta
from server.campaigns.surroundings import surroundings

MIN_SAVING = 0.2
_MAX_ANSWER_BYTES = 4096
_MAX_SECRETS_BYTES = 4096
_FRUGAL = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""The limit is on address space, which numpy's algebra (not used here) and one heap for each thread would take for nothing."""


class DeltaFailedError(UnavailableError):
    """No delta could be made: `delta-too-slow`, `delta-too-big` (memory) or `delta-failed`. The full image still serves."""


@dataclass(frozen=True, kw_only=True)
class DeltaLimits:
    """What one worker may use. The default suits images of any length: memory does not grow with them."""

    memory_bytes: int = 1 << 30
    timeout_s: float = 900.0
    level: int = DEFAULT_LEVEL
    niceness: int = 5


class DeltaFactory:
    """Makes deltas, at most `at_once` at a time."""

    def __init__(self, limits: DeltaLimits | None = None, *, at_once: int = 1) -> None:
        self._limits = limits or DeltaLimits()
        self._turn = asyncio.Semaphore(at_once)

    async def make_encrypted(self, source: Path, target: Path, out: Path, secrets: Secrets) -> EncryptedDelta | None:
        """As `make`, of images that are stored encrypted; the delta is encrypted too."""
        async with self._turn:
            with TemporaryDirectory(dir=out.parent, prefix=".making-") as folder:
                made = Path(folder) / "delta"
                answer = await self._answer(source, target, made, secrets)
                salt = answer.pop("salt")
                facts = _keep(_facts(answer), made, out)
                return None if facts is None else EncryptedDelta(facts=facts, salt=salt)

    async def make(self, source: Path, target: Path, out: Path) -> DeltaFacts | None:
        """Make a delta from `source` to `target` at `out`; None, and no file, when it would not save enough.

        Raises `DeltaFailedError`, and `OSError` when nothing can be written beside `out`. Cancelling ends the worker. `out`
        appears whole or not at all.
        """
        async with self._turn:
            with TemporaryDirectory(dir=out.parent, prefix=".making-") as folder:
                made = Path(folder) / "delta"
                return _keep(_facts(await self._answer(source, target, made, None)), made, out)

    async def _answer(self, source: Path, target: Path, out: Path, secrets: Secrets | None) -> dict[str, Any]:
        """What a worker says about the delta that it made. Secrets go through a pipe: options are for all to see."""
        limits = self._limits
        options = (f"--memory-bytes={limits.memory_bytes}", f"--level={limits.level}", f"--niceness={limits.niceness}")
        more = ("--secrets",) if secrets else ()
        command = (sys.executable, "-m", __name__, *options, *more, "--", str(source), str(target), str(out))
        worker = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=surroundings(**_FRUGAL)
        )
        try:
            async with asyncio.timeout(limits.timeout_s):
                told = json.dumps(asdict(secrets)).encode() if secrets else b""
                answer, trouble = await worker.communicate(told)
        except TimeoutError as error:
            raise DeltaFailedError(
                "delta-too-slow", f"The delta was not made within {limits.timeout_s:g} s; the full image is used."
            ) from error
        finally:
            await _end(worker)
        return _parsed(worker.returncode, answer, trouble)


def _keep(facts: DeltaFacts, made: Path, out: Path) -> DeltaFacts | None:
    """Give a delta its name if it saves enough."""
    if facts.length > (1 - MIN_SAVING) * facts.ends.output_length:
        return None
    made.replace(out)
    return facts


async def _end(worker: Process) -> None:
    """Make sure that the worker is gone."""
    if worker.returncode is None:
        worker.kill()
        await worker.wait()


def _facts(answer: dict[str, Any]) -> DeltaFacts:
    return DeltaFacts(ends=DeltaEnds(**answer.pop("ends")), **answer)


def _parsed(returncode: int | None, answer: bytes, trouble: bytes) -> dict[str, Any]:
    if returncode == 0:
        value: dict[str, Any] = json.loads(answer)
        return value
    try:
        error = json.loads(trouble[-_MAX_ANSWER_BYTES:])
    except ValueError as garbled:
        last = trouble.decode("utf-8", "replace").strip().rsplit("\n", 1)[-1][:200]
        raise DeltaFailedError(
            "delta-failed", f"The delta worker ended with {returncode}: {last or 'no word'}."
        ) from garbled
    raise DeltaFailedError(error["kind"], error["text"])


def main(arguments: list[str]) -> int:
    """The worker: limits itself, makes the delta, prints its facts as JSON; errors as JSON on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m server.campaigns.deltas", description="Make one delta, within limits."
    )
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--level", type=int, required=True)
    parser.add_argument("--niceness", type=int, required=True)
    parser.add_argument("--secrets", action="store_true", help="the images' keys come as JSON on standard input")
    parser.add_argument("paths", type=Path, nargs=3, metavar="SOURCE TARGET OUT")
    options = parser.parse_args(arguments)
    os.nice(options.niceness)
    resource.setrlimit(resource.RLIMIT_AS, (options.memory_bytes, options.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = _made(options, sys.stdin.buffer.read(_MAX_SECRETS_BYTES) if options.secrets else None)
    except MemoryError:
        return _complain("delta-too-big", f"The delta needs more than {options.memory_bytes} bytes of memory.")
    except RuntimeError as error:
        if "new thread" not in str(error):  # Python's word for having no memory for one
            raise
        return _complain("delta-too-big", f"The delta needs more than {options.memory_bytes} bytes of memory.")
    except OtariaError as error:
        return _complain("delta-failed", error.text)
    except OSError as error:
        return _complain("delta-failed", f"The delta was not made: {error.strerror}: {error.filename}.")
    print(json.dumps(answer))
    return 0


def _made(options: argparse.Namespace, told: bytes | None) -> dict[str, Any]:
    from firmware.delta.make import make_delta  # only the worker has a use for its numpy

    if told is None:
        return asdict(make_delta(*options.paths, level=options.level))
    source, target, out = options.paths
    made = make_encrypted_delta(source, target, out, msgspec.json.decode(told, type=Secrets), level=options.level)
    return {**asdict(made.facts), "salt": made.salt}


def _complain(kind: str, text: str) -> int:
    print(json.dumps({"kind": kind, "text": text}), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
