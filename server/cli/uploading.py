"""How commands upload: in as many requests as the connection needs, each going on where the server says that the one before
broke off (tus 1.0.0)."""

import base64
import time
from collections.abc import Callable, Mapping
from typing import IO

from firmware.errors import OtariaError
from server.cli.progress import Gauge
from server.cli.rest import BrokenOffError, RestClient, is_passing, segment

TUS = {"Tus-Resumable": "1.0.0"}
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Between tries that bring nothing; after a byte that came through they begin anew."""


def upload(
    rest: RestClient,
    sha256: str,
    file: IO[bytes],
    length: int,
    gauge: Gauge,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Bring an artifact to the server; whether it did not have it yet. Raises typed errors: those of the server, and what a
    connection says that stays broken."""
    address = f"/artifacts/sha256/{segment(sha256)}"
    if rest.exists(address):
        return False
    named = base64.b64encode(sha256.encode()).decode()
    try:
        begun = rest.post(
            "/uploads", headers={**TUS, "Upload-Length": str(length), "Upload-Metadata": f"sha256 {named}"}
        )
    except OtariaError as error:
        if error.kind == "artifact-exists":
            return False
        raise
    one, offset, tries = f"/uploads/{segment(begun['id'])}", 0, 0
    while True:
        try:
            _send(rest, one, file, offset, length, gauge)
        except OtariaError as error:
            if not is_passing(error) or tries == len(PAUSES_S):
                raise
            sleep(PAUSES_S[tries])
            known = _offset(rest, one, address, length, error)
            tries = 0 if known is not None and known > offset else tries + 1
            offset = offset if known is None else known
        else:
            return True
        if offset > length:
            return True


def _send(rest: RestClient, one: str, file: IO[bytes], offset: int, length: int, gauge: Gauge) -> None:
    file.seek(offset)
    gauge.at(offset)
    headers = {
        **TUS,
        "Content-Type": "application/offset+octet-stream",
        "Upload-Offset": str(offset),
        "Content-Length": str(length - offset),
    }
    _told(rest.send("PATCH", one, gauge.over(file), headers))
    gauge.at(length)


def _told(headers: Mapping[str, str]) -> int:
    """How much the server has; an answer that doesn't say so isn't whole."""
    try:
        return int(headers["Upload-Offset"])
    except (KeyError, ValueError) as error:
        raise BrokenOffError("unreachable", "The connection broke while the server answered.") from error


def _offset(rest: RestClient, one: str, address: str, length: int, before: OtariaError) -> int | None:
    """Where it goes on: beyond the end when the artifact is there; None while the server can't be asked."""
    try:
        return _told(rest.headers(one, TUS))
    except OtariaError as error:
        if is_passing(error):
            return None
        if error.kind == "not-found":  # done, and the answer was lost; or the server forgot it
            if rest.exists(address):
                return length + 1
            raise before from error
        raise
