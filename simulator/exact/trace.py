"""What a run did, in order: each message and each event, with its time and the hash of its words.

Rules
- A line is what was said, never how it was signed: the director's signatures differ from run to run, its words don't.
- The digest is of all lines. So the same world, seed and code give the same digest, and a trace that is kept can be held against
  a run: the first line that differs is named.
"""

import hashlib
import json
import os
from hashlib import blake2b
from pathlib import Path
from typing import TextIO

import msgspec
from msgspec import Struct

from firmware.errors import OtariaError, RefusedError
from firmware.protocol.permit import ASK_KIND
from firmware.protocol.topics import Leaf
from firmware.protocol.unverified import payload_type, read_envelope

HASH_CHARS = 16
BLOCK_PLACE = 20
"""So many bytes of a block say of which stream it is, and where; what it brings may be the catalogue's, with its signatures."""
VERSION = 1


class Head(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line of a kept trace: of which run it is."""

    world: str
    seed: int
    trace: int = VERSION


class _Version(Struct, frozen=True, kw_only=True):
    """What the first line of every trace has, whatever else."""

    trace: int


class Line(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Something that happened `t` seconds after the beginning."""

    t: float
    who: str
    what: str
    hash: str = ""


class Difference(Struct, frozen=True, kw_only=True):
    """Where a run left its trace: the number of the line, from 1, and both lines; None where one of them ended."""

    line: int
    kept: Line | None
    now: Line | None

    @property
    def text(self) -> str:
        return f"Line {self.line} differs. The trace has {_shown(self.kept)}; this run has {_shown(self.now)}."


class Trace:
    """`note` what happens, then `close`; or `drop` it. `out`: written as JSON lines, there as a whole or not at all. `kept`: an
    earlier trace that it is held against."""

    def __init__(self, head: Head, *, out: Path | None = None, kept: Path | None = None) -> None:
        self._digest = blake2b(digest_size=16)
        self._kept = Kept(kept, head) if kept is not None else None
        self._draft = Draft(out) if out is not None else None
        self._out: TextIO | None = self._draft.file if self._draft is not None else None
        self._write(head)
        self.lines = 0
        self.difference: Difference | None = None

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def message(self, at: float, who: str, leaf: str, agent: str, payload: bytes) -> None:
        """A message went on its way: of this topic's leaf, on this agent's topic."""
        kind, words = ("", payload[:BLOCK_PLACE]) if leaf == Leaf.BLOCK else _words(payload)
        self.note(at, who, f"{kind or leaf} {agent}".rstrip(), hashlib.sha256(words).hexdigest()[:HASH_CHARS])

    def note(self, at: float, who: str, what: str, digest: str = "") -> None:
        """Something happened."""
        line = Line(t=round(at, 6), who=who, what=what, hash=digest)
        self.lines += 1
        self._digest.update(f"{line.t:.6f} {who} {what} {digest}\n".encode())
        self._write(line)
        if self._kept is not None and self.difference is None:
            self._compare(self._kept.next(), line)

    def close(self) -> None:
        """All is noted: what the kept trace has beyond differs, too."""
        if self._kept is not None and self.difference is None and (more := self._kept.next()) is not None:
            self.difference = Difference(line=self.lines + 1, kept=more, now=None)
        if self._kept is not None:
            self._kept.close()
        if self._draft is not None:
            self._draft.keep()

    def drop(self) -> None:
        """What is not closed by now never will be: what was written of it is thrown away."""
        if self._kept is not None:
            self._kept.close()
        if self._draft is not None:
            self._draft.drop()

    def _compare(self, kept: Line | None, now: Line) -> None:
        if kept != now:
            self.difference = Difference(line=self.lines, kept=kept, now=now)

    def _write(self, line: Head | Line) -> None:
        if self._out is not None:
            self._out.write(f"{msgspec.json.encode(line).decode()}\n")


class Draft:
    """A file that is written beside `path` and takes its place when it is whole: what stood there stays until then. What is no
    regular file (a pipe, a terminal) is written to at once."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        is_plain = self._path.is_file() or not self._path.exists()
        self._part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part") if is_plain else None
        self.file: TextIO = (self._part or self._path).open("w", encoding="utf-8")

    def keep(self) -> None:
        """All is written."""
        self.file.close()
        if self._part is not None:
            self._part.replace(self._path)
            self._part = None

    def drop(self) -> None:
        """Nothing of it is wanted, if it wasn't kept."""
        self.file.close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)


def head_of(path: Path) -> Head:
    """Of which run a trace is. Raises `RefusedError` (`no-trace`, `other-trace`)."""
    kept = Kept(path)
    kept.close()
    return kept.head


class Kept:
    """A trace of an earlier run, line by line: of the `wanted` one, if that is given. Raises `RefusedError` (`no-trace`,
    `other-trace`)."""

    def __init__(self, path: Path, wanted: Head | None = None) -> None:
        self._path, self._number = path, 1
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise self._refusal() from error
        try:
            self.head = self._head(self._file.readline(), wanted)
        except BaseException:
            self.close()
            raise

    def _head(self, text: bytes, wanted: Head | None) -> Head:
        try:
            version = msgspec.json.decode(text, type=_Version).trace
            head = msgspec.json.decode(text, type=Head) if version == VERSION else None
        except msgspec.MsgspecError as error:
            raise self._refusal() from error
        if head is None:
            why = (
                f"{self._path} is a trace of version {version}, and this Otaria reads version {VERSION}: write it anew."
            )
            raise RefusedError("other-trace", why)
        if wanted is not None and head != wanted:
            why = f"{self._path} is of {head.world} with seed {head.seed}; run that scenario and seed."
            raise RefusedError("other-trace", why)
        return head

    def next(self) -> Line | None:
        """None at the end."""
        text = self._file.readline()
        self._number += 1
        try:
            return msgspec.json.decode(text, type=Line) if text else None
        except msgspec.MsgspecError as error:
            raise self._refusal() from error

    def close(self) -> None:
        self._file.close()

    def _refusal(self) -> RefusedError:
        text = f"{self._path}, line {self._number}: this is no trace; `otaria sim run --exact NAME --trace FILE` writes one."
        return RefusedError("no-trace", text)


def _words(payload: bytes) -> tuple[str, bytes]:
    """What a message says, without its signatures; and `ask` where it is one, as these share a topic with reports. A signed one
    that was spoiled says nothing: what is left of its signature is in there."""
    try:
        envelope, words = read_envelope(payload)
    except OtariaError:
        return "", b"" if b'"sig' in payload else payload
    return ASK_KIND if envelope.get("payloadType") == payload_type(ASK_KIND) else "", words


def _shown(line: Line | None) -> str:
    return "nothing more" if line is None else json.dumps(msgspec.to_builtins(line), sort_keys=True)
