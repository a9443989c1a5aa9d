"""Images, orders and a source of artifacts for the installer's tests."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from msgspec.structs import replace

from device_agent.decryption import DecryptionKey
from firmware.delta.make import make_delta
from firmware.encryption.chunked import Encryption
from firmware.encryption.content_key import SUITE, ContentKey, Purpose, key_id, public_text, to_text, wrap
from firmware.errors import UnavailableError
from firmware.manifest import Encrypted, Image, Manifest, describe
from firmware.protocol.order import Counter, DeltaRef, FileRef, Order, OrderedImage, ReleaseRef, WrappedKey
from firmware.protocol.words import Action


def some_bytes(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


@dataclass
class Shelf:
    """A `Source` that misbehaves as told. `faults` maps a file's sha256 to one fault per opening; then it is well."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    chunk: int = 100_000
    opened: list[tuple[str, int]] = field(default_factory=list)
    given: int = 0

    def put(self, data: bytes, path: str) -> FileRef:
        digest = hashlib.sha256(data).hexdigest()
        self.files[digest] = data
        return FileRef(path=path, length=len(data), sha256=digest)

    def open(self, file: FileRef, *, offset: int) -> Iterator[bytes]:
        self.opened.append((file.path, offset))
        faults = self.faults.get(file.sha256, [])
        fault = faults.pop(0) if faults else "none"
        data, cut_at = self._spoilt(self.files[file.sha256], fault)
        for start in range(offset, len(data), self.chunk):
            if cut_at is not None and start >= cut_at:
                raise UnavailableError("unreachable", "The line went dead.")
            piece = data[start : start + self.chunk]
            self.given += len(piece)
            yield piece
        while fault == "endless":
            self.given += self.chunk
            yield bytes(self.chunk)

    def allow(self, bytes_per_s: int | None) -> None:
        self.rate = bytes_per_s

    def again(self, file: FileRef, *, wrong: bool) -> bool:
        return False

    def evidence(self) -> dict[str, object]:
        return {"given": self.given}

    def _spoilt(self, data: bytes, fault: str) -> tuple[bytes, int | None]:
        name, _, at = fault.partition(" ")
        if name == "changed":
            spoilt = bytearray(data)
            spoilt[int(at)] ^= 1
            return bytes(spoilt), None
        if name == "truncated":
            return data[: int(at)], None
        if name == "long":
            return data + b"x" * int(at), None
        return data, int(at) if name == "dead" else None


@dataclass
class Stage:
    """An old image, a new one, the new one's manifest, and orders for it."""

    folder: Path
    old: bytes
    new: bytes
    shelf: Shelf = field(default_factory=Shelf)
    key: ContentKey | None = None
    wrapped_key: WrappedKey | None = None
    keys: DecryptionKey | None = None

    def __post_init__(self) -> None:
        self.file = self.shelf.put(self.new, "releases/demo/2.0/image.img")
        hashes = describe([self.new])
        image = Image(path=self.file.path, length=hashes.length, sha256=hashes.sha256, windows=hashes.windows)
        self.manifest = Manifest(product="demo", version="2.0", counter=2, hardware=["sim-1"], images=[image])

    def encrypt(self, holder: X25519PublicKey) -> None:
        """From now on the release is encrypted, and orders bring its key for this holder."""
        self.key = ContentKey.new()
        encryption = Encryption(self.key)
        path = self.manifest.images[0].path
        self.file = self.shelf.put(b"".join(encryption.encrypt([self.new])), f"{path}.enc")
        encrypted = Encrypted(
            image=path,
            path=self.file.path,
            length=self.file.length,
            sha256=self.file.sha256,
            salt=encryption.salt,
            key_check=self.key.check(),
        )
        self.manifest = replace(self.manifest, encrypted=[encrypted], crit=["encrypted"])
        self.wrapped_key = self.wrapped_for(holder)

    def encrypt_for_device(self) -> None:
        """Likewise, for a device whose installer gets `keys`."""
        private = X25519PrivateKey.generate()
        self.keys = DecryptionKey(private)
        self.encrypt(private.public_key())

    def wrapped_for(self, holder: X25519PublicKey, **changes: str) -> WrappedKey:
        """The release's key for a device."""
        assert self.key is not None
        purpose = Purpose(
            recipient="device",
            product="demo",
            version="2.0",
            counter=2,
            artifact=self.file.sha256,
            target="d1",
            hardware="sim-1",
        )
        data = wrap(self.key, holder, replace(purpose, **changes))
        return WrappedKey(suite=SUITE, key_id=key_id(public_text(holder)), data=to_text(data))

    def encrypted_delta(self) -> DeltaRef:
        """The delta, encrypted by the release's key, on the shelf."""
        plain = self.delta()
        assert self.key is not None
        encryption = Encryption(self.key)
        data = b"".join(encryption.encrypt([self.shelf.files.pop(plain.file.sha256)]))
        return replace(plain, file=self.shelf.put(data, "deltas/a-b.otd.enc"), salt=encryption.salt)

    def order(self, delta: DeltaRef | None = None) -> Order:
        return Order(
            target="d1",
            agent="d1",
            hardware="sim-1",
            counter=Counter(epoch=1, n=1),
            action=Action.INSTALL,
            change_id="c1",
            issued_at=0,
            expires_at=10,
            release=ReleaseRef(product="demo", version="2.0", counter=2, manifest=self.file),
            images=[OrderedImage(file=self.file, delta=delta)],
            wrapped_key=self.wrapped_key,
        )

    def delta(self) -> DeltaRef:
        """A real delta from the old image, on the shelf."""
        paths = SimpleNamespace(old=self.folder / "old", new=self.folder / "new", patch=self.folder / "patch")
        paths.old.write_bytes(self.old)
        paths.new.write_bytes(self.new)
        make_delta(paths.old, paths.new, paths.patch, level=1)
        file = self.shelf.put(paths.patch.read_bytes(), "deltas/a-b.otd")
        return DeltaRef(file=file, source_sha256=hashlib.sha256(self.old).hexdigest(), source_length=len(self.old))


@pytest.fixture(scope="session")
def images() -> tuple[bytes, bytes]:
    """An old image and its successor, which shares most of its bytes; neither is a whole number of windows."""
    old = some_bytes(1, 2_700_000)
    new = some_bytes(9, 512) + old[512:900_000] + some_bytes(2, 90_000) + old[900_000:2_600_000] + some_bytes(3, 40_001)
    return old, new


@pytest.fixture
def stage(images: tuple[bytes, bytes], tmp_path: Path) -> Stage:
    return Stage(folder=tmp_path, old=images[0], new=images[1])
