"""The devices' listener: enrolment, renewal, the catalogue and artifacts. HTTPS, with a client certificate of the fleet CA.

Without one: enrolment, renewal, and the catalogue's top-level roles, which tell a sleeper whom to trust and where to go.
Everything it serves is signed or content-addressed, so that caches may stand in front of it.
"""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from aiohttp import hdrs, web
from aiohttp.typedefs import LooseHeaders
from multidict import CIMultiDict

from firmware.errors import RefusedError
from firmware.protocol.codec import parse_json
from firmware.protocol.enrol_key import ENROL_KEY_PATH
from firmware.protocol.renew import CHALLENGE_PATH, RENEW_PATH
from firmware.protocol.renew import MAX_REQUEST_BYTES as MAX_RENEW_BYTES
from firmware.protocol.words import PATH_PATTERN, ReasonKind
from server.artifacts import ArtifactStore
from server.errors import DeniedError, NotFoundError
from server.http.bodies import BODY_LIMITS, BodyLimits, read_bytes
from server.http.passing import Passing
from server.http.problems import catching, problem
from server.ports import AgentStatus, Database

MAX_ENROL_BYTES = 32768
DOWNLOADS = 256
METADATA_NAME = re.compile(r"^(?:[1-9][0-9]{0,8}\.)?[a-z0-9][a-z0-9-]{0,79}\.json\Z")
_TOP_NAME = re.compile(r"^(?:[1-9][0-9]{0,8}\.)?(?:root|timestamp|snapshot|targets)\.json\Z")
"""Whom to trust and where to go: signed, no secret, and needed by whoever has slept through a change of both."""
_TARGET_NAME = re.compile(r"^([0-9a-f]{64})\.[A-Za-z0-9+~_.-]{1,128}\Z")
_PATH = re.compile(PATH_PATTERN)
_FOR_EVER = "public, max-age=31536000, immutable"


class Enrolment(Protocol):
    """Turns a claim token and a CSR into an identity. Raises typed errors."""

    def services_ca_pem(self) -> bytes: ...
    async def enrol(self, request: dict[str, Any]) -> dict[str, Any]: ...


class KnownEnrolment(Protocol):
    """Turns the proof of a key that was known before into an identity. Raises typed errors."""

    async def enrol(self, request: dict[str, Any]) -> dict[str, Any]: ...


class Renewal(Protocol):
    """Turns a certificate and the proof of its keys into a new one. Raises typed errors."""

    def challenge(self) -> dict[str, Any]: ...
    async def renew(self, request: dict[str, Any]) -> dict[str, Any]: ...


