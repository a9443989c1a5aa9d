"""Passwords and private keys for boxes: from a file, the environment, or a command such as a vault's; read when they are needed,
kept nowhere, shown never."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from firmware.errors import RefusedError, UnavailableError

MAX_BYTES = 16384
COMMAND_S = 30.0
Argument = Annotated[str, Meta(min_length=1, max_length=512)]


class Secret:
    """A text that shows itself only to who asks for it by name."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__


class CredentialFrom(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a secret is: exactly one of a file that only we may read, a variable of the environment, or a command whose first
    output it is."""

    file: Annotated[str, Meta(max_length=1024, pattern=r"^[^\x00]*\Z")] = ""
    env: Annotated[str, Meta(max_length=256, pattern=r"^[A-Za-z0-9_]*\Z")] = ""
    command: Annotated[tuple[Argument, ...], Meta(max_length=32)] = ()


def require_one(what: str, given: CredentialFrom) -> None:
    """Raise `RefusedError` (`bad-config`) unless exactly one place is named."""
    if sum(map(bool, (given.file, given.env, given.command))) != 1:
        raise RefusedError("bad-config", f"{what}: name exactly one of file, env and command.")


def reader(directory: Path, given: CredentialFrom) -> Callable[[], Secret]:
    """Reads the secret anew at each call, so that it can be changed meanwhile. It raises `UnavailableError` (`no-credential`)."""

    def read() -> Secret:
        if given.env:
            return _checked(os.environ.get(given.env, ""), f"the variable {given.env}")
        if given.command:
            return _checked(_printed(given.command), f"the command {given.command[0]}")
        return _checked(_file(directory / given.file), str(directory / given.file))

    return read


def _file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise RefusedError("no-credential", f"Others may read {path}; `chmod 600` it.")
            return file.read(MAX_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UnavailableError("no-credential", f"{path} can't be read as text; check its path and owner.") from error


def _printed(argv: tuple[str, ...]) -> str:
    """The command's output; nothing of it is ever told to anybody."""
    try:
        ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_S, check=True)
        return ended.stdout[: MAX_BYTES + 1].decode()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        text = f"The command {argv[0]} for a box's credential did not end well ({type(error).__name__})."
        raise UnavailableError("no-credential", text) from None


def _checked(text: str, where: str) -> Secret:
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret or len(secret) > MAX_BYTES:
        raise UnavailableError("no-credential", f"There is no credential in {where}.")
    return Secret(secret if "PRIVATE KEY" not in secret else secret + "\n")
