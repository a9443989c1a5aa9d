"""Attacks on encrypted releases by whoever holds the store, the broker, or the director's key: what is tried, what stops it.

Damaged, swapped, cut and foreign chunks are in `tests/device_agent/install/test_encrypted_stream.py`; a whole fleet behind an
attacker's broker is in `tests/e2e/test_encrypted_update.py`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec.structs import replace
from securesystemslib.signer import CryptoSigner

from device_agent import verify
from device_agent.decryption import DecryptionKey
from device_agent.identity import Identity
from device_agent.inbound import open_order
from device_agent.notary import DirectorKeys
from device_agent.ports import Director
from firmware.catalogue.releases import release_targets
from firmware.encryption.content_key import SUITE, ContentKey, Purpose, key_id, public_text, to_text, unwrap, wrap
from firmware.errors import RefusedError
from firmware.manifest import Encrypted, Manifest, encode_manifest, parse_manifest
from firmware.protocol.codec import canonical
from firmware.protocol.envelope import claimed, key_from_dict, open_envelope, seal
from firmware.protocol.order import KIND, Counter, FileRef, Order, OrderedImage, ReleaseRef, WrappedKey
from firmware.protocol.report import REPORT_KIND, EncryptionKey, Inventory, Report, Running
from firmware.protocol.words import Action
from server.campaigns.release_keys import ReleaseKeys
from server.cli import run

IMAGE = Random(5).randbytes(3_000_000)
DIRECTOR = CryptoSigner.generate_ed25519()
IDENTITY = Identity(
    agent="d-1",
    target="d-1",
    hardware="pump-a",
    mqtt_host="127.0.0.1",
    mqtt_port=1,
    https_url="https://127.0.0.1",
    root_sha256="0" * 64,
)


@dataclass(kw_only=True)
class Release:
    """A release that a maker encrypted for the server, and the order of one device for it."""

    built: Path
    manifest: Manifest
    encrypted: Encrypted
    catalogue: dict[str, FileRef]
    order: Order
    private: X25519PrivateKey

    def refusal(self, order: Order, manifest: Manifest | None = None) -> str:
        """Why a device does not follow an order that the director's key signed, before it fetches anything."""
        reason = (
            verify.reject(order, IDENTITY)
            or verify.contradicts_catalogue(order, self.catalogue.get)
            or verify.contradicts_manifest(order, manifest or self.manifest, "pump-a", {})
            or verify.lacks_key(order, manifest or self.manifest)
        )
        if reason is None:
            try:
                DecryptionKey(self.private).open(order, self.manifest)
            except RefusedError as error:
                return error.kind
        return reason.kind if reason else "followed"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("encrypted-attacks")
    server, private = ReleaseKeys(folder), X25519PrivateKey.generate()
    (folder / "server.key").write_text(server.public())
    (folder / "pump.img").write_bytes(IMAGE)
    arguments = ["release", "build", "--product", "pump", "--version", "2.0", "--counter", "2", "--hardware", "pump-a"]
    arguments += ["--image", str(folder / "pump.img"), "--encrypt-to", str(folder / "server.key")]
    assert run([*arguments, "-o", str(folder / "2.0")]) == 0
    data = (folder / "2.0" / "manifest.json").read_bytes()
    manifest = parse_manifest(data)
    (encrypted,) = manifest.encrypted
    listed = release_targets("pump", data)
    catalogue = {
        path: FileRef(path=path, length=target.length, sha256=target.hashes["sha256"])
        for path, target in listed.items()
    }
    purpose = Purpose(recipient="server", product="pump", version="2.0", counter=2, artifact=encrypted.sha256)
    wrapped = (folder / "2.0" / "content-key.bin").read_bytes()
    key = unwrap(wrapped, server._key.private(), purpose, check=encrypted.key_check)
    for_device = replace(purpose, recipient="device", target="d-1", hardware="pump-a")
    public = private.public_key()
    order = Order(
        target="d-1",
        agent="d-1",
        hardware="pump-a",
        counter=Counter(epoch=1, n=1),
        action=Action.INSTALL,
        change_id="c1",
        issued_at=1,
        expires_at=2,
        release=ReleaseRef(
            product="pump", version="2.0", counter=2, manifest=catalogue["releases/pump/2.0/manifest.json"]
        ),
        images=[OrderedImage(file=catalogue[encrypted.path])],
        wrapped_key=WrappedKey(
            suite=SUITE, key_id=key_id(public_text(public)), data=to_text(wrap(key, public, for_device))
        ),
        crit=["wrapped_key"],
    )
    return Release(
        built=folder / "2.0",
        manifest=manifest,
        encrypted=encrypted,
        catalogue=catalogue,
        order=order,
        private=private,
    )


def test_the_honest_order_is_followed(release: Release) -> None:
    assert release.refusal(release.order) == "followed"


# Who owns store and broker


def test_store_broker_and_catalogue_show_no_byte_of_the_image(release: Release) -> None:
    """They read the store, the manifest, the wrapped key and every order. None of it holds 16 bytes of the image or the key."""
    shown = [path.read_bytes() for path in release.built.iterdir()]
    shown += [
        seal(release.order, KIND, DIRECTOR),
        json.dumps([str(one) for one in release.catalogue.values()]).encode(),
    ]
    key = DecryptionKey(release.private).open(release.order, release.manifest).reveal()
    pieces = [IMAGE[at : at + 16] for at in range(0, len(IMAGE) - 16, 4093)]
    assert len(pieces) > 700
    for secret in (*pieces, key, key.hex().encode(), to_text(key).encode()):
        assert not any(secret in data for data in shown)


