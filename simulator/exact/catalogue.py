"""A real catalogue, made in process: the ceremony, releases as the commands make them, and a device's way to its files."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from firmware.catalogue.adopt import adopt
from firmware.catalogue.ceremony import Plan, begin
from firmware.catalogue.changes import rotate
from firmware.catalogue.client import DIRECTOR
from firmware.catalogue.keyfiles import ECDSA, SUFFIX, generate
from firmware.catalogue.publish import Repository
from firmware.errors import UnavailableError
from firmware.manifest import Image, Manifest, describe, encode_manifest
from firmware.protocol.order import FileRef
from firmware.protocol.words import ReasonKind
from server.artifacts import ArtifactStore
from server.campaigns.releases import ReleaseService
from simulator.virtual.world import Release
from simulator.wire.parts import Blob

IMAGE_BYTES = 4096
"""Of each image. How long it takes to load is the world's word."""
BLOCKS_BYTES = 1_300_000
"""The same where some reach nothing but the broker: twenty blocks, which are more than one window and one credit."""


def open_catalogue(directory: Path, product: str, *, now: float, scheme: str = ECDSA) -> Repository:
    """Hold the ceremony: all keys and the first version of every role."""
    repository, _ = begin(directory, Plan(products=[product], scheme=scheme), now=now)
    return repository


def rotate_director(held: Repository, number: int, *, now: float) -> Repository:
    """Replace the director's key, as `otaria keys rotate director` does; the catalogue with it."""
    directory = held.metadata.parent
    key = generate(directory / "keys" / "online" / f"{DIRECTOR}-{number}{SUFFIX}").public_key
    repository = Repository.workspace(directory)
    proposal = rotate(repository, DIRECTOR, key, now=now)
    proposal.sign(repository.keyring)
    adopt(repository, proposal, now=now)
    return Repository.workspace(directory)


def image_of(product: str, version: str, size: int = IMAGE_BYTES) -> bytes:
    """A release's image: bytes that are its own."""
    block = hashlib.sha256(f"{product} {version}".encode()).digest()
    return block * (size // len(block))


def blob_of(product: str, version: str, counter: int, size: int = IMAGE_BYTES) -> Blob:
    """The same as it is in a device's slot."""
    data = image_of(product, version, size)
    return Blob(sha256=hashlib.sha256(data).hexdigest(), length=len(data), version=version, counter=counter)


async def publish(
    service: ReleaseService,
    repository: Repository,
    artifacts: ArtifactStore,
    release: Release,
    *,
    product: str,
    counter: int,
    hardware: Sequence[str],
    now: float,
    size: int = IMAGE_BYTES,
) -> None:
    """Build, sign and publish a release, as `otaria release build`, `sign` and `publish` do."""
    data = image_of(product, release.version, size)
    artifacts.add([data])
    hashes = describe([data])
    draft = Manifest(
        product=product,
        version=release.version,
        counter=counter,
        hardware=sorted(release.hardware or hardware),
        images=[
            Image(path=f"releases/{product}/{release.version}/root.img", length=1, sha256="0" * 64, windows=["0" * 64])
        ],
    )
    shape = {"length": hashes.length, "sha256": hashes.sha256, "windows": hashes.windows}
    manifest = encode_manifest(replace(draft, images=[replace(draft.images[0], **shape)]))
    repository.sign_release(product, manifest, now=now)
    metadata = repository.signed_release(product, manifest)
    await service.publish(product=product, version=release.version, manifest=manifest, metadata=metadata, by="sim")


class NearFiles:
    """`simulator.wire.site.Files` where catalogue and artifacts are on this machine: what the server's listener would serve."""

    def __init__(self, metadata: Path, artifacts: ArtifactStore) -> None:
        self._metadata, self._artifacts = metadata, artifacts

    def metadata(self, name: str, max_bytes: int) -> bytes | None:
        return _head(self._metadata / name, max_bytes)

    def target(self, address: str, max_bytes: int) -> bytes | None:
        """By its consistent-snapshot name, `DIR/SHA256.NAME`."""
        sha256 = address.rpartition("/")[2].partition(".")[0]
        path = self._artifacts.find(sha256)
        return _head(path, max_bytes) if path is not None else None

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        path = self._artifacts.find(file.sha256)
        if path is None:
            raise UnavailableError(ReasonKind.UNREACHABLE, f"There is no {file.path} here.")
        with path.open("rb") as stored:
            stored.seek(offset)
            yield stored.read(file.length - offset + 1)


def _head(path: Path, max_bytes: int) -> bytes | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(max_bytes + 1)
