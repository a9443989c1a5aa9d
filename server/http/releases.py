"""Releases and artifacts over REST: upload bytes under their hash, publish what was signed offline, make deltas."""

from collections.abc import Sequence
from typing import Annotated, Protocol

from aiohttp import web
from msgspec import Meta, Struct

from firmware import manifest as manifests
from firmware.encryption.content_key import key_id
from firmware.errors import RefusedError
from firmware.protocol.words import Id, ReasonKind, Version
from server.artifacts import ArtifactStore
from server.errors import NotFoundError
from server.http.access import Caller, Need
from server.http.bodies import chunks_of, decode_base64, path_id, path_version, read_json, read_query
from server.http.paging import Key, Paged, after, last_key, paged_reply, place
from server.http.routes import Raw, Route, reply
from server.ports import (
    Clock,
    Database,
    DeltaRecord,
    ReleaseImage,
    ReleaseRecord,
    ReleaseState,
    Requirements,
    StoredFile,
    Unit,
)

MAX_METADATA_BYTES = 8 << 20
MAX_PUBLISH_BYTES = (manifests.MAX_BYTES + MAX_METADATA_BYTES) * 4 // 3 + 65536


class Publisher(Protocol):
    """Takes releases into the catalogue. Raises typed errors."""

    async def publish(
        self, *, product: str, version: str, manifest: bytes, metadata: bytes, by: str, content_key: bytes | None = None
    ) -> ReleaseRecord: ...
    async def release_key(self) -> str: ...
    async def make_deltas(self, product: str, version: str) -> Sequence[DeltaRecord]: ...


class Judge(Protocol):
    """Marks releases suspect, and clears them. Raises typed errors."""

    async def doubt(self, product: str, version: str, *, by: str, reason: str) -> ReleaseRecord: ...
    async def clear(self, product: str, version: str, *, by: str, reason: str) -> ReleaseRecord: ...


