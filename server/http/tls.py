"""TLS contexts of the two listeners."""

import ssl
from pathlib import Path

from firmware.errors import RefusedError
from server.config import KIND
from server.identity.authority import TlsFiles


def devices_context(files: TlsFiles) -> ssl.SSLContext:
    """For devices: our certificate; theirs may be missing (enrolment), but what is shown must be of the fleet CA."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_cert_chain(files.certificate, files.key)
    return context


def people_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """For people: TLS with the configured files, or none; raises `RefusedError` (`config`) when they do not fit."""
    if certificate is None or key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise RefusedError(KIND, f"The TLS files {certificate} and {key} cannot be used: {error}.") from error
    return context
