"""The worker's side: answers each call on a thread of its own, and ends with its socket.

A defect ends the process: whoever asked hears that it is gone. Nobody else than the process that started us can ask.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from device_agent.install.blocks import BlockSource
from device_agent.ports import Catalogue, Installer, Notary
from device_agent.transport.ways import Way
from device_agent.worker.orders import Recheck
from device_agent.worker.wire import (
    DOWN,
    Answered,
    Asked,
    Block,
    Bring,
    Check,
    Down,
    Facts,
    Failed,
    Halt,
    Knock,
    LookUp,
    Meet,
    Read,
    Refresh,
    Renew,
    Seal,
    Stage,
    Told,
    Up,
    UseHeld,
    Verify,
    encode,
    read_frame,
)
from firmware.errors import OtariaError, RefusedError
from firmware.protocol.words import ReasonKind

log = logging.getLogger(__name__)
MAX_CALLS = 16
TELL_EVERY_S = 5.0
DEFECT = 70


class Looks(Protocol):
    """Who renews the certificate; see `Renewer.look`."""

    def look(self, trusted_time: float) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What calls are answered with. `facts` are those of now; `set_out` is told time and way of every call; `renewed` that
    another certificate is in use, `brought` that a bundle came."""

    notary: Notary
    catalogue: Catalogue
    installer: Installer
    recheck: Recheck
    renewer: Looks
    answers: Callable[[Way], bool]
    blocks: BlockSource
    facts: Callable[[], Facts]
    set_out: Callable[[float, Way], None]
    renewed: Callable[[], None]
    brought: Callable[[], None]


class Service:
    """Serves one connection until it ends."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._sending = connection, threading.Lock()
        self._stops: dict[int, threading.Event] = {}

    def say(self, frame: Up) -> None:
        """Send a frame; the process ends when nobody takes it."""
        data = encode(frame)
        try:
            with self._sending:
                self._connection.sendall(data)
        except OSError:
            os._exit(0)

    def serve(self, tools: Tools) -> None:
        """Answer until the other side is gone."""
        self.say(tools.facts())
        while (frame := read_frame(self._connection, DOWN)) is not None:
            self._take(frame, tools)

    def _take(self, frame: Down, tools: Tools) -> None:
        if isinstance(frame, Block):
            tools.blocks.receive(frame.payload)
        elif isinstance(frame, Halt):
            self._stops.get(frame.number, threading.Event()).set()
        elif len(self._stops) < MAX_CALLS:
            self._stops[frame.number] = threading.Event()
            threading.Thread(target=self._answer, args=(frame, tools), daemon=True).start()
        else:
            self.say(
                Failed(number=frame.number, kind=ReasonKind.WORKER_ENDED, text="The agent's worker has too much to do.")
            )

    def _answer(self, asked: Asked, tools: Tools) -> None:
        number = asked.number
        try:
            tools.set_out(asked.trusted_time, asked.way)
            value = self._do(asked, tools)
            answer: Up = Answered(number=number, value=msgspec.Raw(msgspec.msgpack.encode(value)))
        except OtariaError as error:
            refused = isinstance(error, RefusedError)
            answer = Failed(number=number, kind=error.kind, text=error.text, is_refused=refused)
        except OSError as error:
            answer = Failed(
                number=number, kind=ReasonKind.STORAGE_FAULT, text=error.strerror or str(error), error=error.errno
            )
        except BaseException:
            log.exception("a defect ends the worker")
            os._exit(DEFECT)
        self._stops.pop(number, None)
        self.say(answer)

    def _do(self, asked: Asked, tools: Tools) -> Any:
        call = asked.call
        if isinstance(call, Meet):
            return None
        if isinstance(call, Verify):
            return tools.notary.verify(call.envelope, call.kind, max_bytes=call.max_bytes)
        if isinstance(call, Seal):
            return tools.notary.seal(call.payload, call.kind)
        if isinstance(call, Refresh | UseHeld | Bring):
            try:
                return _refresh(call, asked.trusted_time, tools)
            finally:
                self.say(tools.facts())
        if isinstance(call, LookUp):
            return tools.catalogue.file(call.path)
        if isinstance(call, Read):
            return tools.catalogue.manifest(call.file)
        if isinstance(call, Stage):
            return self._stage(asked.number, call, tools)
        if isinstance(call, Check):
            return tools.installer.verify(call.slot, call.manifest)
        if isinstance(call, Renew):
            is_new = tools.renewer.look(asked.trusted_time)
            if is_new:
                tools.renewed()
            return is_new
        assert isinstance(call, Knock)  # noqa: S101  # the last of the union
        return tools.answers(call.way)

    def _stage(self, number: int, call: Stage, tools: Tools) -> dict[str, object]:
        """Stage what the order asks for, after it was verified here as well."""
        order, manifest = tools.recheck(call.envelope)
        life = _Life(self, number, self._stops[number])
        return tools.installer.stage(
            order, manifest, active=call.active, on_progress=life.tell, stop=life.is_over, envelope=call.envelope
        )


def _refresh(call: Refresh | UseHeld | Bring, now: float, tools: Tools) -> None:
    """Bring the catalogue up to date, by the way that the call says."""
    if isinstance(call, Refresh):
        tools.catalogue.refresh(now)
    elif isinstance(call, UseHeld):
        tools.catalogue.use_held(now)
    else:
        tools.catalogue.bring(Path(call.path), call.envelope, now)
        tools.brought()


class _Life:
    """Says how a long call goes on, and hears that it is to end."""

    def __init__(self, service: Service, number: int, stop: threading.Event) -> None:
        self._service, self._number, self._stop = service, number, stop
        self._said_at = float("-inf")

    def tell(self, done: int, total: int) -> None:
        self._say(Told(number=self._number, done=done, total=total))

    def is_over(self) -> bool:
        """Asked at every chunk, so it also shows that we live."""
        if time.monotonic() - self._said_at > TELL_EVERY_S:
            self._say(Told(number=self._number))
        return self._stop.is_set()

    def _say(self, told: Told) -> None:
        self._said_at = time.monotonic()
        self._service.say(told)
