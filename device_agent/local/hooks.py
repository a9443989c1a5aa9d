"""Programs of the device that run around an update: named in the settings, or put into a directory.

| exit code | of a `before-…` hook means |
|---|---|
| 0 | go on |
| 75 (EX_TEMPFAIL) | not now: asked again later |
| 77 (EX_NOPERM) | never: the order is refused, a trial is given up |
| any other, or its timeout | it failed: asked again later |

Each runs with a timeout in a process group of its own and without the agent's environment. A hook may run again: after a power
cut, a restart of the agent, or when something else made the step wait. It must bear that. What others may write is not run.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from device_agent.process import run_bounded

LATER, NEVER = 75, 77
MAX_HOOKS = 32
KEPT_BYTES = 700
VALUE_CHARS = 512


class Point(StrEnum):
    """When hooks run."""

    BEFORE_DOWNLOAD = "before-download"
    BEFORE_INSTALL = "before-install"
    AFTER_DOWNLOAD = "after-download"
    AFTER_INSTALL = "after-install"
    BEFORE_ACTIVATION = "before-activation"
    AFTER_ACTIVATION = "after-activation"
    BEFORE_COMMIT = "before-commit"
    AFTER_COMMIT = "after-commit"
    ON_FAILURE = "on-failure"


@dataclass(frozen=True, kw_only=True)
class Hook:
    """One configured hook."""

    at: Point
    argv: tuple[str, ...]
    timeout_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the hooks of one point said: `code` of the first that didn't end with 0 (None: killed, or not run), and a text."""

    code: int | None = 0
    text: str = ""

    @property
    def fine(self) -> bool:
        return self.code == 0


class Hooks:
    """The device's hooks. `directory` may hold a program named after a point, and a folder `POINT.d` of them."""

    def __init__(self, hooks: Sequence[Hook] = (), directory: Path | None = None, *, timeout_s: float = 60.0) -> None:
        self._hooks, self._directory, self._timeout_s = tuple(hooks), directory, timeout_s

    def has(self, point: Point) -> bool:
        """Whether there may be hooks at this point; a directory's programs may come and go."""
        return self._directory is not None or any(hook.at is point for hook in self._hooks)

    def run(
        self, point: Point, facts: Mapping[str, str], stop: Callable[[], bool], *, to_the_end: bool = False
    ) -> Said:
        """Run the point's hooks, the configured first, then by name; the first that doesn't end with 0 ends it. `to_the_end`:
        run them all, and give back what all of them printed."""
        environment = {f"OTARIA_{name.upper()}": _plain(value) for name, value in facts.items()}
        environment["OTARIA_HOOK"] = point.value
        said = Said()
        texts = []
        for hook in self._found(point):
            one = hook if isinstance(hook, Said) else self._one(hook, environment, stop)
            texts.append(one.text)
            said = said if not said.fine else one
            if not one.fine and not to_the_end:
                return one
        return Said(code=said.code, text="\n".join(text for text in texts if text)) if to_the_end else said

    def _one(self, hook: Hook, environment: Mapping[str, str], stop: Callable[[], bool]) -> Said:
        end = time.monotonic() + hook.timeout_s
        ended = run_bounded(
            hook.argv, lambda: stop() or time.monotonic() >= end, environment=environment, kept_bytes=KEPT_BYTES
        )
        name = f"Hook {hook.at.value} ({Path(hook.argv[0]).name[:64]})" if hook.argv else f"Hook {hook.at.value}"
        if ended.error:
            return Said(code=None, text=f"{name} failed: {ended.error}.")
        if ended.code is None:
            why = "the agent stopped" if stop() else f"it did not end within {hook.timeout_s:g} s"
            return Said(code=None, text=f"{name} was killed because {why}{ended.said}.")
        if ended.code == 0:
            return Said(text=ended.output)
        return Said(code=ended.code, text=f"{name} ended with {ended.code}{ended.said}.")

    def _found(self, point: Point) -> Iterator[Hook | Said]:
        yield from (hook for hook in self._hooks if hook.at is point)
        if self._directory is None:
            return
        try:
            programs = sorted(self._programs(self._directory, point))
        except OSError as error:
            yield Said(code=None, text=f"The hooks in {self._directory} can't be read: {error.strerror}.")
            return
        for program in programs[:MAX_HOOKS]:
            bad = _bad(self._directory) or _bad(program.parent) or _bad(program)
            if bad:
                yield Said(code=None, text=f"{program} is not run: {bad}.")
            else:
                yield Hook(at=point, argv=(str(program),), timeout_s=self._timeout_s)

    def _programs(self, directory: Path, point: Point) -> Iterator[Path]:
        single, folder = directory / point.value, directory / f"{point.value}.d"
        if single.exists():
            yield single
        if folder.is_dir():
            yield from (path for path in folder.iterdir() if not path.name.startswith(".") and os.access(path, os.X_OK))


def _bad(path: Path) -> str:
    """Why a program, or the folder it is in, is not to be trusted."""
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write {path}; take that right away"
    return ""


def _plain(value: str) -> str:
    """A value that fits into an environment."""
    return value.replace("\0", "").encode(errors="replace").decode()[:VALUE_CHARS]
