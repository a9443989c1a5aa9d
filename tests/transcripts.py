"""Dialogues with boxes, written down so that people can read them: recorded from a line, and replayed as one.

A transcript has one entry after the other:

    --- connected            a new connection
    : terminal length 0      what the connection types by itself to set the terminal up
    $ show version           a command
    $+ show standby          a command that is said until its answer will do, or no longer; the last answer is written
    ? 'sure\\?$' yes          if this is asked, that is the answer
      Model Number : M-1     what the box printed
    = 0                      its exit status; `= -` where there is none; `= gone` when the connection ended by it
    --- upload by sftp of 200000 bytes to /host/image.bin

Marks of a boot are written as if boots were numbered, because an emulator draws them.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard

from device_agent.appliances.line import Line, Lines, Reply, Said
from firmware.errors import UnavailableError

BOOT = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
CONNECTED = "--- connected"
COMMAND = re.compile(r"^\$\+? (.*)$")
UPLOAD = re.compile(r"^--- upload by (sftp|scp) of (\d+) bytes to (\S+)$")
POLLED = re.compile(r"^(?:show standby|cat \S+\.rc)$")
QUESTION = re.compile(r"^\? '(.*)' (.*)$")
GONE = "the connection ended"


@dataclass(frozen=True, kw_only=True)
class Connected:
    """A connection, and how its terminal was set up."""

    setup: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """A file that was brought to the box."""

    by: str
    length: int
    to: str


@dataclass(frozen=True, kw_only=True)
class Told:
    """A command, the answers that were offered to its questions, and what came of it."""

    command: str
    replies: tuple[Reply, ...]
    said: Said


Entry = Connected | Uploaded | Told


def commands_of(entries: Sequence[Entry]) -> list[str]:
    """All that was typed, in order, but for answers."""
    return [
        command
        for one in entries
        if not isinstance(one, Uploaded)
        for command in (one.setup if isinstance(one, Connected) else (one.command,))
    ]


def polled_once(commands: Sequence[str]) -> list[str]:
    """Without what is said again until its answer will do: the end of its time may come before an answer or after it."""
    return [
        one
        for one, following in zip(commands, [*commands[1:], None], strict=True)
        if one != following or not POLLED.match(one)
    ]


def written(entries: Sequence[Entry], title: str) -> str:
    """The text of a transcript."""
    marks: dict[str, str] = {}

    def numbered(match: re.Match[str]) -> str:
        return marks.setdefault(match[0], f"00000000-0000-4000-8000-{len(marks) + 1:012}")

    lines = [f"# {title}", *(line for one in _last_of_repeated(entries) for line in _lines(one))]
    return BOOT.sub(numbered, "\n".join(lines)) + "\n"


def read(text: str) -> list[Entry]:
    """The entries of a text. Raises `ValueError` where it is none."""
    found: list[Entry] = []
    for line in text.splitlines():
        if line.startswith("# "):
            continue
        last, upload = found[-1] if found else None, UPLOAD.match(line)
        if line == CONNECTED:
            found.append(Connected(setup=()))
        elif upload is not None:
            found.append(Uploaded(by=upload[1], length=int(upload[2]), to=upload[3]))
        elif line.startswith(": ") and isinstance(last, Connected):
            found[-1] = Connected(setup=(*last.setup, line[2:]))
        elif (command := COMMAND.match(line)) is not None:
            found.append(Told(command=command[1], replies=(), said=Said(lines=())))
        elif isinstance(last, Told):
            found[-1] = _with(last, line)
        else:
            raise ValueError(f"What is {line!r}?")
    return found


def _with(told: Told, line: str) -> Told:
    if (question := QUESTION.match(line)) is not None:
        return replace(told, replies=(*told.replies, (question[1], question[2])))
    if line.startswith("= "):
        status = None if line in ("= -", "= gone") else int(line[2:])
        dropped = GONE if line == "= gone" else ""
        return replace(told, said=replace(told.said, status=status, dropped=dropped))
    if line and not line.startswith("  "):
        raise ValueError(f"What is {line!r}?")
    return replace(told, said=replace(told.said, lines=(*told.said.lines, line[2:])))


def _lines(one: Entry) -> Iterator[str]:
    if isinstance(one, Connected):
        yield CONNECTED
        yield from (f": {command}" for command in one.setup)
    elif isinstance(one, Uploaded):
        yield f"--- upload by {one.by} of {one.length} bytes to {one.to}"
    else:
        yield f"{'$+' if POLLED.match(one.command) else '$'} {one.command}"
        yield from (f"? '{when}' {say}" for when, say in one.replies)
        yield from (f"  {line}".rstrip() for line in one.said.lines)
        yield "= gone" if one.said.dropped else f"= {'-' if one.said.status is None else one.said.status}"


def _last_of_repeated(entries: Sequence[Entry]) -> Iterator[Entry]:
    for one, following in zip(entries, [*entries[1:], None], strict=True):
        if not (_is_polled(one) and _is_polled(following) and one.command == following.command):
            yield one


def _is_polled(one: Entry | None) -> TypeGuard[Told]:
    return isinstance(one, Told) and POLLED.match(one.command) is not None


def _without_end(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Without the empty lines at the end, which nobody needs to read."""
    return lines if not lines or lines[-1] else _without_end(lines[:-1])


