"""Logs of targets, when a person asks for them, or a campaign as evidence.

The request waits here until it is answered or over: it is signed and sent at once, and anew, under a higher counter, when the
agent is heard again. Only parts that the target's own report key signed, of the request signed last, are taken; the text
they make is kept for people, without what could steer a terminal: a target's latest few, and all that is evidence.
"""

import hashlib
from collections.abc import Callable, Sequence

from firmware.errors import RefusedError
from firmware.protocol.logs import MAX_LOG_BYTES, LogPart, LogRequest, What
from firmware.protocol.order import Counter
from firmware.protocol.topics import Leaf, of_target
from server.campaigns.director import Director
from server.campaigns.standing import view_of
from server.errors import NotFoundError
from server.identity.secrets import new_id
from server.planner.commands import Capture
from server.ports import AgentStatus, Clock, Database, LogAsk, LogState, Unit

TTL_S = 7 * 86400
AGAIN_S = 60.0
"""A request isn't signed anew more often than this."""
MAX_WAITING = 3
EVIDENCE_BYTES = 64 << 10
"""Of each target of a campaign; they are kept."""
KEEP_EACH = 10
MAX_N = (1 << 53) - 1


class LogService:
    """Asks targets for their logs."""

    def __init__(
        self, database: Database, clock: Clock, director: Director, *, on_outbox: Callable[[], None] = lambda: None
    ) -> None:
        """`on_outbox` is told when there is something to send."""
        self._database, self._clock, self._director, self._on_outbox = database, clock, director, on_outbox

    async def ask(
        self, target: str, what: Sequence[What], *, max_bytes: int = MAX_LOG_BYTES, expires_s: int = TTL_S, by: str
    ) -> LogAsk:
        """Ask a target; returns the request as it waits. Raises `NotFoundError`, `RefusedError` (`agent-not-active`,
        `too-many-requests`)."""
        now = self._clock.now()
        ask = await self._database.write(lambda unit: self._ask(unit, target, what, max_bytes, expires_s, by, now))
        self._on_outbox()
        return ask

    def _ask(
        self, unit: Unit, name: str, what: Sequence[What], max_bytes: int, expires_s: int, by: str, now: float
    ) -> LogAsk:
        target = view_of(unit, name)
        if target.status is not AgentStatus.ACTIVE:
            raise RefusedError("agent-not-active", f"{name} is {target.status}; it is asked nothing.")
        if sum((one.target, one.campaign) == (name, None) for one in unit.logs.waiting(target.agent)) >= MAX_WAITING:
            text = f"{MAX_WAITING} requests for logs wait for {name} already; wait for their answers."
            raise RefusedError("too-many-requests", text)
        ask = LogAsk(
            id=new_id("log"),
            target=name,
            agent=target.agent,
            what=[one.value for one in dict.fromkeys(what)],
            max_bytes=max_bytes,
            asked_by=by,
            asked_at=now,
            expires_at=now + expires_s,
            counter=_next(unit, name, self._director.epoch, now),
            sent_at=now,
        )
        unit.logs.add(ask)
        _send(unit, self._director, ask, now)
        _tell(unit, ask, "logs-asked", f"{by} asked {name} for its logs: {', '.join(ask.what)}.", now, actor=by)
        return ask


def capture(unit: Unit, director: Director, command: Capture, change_id: str | None, now: float) -> None:
    """Ask a target for its logs as a campaign's evidence. One that may be asked nothing answers nothing."""
    target = unit.fleet.target(command.target)
    if target is None or target.status is not AgentStatus.ACTIVE:
        return
    ask = LogAsk(
        id=new_id("log"),
        target=command.target,
        agent=target.agent,
        what=list(command.what),
        max_bytes=EVIDENCE_BYTES,
        asked_by=f"campaign {command.campaign}",
        asked_at=now,
        expires_at=now + command.within_s,
        counter=_next(unit, command.target, director.epoch, now),
        sent_at=now,
        campaign=command.campaign,
        change_id=change_id,
    )
    unit.logs.add(ask)
    _send(unit, director, ask, now)
    text = f"{command.target} was asked for its logs before it may restart: {', '.join(ask.what)}."
    _tell(unit, ask, "evidence-asked", text, now, actor="planner")


