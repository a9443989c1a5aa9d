"""Rehearsals in a process of their own: bounded in time and memory, killed when nobody wants it any more."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from firmware.errors import RefusedError, UnavailableError
from server.campaigns.rehearsal import Rehearsal, Task, Word
from server.campaigns.surroundings import surroundings

LINE_BYTES = 1 << 20
Progress = Callable[[int, Rehearsal | None], Awaitable[None]]
"""How many runs are through, and what they gave so far, when there is news of that."""
MAX_ERROR_CHARS = 300


class RehearsalProcess:
    """`command` takes a task on its standard input and the bounds as arguments, and says words, a line each."""

    def __init__(self, command: Sequence[str], *, memory_bytes: int = 1 << 30, seconds: int = 600) -> None:
        self._command = command
        self._memory = memory_bytes
        self._seconds = seconds

    async def rehearse(self, task: Task, progress: Progress) -> Rehearsal:
        """Let it play, and tell `progress` on the way. Raises what it refuses, and `UnavailableError` (`rehearsal-too-long`,
        `rehearsal-broke`). Cancelled, it kills the process, with which those end that it started."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._command,
            str(self._memory),
            str(self._seconds),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
            env=surroundings(),
        )
        try:
            async with asyncio.timeout(self._seconds):
                return await self._talk(process, msgspec.json.encode(task), progress)
        except TimeoutError as error:
            text = f"The rehearsal took more than {self._seconds} s; rehearse a smaller selection."
            raise UnavailableError("rehearsal-too-long", text) from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _talk(self, process: asyncio.subprocess.Process, task: bytes, progress: Progress) -> Rehearsal:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise UnavailableError("rehearsal-broke", "The rehearsal has no pipes to talk over.")
        complaints = asyncio.create_task(process.stderr.read(64 * 1024))
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(task)
                await process.stdin.drain()
                process.stdin.close()
            while line := await process.stdout.readline():
                word = msgspec.json.decode(line, type=Word)
                if word.result is not None and word.is_last:
                    return word.result
                if word.kind:
                    raise RefusedError(word.kind, word.text)
                await progress(word.done, word.result)
            said = (await complaints).decode(errors="replace").strip().rpartition("\n")[2][:MAX_ERROR_CHARS]
        finally:
            complaints.cancel()
        ended = await process.wait()
        raise UnavailableError("rehearsal-broke", f"The rehearsal ended with {ended}: {said or 'it said nothing'}.")
