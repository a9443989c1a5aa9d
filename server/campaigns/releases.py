"""Releases: what was signed offline comes into the catalogue, and deltas to it are made in the background.

Nothing is published that a target could not fetch: the images are in the store and their windows are those of the
manifest. Each step can be repeated: the catalogue first, then the record, so that a crash between them is healed by
publishing again.
"""

import asyncio
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import TargetFile, Targets

from firmware.catalogue.metadata import parse
from firmware.catalogue.publish import Repository, product_role, release_targets
from firmware.catalogue.trust import Limits
from firmware.contents import ROOT_SET
from firmware.delta.facts import DeltaFacts
from firmware.delta.format import HEADER_BYTES, read_header
from firmware.encryption.chunked import Decryption
from firmware.encryption.content_key import ContentKey
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.manifest import MAX_BYTES as MAX_MANIFEST_BYTES
from firmware.manifest import WINDOW_BYTES, Encrypted, Image, Manifest, describe, parse_manifest
from firmware.protocol.codec import canonical
from firmware.protocol.topics import CATALOGUE
from firmware.protocol.words import ReasonKind
from server.artifacts import ArtifactStore
from server.campaigns.deltas import DeltaFactory
from server.campaigns.private_deltas import Opener, Secrets
from server.campaigns.release_keys import ReleaseKeys
from server.errors import NotFoundError
from server.ports import (
    MAX_DELTA_MEMORY,
    Clock,
    Database,
    DeltaRecord,
    EncryptedImage,
    ReleaseImage,
    ReleaseRecord,
    ReleaseState,
    Requirements,
    StoredFile,
    Unit,
)

log = logging.getLogger(__name__)
MAX_SOURCES = 8
"""Deltas are made from at most this many releases, those that most of the fleet runs first."""


