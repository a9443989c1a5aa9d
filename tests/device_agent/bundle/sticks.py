"""A stick with a bundle that the catalogue's lab filled, and a device that has never seen the network."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer

from device_agent.catalogue import DeviceCatalogue
from device_agent.effects import FileEffects
from device_agent.identity import Identity
from firmware.bundle.gather import gather
from firmware.bundle.layout import Note
from firmware.bundle.write import Content, write_bundle
from firmware.errors import UnavailableError
from firmware.manifest import parse_manifest
from firmware.protocol.codec import canonical
from firmware.protocol.envelope import seal
from firmware.protocol.order import Counter, FileRef, Order, OrderedImage, ReleaseRef, Span
from firmware.protocol.words import Action

IDENTITY = Identity(
    agent="dev-1",
    target="dev-1",
    hardware="hw-a",
    mqtt_host="127.0.0.1",
    mqtt_port=1,
    https_url="https://127.0.0.1:1",
    root_sha256="0" * 64,
)
IMAGE = b"x" * 3000


def ref(path: str, data: bytes) -> FileRef:
    return FileRef(path=path, length=len(data), sha256=hashlib.sha256(data).hexdigest())


class Stick:
    """What a server would put on a stick. `change` is applied to the parts before they are written."""

    def __init__(self, lab: Any, path: Path) -> None:
        self.lab, self.path = lab, path
        self.manifest = lab.publish("2.0", 2) and lab.manifest("2.0", 2)
        parsed = parse_manifest(self.manifest)
        self.manifest_ref = ref("releases/pump/2.0/manifest.json", self.manifest)
        image = parsed.images[0]
        self.image_ref = FileRef(path=image.path, length=image.length, sha256=image.sha256)
        self.n = 0

    @property
    def director(self) -> Signer:
        return self.lab.signer("director")  # type: ignore[no-any-return]

    def order(self, **fields: Any) -> bytes:
        """The next order for the device, signed."""
        self.n += 1
        now = int(self.lab.NOW)
        values = {
            "target": "dev-1",
            "agent": "dev-1",
            "hardware": "hw-a",
            "counter": Counter(epoch=self.lab.repository.director_epoch(), n=self.n),
            "action": Action.INSTALL,
            "change_id": "change-1",
            "issued_at": now,
            "expires_at": now + 86400,
            "unattended": True,
            "windows": [Span(start=now, end=now + 86400)],
            "release": ReleaseRef(product="pump", version="2.0", counter=2, manifest=self.manifest_ref),
            "images": [OrderedImage(file=self.image_ref)],
            "crit": ["windows"],
            **fields,
        }
        return seal(Order(**values), "order", self.director)

    def parts(self, orders: dict[str, bytes]) -> dict[str, bytes]:
        """The bundle's contents by name."""
        found = gather(
            self.lab.repository.root_bytes(), self.lab.fetch, [self.manifest_ref, self.image_ref], self.lab.NOW
        )
        note = Note(
            campaign="spring",
            product="pump",
            version="2.0",
            made_at=int(self.lab.NOW),
            usable_until=int(found.ends_at),
            orders=len(orders),
        )
        return {
            f"artifacts/{self.image_ref.sha256}": IMAGE,
            f"artifacts/{self.manifest_ref.sha256}": self.manifest,
            "bundle.json": canonical(note),
            **{f"metadata/{name}": data for name, data in found.files.items()},
            **{f"orders/{target}.json": data for target, data in orders.items()},
        }

    def write(
        self,
        orders: dict[str, bytes] | None = None,
        change: Callable[[dict[str, bytes]], object] = lambda parts: None,
    ) -> bytes:
        """Put a bundle on the stick; the order that it has for the device."""
        orders = {"dev-1": self.order()} if orders is None else orders
        parts = self.parts(orders)
        change(parts)
        contents = [Content.of(name, parts[name]) for name in sorted(parts)]
        self.path.write_bytes(b"".join(write_bundle(contents)))
        return orders.get("dev-1", b"")


def no_network(name: str, max_bytes: int) -> bytes | None:
    raise UnavailableError("unreachable", "There is no network here.")


def offline_catalogue(lab: Any, directory: Path) -> DeviceCatalogue:
    """A device's catalogue with the first root and no server."""
    directory.mkdir(exist_ok=True)
    return DeviceCatalogue(
        FileEffects(),
        directory,
        root=lab.repository.root_bytes(),
        fetch_metadata=no_network,
        fetch_target=no_network,
        trusted_time=lab.NOW,
    )
