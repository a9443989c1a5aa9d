"""Enrolment by a key that the operator, or the factory, knew before: what a device is born with instead of a claim token.

An introduction is `oti1.` and the base64url (no padding) of canonical JSON `{url, ca, root}`: a claim token without a secret, the
same for every device, so that it may stand in the image. It pins what a claim token pins. The device then signs, with its own key
and with its new report key, what it asks for over the server's challenge.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Any

from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.enrol import CSR_PATTERN, Hardware, Url
from firmware.protocol.renew import ChallengeText
from firmware.protocol.words import Label, Sha256

PREFIX = "oti1."
KEY_PROOF_KIND = "enrol-key"
ENROL_KEY_PATH = "/v1/enrol/key"
MAX_INTRODUCTION_CHARS = 2048
MAX_PROOF_BYTES = 8192
DEVICE_PATTERN = (
    r"^(?:-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=\n]{1,2000}-----END PUBLIC KEY-----\n?"
    r"|(?:-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]{1,8000}-----END CERTIFICATE-----\n?){1,3})\Z"
)


class Introduction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to enrol. `ca`: sha256 (hex) of the services CA's DER; `root`: sha256 (hex) of the root.json bytes."""

    url: Url
    ca: Sha256
    root: Sha256


class KeyProof(Struct, frozen=True, kw_only=True):
    """Signed by the device's own key and by the report key. Both hashes are of the PEM text."""

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    device_sha256: Sha256
    csr_sha256: Sha256
    hardware: Label
    nonce: ChallengeText


class KeyEnrolRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`device`: the device's public key in PEM, or its factory certificate and those that signed it. `csr`, `report_key`,
    `hardware` and `root_sha256` as with a claim token. `proof`: a DSSE envelope of a `KeyProof`, as JSON text."""

    device: Annotated[str, Meta(pattern=DEVICE_PATTERN, max_length=20_000)]
    csr: Annotated[str, Meta(pattern=CSR_PATTERN, max_length=4200)]
    report_key: Annotated[dict[str, Any], Meta(max_length=8)]
    hardware: Hardware
    root_sha256: Sha256
    proof: Annotated[str, Meta(min_length=2, max_length=MAX_PROOF_BYTES)]


def encode_introduction(introduction: Introduction) -> str:
    """The introduction as one printable word."""
    return PREFIX + urlsafe_b64encode(canonical(introduction)).rstrip(b"=").decode()


def parse_introduction(word: str) -> Introduction:
    """Parse an introduction; raises `RefusedError` (`introduction-malformed`) for anything but a whole one."""
    text = word.strip()
    body = text.removeprefix(PREFIX)
    try:
        if body == text or len(text) > MAX_INTRODUCTION_CHARS:
            raise ValueError("neither is it one")
        data = urlsafe_b64decode(body.encode("ascii") + b"=" * (-len(body) % 4))
        introduction = convert(parse_json(data, max_bytes=MAX_INTRODUCTION_CHARS), Introduction)
    except (ValueError, RefusedError) as error:
        raise _malformed() from error
    if encode_introduction(introduction) != text:
        raise _malformed()
    return introduction


def _malformed() -> RefusedError:
    text = f"This is no introduction: it begins with {PREFIX}; copy what `otaria fleet known introduction` prints, as a whole."
    return RefusedError("introduction-malformed", text)
