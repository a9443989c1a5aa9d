"""Enrolment: the claim token a device is born with, and the one exchange that turns it into an identity.

A claim token is `otc1.` and the base64url (no padding) of canonical JSON `{url, id, secret, ca, root}`: where to enrol, a
secret worth one or more uses, the sha256 of the services CA (DER) and of the TUF root the device must start from. So the
first contact is already pinned: a false server, CA or root is noticed before the secret leaves the device.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Any

from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import Id, Label, Nonce, Sha256

PREFIX = "otc1."
PROOF_KIND = "enrol"
MAX_TOKEN_CHARS = 2048
MAX_REQUEST_BYTES = 32768
MAX_RESPONSE_BYTES = 1 << 20
CA_PATH = "/v1/enrol/ca"
ENROL_PATH = "/v1/enrol"
CSR_PATTERN = r"^-----BEGIN CERTIFICATE REQUEST-----\n[A-Za-z0-9+/=\n]{1,4000}-----END CERTIFICATE REQUEST-----\n?\Z"

Url = Annotated[str, Meta(pattern=r"^https://[A-Za-z0-9.\[\]:_-]{1,300}\Z", max_length=320)]
Hardware = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+:-]{0,127}\Z")]
"""The hardware id that releases name."""
Secret = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}\Z")]
"""256 random bits, base64url without padding."""


class Claim(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a claim token says. `ca`: sha256 (hex) of the services CA's DER; `root`: sha256 (hex) of the root.json bytes."""

    url: Url
    id: Id
    secret: Secret
    ca: Sha256
    root: Sha256

    def __repr__(self) -> str:
        """Never shows the secret, so that a claim in a log line or traceback gives nothing away."""
        return f"Claim(id={self.id!r}, url={self.url!r})"


class Proof(Struct, frozen=True, kw_only=True):
    """Signed by the report key: whoever enrols holds it, and means exactly this request. `csr_sha256` is of the PEM text."""

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    claim_id: Id
    csr_sha256: Sha256
    hardware: Label
    nonce: Nonce


class EnrolRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`csr`: PKCS #10 in PEM. `report_key`: public key in TUF form. `root_sha256`: the root the claim names. `proof`: a DSSE
    envelope of a `Proof`, as JSON text."""

    claim_id: Id
    secret: Secret
    csr: Annotated[str, Meta(pattern=CSR_PATTERN, max_length=4200)]
    report_key: Annotated[dict[str, Any], Meta(max_length=8)]
    hardware: Hardware
    root_sha256: Sha256
    proof: Annotated[str, Meta(min_length=2, max_length=8192)]

    def __repr__(self) -> str:
        return f"EnrolRequest(claim_id={self.claim_id!r}, hardware={self.hardware!r})"


class EnrolResponse(Struct, frozen=True, kw_only=True):
    """The new identity. Certificates are PEM, `root` is the exact text of the root.json that the claim pins."""

    agent: Id
    target: Id
    certificate: Annotated[str, Meta(min_length=1, max_length=8192)]
    fleet_ca: Annotated[str, Meta(min_length=1, max_length=8192)]
    mqtt_host: Annotated[str, Meta(min_length=1, max_length=255)]
    mqtt_port: Annotated[int, Meta(ge=1, le=65535)]
    https_url: Url
    root: Annotated[str, Meta(min_length=2, max_length=512 * 1024)]


def encode_claim(claim: Claim) -> str:
    """The claim as one printable token without spaces."""
    return PREFIX + urlsafe_b64encode(canonical(claim)).rstrip(b"=").decode()


def parse_claim(token: str) -> Claim:
    """Parse a claim token; raises `RefusedError` (`claim-malformed`) for anything but a whole one."""
    text = token.strip()
    if not text.startswith(PREFIX) or len(text) > MAX_TOKEN_CHARS:
        raise _malformed(f"it must begin with {PREFIX} and have at most {MAX_TOKEN_CHARS} characters")
    body = text.removeprefix(PREFIX)
    try:
        data = urlsafe_b64decode(body.encode("ascii") + b"=" * (-len(body) % 4))
        claim = convert(parse_json(data, max_bytes=MAX_TOKEN_CHARS), Claim)
    except (ValueError, RefusedError) as error:
        raise _malformed("its content is damaged or cut off") from error
    if encode_claim(claim) != text:
        raise _malformed("it is not in its canonical form")
    return claim


def _malformed(why: str) -> RefusedError:
    return RefusedError(
        "claim-malformed", f"This is not a claim token: {why}. Copy the whole token, without line breaks."
    )
