"""`pkcs11:` URIs (RFC 7512): which token, which key on it, which library speaks to it and where the PIN is.

What narrows the choice of token or key and isn't known here is refused, never passed over: the wrong key would be worse than
none. So is a PIN in the URI itself, which ends in logs and backups.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote, unquote_to_bytes

from firmware.errors import RefusedError

SCHEME = "pkcs11:"
MAX_URI_CHARS = 1024
_PATH = frozenset({"token", "serial", "object", "id", "type"})
_QUERY = frozenset({"module-path", "pin-source"})
_ESCAPES = re.compile(r"[^%\s]*(%[0-9A-Fa-f]{2}[^%\s]*)*")


@dataclass(frozen=True, kw_only=True)
class Pkcs11Uri:
    """`token`, `serial`: of the token, one at least. `object`, `id`: label and CKA_ID of a key pair on it; `id` None: none in
    particular. `pin_source` None: the PIN is in the environment."""

    module: Path
    token: str | None = None
    serial: str | None = None
    object: str | None = None
    id: bytes | None = None
    pin_source: Path | None = None

    @classmethod
    def parse(cls, text: str) -> "Pkcs11Uri":
        """Raises `RefusedError` (`bad-pkcs11-uri`) with what is wrong, but not with the text: it may hold a PIN after all."""
        if not text.startswith(SCHEME) or len(text) > MAX_URI_CHARS or not _ESCAPES.fullmatch(text):
            raise _bad("it must begin with pkcs11: and have neither blanks nor stray percent signs")
        path, _, query = text.removeprefix(SCHEME).partition("?")
        place, how = _attributes(path, ";", _PATH), _attributes(query, "&", _QUERY)
        if not place.keys() & {"token", "serial"}:
            raise _bad("it names no token: say token=LABEL or serial=NUMBER")
        if place.get("type", "private") != "private":
            raise _bad("its type is not private")
        if "module-path" not in how:
            raise _bad("it names no library: end it with ?module-path=/usr/lib/…/the-tokens-library.so")
        return cls(
            module=_absolute(how["module-path"], "module-path"),
            token=_text(place, "token"),
            serial=_text(place, "serial"),
            object=_text(place, "object"),
            id=unquote_to_bytes(place["id"]) if "id" in place else None,
            pin_source=_absolute(how["pin-source"].removeprefix("file:"), "pin-source")
            if "pin-source" in how
            else None,
        )

    def naming(self, key_id: bytes) -> "Pkcs11Uri":
        """This URI for one key pair."""
        return replace(self, id=key_id)

    def __str__(self) -> str:
        words = [f"{name}={quote(value)}" for name in ("token", "serial", "object") if (value := getattr(self, name))]
        if self.id is not None:
            words.append("id=" + "".join(f"%{byte:02X}" for byte in self.id))
        pin = f"&pin-source=file:{quote(str(self.pin_source))}" if self.pin_source else ""
        return f"{SCHEME}{';'.join(words)}?module-path={quote(str(self.module))}{pin}"


def _attributes(text: str, separator: str, known: frozenset[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for word in filter(None, text.split(separator)):
        name, equals, value = word.partition("=")
        if name == "pin-value":
            raise _bad("a PIN does not belong into it; put it into a file and name that with pin-source=file:/…")
        if name not in known or name in out or not equals or not value:
            there = ", ".join(sorted(known))
            raise _bad(f"{name or word!r} is unknown, empty or there twice; there are {there}")
        out[name] = value
    return out


def _text(place: dict[str, str], name: str) -> str | None:
    try:
        return unquote(place[name], errors="strict") if name in place else None
    except UnicodeDecodeError as error:
        raise _bad(f"its {name} is not UTF-8") from error


def _absolute(value: str, name: str) -> Path:
    path = Path(unquote(value))
    if not path.is_absolute():
        raise _bad(f"its {name} is not an absolute path")
    return path


def _bad(why: str) -> RefusedError:
    text = (
        "The PKCS#11 URI is refused: "
        + why
        + ". Such as pkcs11:token=fleet?module-path=/usr/lib/softhsm/libsofthsm2.so."
    )
    return RefusedError("bad-pkcs11-uri", text)
