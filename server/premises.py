"""What a server holds on this machine before anything else: its state directory, whose lock it has alone, its name among the
servers of its fleet, and the two sockets it listens on."""

import fcntl
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware.errors import RefusedError, UnavailableError
from server.config import Address
from server.identity.private_files import write_private

NAME_FILE = "server.id"


def make_state(state: Path) -> None:
    """Make the state directory and see that it can be written; raises `UnavailableError` (`state-unusable`)."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (state / "server.lock").touch(mode=0o600)
    except OSError as error:
        why = error.strerror or str(error)
        text = f"`server.state` is {state}, which cannot be used ({why}); name a directory that this user may write."
        raise UnavailableError("state-unusable", text) from error


@contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the state directory's lock; raises `RefusedError` (`already-running`)."""
    with (state / "server.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RefusedError(
                "already-running", f"Another server runs on {state}; stop it first or use another state directory."
            ) from error
        yield


def name_of(state: Path) -> str:
    """The same for every server that ever ran on this directory of this host, which its lock lets be one at a time. The caller
    holds the lock."""
    path = state / NAME_FILE
    if not path.exists():
        write_private(path, secrets.token_hex(8).encode())
    return f"{socket.gethostname()}/{path.read_text(encoding='utf-8').strip()}"


@contextmanager
def listening(address: Address, name: str) -> Iterator[socket.socket]:
    """Listen on the address of the setting called `name`; raises `UnavailableError` (`address-in-use`)."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server((address.host, address.port), family=family, backlog=512)
    except OSError as error:
        text = f"`{name}` cannot listen on {address.authority}: {error.strerror or error}."
        raise UnavailableError("address-in-use", text) from error
    with listener:
        yield listener


def bound(wanted: Address, listener: socket.socket) -> Address:
    """The address with the port that it became."""
    return Address(host=wanted.host, port=int(listener.getsockname()[1]))
