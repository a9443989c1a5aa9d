"""The boot files of a board, over `Effects`: requests, the loader's two state copies, and what this boot is.

Every read is bounded, because the other side may have written anything. The state copies are written one after the other, so
that a whole one is on the medium at any moment, and each alone is enough: else a copy that rusts would give attempts back.
"""

from pathlib import Path

import msgspec

from device_agent.boot.layout import Board
from device_agent.boot.loader import (
    MAX_REQUEST_BYTES,
    MAX_STATE_BYTES,
    Boot,
    Limits,
    LoaderState,
    Request,
    encode_state,
    newest,
    parse_request,
    refill,
    retire,
    settle,
)
from device_agent.ports import BootStatus, Effects, Slot
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import canonical, convert, parse_json

MAX_STATUS_BYTES = 4096
MAX_NOTE_BYTES = 256


def read_bounded(effects: Effects, path: Path, max_bytes: int) -> bytes | None:
    """At most `max_bytes` + 1 bytes of a file, or None when it is missing or cannot be read."""
    try:
        return effects.read_at(path, 0, max_bytes + 1)
    except OSError:
        return None


def read_request(effects: Effects, board: Board) -> Request | None:
    """The agent's request, or None when there is none that is well-formed."""
    return parse_request(read_bounded(effects, board.request, MAX_REQUEST_BYTES))


def read_state(effects: Effects, board: Board) -> LoaderState | None:
    """The loader's newest valid state, or None when both copies are lost."""
    return newest([read_bounded(effects, path, MAX_STATE_BYTES) for path in board.loader_copies])


def write_state(effects: Effects, board: Board, state: LoaderState) -> LoaderState:
    """Durably store the state as the next generation, the older copy first; returns what was stored.

    One copy that cannot be written is lived with; raises `OSError` when neither can.
    """
    stored = msgspec.structs.replace(state, generation=state.generation + 1)
    data, failures = encode_state(stored), []
    for path in sorted(board.loader_copies, key=lambda path: _generation(effects, path)):
        try:
            effects.replace(path, data)
        except OSError as error:
            failures.append(error)
    if len(failures) == len(board.loader_copies):
        raise failures[0]
    return stored


def _generation(effects: Effects, path: Path) -> int:
    state = newest([read_bounded(effects, path, MAX_STATE_BYTES)])
    return -1 if state is None else state.generation


def encode_status(status: BootStatus) -> bytes:
    """The bytes of `run/status.json`."""
    return canonical(msgspec.to_builtins(status))


def read_status(effects: Effects, board: Board) -> BootStatus:
    """What this boot is. Raises `UnavailableError` (`no-boot-status`) when no boot loader wrote it."""
    data = read_bounded(effects, board.status, MAX_STATUS_BYTES)
    try:
        return convert(parse_json(data or b"", max_bytes=MAX_STATUS_BYTES), BootStatus)
    except RefusedError as error:
        raise UnavailableError(
            "no-boot-status", f"There is no boot status in {board.status}; start the board with `otaria-agent board`."
        ) from error


def reboot_asked(effects: Effects, board: Board, boot_id: str) -> bool:
    """Whether this boot's agent asked for a reboot; what another boot left behind does not count."""
    return read_bounded(effects, board.reboot, MAX_NOTE_BYTES) == boot_id.encode()


def hear(
    effects: Effects, board: Board, state: LoaderState, boot: Boot, boot_id: str, limits: Limits | None = None
) -> LoaderState:
    """What the agent of the boot that runs asks for, taken into the state."""
    limits = limits or Limits()
    state = settle(state, read_request(effects, board), boot, limits)
    if (retired := read_bounded(effects, board.retired, MAX_NOTE_BYTES)) in {b"A", b"B"}:
        state = retire(state, Slot(retired.decode()))
    if read_bounded(effects, board.alive, MAX_NOTE_BYTES) == boot_id.encode():
        state = refill(state, limits)
    return state


def ended_cleanly(effects: Effects, board: Board) -> bool:
    """Whether the boot that was said last ended by a clean shutdown."""
    try:
        boot_id = read_status(effects, board).boot_id
    except UnavailableError:
        return False
    return read_bounded(effects, board.clean, MAX_NOTE_BYTES) == boot_id.encode()
