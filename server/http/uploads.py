"""Resumable uploads of artifacts: tus 1.0.0 (https://tus.io/protocols/resumable-upload) with creation, checksum, expiration and
termination. The one thing that isn't of tus: `Upload-Metadata` must have `sha256`, under which the artifact will be."""

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime

from aiohttp import web
from msgspec import Struct

from firmware.errors import RefusedError
from firmware.protocol.words import SHA256_PATTERN, ReasonKind
from server.http.access import Caller, Need
from server.http.bodies import chunks_of, path_id
from server.http.routes import API, Header, Raw, Route, reply
from server.ports import Clock, Database
from server.uploads import Note, Record, Uploads

VERSION = "1.0.0"
EXTENSIONS = "creation,checksum,expiration,termination"
OFFSET_MEDIA = "application/offset+octet-stream"
PATH = "/uploads"
RESUMABLE = "Tus-Resumable"
_NUMBER = re.compile(r"^[0-9]{1,18}\Z")
_SHA256 = re.compile(SHA256_PATTERN)
_SPOKEN = Header(RESUMABLE, text="The version of tus.", schema={"const": VERSION})
_NUMBER_SCHEMA = {"type": "integer", "minimum": 0}


class UploadBegun(Struct, frozen=True, kw_only=True):
    """An upload that was begun: its `Location` is `/api/v1/uploads/{id}`. `expires_at`: when it is removed unless more comes."""

    id: str
    offset: int
    length: int
    expires_at: float


