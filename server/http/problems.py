"""Errors over HTTP: problem+json (RFC 9457) whose `type` is the stable kind and whose `detail` says what to do.

A client never sees a traceback; what we did not expect is logged with a reference that the client gets too.
"""

import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind
from server.errors import ConflictError, DeniedError, NotFoundError, StoreError
from server.http.limits import TooManyError

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Render = Callable[[int, str, str], web.Response]
"""(status, kind, sentence) → response."""

_OF_HTTP = {404: "not-found", 405: "method-not-allowed", 413: ReasonKind.TOO_LARGE, 415: "wrong-content-type"}
_MALFORMED = (ReasonKind.MALFORMED, "bad-cursor", "bad-query")
_STATUS = {
    "too-slow": 408,
    "changed-meanwhile": 412,
    "too-many-requests": 429,
    "wrong-tus-version": 412,
    "checksum-mismatch": 460,
}
_TITLES = {460: "Checksum Mismatch"}
"""Of tus, which Python does not know."""
_SENTENCES = {
    404: "There is nothing at this address.",
    405: "This address does not take that method.",
    413: "The request is larger than this address takes.",
}


def status_of(error: OtariaError) -> int:
    """The HTTP status of a typed error."""
    if isinstance(error, DeniedError):
        return 401 if error.kind == "unauthenticated" else 403
    if isinstance(error, NotFoundError):
        return 404
    if isinstance(error, ConflictError) or error.kind.endswith("-exists"):
        return 409
    if error.kind == ReasonKind.TOO_LARGE:
        return 413
    if error.kind in _STATUS:
        return _STATUS[error.kind]
    if error.kind in _MALFORMED:
        return 400
    if isinstance(error, RefusedError):
        return 422
    return 503 if isinstance(error, UnavailableError) else 500


def problem(status: int, kind: str, text: str) -> web.Response:
    """A problem+json response."""
    body = {"type": kind, "title": _TITLES.get(status) or HTTPStatus(status).phrase, "status": status, "detail": text}
    response = web.Response(status=status, body=json.dumps(body).encode(), content_type="application/problem+json")
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="otaria"'
    return response


def catching(render: Callable[[web.Request], Render]) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that turns every error into a response made by `render(request)`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except OtariaError as error:
            response = render(request)(status_of(error), error.kind, error.text)
            if isinstance(error, TooManyError | StoreError):
                response.headers["Retry-After"] = str(error.retry_after_s)
            return response
        except web.HTTPException as error:
            return _of_http(error, render(request))
        except (ConnectionResetError, TimeoutError):
            raise
        except Exception:
            reference = secrets.token_hex(4)
            log.exception("request failed", extra={"reference": reference, "path": request.path})
            text = f"The server met an error it did not expect; its log has the cause under {reference}."
            return render(request)(500, "internal", text)

    return middleware


def _of_http(error: web.HTTPException, render: Render) -> web.Response:
    if error.status < 400:
        raise error
    kind = _OF_HTTP.get(error.status, "bad-request")
    response = render(error.status, kind, _SENTENCES.get(error.status, error.reason))
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response