def test_a_device_cannot_open_another_devices_key(release: Release) -> None:
    """They own a device of the fleet and replay the victim's key to it, under its own name too."""
    other = DecryptionKey(X25519PrivateKey.generate())
    assert release.order.wrapped_key is not None
    mine = replace(release.order.wrapped_key, key_id=key_id(other.announced.public))
    for order in (release.order, replace(release.order, wrapped_key=mine)):
        with pytest.raises(RefusedError) as caught:
            other.open(order, release.manifest)
        assert caught.value.kind == "cannot-decrypt"


def test_a_key_stripped_from_an_order_breaks_its_signature(release: Release) -> None:
    keys = DirectorKeys(Director(epoch=1, keys={DIRECTOR.public_key.keyid: DIRECTOR.public_key.to_dict()}))
    envelope = json.loads(seal(release.order, KIND, DIRECTOR))
    assert open_order(canonical(envelope), keys, IDENTITY).held.order == release.order
    _, payload = claimed(canonical(envelope))
    forged = seal(replace(release.order, wrapped_key=None, crit=[]), KIND, CryptoSigner.generate_ed25519())
    envelope["payload"] = json.loads(forged)["payload"]
    assert payload["wrapped_key"] is not None
    with pytest.raises(RefusedError) as caught:
        open_order(canonical(envelope), keys, IDENTITY)
    assert caught.value.kind == "bad-signature"


def test_encryption_stripped_from_a_manifest_is_another_manifest_than_the_catalogues(release: Release) -> None:
    plain = encode_manifest(replace(release.manifest, encrypted=[], crit=[]))
    listed = release_targets("pump", plain)["releases/pump/2.0/manifest.json"]
    assert listed.hashes["sha256"] != release.catalogue["releases/pump/2.0/manifest.json"].sha256


def test_a_manifest_that_hides_its_encryption_from_old_agents_is_refused(release: Release) -> None:
    """The maker's own key signs it: an agent from before encryption would take the encrypted file for the image."""
    document: dict[str, Any] = json.loads(encode_manifest(release.manifest))
    document["crit"] = []
    with pytest.raises(RefusedError) as caught:
        parse_manifest(canonical(document))
    assert caught.value.kind == "malformed"


def test_an_encryption_key_put_in_the_place_of_a_devices_is_not_believed(release: Release) -> None:
    """The broker changes the key in an inventory, to have releases encrypted to itself. The report key's signature stops it."""
    report_key = CryptoSigner.generate_ed25519()
    thief = EncryptionKey(suite=SUITE, public=public_text(X25519PrivateKey.generate().public_key()))
    honest = Report(
        target="d-1",
        agent="d-1",
        journal="j" * 22,
        seq=1,
        oldest=1,
        boot_id="b" * 22,
        at=1,
        state="idle",
        running=Running(slot="A"),
        inventory=Inventory(
            hardware="pump-a", agent_version="1", encryption_key=DecryptionKey(release.private).announced
        ),
    )
    assert honest.inventory is not None
    forged = replace(honest, inventory=replace(honest.inventory, encryption_key=thief))
    envelope = json.loads(seal(honest, REPORT_KIND, report_key))
    envelope["payload"] = json.loads(seal(forged, REPORT_KIND, CryptoSigner.generate_ed25519()))["payload"]
    public = report_key.public_key
    keys = {public.keyid: key_from_dict(public.keyid, public.to_dict())}
    with pytest.raises(RefusedError) as caught:
        open_envelope(canonical(envelope), REPORT_KIND, Report, keys)
    assert caught.value.kind == "bad-signature"


# Who stole the director's key


def test_a_stolen_director_key_orders_no_plain_image_in_place_of_an_encrypted_one(release: Release) -> None:
    """It orders the plain image: the catalogue lists none. It orders it at the encrypted one's path: other bytes."""
    image = release.manifest.images[0]
    plain = FileRef(path=image.path, length=image.length, sha256=image.sha256)
    bare = {"wrapped_key": None, "crit": []}
    assert release.refusal(replace(release.order, images=[OrderedImage(file=plain)], **bare)) == "catalogue-mismatch"
    disguised = OrderedImage(file=replace(plain, path=release.encrypted.path))
    assert release.refusal(replace(release.order, images=[disguised], **bare)) == "catalogue-mismatch"
    manifest = replace(release.manifest, encrypted=[], crit=[])
    assert release.refusal(release.order, manifest) == "catalogue-mismatch"


def test_a_stolen_director_key_cannot_leave_the_key_out_or_bring_its_own(release: Release) -> None:
    """It brings a key of its own making, wrapped for this very device: the signed manifest says which key it must be."""
    assert release.refusal(replace(release.order, wrapped_key=None, crit=[])) == "cannot-decrypt"
    purpose = Purpose(
        recipient="device",
        product="pump",
        version="2.0",
        counter=2,
        artifact=release.encrypted.sha256,
        target="d-1",
        hardware="pump-a",
    )
    public = release.private.public_key()
    data = to_text(wrap(ContentKey.new(), public, purpose))
    own = WrappedKey(suite=SUITE, key_id=key_id(public_text(public)), data=data)
    assert release.refusal(replace(release.order, wrapped_key=own)) == "cannot-decrypt"


def test_a_key_to_what_is_not_encrypted_is_refused(release: Release) -> None:
    plain = replace(release.manifest, encrypted=[], crit=[])
    image = plain.images[0]
    named = [OrderedImage(file=FileRef(path=image.path, length=image.length, sha256=image.sha256))]
    assert verify.lacks_key(replace(release.order, images=named), plain) is not None
    assert verify.lacks_key(replace(release.order, images=named, wrapped_key=None), plain) is None