class UploadRoutes:
    """Handlers about artifacts on their way."""

    def __init__(self, *, uploads: Uploads, database: Database, clock: Clock) -> None:
        self._uploads, self._database, self._clock = uploads, database, clock

    def routes(self) -> Sequence[Route]:
        one, need = f"{PATH}/{{upload}}", Need.OPERATE
        offset = Header("Upload-Offset", text="Where the bytes belong.", schema=_NUMBER_SCHEMA)
        return (
            Route(method="OPTIONS", path=PATH, need=Need.READ, action=self.offer, statuses=(204,)),
            Route(
                method="POST",
                path=PATH,
                need=need,
                action=self.begin,
                answer=UploadBegun,
                statuses=(201,),
                headers=(
                    _SPOKEN,
                    Header("Upload-Length", text="In bytes.", schema=_NUMBER_SCHEMA),
                    Header("Upload-Metadata", text="`sha256` and its hex digits in base64.", schema={"type": "string"}),
                ),
            ),
            Route(method="HEAD", path=one, need=need, action=self.tell, headers=(_SPOKEN,)),
            Route(
                method="PATCH",
                path=one,
                need=need,
                action=self.append,
                body=Raw(media=OFFSET_MEDIA, text="Bytes of the artifact."),
                statuses=(204,),
                headers=(
                    _SPOKEN,
                    offset,
                    Header("Upload-Checksum", text="`sha256` and the digest in base64.", required=False),
                ),
            ),
            Route(method="DELETE", path=one, need=need, action=self.remove, statuses=(204,), headers=(_SPOKEN,)),
        )

    async def offer(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Say which tus is spoken."""
        headers = {
            "Tus-Version": VERSION,
            "Tus-Extension": EXTENSIONS,
            "Tus-Max-Size": str(self._uploads.max_bytes),
            "Tus-Checksum-Algorithm": "sha256",
        }
        return web.Response(status=204, headers=headers)

    async def begin(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Begin a resumable upload of an artifact (tus 1.0.0), which goes on with PATCH at its `Location`."""
        _speak(request)
        sha256, length = _promised(request.headers.get("Upload-Metadata", "")), _number(request, "Upload-Length")
        text = f"{caller.name} began to upload the artifact {sha256}, of {length} bytes."
        note = await self._uploads.begin(
            sha256=sha256, length=length, by=caller.name, record=self._record("upload-begun", text, caller)
        )
        begun = UploadBegun(id=note.id, offset=0, length=length, expires_at=note.expires_at)
        response = reply(begun, status=201)
        response.headers.update({"Location": f"{API}{PATH}/{note.id}", **_told(note)})
        return response

    async def tell(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Say how much is here to stay, in `Upload-Offset`. Who still sends is interrupted."""
        _speak(request)
        note = await self._uploads.settled(path_id(request, "upload"), caller.name)
        return web.Response(headers={**_told(note), "Upload-Length": str(note.length), "Cache-Control": "no-store"})

    async def append(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Send bytes from `Upload-Offset` on; those that came before a broken connection are kept. With the last, the artifact is
        there under its sha256, or nothing is."""
        _speak(request)
        if request.content_type != OFFSET_MEDIA:
            raise web.HTTPUnsupportedMediaType(reason=f"The body must be {OFFSET_MEDIA}.")
        upload, transport = path_id(request, "upload"), request.transport
        before = self._uploads.find(upload, caller.name)
        text = f"{caller.name} stored the artifact {before.sha256}, of {before.length} bytes."
        note = await self._uploads.append(
            upload,
            caller.name,
            chunks_of(request),
            at=_number(request, "Upload-Offset"),
            interrupt=lambda: transport.abort() if transport is not None else None,
            checksum=_checksum(request.headers.get("Upload-Checksum")),
            record=self._record("artifact-stored", text, caller),
        )
        return web.Response(status=204, headers=_told(note))

    async def remove(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Give an upload up, and forget its bytes."""
        _speak(request)
        upload = path_id(request, "upload")
        text = f"{caller.name} gave up uploading the artifact {self._uploads.find(upload, caller.name).sha256}."
        await self._uploads.remove(upload, caller.name, self._record("upload-removed", text, caller))
        return web.Response(status=204)

    def _record(self, kind: str, text: str, caller: Caller) -> Record:
        async def record() -> None:
            now = self._clock.now()
            await self._database.write(lambda unit: unit.audit.add(at=now, kind=kind, text=text, actor=caller.name))

        return record


async def say_version(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer to an upload names the version of tus, errors too."""
    if request.path.startswith(f"{API}{PATH}"):
        response.headers[RESUMABLE] = VERSION


def _speak(request: web.Request) -> None:
    if request.headers.get(RESUMABLE) != VERSION:
        raise RefusedError(
            "wrong-tus-version", f"Send `{RESUMABLE}: {VERSION}`; no other version of tus is spoken here."
        )


def _number(request: web.Request, name: str) -> int:
    text = request.headers.get(name, "")
    if not _NUMBER.match(text):
        raise RefusedError(ReasonKind.MALFORMED, f"`{name}` must be a whole number of bytes.")
    return int(text)


def _promised(metadata: str) -> str:
    """The sha256 in `Upload-Metadata`: pairs of a key and base64, with commas between them."""
    pairs = dict(pair.strip().partition(" ")[::2] for pair in metadata.split(",")[:32])
    sha256 = _decoded(pairs.get("sha256", ""), "Upload-Metadata").decode("latin-1")
    if not _SHA256.match(sha256):
        raise RefusedError(
            ReasonKind.MALFORMED, "`Upload-Metadata` must have `sha256` and the artifact's 64 hex digits in base64."
        )
    return sha256


def _checksum(header: str | None) -> bytes | None:
    if header is None:
        return None
    algorithm, _, text = header.partition(" ")
    if algorithm != "sha256":
        raise RefusedError(ReasonKind.MALFORMED, "`Upload-Checksum` must be `sha256` and the digest in base64.")
    return _decoded(text, "Upload-Checksum")


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(ReasonKind.MALFORMED, f"`{name}` has what is no base64.") from error


def _told(note: Note) -> dict[str, str]:
    expires = format_datetime(datetime.fromtimestamp(note.expires_at, UTC), usegmt=True)
    return {"Upload-Offset": str(note.offset), "Upload-Expires": expires}
