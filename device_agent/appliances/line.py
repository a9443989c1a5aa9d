"""The connection to a box as drivers see it: commands go in, bounded output comes out. `ssh_line` makes it of SSH."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_OUTPUT_BYTES = 4 << 20
"""Of one command. A running configuration of a large router has some hundred thousand bytes."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command printed. `status`: its exit status, None where there is none; `dropped`: why the connection ended by it,
    empty when it goes on."""

    lines: tuple[str, ...]
    status: int | None = None
    dropped: str = ""


Reply = tuple[str, str]
"""A pattern of a question, and what to say to it."""


class Line(Protocol):
    """One open connection to a box."""

    async def run(self, command: str, *, timeout_s: float, replies: Sequence[Reply] = ()) -> Said:
        """Say a command and wait for its end. Raises `UnavailableError` (`box-timeout`) when there is none in time, and
        `RefusedError` (`box-flood`) when the box prints without end; the connection is of no use then."""
        ...

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
        """Upload a file. `resume`: what is there is its beginning. Raises `UnavailableError` (`box-transfer`, `interrupted`)."""
        ...

    async def put_scp(
        self, local: Path, remote: str, *, stall_s: float, on_bytes: Callable[[int], None], stop: Callable[[], bool]
    ) -> None:
        """Upload a file from its beginning."""
        ...

    async def close(self) -> None:
        """End the connection; what runs on the box by it may end too."""
        ...


class Lines(Protocol):
    """Opens connections to one box."""

    async def open(self) -> Line:
        """Connect and log in. Raises `UnavailableError` (`box-unreachable`), or `RefusedError` (`box-host-key`, `box-login`)."""
        ...
