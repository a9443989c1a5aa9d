"""Published releases: a slot image and its signed manifest's content."""

import functools
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firmware.checks import Watch
from firmware.contents import ROOT_SET
from firmware.delta.make import make_delta
from firmware.manifest import HealthCheck, Image, Manifest, Requires, describe, encode_manifest
from firmware.protocol.order import DeltaRef, FileRef, OrderedImage

BODY_BYTES = 50_000


def slot_image(version: str, counter: int, body_bytes: int = BODY_BYTES) -> bytes:
    """A slot image: a tar of `body_bytes` and some more."""
    facts = {"product": "demo", "version": version, "counter": counter, "entry": "app.py"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        body = hashlib.shake_256(version.encode()).digest(body_bytes)
        for name, data in (("otaria/slot.json", json.dumps(facts).encode()), ("app.py", body)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def other_image(slot_set: str, version: str, body_bytes: int = 9_000) -> bytes:
    """An image for a set that isn't booted; `"same"` as a version gives what every release has."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(f"{slot_set}/{version}")
        info.size = min(body_bytes, 9_000)
        archive.addfile(info, io.BytesIO(hashlib.shake_256(f"{slot_set} {version}".encode()).digest(info.size)))
    return out.getvalue()


@dataclass(frozen=True, kw_only=True)
class Release:
    """A published release with its images, by slot set."""

    manifest: Manifest
    manifest_ref: FileRef
    images: dict[str, bytes]
    refs: dict[str, FileRef]

    @property
    def image(self) -> bytes:
        return self.images[ROOT_SET]

    @property
    def image_ref(self) -> FileRef:
        return self.refs[ROOT_SET]

    @property
    def ordered(self) -> list[OrderedImage]:
        """What an order says about its images."""
        return [OrderedImage(slot=name, file=file) for name, file in self.refs.items()]


def release(
    version: str,
    counter: int,
    *,
    sets: Sequence[str] = (ROOT_SET,),
    unchanged: Sequence[str] = (),
    floor: int = 0,
    min_uptime_s: int = 0,
    requires: Requires | None = None,
    watch: Watch | None = None,
    body_bytes: int = BODY_BYTES,
) -> Release:
    """`sets`: the slot sets that it has images for; those `unchanged` are the same in every release."""
    images = {ROOT_SET: slot_image(version, counter, body_bytes)} | {
        name: other_image(name, "same" if name in unchanged else version, body_bytes)
        for name in sets
        if name != ROOT_SET
    }
    images = {name: images[name] for name in sets}
    shapes = {name: describe([image]) for name, image in images.items()}
    place = f"releases/demo/{version}"
    refs = {
        name: FileRef(
            path=f"{place}/image" if name == ROOT_SET else f"{place}/{name}.image",
            length=shape.length,
            sha256=shape.sha256,
        )
        for name, shape in shapes.items()
    }
    manifest = Manifest(
        product="demo",
        version=version,
        counter=counter,
        floor=floor,
        hardware=["board-1"],
        images=[
            Image(slot=name, path=ref.path, length=ref.length, sha256=ref.sha256, windows=shapes[name].windows)
            for name, ref in refs.items()
        ],
        health=[HealthCheck(kind="http", url="http://127.0.0.1:{port}/health")],
        min_uptime_s=min_uptime_s,
        requires=requires,
        watch=watch,
    )
    data = encode_manifest(manifest)
    manifest_ref = FileRef(path=f"{place}/manifest.json", length=len(data), sha256=hashlib.sha256(data).hexdigest())
    return Release(manifest=manifest, manifest_ref=manifest_ref, images=images, refs=refs)


@functools.cache
def delta(old: bytes, new: bytes) -> tuple[DeltaRef, bytes]:
    """A delta between two images, and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("old", "new", "patch")]
        for path, image in zip(paths, (old, new), strict=False):
            path.write_bytes(image)
        make_delta(*paths, level=1)
        patch = paths[2].read_bytes()
    digest = hashlib.sha256(patch).hexdigest()
    file = FileRef(path=f"deltas/{digest}", length=len(patch), sha256=digest)
    return DeltaRef(file=file, source_sha256=hashlib.sha256(old).hexdigest(), source_length=len(old)), patch
