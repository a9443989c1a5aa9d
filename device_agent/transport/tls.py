"""Mutual TLS: the services CA is pinned, the client certificate is the agent's identity.

A device's real-time clock may be years off, so OpenSSL is told not to look at it. Trusted time is never later than the true
time, so it can prove that a certificate *is* over, and that is what is checked. It can't prove that one is not valid yet.
"""

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path

from device_agent.identity import SERVICES_CA_FILE, TLS_CERTIFICATE_FILE, TLS_KEY_FILE, TLS_RENEWED_FILE
from firmware.errors import OtariaError, RefusedError, UnavailableError

TrustedClock = Callable[[], float]
"""Trusted POSIX seconds."""
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL."""


def client_context(
    directory: Path, trusted_time: TrustedClock, *, pins: str | None = None, certificate: Path | None = None
) -> ssl.SSLContext:
    """A context with the agent's key and certificate that trusts only the services CA, and no certificate that is over.

    `pins` (PEM) stand in the place of the CA from enrolment, `certificate` (a PEM file with its key) in that of the one in use.
    Raises `UnavailableError` (`not-enrolled`) or `RefusedError` (`bad-key`).
    """
    context = server_context(directory, trusted_time, pins=pins)
    renewed = certificate or directory / TLS_RENEWED_FILE
    try:
        if renewed.exists():
            context.load_cert_chain(renewed)
        else:
            context.load_cert_chain(directory / TLS_CERTIFICATE_FILE, directory / TLS_KEY_FILE)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(directory, error) from error
    return context


def server_context(directory: Path, trusted_time: TrustedClock, *, pins: str | None = None) -> ssl.SSLContext:
    """As `client_context`, without a certificate to show: for whoever proves otherwise who it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.sslsocket_class = _dated_socket(trusted_time)
    try:
        context.load_verify_locations(cafile=None if pins else directory / SERVICES_CA_FILE, cadata=pins)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(directory, error) from error
    return context


def blind_context() -> ssl.SSLContext:
    """A context that trusts anybody and shows nothing: only for what is verified by its own signatures afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _unusable(directory: Path, error: OSError) -> OtariaError:
    if isinstance(error, ssl.SSLError):
        return RefusedError("bad-key", f"The keys or certificates in {directory} can't be used; enrol again.")
    return UnavailableError("not-enrolled", f"{directory} lacks a key or certificate; enrol again.")


def refuse_expired(certificate: Mapping[str, object] | None, trusted_time: float) -> None:
    """Raise `ssl.SSLCertVerificationError` when the peer's certificate (as `getpeercert` gives it) was over before the trusted
    time, or does not say when it is."""
    ends = (certificate or {}).get("notAfter")
    if not isinstance(ends, str):
        raise ssl.SSLCertVerificationError("The server showed no certificate.")
    try:
        is_over = ssl.cert_time_to_seconds(ends) < trusted_time
    except ValueError as error:
        raise ssl.SSLCertVerificationError("The server's certificate does not say when it ends.") from error
    if is_over:
        raise ssl.SSLCertVerificationError("The server's certificate has expired.")


def _dated_socket(trusted_time: TrustedClock) -> type[ssl.SSLSocket]:
    class DatedSocket(ssl.SSLSocket):
        """Looks at the peer's dates before a byte is sent, and closes itself when the handshake fails."""

        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
                refuse_expired(self.getpeercert(), trusted_time())
            except BaseException:
                self.close()
                raise

    return DatedSocket