class Reasoned(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `suspect` and `clear`: why."""

    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class Submission(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /releases`: manifest and product role metadata as signed, in base64; so too the key of an encrypted
    release, wrapped for this server."""

    product: Id
    version: Version
    manifest: str
    metadata: str
    content_key: str | None = None


class ReleaseShown(Struct, frozen=True, kw_only=True):
    """A release as the API shows it. `images`: one for each slot set, as stored; `sha256` and `length`: of all together;
    `deltas`: those that lead to it."""

    product: str
    version: str
    counter: int
    hardware: tuple[str, ...]
    manifest: StoredFile
    images: tuple[ReleaseImage, ...]
    state: ReleaseState
    notes: str
    published_at: float
    requires: Requirements | None
    sha256: str
    length: int
    deltas: list[DeltaRecord]


class ReleasePage(Struct, frozen=True, kw_only=True):
    """A page of them, by product and version."""

    releases: list[ReleaseShown]
    next: str | None


class Artifact(Struct, frozen=True, kw_only=True):
    """What is stored. `length`: in bytes."""

    sha256: str
    length: int


class PublicKey(Struct, frozen=True, kw_only=True):
    """The key that makers encrypt releases to, and its sha256."""

    public: str
    key_id: str


class Deltas(Struct, frozen=True, kw_only=True):
    """Those that were made."""

    deltas: list[DeltaRecord]


class ReleaseRoutes:
    """Handlers about artifacts and releases."""

    def __init__(
        self,
        *,
        database: Database,
        artifacts: ArtifactStore,
        publisher: Publisher,
        judge: Judge,
        clock: Clock,
        max_artifact_bytes: int,
    ) -> None:
        self._clock = clock
        self._judge = judge
        self._database = database
        self._artifacts = artifacts
        self._publisher = publisher
        self._max_artifact_bytes = max_artifact_bytes

    def routes(self) -> Sequence[Route]:
        one = "/releases/{product}/{version}"
        return (
            Route(method="HEAD", path="/artifacts/sha256/{hash}", need=Need.READ, action=self.has_artifact),
            Route(
                method="PUT",
                path="/artifacts/sha256/{hash}",
                need=Need.OPERATE,
                action=self.put_artifact,
                body=Raw(media="application/octet-stream", text="The artifact."),
                answer=Artifact,
                statuses=(200, 201),
            ),
            Route(method="GET", path="/releases", need=Need.READ, action=self.list, query=Paged, answer=ReleasePage),
            Route(
                method="POST",
                path="/releases",
                need=Need.OPERATE,
                action=self.publish,
                body=Submission,
                answer=ReleaseShown,
                statuses=(201,),
            ),
            Route(method="GET", path="/release-key", need=Need.READ, action=self.release_key, answer=PublicKey),
            Route(method="GET", path=one, need=Need.READ, action=self.show, answer=ReleaseShown),
            Route(method="POST", path=f"{one}/deltas", need=Need.OPERATE, action=self.make_deltas, answer=Deltas),
            *(
                Route(
                    method="POST",
                    path=f"{one}/{verb}",
                    need=Need.OPERATE,
                    action=self.judge,
                    body=Reasoned,
                    answer=ReleaseShown,
                    text=text,
                )
                for verb, text in (
                    ("suspect", "Mark a release suspect, as a regression after completion does."),
                    (
                        "clear",
                        "Clear a suspect release: active again. Campaigns that it paused stay so until they are resumed.",
                    ),
                )
            ),
        )

    async def has_artifact(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Say whether an artifact is there."""
        length = await self._artifacts.length(request.match_info["hash"])
        if length is None:
            raise NotFoundError("There is no artifact with this sha256.")
        return web.Response(headers={"Content-Length": str(length)})

    async def put_artifact(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Store the body under its sha256; a wrong hash or a cut-off body keeps nothing. 201 new, 200 already there."""
        sha256, limit = request.match_info["hash"], self._max_artifact_bytes
        found = await self._artifacts.length(sha256)
        if found is not None:
            return reply(Artifact(sha256=sha256, length=found))
        if (request.content_length or 0) > limit:
            raise RefusedError(ReasonKind.TOO_LARGE, f"An artifact may have at most {limit} bytes here.")

        async def record(length: int) -> None:
            """Before it is kept: what isn't on the trail is not done."""
            text, now = f"{caller.name} stored the artifact {sha256}, of {length} bytes.", self._clock.now()
            await self._database.write(
                lambda unit: unit.audit.add(at=now, kind="artifact-stored", text=text, actor=caller.name)
            )

        length = await self._artifacts.receive(chunks_of(request), sha256, max_bytes=limit, before=record)
        return reply(Artifact(sha256=sha256, length=length), status=201)

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Releases by product and version."""
        paged = read_query(request, Paged)
        key = place(request, paged, str, str)
        begin = None if key is None else (str(key[0]), str(key[1]))

        def work(unit: Unit) -> tuple[Sequence[ReleaseRecord], Sequence[DeltaRecord]]:
            page = unit.releases.page(begin, paged.limit)
            return page, unit.releases.deltas_to(image.file.sha256 for one in page for image in one.images)

        page, deltas = await self._database.read(work)
        following = after(request, last_key(page, paged.limit, _key))
        return paged_reply(request, ReleasePage(releases=[release_shown(one, deltas) for one in page], next=following))

    async def show(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """One release."""
        product, version = path_id(request, "product"), path_version(request)

        def work(unit: Unit) -> tuple[ReleaseRecord | None, Sequence[DeltaRecord]]:
            release = unit.releases.get(product, version)
            return release, unit.releases.deltas_to(image.file.sha256 for image in release.images) if release else ()

        release, deltas = await self._database.read(work)
        if release is None:
            raise NotFoundError(f"There is no release {version} of {product}.")
        return reply(release_shown(release, deltas))

    async def publish(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Take a release into the catalogue; publishing the same again changes nothing."""
        wanted = await read_json(request, Submission, max_bytes=MAX_PUBLISH_BYTES)
        release = await self._publisher.publish(
            product=wanted.product,
            version=wanted.version,
            manifest=decode_base64(wanted.manifest, "manifest"),
            metadata=decode_base64(wanted.metadata, "metadata"),
            by=caller.name,
            content_key=None if wanted.content_key is None else decode_base64(wanted.content_key, "content_key"),
        )
        return reply(release_shown(release, ()), status=201)

    async def release_key(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """The public key that makers encrypt releases to, and its sha256 to compare."""
        public = await self._publisher.release_key()
        return reply(PublicKey(public=public, key_id=key_id(public)))

    async def make_deltas(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Make the deltas to this release now and answer when they are in the catalogue."""
        deltas = await self._publisher.make_deltas(path_id(request, "product"), path_version(request))
        return reply(Deltas(deltas=list(deltas)))

    async def judge(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Mark a release suspect, or clear it, with the reason in the body."""
        told = await read_json(request, Reasoned)
        act = self._judge.clear if request.path.endswith("/clear") else self._judge.doubt
        release = await act(path_id(request, "product"), path_version(request), by=caller.name, reason=told.reason)
        return reply(release_shown(release, ()))


def release_shown(release: ReleaseRecord, deltas: Sequence[DeltaRecord]) -> ReleaseShown:
    """A release as the API shows it, with the deltas that lead to it."""
    images = {image.file.sha256 for image in release.images}
    to_it = [delta for delta in deltas if delta.target_sha256 in images]
    return ReleaseShown(**vars(release), sha256=release.sha256, length=release.length, deltas=to_it)


def _key(release: ReleaseRecord) -> Key:
    return release.product, release.version
