"""A catalogue with all its keys, a server that can be made to lie, and a device with a store in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from firmware.catalogue.ceremony import initialise
from firmware.catalogue.client import CatalogueClient
from firmware.catalogue.publish import Repository
from firmware.manifest import Image, Manifest, describe, encode_manifest
from tests.tuf_repository import device as device
from tests.tuf_repository import repository as repository

NOW = 1_800_000_000.0
DAY = 86_400.0


class MemoryStore:
    """A store that survives as bytes, and loses power before its k-th change when told to."""

    def __init__(self, files: dict[str, bytes] | None = None, *, cut_before: int | None = None) -> None:
        self.files = dict(files or {})
        self.changes = 0
        self._cut_before = cut_before

    def read(self, name: str) -> bytes | None:
        return self.files.get(name)

    def replace(self, name: str, data: bytes) -> None:
        self._change()
        self.files[name] = data

    def unlink(self, name: str) -> None:
        self._change()
        self.files.pop(name, None)

    def _change(self) -> None:
        if self._cut_before is not None and self.changes >= self._cut_before:
            raise PowerCutError
        self.changes += 1


class PowerCutError(BaseException):
    """Nothing in the client may catch this."""


class Lab:
    """`served` overrides what the server gives (None: not found); `asked` is what was fetched, with the byte limit."""

    DAY = DAY
    MemoryStore = MemoryStore
    PowerCutError = PowerCutError

    def __init__(self, directory: Path, *, now: float = NOW) -> None:
        self.NOW = now
        self.directory = directory
        self.repository = initialise(directory, products=["pump", "valve"], now=now)
        self.metadata = directory / "metadata"
        self.served: dict[str, bytes | None] = {}
        self._forged: dict[str, Any] = {}
        self.asked: list[tuple[str, int]] = []
        self.store = MemoryStore()
        CatalogueClient.initialise(self.store, self.repository.root_bytes())

    # the server

    def fetch(self, name: str, max_bytes: int) -> bytes | None:
        self.asked.append((name, max_bytes))
        path = self.metadata / name
        data = self.served[name] if name in self.served else path.read_bytes() if path.is_file() else None
        return None if data is None else data[: max_bytes + 1]

    def server(self) -> Repository:
        """The catalogue as the server has it: online keys only."""
        return Repository(self.metadata, online_keys=self.directory / "keys" / "online")

    # the publisher

    def manifest(self, version: str = "1.0", counter: int = 1, *, product: str = "pump", fill: bytes = b"x") -> bytes:
        hashes = describe([fill * 3000])
        path = f"releases/{product}/{version}/{product}.img"
        image = Image(path=path, length=hashes.length, sha256=hashes.sha256, windows=hashes.windows)
        return encode_manifest(
            Manifest(product=product, version=version, counter=counter, hardware=["hw-a"], images=[image])
        )

    def publish(self, version: str = "1.0", counter: int = 1, *, product: str = "pump") -> bytes:
        data = self.repository.sign_release(product, self.manifest(version, counter, product=product), now=self.NOW)
        self.server().accept_product(data, product=product, now=self.NOW)
        return data

    # the device

    def client(self, store: Any = None, **more: Any) -> CatalogueClient:
        return CatalogueClient(store or self.store, self.fetch, **more)

    # signing by hand, as whoever holds the keys

    def signer(self, name: str) -> CryptoSigner:
        path = next((self.directory / "keys").glob(f"*/{name}.pem"))
        return CryptoSigner(load_pem_private_key(path.read_bytes(), password=None))

    def signed(self, body: Root | Timestamp | Snapshot | Targets, *names: str | CryptoSigner) -> bytes:
        metadata = Metadata(body)
        for name in names:
            metadata.sign(self.signer(name) if isinstance(name, str) else name, append=True)
        return metadata.to_bytes()

    def serve_root(self, change: Callable[[Root], None], *names: str | CryptoSigner) -> Root:
        """Put the next root on the server, changed and signed by these keys."""
        root = self.repository.root()
        root.version += 1
        change(root)
        (self.metadata / f"{root.version}.root.json").write_bytes(self.signed(root, *names))
        return root

    def serve_snapshot(self, change: Callable[[Snapshot], Any], *, signer: str | CryptoSigner = "snapshot") -> None:
        """What a thief of the online keys can do: a changed snapshot under a new timestamp, on top of what is served."""
        body = self._forged.setdefault("snapshot", self.repository.snapshot())
        body.version += 1
        change(body)
        data = self.signed(body, signer)
        self.served[f"{body.version}.snapshot.json"] = data
        meta = MetaFile.from_data(body.version, data, ["sha256"])
        self.serve_timestamp(lambda stamp: setattr(stamp, "snapshot_meta", meta), "timestamp")

    def serve_timestamp(self, change: Callable[[Timestamp], Any], *names: str | CryptoSigner) -> None:
        """A changed timestamp, on top of what is served."""
        body = self._forged.setdefault("timestamp", self.repository.timestamp())
        body.version += 1
        change(body)
        self.served["timestamp.json"] = self.signed(body, *names)

    def serve_honestly(self) -> None:
        """The attacker is gone."""
        self.served.clear()
        self._forged.clear()

    def serve_targets(self, role: str, body: Targets, *names: str | CryptoSigner) -> None:
        """A changed targets role, named by a snapshot that the thief of the online keys signs."""
        data = self.signed(body, *names)
        self.served[f"{body.version}.{role}.json"] = data
        meta = MetaFile.from_data(body.version, data, ["sha256"])
        self.serve_snapshot(lambda snapshot: snapshot.meta.update({f"{role}.json": meta}))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "acme")
