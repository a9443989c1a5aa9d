"""What may be asked at the agent's socket: one JSON object a line, one line back. Everything is bounded; what isn't asked rightly
is refused with a kind and a sentence, and nothing comes of it."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from firmware.errors import OtariaError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import Sha256

MAX_REQUEST_BYTES = 4096
MAX_DEFER_S = 366 * 86400


class Status(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="ask", tag="status"):
    """Where the agent stands."""


class Subscribe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="ask", tag="subscribe"):
    """From now on a line for every change of state, and for the progress of a download."""


class Defer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="ask", tag="defer"):
    """Put off activations for so long."""

    seconds: Annotated[float, Meta(gt=0, le=MAX_DEFER_S)]


class Consent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="ask", tag="consent"):
    """Agree to the present order, or to none but the one of this hash."""

    order: Sha256 | None = None


class Health(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="ask", tag="health"):
    """Run the checks of what runs now."""


class Commit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="ask", tag="commit"):
    """Commit the trial as soon as its checks pass, if the settings allow it."""


class Rollback(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="ask", tag="rollback"):
    """Go back to the previous release, if the settings allow it."""


class Install(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="ask", tag="install"):
    """Take up the order for this target in the bundle at this absolute path."""

    path: Annotated[str, Meta(max_length=2048, pattern=r"^/[^\x00]+\Z")]


Request = Status | Subscribe | Defer | Consent | Health | Commit | Rollback | Install


def parse_request(line: bytes) -> Request:
    """The request in a line; raises `RefusedError` (`too-large`, `malformed`)."""
    request: Request = convert(parse_json(line, max_bytes=MAX_REQUEST_BYTES), Request)  # type: ignore[arg-type]
    return request


def refusal(error: OtariaError) -> dict[str, Any]:
    """The answer that says no."""
    return {"ok": False, "error": error.kind, "text": error.text}


def encode_line(value: object) -> bytes:
    """One line of the protocol."""
    return canonical(value) + b"\n"