def found(unit: Unit, ask_id: str) -> tuple[LogAsk, str | None]:
    """A request and, once answered, its text; raises `NotFoundError`."""
    ask = unit.logs.get(ask_id)
    if ask is None:
        raise NotFoundError(f"There is no request for logs {ask_id}; it may have been forgotten.")
    return ask, unit.logs.text(ask_id)


def ask_again(unit: Unit, director: Director, agent: str, now: float) -> None:
    """Sign what waits for this agent anew, when that was long enough ago."""
    for ask in unit.logs.waiting(agent):
        if ask.expires_at > now and now - ask.sent_at >= AGAIN_S:
            counter = _next(unit, ask.target, director.epoch, now)
            unit.logs.sent_again(ask.id, counter, now)
            again = unit.logs.get(ask.id)
            if again is not None:
                _send(unit, director, again, now)


def take_part(unit: Unit, part: LogPart, now: float) -> str | None:
    """Take a verified part in; why it is dropped, or None."""
    ask = unit.logs.get(part.id)
    if ask is None or ask.state is not LogState.WAITING:
        return "log-not-asked"
    if (ask.agent, ask.target, ask.counter) != (part.agent, part.target, part.counter):
        return "log-not-asked"
    if part.reason is not None:
        reason = part.reason
        unit.logs.close(ask.id, LogState.REFUSED, now, text="", reason_kind=reason.kind, reason=_plain(reason.text))
        _tell(unit, ask, f"{_word(ask)}-refused", f"{ask.target} gives no logs: {_plain(reason.text)}", now)
        return None
    parts = unit.logs.add_part(ask.id, part.index, part.data)
    if sum(len(one) for one in parts) > ask.max_bytes:
        text = "It sent more than it was asked for."
        unit.logs.close(ask.id, LogState.REFUSED, now, text="", reason_kind="too-large", reason=text)
        return "log-too-large"
    if len(parts) == part.count:
        text = _plain(b"".join(parts).decode(errors="replace"))
        unit.logs.close(ask.id, LogState.ANSWERED, now, text=text, reason_kind="none", reason="")
        body = text.encode()
        said, digest = f"{ask.target} sent its logs, {len(body)} bytes.", hashlib.sha256(body).hexdigest()
        _tell(unit, ask, f"{_word(ask)}-answered", said, now, sha256=digest)
    return None


def _next(unit: Unit, target: str, epoch: int, now: float) -> Counter:
    """Above every counter that is known, and above those that a restored server has forgotten: time goes on."""
    known = unit.logs.highest(target)
    n = known.n if known is not None and known.epoch == epoch else 0
    return Counter(epoch=epoch, n=min(max(n + 1, int(now)), MAX_N))


def _send(unit: Unit, director: Director, ask: LogAsk, now: float) -> None:
    request = LogRequest(
        target=ask.target,
        agent=ask.agent,
        id=ask.id,
        counter=ask.counter,
        what=[What(one) for one in ask.what],
        max_bytes=ask.max_bytes,
        issued_at=int(now),
        expires_at=int(ask.expires_at),
    )
    topic = of_target(ask.agent, ask.target, Leaf.LOGS)
    unit.outbox.add(topic, director.sign_log_request(request), expires_at=now + AGAIN_S)


def _plain(text: str) -> str:
    """The text without what could steer a terminal or a page."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text)


def _word(ask: LogAsk) -> str:
    return "logs" if ask.campaign is None else "evidence"


def _tell(unit: Unit, ask: LogAsk, kind: str, text: str, now: float, *, actor: str = "ingest", **data: str) -> None:
    unit.audit.add(
        at=now,
        kind=kind,
        text=text[:1000],
        actor=actor,
        change_id=ask.change_id,
        campaign=ask.campaign,
        target=ask.target,
        data={"request": ask.id, **data},
    )
