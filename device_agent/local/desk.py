"""Answers what is asked at the socket. Runs on the agent's own thread, between two events."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent.core import events as ev
from device_agent.core.states import Standing, Trial
from device_agent.core.vigil import why_no_way_back
from device_agent.local import requests
from device_agent.local.door import LocalAsk
from device_agent.local.requests import refusal
from device_agent.ports import HealthResult
from device_agent.runtime import Runtime
from device_agent.status import standing_facts
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.report import Reason
from firmware.protocol.words import ReasonKind

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Rights:
    """What the settings allow to ask for."""

    defer: bool = True
    commit: bool = False
    rollback: bool = False
    install: bool = True


class Desk:
    """Takes requests one by one. `facts`: what `status` says beside the standing, such as who the agent is."""

    def __init__(self, runtime: Runtime, rights: Rights, facts: Callable[[], dict[str, Any]] = dict) -> None:
        self._runtime, self._rights, self._facts = runtime, rights, facts

    def take(self, ask: LocalAsk) -> None:
        """Answer, now or when the checks have run. A journal that can't be written ends the agent, as ever."""
        if not isinstance(ask.request, requests.Status):
            log.info("asked at the device", extra={"request": type(ask.request).__name__, "uid": ask.uid})
        if isinstance(ask.request, requests.Health):
            if not self._runtime.check_now(lambda seen: ask.reply(_seen(seen))):
                ask.reply(
                    refusal(UnavailableError(ReasonKind.BUSY, "The checks are being run already; wait for them."))
                )
            return
        if isinstance(ask.request, requests.Install) and self._rights.install:
            self._runtime.bring(Path(ask.request.path), lambda became: ask.reply(_taken(became)))
            return
        try:
            answer = self._answer(ask)
        except RefusedError as error:
            answer = refusal(error)
        ask.reply(answer)

    def _answer(self, ask: LocalAsk) -> dict[str, Any]:
        request = ask.request
        if isinstance(request, requests.Defer):
            self._defer(request)
        elif isinstance(request, requests.Consent):
            self._consent(request)
        elif isinstance(request, requests.Commit):
            self._commit()
        elif isinstance(request, requests.Rollback):
            self._rollback(ask.uid)
        elif isinstance(request, requests.Install):
            _require(self._rights.install, "Installing from bundles is not allowed here: local.install is false.")
        return {"ok": True, **self._facts(), **standing_facts(self._standing, self._runtime.waiting_reports)}

    @property
    def _standing(self) -> Standing:
        return self._runtime.standing

    def _defer(self, request: requests.Defer) -> None:
        _require(self._rights.defer, "Putting off is not allowed here: local.max_defer_s is 0.")
        self._runtime.tell(ev.DeferAsked(seconds=request.seconds))

    def _consent(self, request: requests.Consent) -> None:
        held = getattr(self._standing.state, "held", None)
        if held is None:
            raise RefusedError("no-order", "There is no order to consent to.")
        if request.order not in (None, held.hash):
            raise RefusedError("wrong-order", f"The present order is {held.hash}; look at it again.")
        self._runtime.tell(ev.Consented(order_hash=held.hash))

    def _commit(self) -> None:
        _require(self._rights.commit, "An early commit is not allowed here: local.commit is false.")
        if not isinstance(self._standing.state, Trial):
            raise RefusedError("no-trial", "No trial runs, so there is nothing to commit.")
        self._runtime.tell(ev.CommitAsked())

    def _rollback(self, uid: int) -> None:
        _require(self._rights.rollback, "Going back is not allowed here: local.rollback is false.")
        reason = None if isinstance(self._standing.state, Trial) else why_no_way_back(self._standing)
        if reason is not None:
            raise RefusedError(reason.kind, reason.text)
        text = f"Somebody at the device (user id {uid}) asked for the previous release."
        self._runtime.tell(ev.RollbackAsked(reason=Reason(kind=ReasonKind.ROLLED_BACK_LOCALLY, text=text)))


def _require(allowed: bool, text: str) -> None:
    if not allowed:
        raise RefusedError("not-allowed", text)


def _taken(became: str | OtariaError) -> dict[str, Any]:
    """What became of a bundle's order."""
    return {"ok": True, "order": became} if isinstance(became, str) else refusal(became)


def _seen(result: HealthResult) -> dict[str, Any]:
    return {"ok": True, "healthy": result.healthy, "text": result.text}
