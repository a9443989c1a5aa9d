"""The other side of the agent's socket: what `otaria-agent` asks a running agent."""

import socket
from pathlib import Path
from typing import Any

from device_agent.config import load_config
from device_agent.local.door import address_of
from device_agent.local.requests import Request, encode_line
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import parse_json

MAX_ANSWER_BYTES = 1 << 20
CONNECT_S = 5.0
ANSWER_S = 20.0


def socket_of(directory: Path) -> Path | None:
    """Where the agent of this directory listens, or None when it is not to."""
    named = load_config(directory).local.socket
    return directory.absolute() / named if named else None


def ask(directory: Path, request: Request, *, answer_s: float = ANSWER_S) -> dict[str, Any]:
    """The running agent's answer. Raises `UnavailableError` (`agent-not-running`, `no-answer`) and `RefusedError` with the kind
    that the agent gave."""
    path = socket_of(directory)
    if path is None:
        raise UnavailableError("agent-not-running", "The agent has no socket; set local.socket in agent.toml.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_S)
        try:
            with address_of(path) as address:
                connection.connect(address)
        except OSError as error:
            text = f"No agent answers at {path} ({error.strerror or error}); start it, or become a user who may ask it."
            raise UnavailableError("agent-not-running", text) from error
        answer = _exchange(connection, request, answer_s)
    if answer.get("ok") is not True:
        raise RefusedError(str(answer.get("error", "refused")), str(answer.get("text", "The agent refused.")))
    return answer


def _exchange(connection: socket.socket, request: Request, answer_s: float) -> dict[str, Any]:
    try:
        connection.settimeout(answer_s)
        connection.sendall(encode_line(request))
        with connection.makefile("rb") as reader:
            line = reader.readline(MAX_ANSWER_BYTES)
    except OSError as error:
        raise UnavailableError("no-answer", f"The agent did not answer ({error.strerror or error}).") from error
    if not line.endswith(b"\n"):
        raise UnavailableError("no-answer", "The agent hung up before it answered.")
    return parse_json(line, max_bytes=MAX_ANSWER_BYTES)
