"""Mutual TLS: the services CA is pinned, the client certificate is the agent's identity.

A device's real-time clock may be years off, so OpenSSL is told not to look at it. Trusted time is never later than the true
time, so it can prove that a certificate *is* over, and that is what is checked. It can't prove that one is not valid yet.
"""

import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from device_agent.identity import SERVICES_CA_FILE, TLS_CERTIFICATE_FILE, TLS_KEY_FILE
from firmware.errors import RefusedError, UnavailableError

TrustedClock = Callable[[], float]
"""Trusted POSIX seconds."""
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL."""


def client_context(directory: Path, trusted_time: TrustedClock) -> ssl.SSLContext:
    """A context with the agent's key and certificate that trusts only the services CA, and no certificate that is over.

    Raises `UnavailableError` (`not-enrolled`) or `RefusedError` (`bad-key`).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.sslsocket_class = _dated_socket(trusted_time)
    try:
        context.load_verify_locations(cafile=directory / SERVICES_CA_FILE)
        context.load_cert_chain(directory / TLS_CERTIFICATE_FILE, directory / TLS_KEY_FILE)
    except FileNotFoundError as error:
        raise UnavailableError("not-enrolled", f"{directory} lacks a key or certificate; enrol again.") from error
    except ssl.SSLError as error:
        raise RefusedError("bad-key", f"The keys or certificates in {directory} can't be used; enrol again.") from error
    return context


def refuse_expired(certificate_der: bytes | None, trusted_time: float) -> None:
    """Raise `ssl.SSLCertVerificationError` when the peer's certificate was over before the trusted time."""
    if certificate_der is None:
        raise ssl.SSLCertVerificationError("The server showed no certificate.")
    ends = x509.load_der_x509_certificate(certificate_der).not_valid_after_utc.timestamp()
    if ends < trusted_time:
        raise ssl.SSLCertVerificationError("The server's certificate has expired.")


def _dated_socket(trusted_time: TrustedClock) -> type[ssl.SSLSocket]:
    class DatedSocket(ssl.SSLSocket):
        """Looks at the peer's dates before a byte is sent, and closes itself when the handshake fails."""

        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
                refuse_expired(self.getpeercert(binary_form=True), trusted_time())
            except BaseException:
                self.close()
                raise

    return DatedSocket
