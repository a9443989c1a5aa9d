"""`otaria-agent install` and `report`: what a person with a stick types at the device.

With an agent running, it does the work and is asked through its socket. Without one, the same agent runs here for as long as the
order takes, and is asked directly: one process owns the journal, either way.
"""

import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_agent.bundle.returns import text_of, write_reports
from device_agent.core.states import Committed, Failed, FellBack, Refused, word_of
from device_agent.effects import FileEffects
from device_agent.identity import load_identity
from device_agent.journal import Journal, Record
from device_agent.local.client import ask as ask_at_socket
from device_agent.local.door import LocalAsk
from device_agent.local.requests import Install, Request, Status
from device_agent.loop import AgentLoop
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.words import AgentState, ReasonKind

INSTALL_S = 600.0
LOOK_EVERY_S = 0.2
AWAY_S = 600.0
ENDED = frozenset({"committed", "fell_back", "failed", "refused", "cancelled"})
LEAVING = frozenset({"activating", "trial"})
_WHY = {
    ReasonKind.UNREACHABLE: "The bundle can't be read now. Put the stick back: it goes on by itself, or with the same command.",
    ReasonKind.ARTIFACT_CHANGED: "The bundle holds other bytes than were signed. Copy it again, or make another one.",
}
Ask = Callable[[Request], dict[str, Any]]
Tell = Callable[[dict[str, Any]], None]
"""Told of each new state."""


def install(directory: Path, path: Path, tell: Tell, *, wait: bool) -> dict[str, Any]:
    """Have the order in a bundle taken up; with `wait`, or without a running agent, until it ended. What the agent says then.

    Raises `RefusedError` when it is not taken up, and `UnavailableError` for what keeps it waiting.
    """
    request = Install(path=str(path.absolute()))

    def at_socket(asked: Request) -> dict[str, Any]:
        return ask_at_socket(directory, asked, answer_s=INSTALL_S)

    try:
        order = str(at_socket(request)["order"])
    except UnavailableError as error:
        if error.kind != "agent-not-running":
            raise
        return _install_alone(directory, request, tell)
    return _follow(at_socket, order, tell) if wait else at_socket(Status())


def reports_to(directory: Path, folder: Path) -> Path:
    """Write the reports that wait into a folder; the file."""
    directory = directory.absolute()
    return write_reports(FileEffects(), folder.absolute(), load_identity(directory).target, _record(directory).outbox)


def reports_as_text(directory: Path) -> list[str]:
    """The reports that wait, as the parts of a text."""
    return text_of(_record(directory.absolute()).outbox)


def code_of(directory: Path) -> str:
    """The typed code about the order that ended last. Raises `RefusedError` (`no-code`)."""
    from device_agent.decryption import DECRYPTION_KEY_FILE, DecryptionKey

    directory = directory.absolute()
    state = _record(directory).standing.state
    if not isinstance(state, Committed | FellBack | Failed | Refused) or state.held is None:
        raise RefusedError("no-code", "No order has ended here, so there is nothing to say about one.")
    held = state.held
    if held.order.code_key is None:
        raise RefusedError("no-code", "The order that ended brought no key for a code; use --text or --qr instead.")
    path = directory / DECRYPTION_KEY_FILE
    if not path.exists():
        raise RefusedError(
            "no-code", "This device has lost its key, so it can make no code; use --text or --qr instead."
        )
    return DecryptionKey.load_or_make(FileEffects(), path).code(held.order, held.hash, AgentState(word_of(state)))


def _install_alone(directory: Path, request: Install, tell: Tell) -> dict[str, Any]:
    """Run the directory's agent here until the order ended, or the device restarts into the new slot."""
    from device_agent.app import compose, serve, sole_agent

    with sole_agent(directory):
        agent = compose(directory)
        ends: queue.SimpleQueue[dict[str, Any] | OtariaError] = queue.SimpleQueue()
        watcher = threading.Thread(target=lambda: _watch(agent.loop, request, tell, ends), name="install", daemon=True)
        watcher.start()
        serve(agent)
    try:
        end = ends.get_nowait()
    except queue.Empty:
        text = "It was stopped before the order ended; the agent goes on with it when it runs again."
        raise UnavailableError(ReasonKind.INTERRUPTED, text) from None
    if isinstance(end, OtariaError):
        raise end
    return end


def _watch(
    loop: AgentLoop, request: Install, tell: Tell, ends: "queue.SimpleQueue[dict[str, Any] | OtariaError]"
) -> None:
    def ask(asked: Request) -> dict[str, Any]:
        answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        loop.ask(LocalAsk(request=asked, uid=os.getuid(), reply=answers.put))
        answer = answers.get(timeout=INSTALL_S)
        if answer.get("ok") is not True:
            raise RefusedError(str(answer["error"]), str(answer["text"]))
        return answer

    try:
        ends.put(_follow(ask, str(ask(request)["order"]), tell, until=ENDED | LEAVING))
    except OtariaError as error:
        ends.put(error)
    finally:
        loop.stop()


def _follow(ask: Ask, order: str, tell: Tell, until: frozenset[str] = ENDED) -> dict[str, Any]:
    """What the agent says once the order is in one of these states. An agent that is away restarts; it is waited for."""
    last, seen_at = "", time.monotonic()
    while True:
        try:
            status = ask(Status())
        except UnavailableError:
            if time.monotonic() - seen_at > AWAY_S:
                raise
            time.sleep(LOOK_EVERY_S)
            continue
        seen_at = time.monotonic()
        if status["order"] != order:
            text = "Another order took its place; `otaria-agent status` says which."
            raise UnavailableError(ReasonKind.SUPERSEDED, text)
        if status["state"] != last:
            last = status["state"]
            tell(status)
        if last in until:
            return status
        why = status["waits_because"]
        if why in _WHY:
            raise UnavailableError(why, _WHY[why])
        time.sleep(LOOK_EVERY_S)


def _record(directory: Path) -> Record:
    record = Journal(FileEffects(), directory).load()
    if record is None:
        raise RefusedError("no-reports", "The agent never ran here, so there is nothing to report.")
    return record
