"""Who this agent is: the small file that enrolment writes last, and the names of the files beside it.

Enrolment writes keys and certificates first and `identity.json` last, so that a directory with `identity.json` is complete.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from device_agent.ports import Effects
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import Id, Label, Sha256

IDENTITY_FILE = "identity.json"
TLS_KEY_FILE = "tls.key"
TLS_CERTIFICATE_FILE = "tls.crt"
TLS_RENEWED_FILE = "tls.pem"
"""Key and certificate since the first renewal, in one file so that they change together; the two above are gone then."""
REPORT_KEY_FILE = "report.key"
"""PEM (PKCS #8), not encrypted: the key that signs reports and asks, apart from the TLS key."""
SERVICES_CA_FILE = "services-ca.pem"
ROOT_FILE = "root.json"
MAX_BYTES = 16384


class Identity(Struct, frozen=True, kw_only=True):
    """What enrolment learnt. `https_url` is the base of the device listener, without a trailing slash."""

    agent: Id
    target: Id
    hardware: Label
    mqtt_host: Annotated[str, Meta(min_length=1, max_length=255)]
    mqtt_port: Annotated[int, Meta(ge=1, le=65535)]
    https_url: Annotated[str, Meta(pattern=r"^https://[^/\s]+\Z", max_length=512)]
    root_sha256: Sha256


def load_identity(directory: Path) -> Identity:
    """Read `identity.json` of an agent's directory.

    Raises `UnavailableError` (`not-enrolled`) or `RefusedError` (`malformed`, `too-large`).
    """
    try:
        data = (directory / IDENTITY_FILE).read_bytes()
    except FileNotFoundError as error:
        raise UnavailableError(
            "not-enrolled", f"{directory} holds no {IDENTITY_FILE}; run `otaria-agent enrol` with a claim token first."
        ) from error
    try:
        return convert(parse_json(data, max_bytes=MAX_BYTES), Identity)
    except RefusedError as error:
        text = f"{directory / IDENTITY_FILE} is damaged; restore it, or enrol again. {error.text}"
        raise RefusedError(error.kind, text) from error


def save_identity(directory: Path, identity: Identity, effects: Effects) -> None:
    """Atomically write `identity.json`; call it after every other file of the enrolment is on disk."""
    effects.replace((directory / IDENTITY_FILE).absolute(), canonical(identity))


def required(directory: Path, name: str) -> bytes:
    """A file that enrolment left. Raises `UnavailableError` (`not-enrolled`)."""
    try:
        return (directory / name).read_bytes()
    except OSError as error:
        raise UnavailableError("not-enrolled", f"{directory} lacks {name}; enrol again.") from error
