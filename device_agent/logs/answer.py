"""Whether a request for logs is answered, and with what parts."""

from collections.abc import Mapping, Sequence

from device_agent.identity import Identity
from device_agent.logs.redact import redacted
from device_agent.ports import Verifier
from firmware.errors import RefusedError
from firmware.protocol.logs import MAX_REQUEST_BYTES, PART_BYTES, REQUEST_KIND, LogPart, LogRequest, What
from firmware.protocol.order import Counter
from firmware.protocol.report import Reason
from firmware.protocol.unverified import read_unverified
from firmware.protocol.words import ReasonKind


def open_request(data: bytes, verifier: Verifier, identity: Identity) -> LogRequest:
    """The verified request, for this target and of the director's own epoch.

    Raises `RefusedError` (`too-large`, `malformed`, `wrong-target`, `bad-signature`) or `UnavailableError`.
    """
    request = read_unverified(data, REQUEST_KIND, LogRequest, max_bytes=MAX_REQUEST_BYTES).message
    if (request.target, request.agent) != (identity.target, identity.agent):
        raise RefusedError(ReasonKind.WRONG_TARGET, "The request for logs is for another target.")
    director = verifier.verify(data, REQUEST_KIND, max_bytes=MAX_REQUEST_BYTES)
    if request.counter.epoch != director.epoch:
        raise RefusedError(ReasonKind.BAD_SIGNATURE, "The request for logs is of another director epoch.")
    return request


def stale(request: LogRequest, taken: Counter | None, trusted_time: float) -> bool:
    """Whether it was taken before, or is too old: such a request gets no answer at all."""
    return (taken is not None and request.counter <= taken) or request.expires_at <= trusted_time


def refusal(request: LogRequest, kind: str, text: str) -> list[LogPart]:
    """The one part that says no."""
    return [_part(request, 0, 1, b"", Reason(kind=kind, text=text))]


def parts(request: LogRequest, lines: Mapping[What, Sequence[str]]) -> list[LogPart]:
    """The answer: each log under its own heading, without secrets, the latest lines that fit into equal shares."""
    share = request.max_bytes // len(request.what)
    text = b"".join(_section(what, lines.get(what, ()), share) for what in dict.fromkeys(request.what))
    chunks = [text[at : at + PART_BYTES] for at in range(0, len(text), PART_BYTES)] or [b""]
    return [_part(request, index, len(chunks), chunk) for index, chunk in enumerate(chunks)]


def _section(what: What, lines: Sequence[str], most: int) -> bytes:
    """A heading and the latest lines, at most so many bytes. Secrets go before anything is cut: half a key is one, too."""
    heading = f"== {what.value} ==\n".encode()
    body = redacted("\n".join(lines)).encode(errors="replace") + b"\n"
    room = most - len(heading)
    if room <= 0:
        return b""
    if len(body) > room:
        body = body[len(body) - room :]
        _, _, rest = body.partition(b"\n")
        body = rest or body
    return heading + body


def _part(request: LogRequest, index: int, count: int, data: bytes, reason: Reason | None = None) -> LogPart:
    return LogPart(
        target=request.target,
        agent=request.agent,
        id=request.id,
        counter=request.counter,
        index=index,
        count=count,
        data=data,
        reason=reason,
    )