class DeviceRoutes:
    """Handlers of the devices' listener."""

    def __init__(
        self,
        *,
        enrolment: Enrolment,
        known: KnownEnrolment,
        renewal: Renewal,
        database: Database,
        artifacts: ArtifactStore,
        metadata: Path,
        peer: "Peer",
        bodies: BodyLimits | None = None,
        downloads: int = DOWNLOADS,
    ) -> None:
        """`downloads`: how many are passed through at once, of artifacts that aren't files of this machine."""
        self._enrolment = enrolment
        self._known_enrolment = known
        self._renewal = renewal
        self._database = database
        self._artifacts = artifacts
        self._metadata = metadata
        self._peer = peer
        self._bodies = bodies or BodyLimits()
        self._passing = Passing(artifacts, most=downloads)

    def app(self) -> web.Application:
        """The aiohttp app with every route of the devices' listener."""
        app = web.Application(middlewares=[catching(lambda _: problem)])
        app[BODY_LIMITS] = self._bodies
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/v1/enrol/ca", self.services_ca)
        app.router.add_post("/v1/enrol", self.enrol)
        app.router.add_post(ENROL_KEY_PATH, self.enrol_known)
        app.router.add_get(CHALLENGE_PATH, self.challenge)
        app.router.add_post(RENEW_PATH, self.renew)
        app.router.add_get("/v1/catalogue/metadata/{file}", self.metadata)
        app.router.add_get("/v1/catalogue/targets/{path:.+}", self._known(self.target))
        app.router.add_get("/v1/artifacts/sha256/{hash}", self._known(self.artifact))
        return app

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    async def services_ca(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._enrolment.services_ca_pem(), content_type="application/x-pem-file")

    async def enrol(self, request: web.Request) -> web.StreamResponse:
        data = await read_bytes(request, MAX_ENROL_BYTES)
        answer = await self._enrolment.enrol(parse_json(data, max_bytes=MAX_ENROL_BYTES))
        return web.json_response(answer, headers={hdrs.CACHE_CONTROL: "no-store"})

    async def enrol_known(self, request: web.Request) -> web.StreamResponse:
        data = await read_bytes(request, MAX_ENROL_BYTES)
        answer = await self._known_enrolment.enrol(parse_json(data, max_bytes=MAX_ENROL_BYTES))
        return web.json_response(answer, headers={hdrs.CACHE_CONTROL: "no-store"})

    async def challenge(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._renewal.challenge(), headers={hdrs.CACHE_CONTROL: "no-store"})

    async def renew(self, request: web.Request) -> web.StreamResponse:
        data = await read_bytes(request, MAX_RENEW_BYTES)
        answer = await self._renewal.renew(parse_json(data, max_bytes=MAX_RENEW_BYTES))
        return web.json_response(answer, headers={hdrs.CACHE_CONTROL: "no-store"})

    async def metadata(self, request: web.Request) -> web.StreamResponse:
        """One TUF metadata file; versioned ones never change, `timestamp.json` must not be cached."""
        name = request.match_info["file"]
        if not METADATA_NAME.match(name):
            raise RefusedError(ReasonKind.MALFORMED, "That is not the name of a metadata file, such as 1.root.json.")
        if self._peer(request) is not None or not _TOP_NAME.match(name):
            await self._check(self._peer(request))
        path = self._metadata / name
        if not path.is_file():
            raise NotFoundError(f"The catalogue has no {name}.")
        cache = _FOR_EVER if name[0].isdigit() and "." in name[:-5] else "no-cache"
        headers = {hdrs.CACHE_CONTROL: cache, hdrs.CONTENT_TYPE: "application/json"}
        return _file(path, headers)

    async def target(self, request: web.Request) -> web.StreamResponse:
        """A catalogue target under its consistent-snapshot name `DIR/HASH.NAME`."""
        path = request.match_info["path"]
        name = _TARGET_NAME.match(path.rpartition("/")[2])
        if len(path) > 400 or not _PATH.match(path) or not name:
            raise RefusedError(ReasonKind.MALFORMED, "A target's address ends in SHA256.NAME.")
        return await self._artifact(request, name.group(1))

    async def artifact(self, request: web.Request) -> web.StreamResponse:
        return await self._artifact(request, request.match_info["hash"])

    async def _artifact(self, request: web.Request, sha256: str) -> web.StreamResponse:
        headers = CIMultiDict({hdrs.CACHE_CONTROL: _FOR_EVER, hdrs.CONTENT_TYPE: "application/octet-stream"})
        path = self._artifacts.find(sha256)
        if path is not None:
            return _file(path, headers)
        return await self._passing.answer(request, sha256, headers, whose=self._peer(request) or "")

    def _known(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def checked(request: web.Request) -> web.StreamResponse:
            await self._check(self._peer(request))
            return await handler(request)

        return checked

    async def _check(self, name: str | None) -> None:
        if name is None:
            raise DeniedError("unauthenticated", "Show a client certificate of the fleet CA; enrol to get one.")
        agent = await self._database.read(lambda unit: unit.identities.agent(name))
        if agent is None:
            raise DeniedError("forbidden", "No agent of this fleet has the certificate's name.")
        if agent.status is not AgentStatus.ACTIVE:
            raise DeniedError("forbidden", f"The agent {name} is {agent.status}; an administrator can tell why.")


def _file(path: Path, headers: LooseHeaders) -> web.FileResponse:
    """A file, sent through aiohttp's own writer.

    Over TLS, asyncio's `sendfile` stops reading from the client and so never learns that it has gone: it reads the rest of
    the file and drops it, with a warning per block. A content coding, even `identity`, makes aiohttp write by itself.
    """
    response = web.FileResponse(path, headers=headers)
    response.enable_compression(web.ContentCoding.identity)
    return response


Peer = Callable[[web.Request], str | None]
"""The common name of the client certificate that TLS verified, or None without one."""


def tls_peer(request: web.Request) -> str | None:
    """The common name of the verified client certificate of this connection."""
    transport = request.transport
    session = transport.get_extra_info("ssl_object") if transport else None
    certificate = session.getpeercert() if session else None
    names = [value for rdn in (certificate or {}).get("subject", ()) for key, value in rdn if key == "commonName"]
    return names[0] if len(names) == 1 else None
