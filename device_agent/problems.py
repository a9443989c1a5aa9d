"""The server's refusals over HTTPS, as typed errors."""

import re
from typing import Any

from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.codec import parse_json
from firmware.protocol.words import KIND_PATTERN

MAX_PROBLEM_BYTES = 8192
_KIND = re.compile(KIND_PATTERN)


def problem_of(status: int, body: bytes) -> OtariaError:
    """The typed error that a problem+json (RFC 9457) body carries: `type` is the kind, `detail` the sentence."""
    value: dict[str, Any] = {}
    if len(body) <= MAX_PROBLEM_BYTES:
        try:
            value = parse_json(body, max_bytes=MAX_PROBLEM_BYTES)
        except RefusedError:
            value = {}
    kind, text = str(value.get("type", "")), str(value.get("detail", ""))
    if not _KIND.match(kind) or not text.isprintable() or not text:
        kind, text = "bad-answer", f"The server answered with status {status}; it may not be Otaria's."
    return UnavailableError(kind, text[:500]) if status >= 500 else RefusedError(kind, text[:500])