class ReleaseService:
    """Publishes releases and makes their deltas; keep `run` running. `on_outbox` is told when there is something to send."""

    def __init__(
        self,
        *,
        database: Database,
        repository: Repository,
        artifacts: ArtifactStore,
        factory: DeltaFactory,
        clock: Clock,
        release_keys: ReleaseKeys | None = None,
        on_outbox: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._repository = repository
        self._artifacts = artifacts
        self._factory = factory
        self._clock = clock
        self._release_keys = release_keys
        self._on_outbox = on_outbox
        self._wanted: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._making = asyncio.Lock()
        self._hopeless: dict[tuple[str, str], str] = {}

    async def publish(
        self, *, product: str, version: str, manifest: bytes, metadata: bytes, by: str, content_key: bytes | None = None
    ) -> ReleaseRecord:
        """Take a signed release into the catalogue; the same again changes nothing. `content_key`: of an encrypted release,
        wrapped for this server.

        Raises `RefusedError`: `malformed`, `wrong-release`, `artifact-missing`, `artifact-changed`, `catalogue-mismatch`,
        `image-missing`, `release-exists`, `content-key-missing`, `cannot-decrypt`, or what `Repository.accept_product` raises;
        `UnavailableError` (`storage-fault`).
        """
        facts = _facts(manifest, product, version)
        wanted = release_targets(product, manifest)
        record = _record(facts, wanted, self._clock.now())
        try:
            key = await asyncio.to_thread(self._opened, record, content_key)
            await asyncio.to_thread(self._check_images, facts, key)
            if not await asyncio.to_thread(self._listed, wanted):
                text = f"{product} {version} is to be taken into the catalogue."
                await self._offer(text, kind="release-offered", by=by)
            await asyncio.to_thread(self._accept, product, wanted, manifest, metadata)
        except OSError as error:
            raise UnavailableError(ReasonKind.STORAGE_FAULT, f"The release could not be stored: {error}.") from error
        await self._database.write(lambda unit: self._add(unit, record, by, content_key if key else None))
        self._on_outbox()
        self._wanted.put_nowait((product, version))
        return record

    async def release_key(self) -> str:
        """The public key that makers encrypt releases to, as text. Raises `RefusedError` (`release-key-unusable`)."""
        return await asyncio.to_thread(self._keys().public)

    async def make_deltas(self, product: str, version: str) -> Sequence[DeltaRecord]:
        """Make what deltas to a release's images are missing; returns all that lead to them.

        Raises `NotFoundError`, and `UnavailableError` (`storage-fault`) when the disk refuses.
        """
        release, sources = await self._database.read(lambda unit: _plan(unit, product, version))
        for source in sources:
            for image in release.images:
                await self.make_delta(source, release, image.slot)
        deltas = await self._database.read(lambda unit: unit.releases.deltas())
        return deltas_to(release, deltas)

    async def make_delta(self, source: ReleaseRecord, release: ReleaseRecord, slot: str) -> str:
        """Make the delta between two releases' images for one slot set, unless it is there; an empty text, or why there is none.
        One at a time, so that who waits for one waits at most for the one that is being made.

        Raises `UnavailableError` (`storage-fault`) when the disk refuses.
        """
        ends = _Ends.of(source, release, slot)
        if ends is None:
            return f"{source.version} and {release.version} differ in no image for {slot} that both have."
        async with self._making:
            if ends.pair in self._hopeless:
                return self._hopeless[ends.pair]
            if await self._database.read(lambda unit: unit.releases.delta(*ends.pair)) is not None:
                return ""
            return await self._make_or_say(ends)

    async def run(self) -> None:
        """Make deltas for every release that is published, and once for those that are there, until cancelled."""
        await self._read_requirements()
        for release in await self._database.read(lambda unit: _newest(unit.releases.list())):
            self._wanted.put_nowait((release.product, release.version))
        while True:
            product, version = await self._wanted.get()
            try:
                await self.make_deltas(product, version)
            except OtariaError as error:
                log.warning("no deltas to %s %s: %s", product, version, error, extra={"kind": error.kind})

    async def _read_requirements(self) -> None:
        """Read again what releases require that were published before this was kept in their records."""
        for release in await self._database.read(lambda unit: unit.releases.list()):
            sha256 = release.manifest.sha256
            try:
                length = await self._artifacts.length(sha256) if release.requires is None else None
                if length is None:
                    continue
                text = await self._artifacts.read(sha256, 0, min(length, MAX_MANIFEST_BYTES + 1))
                requires = _requirements(parse_manifest(text))
            except (OtariaError, OSError) as error:
                log.warning("the manifest of %s %s can't be read: %s", release.product, release.version, error)
                continue
            where = (release.product, release.version)
            await self._database.write(lambda unit, w=where, r=requires: unit.releases.set_requirements(*w, r))  # type: ignore[misc]

    def _keys(self) -> ReleaseKeys:
        if self._release_keys is None:
            raise RefusedError(
                "release-key-unusable", "This server holds no release key, so it takes no encrypted releases."
            )
        return self._release_keys

    def _opened(self, record: ReleaseRecord, wrapped: bytes | None) -> ContentKey | None:
        """The key of an encrypted release; None for any other."""
        if record.encrypted_sha256 is None:
            return None
        if wrapped is None:
            name = f"{record.product} {record.version}"
            raise RefusedError(
                "content-key-missing", f"{name} is encrypted and its key was not sent; publish all of it."
            )
        return self._keys().open(record, wrapped)

    def _check_images(self, facts: Manifest, key: ContentKey | None) -> None:
        """Read each image as a target would: an encrypted one is decrypted, in memory only."""
        for image in facts.images:
            encrypted = facts.encryption_of(image)
            stored = encrypted or image
            length = self._artifacts.length_now(stored.sha256)
            if length is None:
                text = f"The image {stored.path} is not here; upload it as /artifacts/sha256/{stored.sha256} first."
                raise RefusedError("artifact-missing", text)
            pieces = self._artifacts.pieces(stored.sha256, length, WINDOW_BYTES)
            if encrypted and key:
                pieces = Decryption(key, encrypted.salt, image.length).decrypt(pieces)
            found = describe(pieces)
            if (found.length, found.sha256, found.windows) != (image.length, image.sha256, image.windows):
                raise RefusedError(
                    ReasonKind.ARTIFACT_CHANGED,
                    f"The image {image.path} is not what the manifest says; build and sign the release again.",
                )

    def _accept(self, product: str, wanted: Mapping[str, TargetFile], manifest: bytes, metadata: bytes) -> None:
        if self._listed(wanted):
            return
        offered = parse(metadata, Targets, product_role(product), max_bytes=Limits().targets_bytes)
        _require_signed(offered.signed.targets, wanted)
        self._artifacts.add([manifest])
        self._repository.accept_product(metadata, product=product, now=self._clock.now())

    def _listed(self, wanted: Mapping[str, TargetFile]) -> bool:
        for path, target in wanted.items():
            held = self._repository.files(path)
            if held is None or (held.length, held.sha256) != (target.length, target.hashes["sha256"]):
                return False
        return True

    async def _offer(self, text: str, *, kind: str, by: str) -> None:
        """On the trail before the catalogue's files change: what isn't there is not done."""
        now = self._clock.now()
        await self._database.write(lambda unit: unit.audit.add(at=now, kind=kind, text=text, actor=by))

    def _add(self, unit: Unit, record: ReleaseRecord, by: str, content_key: bytes | None) -> None:
        known = unit.releases.get(record.product, record.version)
        unit.releases.add(record, content_key=content_key)
        if known is None:
            text = f"{record.product} {record.version} (counter {record.counter}) was published."
            unit.audit.add(at=self._clock.now(), kind="release-published", text=text, actor=by)
            self._ring(unit)

    async def _make_or_say(self, ends: "_Ends") -> str:
        try:
            return await self._make(ends)
        except OSError as error:
            raise UnavailableError(ReasonKind.STORAGE_FAULT, f"{ends.title} could not be stored: {error}.") from error

    async def _make(self, ends: "_Ends") -> str:
        if ends.old.encrypted and not ends.new.encrypted:
            return f"{ends.source.version} is encrypted and {ends.release.version} is not: a delta would show what has changed."
        for release, image in ((ends.source, ends.old), (ends.release, ends.new)):
            if await self._artifacts.length(image.stored.sha256) is None:
                return f"The image of {release.version} is not here."
        if await self._adopted(ends):
            return ""
        async with (
            self._artifacts.local(ends.old.stored.sha256) as old,
            self._artifacts.local(ends.new.stored.sha256) as new,
        ):
            return await self._make_of(old, new, ends)

    async def _make_of(self, old: Path, new: Path, ends: "_Ends") -> str:
        with tempfile.TemporaryDirectory(dir=self._artifacts.incoming) as folder:
            try:
                facts, salt = await self._run_factory(old, new, Path(folder) / "delta.otd", ends)
            except OtariaError as error:
                return await self._give_up(ends.pair, f"{ends.title} can't be made: {error}", kind=error.kind)
            if facts is None:
                return await self._give_up(ends.pair, f"{ends.title} would save too little.", kind="delta-too-large")
            if (facts.ends.source_sha256, facts.ends.output_sha256) != ends.pair:
                return (
                    f"The stored image of {ends.source.version} or {ends.release.version} is damaged; upload it again."
                )
            await self._offer(f"{ends.title} is to be taken into the catalogue.", kind="delta-offered", by="releases")
            sha256, length = await asyncio.to_thread(self._artifacts.add_file, Path(folder) / "delta.otd")
        file = StoredFile(path=ends.path(salt), length=length, sha256=sha256)
        await asyncio.to_thread(
            self._repository.add_delta, file.path, length=length, sha256=sha256, now=self._clock.now()
        )
        await self._keep(file, ends, salt)
        return ""

    async def _run_factory(
        self, old: Path, new: Path, out: Path, ends: "_Ends"
    ) -> tuple[DeltaFacts | None, str | None]:
        """The delta's facts, None when it isn't worth it, and its salt when it is encrypted."""
        if ends.new.encrypted is None:
            return await self._factory.make(old, new, out), None
        opener = await self._opener(ends.source, ends.old) if ends.old.encrypted else None
        secrets = Secrets(source=opener, target=await self._opener(ends.release, ends.new))
        made = await self._factory.make_encrypted(old, new, out, secrets)
        return (made.facts, made.salt) if made else (None, None)

    async def _opener(self, release: ReleaseRecord, image: ReleaseImage) -> Opener:
        """What opens an encrypted image. Raises `RefusedError`."""
        wrapped = await self._database.read(lambda unit: unit.releases.content_key(release.product, release.version))
        if image.encrypted is None or wrapped is None:
            raise RefusedError("content-key-missing", f"The key to {release.version} is not here; publish it again.")
        key = await asyncio.to_thread(self._keys().open, release, wrapped)
        return Opener(key=key.reveal().hex(), salt=image.encrypted.salt, length=image.file.length)

    async def _adopted(self, ends: "_Ends") -> bool:
        """Whether the catalogue lists this delta already, from before a crash or a restored backup; it is then recorded.

        A delta that is made again may differ byte for byte, and a path is never given other content. An encrypted one is never
        found: its salt is in its path.
        """
        listed = await asyncio.to_thread(self._repository.files, ends.path())
        if listed is None or await self._artifacts.length(listed.sha256) is None:
            return False
        await self._keep(StoredFile(path=listed.path, length=listed.length, sha256=listed.sha256), ends)
        return True

    async def _keep(self, file: StoredFile, ends: "_Ends", salt: str | None = None) -> None:
        delta = DeltaRecord(
            file=file,
            source_sha256=ends.old.file.sha256,
            source_length=ends.old.file.length,
            target_sha256=ends.new.file.sha256,
            memory_bytes=await self._memory_of(file),
            salt=salt,
        )
        text = f"{ends.title} has {file.length} bytes; the image {ends.new.file.length}."
        await self._database.write(lambda unit: self._add_delta(unit, delta, text))
        self._on_outbox()

    def _add_delta(self, unit: Unit, delta: DeltaRecord, text: str) -> None:
        unit.releases.add_delta(delta)
        unit.audit.add(at=self._clock.now(), kind="delta-made", text=text, actor="releases")
        self._ring(unit)

    async def _memory_of(self, file: StoredFile) -> int:
        """What a delta asks of who applies it, by its header; the format's bound when that can't be read."""
        try:
            head = await self._artifacts.read(file.sha256, 0, min(file.length, HEADER_BYTES))
            return 1 << read_header(head).window_log
        except OtariaError:
            return MAX_DELTA_MEMORY

    async def _give_up(self, pair: tuple[str, str], text: str, *, kind: str) -> str:
        """Don't try this delta again while the server runs, and say so on the trail; returns the text."""
        self._hopeless[pair] = text
        now = self._clock.now()
        await self._database.write(lambda unit: unit.audit.add(at=now, kind=kind, text=text, actor="releases"))
        return text

    def _ring(self, unit: Unit) -> None:
        """The doorbell, in the same transaction as what it announces."""
        unit.outbox.add(CATALOGUE, canonical({"at": int(self._clock.now())}), retain=True)


@dataclass(frozen=True, kw_only=True)
class _Ends:
    """What a delta joins: two releases, and their images for one slot set."""

    source: ReleaseRecord
    release: ReleaseRecord
    old: ReleaseImage
    new: ReleaseImage

    @classmethod
    def of(cls, source: ReleaseRecord, release: ReleaseRecord, slot: str) -> "_Ends | None":
        """The ends for a slot set; None when there is nothing to make."""
        old, new = source.image(slot), release.image(slot)
        if old is None or new is None or old.file.sha256 == new.file.sha256:
            return None
        return cls(source=source, release=release, old=old, new=new)

    @property
    def pair(self) -> tuple[str, str]:
        return self.old.file.sha256, self.new.file.sha256

    @property
    def title(self) -> str:
        of = "" if len(self.release.images) == 1 else f" of {self.new.slot}"
        return f"The delta{of} from {self.source.version} to {self.release.version}"

    def path(self, salt: str | None = None) -> str:
        """Its path in the catalogue."""
        ending = f"-{salt[:16]}.otd.enc" if salt else ".otd"
        return f"deltas/{self.pair[0][:16]}-{self.pair[1][:16]}{ending}"


def deltas_to(release: ReleaseRecord, deltas: Iterable[DeltaRecord]) -> list[DeltaRecord]:
    """The deltas that lead to a release's images."""
    images = {image.file.sha256 for image in release.images}
    return [delta for delta in deltas if delta.target_sha256 in images]


def delta_sources(
    release: ReleaseRecord, releases: Sequence[ReleaseRecord], images: Mapping[str, int]
) -> list[ReleaseRecord]:
    """Earlier releases that deltas to `release` should start from: those whose content the fleet runs, the most common first,
    and the one before it. `images`: how many targets run each, by the content's sha256."""
    earlier = [
        other
        for other in releases
        if other.product == release.product and other.counter < release.counter and other.sha256 != release.sha256
    ]
    before = max(earlier, key=lambda other: other.counter, default=None)
    useful = [other for other in earlier if images.get(other.sha256, 0) or other is before]
    return sorted(useful, key=lambda other: (-images.get(other.sha256, 0), -other.counter))[:MAX_SOURCES]


def _plan(unit: Unit, product: str, version: str) -> tuple[ReleaseRecord, list[ReleaseRecord]]:
    """A release and the sources that deltas to it should start from."""
    release = unit.releases.get(product, version)
    if release is None:
        raise NotFoundError(f"There is no release {version} of {product}; `otaria release publish` makes one.")
    sources = delta_sources(release, unit.releases.list(), unit.fleet.images())
    return release, sources


def _image(facts: Manifest, image: Image) -> ReleaseImage:
    file = StoredFile(path=image.path, length=image.length, sha256=image.sha256)
    return ReleaseImage(slot=image.slot, file=file, encrypted=_encrypted(facts.encryption_of(image)))


def _encrypted(one: Encrypted | None) -> EncryptedImage | None:
    if one is None:
        return None
    file = StoredFile(path=one.path, length=one.length, sha256=one.sha256)
    return EncryptedImage(file=file, salt=one.salt, key_check=one.key_check)


def _newest(releases: Sequence[ReleaseRecord]) -> list[ReleaseRecord]:
    """The newest active release of each product."""
    newest: dict[str, ReleaseRecord] = {}
    for release in releases:
        held = newest.get(release.product)
        if release.state is ReleaseState.ACTIVE and (held is None or release.counter > held.counter):
            newest[release.product] = release
    return list(newest.values())


def _facts(manifest: bytes, product: str, version: str) -> Manifest:
    facts = parse_manifest(manifest)
    if (facts.product, facts.version) != (product, version):
        raise RefusedError(
            "wrong-release", f"The manifest is of {facts.product} {facts.version}, not of {product} {version}."
        )
    if all(image.slot != ROOT_SET for image in facts.images):
        text = f"The release has no image for {ROOT_SET}, which every device boots; build it again with one."
        raise RefusedError(ReasonKind.IMAGE_MISSING, text)
    return facts


def _require_signed(offered: Mapping[str, TargetFile], wanted: Mapping[str, TargetFile]) -> None:
    for path, target in wanted.items():
        if offered.get(path) != target:
            raise RefusedError(
                ReasonKind.CATALOGUE_MISMATCH,
                f"The signed metadata does not list {path} as the manifest has it; run `otaria release sign` again.",
            )


def _record(facts: Manifest, wanted: Mapping[str, TargetFile], now: float) -> ReleaseRecord:
    manifest = next(target for path, target in wanted.items() if path.endswith("/manifest.json"))
    return ReleaseRecord(
        product=facts.product,
        version=facts.version,
        counter=facts.counter,
        hardware=tuple(facts.hardware),
        manifest=StoredFile(path=manifest.path, length=manifest.length, sha256=manifest.hashes["sha256"]),
        images=tuple(_image(facts, image) for image in facts.images),
        notes=facts.notes,
        published_at=now,
        requires=_requirements(facts),
    )


def _requirements(facts: Manifest) -> Requirements:
    if facts.requires is None:
        return Requirements()
    return Requirements(min_counter=facts.requires.min_counter, through=tuple(facts.requires.through))
