"""Encrypted releases from the maker to real agents, past an attacker who owns the broker and reads the store."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from device_agent.decryption import DECRYPTION_KEY_FILE, DecryptionKey
from device_agent.effects import FileEffects
from firmware.errors import RefusedError
from firmware.images.slot_image import build_slot_image
from firmware.manifest import Encrypted, Manifest, parse_manifest
from firmware.protocol.codec import convert
from firmware.protocol.envelope import claimed
from firmware.protocol.order import Order
from firmware.protocol.topics import Leaf
from server.transport.broker import find_mosquitto
from simulator.lab import PRODUCT, Firmware, Lab
from tests.e2e.rig import FACTORY, GOOD, PROGRAMS, Bench, Rig, payload_of

pytestmark = pytest.mark.xdist_group("encrypted-update")
SECRET, NEXT = "5.0.0", "5.1.0"
PAYLOAD_BYTES = 3 << 19
MIDDLE = 1 << 20


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A laboratory whose releases after the factory's are encrypted; `Eve` owns its broker."""
    kind = "mosquitto" if find_mosquitto() else "embedded"
    lab = Lab(tmp_path_factory.mktemp("encrypted"), broker=kind, hostile=True)
    try:
        lab.prepare()
        lab.start_server()
        for counter, (version, packer) in enumerate(((FACTORY, "zlib"), (SECRET, "lzma"), (NEXT, "lzma")), start=1):
            path = image(lab, version)
            payload = payload_of(packer)[:PAYLOAD_BYTES] + version.encode()
            build_slot_image(
                path,
                product=PRODUCT,
                version=version,
                counter=counter,
                program=(PROGRAMS / "gateway-2.0.0.py").read_bytes(),
                payload=[("data.bin", payload)],
            )
            lab.publish(
                Firmware(version=version, counter=counter, path=path, health=GOOD, encrypted=version != FACTORY)
            )
        assert lab.broker is not None
        eve = lab.broker.eve()
        yield Rig(lab=lab, eve=eve)
        eve.close()
    finally:
        lab.close()


@pytest.fixture
def rig(house: Rig) -> Iterator[Rig]:
    yield house
    house.clear()


def image(lab: Lab, version: str) -> Path:
    return lab.directory / f"{version}.img"


def manifest(rig: Rig, version: str) -> Manifest:
    return parse_manifest((rig.lab.directory / "releases" / version / "manifest.json").read_bytes())


def encrypted(rig: Rig, version: str) -> Encrypted:
    (one,) = manifest(rig, version).encrypted
    return one


def runs(bench: Bench, version: str) -> bool:
    """Whether the active slot holds exactly this release's plain image."""
    data = image(bench.rig.lab, version).read_bytes()
    return bench.active_slot().read_bytes()[: len(data)] == data


def order_seen(rig: Rig, bench: Bench, after: int = 0) -> Order:
    _, payload = claimed(rig.eve_sees(bench.target, Leaf.ORDER, after).payload)
    return convert(payload, Order)


def decryption_key(bench: Bench) -> DecryptionKey:
    return DecryptionKey.load_or_make(FileEffects(), bench.board.agent_directory / DECRYPTION_KEY_FILE)


def test_encrypted_image_and_delta_are_installed_and_the_broker_and_the_store_show_nothing(rig: Rig) -> None:
    bench = rig.board("secret")
    path = bench.board.agent_directory / DECRYPTION_KEY_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert bench.view["encryption_key"] == decryption_key(bench).announced.public
    bench.assert_verified_once(bench.start(SECRET))
    assert runs(bench, SECRET)
    assert bench.link.received > encrypted(rig, SECRET).length, "the image did not come over this link"
    (made,) = [one for one in rig.lab.wait_for_deltas(NEXT) if one["from_version"] == SECRET]
    assert made["length"] < 1 << 18
    before = bench.link.received
    bench.assert_verified_once(bench.start(NEXT))
    assert runs(bench, NEXT)
    assert bench.link.received - before < 1 << 18, "the delta was not used"
    readable = [message.payload for message in rig.eve.seen]
    readable += [path.read_bytes() for path in rig.lab.state.rglob("*") if path.is_file()]
    readable += [path.read_bytes() for path in (rig.lab.repository / "metadata").rglob("*") if path.is_file()]
    readable += [path.read_bytes() for path in bench.board.agent_directory.rglob("*") if path.is_file()]
    assert len(b"".join(readable)) > encrypted(rig, SECRET).length, "the store was not read"
    key = decryption_key(bench).open(order_seen(rig, bench), manifest(rig, SECRET)).reveal()
    for secret in (*pieces(rig, SECRET), *pieces(rig, NEXT), key, key.hex().encode()):
        assert not any(secret in data for data in readable), f"{secret[:8].hex()}… can be read"