def _length(local: Path) -> int:
    return local.stat().st_size


class Recorded:
    """`Lines` that write down what is said on others'. `setup`: of the terminal."""

    def __init__(self, lines: Lines, setup: tuple[str, ...]) -> None:
        self._lines, self._setup = lines, setup
        self.entries: list[Entry] = []

    async def open(self) -> Line:
        line = await self._lines.open()
        self.entries.append(Connected(setup=self._setup))
        return _RecordedLine(line, self.entries.append)


class _RecordedLine:
    def __init__(self, line: Line, note: Callable[[Entry], None]) -> None:
        self._line, self._note = line, note

    async def run(self, command: str, *, timeout_s: float, replies: Sequence[Reply] = ()) -> Said:
        said = await self._line.run(command, timeout_s=timeout_s, replies=replies)
        kept = Said(lines=(), dropped=GONE) if said.dropped else replace(said, lines=_without_end(said.lines))
        self._note(Told(command=command, replies=tuple(replies), said=kept))
        return said

    async def put_sftp(
        self,
        local: Path,
        remote: str,
        *,
        resume: bool,
        stall_s: float,
        on_bytes: Callable[[int], None],
        stop: Callable[[], bool],
    ) -> None:
        await self._line.put_sftp(local, remote, resume=resume, stall_s=stall_s, on_bytes=on_bytes, stop=stop)
        self._note(Uploaded(by="sftp", length=_length(local), to=remote))

    async def put_scp(
        self, local: Path, remote: str, *, stall_s: float, on_bytes: Callable[[int], None], stop: Callable[[], bool]
    ) -> None:
        await self._line.put_scp(local, remote, stall_s=stall_s, on_bytes=on_bytes, stop=stop)
        self._note(Uploaded(by="scp", length=_length(local), to=remote))

    async def close(self) -> None:
        await self._line.close()


class Replayed:
    """`Lines` that answer as it is written. Whoever says anything else than is written fails; who connects when nothing more is
    written finds nobody there."""

    def __init__(self, entries: Sequence[Entry], setup: tuple[str, ...]) -> None:
        self.left, self._setup = list(entries), setup

    async def open(self) -> Line:
        if not self.left:
            raise UnavailableError("box-unreachable", "Nobody answers.")
        written, connected = self.left.pop(0), Connected(setup=self._setup)
        assert written == connected, f"{connected} was made, and the transcript has {written}"
        return _ReplayedLine(self.left)


class _ReplayedLine:
    def __init__(self, left: list[Entry]) -> None:
        self._left = left
        self._polled: Told | None = None

    async def run(self, command: str, *, timeout_s: float, replies: Sequence[Reply] = ()) -> Said:
        if self._polled is not None and command == self._polled.command:
            return self._polled.said
        written, told = self._left.pop(0), f"{command!r} {replies} was said, and the transcript has "
        assert isinstance(written, Told), f"{told}{written}"
        assert (command, tuple(replies)) == (written.command, written.replies), f"{told}{written}"
        self._polled = written if _is_polled(written) else None
        return written.said

    async def put_sftp(
        self,
        local: Path,
        remote: str,
        *,
        resume: bool,
        stall_s: float,
        on_bytes: Callable[[int], None],
        stop: Callable[[], bool],
    ) -> None:
        self._upload(Uploaded(by="sftp", length=_length(local), to=remote))

    async def put_scp(
        self, local: Path, remote: str, *, stall_s: float, on_bytes: Callable[[int], None], stop: Callable[[], bool]
    ) -> None:
        self._upload(Uploaded(by="scp", length=_length(local), to=remote))

    def _upload(self, upload: Uploaded) -> None:
        written = self._left.pop(0)
        assert written == upload, f"{upload} was made, and the transcript has {written}"

    async def close(self) -> None:
        """Nothing is held."""
