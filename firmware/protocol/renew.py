"""Renewal of an agent's certificate by proof of possession, over TLS without a client certificate.

So one way serves a certificate that is still good, one that has expired, and one of a CA that nothing accepts any more. The
agent fetches a challenge, which only the server that made it takes, once and for a short time. It answers with a request
for a new key, and a `Renewal` signed twice: by the key of the certificate it holds, and by its report key. The first is
what a sleeper still has; the second is bound to the agent since enrolment, so that neither a stolen TLS key nor the fleet
CA's key renews anything.
"""

from typing import Annotated

from msgspec import Meta, Struct

from firmware.protocol.enrol import CSR_PATTERN
from firmware.protocol.words import Id, Posix, Sha256

RENEWAL_KIND = "renewal"
CHALLENGE_PATH = "/v1/renew/challenge"
RENEW_PATH = "/v1/renew"
MAX_REQUEST_BYTES = 32768
MAX_PROOF_BYTES = 8192
MAX_RESPONSE_BYTES = 65536
CERTIFICATE_PATTERN = r"^-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]{1,8000}-----END CERTIFICATE-----\n?\Z"

Pem = Annotated[str, Meta(pattern=CERTIFICATE_PATTERN, max_length=8192)]
ChallengeText = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{40,128}\Z")]
"""The server's nonce: base64url; its content means something to that server only."""

KeyIdentifier = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}\Z")]


class Challenge(Struct, frozen=True, kw_only=True):
    """What a renewal must name. `at` and `authority` (the key identifier, RFC 5280, of the CA that signs now) are hints: all
    that an agent does because of them is to renew early."""

    nonce: ChallengeText
    at: Posix
    authority: KeyIdentifier


class Renewal(Struct, frozen=True, kw_only=True):
    """Signed by the TLS key of the certificate held and by the report key. Both hashes are of the PEM text."""

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    agent: Id
    nonce: ChallengeText
    certificate_sha256: Sha256
    csr_sha256: Sha256


class RenewRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`certificate`: the one held. `csr`: PKCS #10 of the new key. `proof`: a DSSE envelope of a `Renewal`, as JSON text."""

    certificate: Pem
    csr: Annotated[str, Meta(pattern=CSR_PATTERN, max_length=4200)]
    proof: Annotated[str, Meta(min_length=2, max_length=MAX_PROOF_BYTES)]


class RenewResponse(Struct, frozen=True, kw_only=True):
    """The new certificate and the CA that signed it."""

    certificate: Pem
    fleet_ca: Pem