def pieces(rig: Rig, version: str) -> list[bytes]:
    """32 bytes from each 64 KiB of the image that the factory's image doesn't have."""
    data, known = image(rig.lab, version).read_bytes(), image(rig.lab, FACTORY).read_bytes()
    found = [data[at : at + 32] for at in range(1 << 16, len(data) - 32, 1 << 16)]
    kept = [piece for piece in found if piece not in known and len(set(piece)) > 8]
    assert len(kept) > 15
    return kept


@pytest.mark.deep
def test_security_a_key_for_one_device_does_not_open_for_another(rig: Rig) -> None:
    """Both are of the fleet and both get the release; the attacker owns the second one, and the broker."""
    benches = [rig.board(name) for name in ("victim", "owned")]
    for bench in benches:
        bench.start(SECRET)
    orders = [order_seen(rig, bench) for bench in benches]
    victim, owned = (decryption_key(bench) for bench in benches)
    assert victim.open(orders[0], manifest(rig, SECRET)).check() == encrypted(rig, SECRET).key_check
    assert owned.open(orders[1], manifest(rig, SECRET)).check() == encrypted(rig, SECRET).key_check
    wrapped = orders[0].wrapped_key
    assert wrapped is not None
    relabelled = replace(wrapped, key_id=orders[1].wrapped_key.key_id)  # type: ignore[union-attr]
    for stolen in (orders[0], replace(orders[0], wrapped_key=relabelled), replace(orders[1], wrapped_key=relabelled)):
        with pytest.raises(RefusedError) as caught:
            owned.open(stolen, manifest(rig, SECRET))
        assert caught.value.kind == "cannot-decrypt"


@pytest.mark.deep
def test_security_a_damaged_encrypted_image_is_refused_with_its_reason(rig: Rig) -> None:
    digest = encrypted(rig, SECRET).sha256
    stored = next(path for path in (rig.lab.state / "artifacts").rglob(digest) if path.is_file())
    good = stored.read_bytes()
    bench = rig.board("damaged")
    slot = bench.active_slot().read_bytes()
    stored.chmod(0o600)
    try:
        stored.write_bytes(good[:MIDDLE] + bytes([good[MIDDLE] ^ 1]) + good[MIDDLE + 1 :])
        bench.start(SECRET)
        bench.wait(lambda: "cannot-decrypt" in bench.words() + bench.view["reason_kind"], "the reason")
        assert bench.view["running_version"] == FACTORY
        assert bench.active_slot().read_bytes() == slot, "the running slot changed"
    finally:
        stored.write_bytes(good)


def test_a_device_that_lost_its_key_gets_the_release_for_its_new_one(rig: Rig) -> None:
    bench = rig.board("rekeyed")
    before = decryption_key(bench).announced
    bench.board.power_cut()
    known = len(rig.eve.seen)
    campaign = bench.start(SECRET)
    order = order_seen(rig, bench, known)
    known = len(rig.eve.seen)
    (bench.board.agent_directory / DECRYPTION_KEY_FILE).unlink()
    bench.board.power_on()
    bench.assert_verified_once(campaign)
    assert runs(bench, SECRET)
    after = decryption_key(bench)
    assert after.announced != before
    with pytest.raises(RefusedError):
        after.open(order, manifest(rig, SECRET))
    assert "encryption-key-changed" in bench.words()
