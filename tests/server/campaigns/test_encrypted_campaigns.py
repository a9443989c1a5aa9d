"""Campaigns of encrypted releases: who gets a key, wrapped to what, and who gets none."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec.structs import replace

from firmware.encryption.content_key import (
    SUITE,
    ContentKey,
    Purpose,
    from_text,
    key_id,
    public_from_text,
    public_text,
    to_text,
    unwrap,
    wrap,
)
from firmware.errors import RefusedError
from firmware.protocol.order import Order
from firmware.protocol.report import EncryptionKey
from firmware.protocol.topics import Leaf, of_target
from server.campaigns.release_keys import RELEASE_KEY_FILE, ReleaseKeys
from server.campaigns.standing import StandingService, Step
from server.planner.words import Verb
from server.ports import EncryptedImage, StoredFile

CONTENT_KEY = ContentKey.new()
SECRET = EncryptedImage(
    file=StoredFile(path="releases/lamp/2/root.img.enc", length=(1 << 24) + 4096, sha256="9" * 64),
    salt="5" * 64,
    key_check=CONTENT_KEY.check(),
)


class Holder:
    """A device's decryption key."""

    def __init__(self) -> None:
        self.private = X25519PrivateKey.generate()
        self.announced = EncryptionKey(suite=SUITE, public=public_text(self.private.public_key()))

    def open(self, order: Order) -> bytes:
        """The release's key out of an order."""
        assert order.wrapped_key is not None
        purpose = Purpose(
            recipient="device",
            product="lamp",
            version="2",
            counter=2,
            artifact=SECRET.file.sha256,
            target=order.target,
            hardware=order.hardware,
        )
        return unwrap(from_text(order.wrapped_key.data), self.private, purpose, check=SECRET.key_check).reveal()


def wrapped_for_server(keys: ReleaseKeys) -> bytes:
    purpose = Purpose(recipient="server", product="lamp", version="2", counter=2, artifact=SECRET.file.sha256)
    return wrap(CONTENT_KEY, public_from_text(keys.public()), purpose)


async def prepared(stage: Any, holder: Holder | None) -> Any:
    """One device, on release 1, with an order for the encrypted release 2 if it can be made."""
    (device,) = await stage.enrol("t1", encryption_key=holder and holder.announced)
    await stage.publish_releases(encrypted=SECRET, content_key=wrapped_for_server(ReleaseKeys(stage.file.parent)))
    await stage.settle()
    await stage.start()
    await stage.settle()
    return device


async def test_an_order_brings_the_key_for_its_target_alone_and_says_it_must_be_understood(stage: Any) -> None:
    holder = Holder()
    device = await prepared(stage, holder)
    (order,) = device.orders
    assert (order.images[0].file.path, order.images[0].file.sha256) == (SECRET.file.path, SECRET.file.sha256)
    assert order.crit == ["wrapped_key"]
    assert order.wrapped_key.key_id == key_id(holder.announced.public)
    assert holder.open(order) == CONTENT_KEY.reveal()
    with pytest.raises(RefusedError):
        Holder().open(order)
    with pytest.raises(RefusedError):
        holder.open(replace(order, target="t2"))


async def test_a_target_without_an_encryption_key_gets_no_order_and_the_reason_in_words(stage: Any) -> None:
    device = await prepared(stage, None)
    assert device.orders == []
    assert (await stage.states()) == {"t1": "refused"}
    target = await stage.database.read(lambda unit: unit.fleet.target("t1"))
    assert target.reason_kind == "no-encryption-key"


async def test_the_database_and_the_orders_do_not_hold_the_key(stage: Any) -> None:
    device = await prepared(stage, Holder())
    await stage.database.inner.read(lambda unit: unit.releases._db.exec_driver_sql("PRAGMA wal_checkpoint").all())
    files = b"".join(path.read_bytes() for path in stage.file.parent.glob(f"{stage.file.name}*"))
    assert len(files) > 10_000
    secret = CONTENT_KEY.reveal()
    for form in (secret, secret.hex().encode(), to_text(secret).encode()):
        assert form not in files
    assert device.orders


def remove(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()


async def test_a_release_key_that_is_gone_stops_the_order_and_not_the_server(stage: Any) -> None:
    """A new release key is made in place of a lost one, and what was wrapped for the old one stays shut."""
    path: Path = stage.file.parent / RELEASE_KEY_FILE
    (device,) = await stage.enrol("t1", encryption_key=Holder().announced)
    await stage.publish_releases(encrypted=SECRET, content_key=wrapped_for_server(ReleaseKeys(path.parent)))
    remove(path)
    await stage.settle()
    await stage.start()
    await stage.settle()
    assert device.orders == []
    target = await stage.database.read(lambda unit: unit.fleet.target("t1"))
    assert target.reason_kind == "cannot-decrypt"


@pytest.mark.parametrize("data", [b"", b"rubbish"])
def test_a_damaged_release_key_is_told_and_not_replaced(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / RELEASE_KEY_FILE
    path.write_bytes(data)
    with pytest.raises(RefusedError) as caught:
        ReleaseKeys(path.parent).public()
    assert caught.value.kind == "release-key-unusable"
    assert path.read_bytes() == data


# Another key


async def test_a_target_with_a_new_key_gets_its_order_again_for_that(stage: Any) -> None:
    device = await prepared(stage, Holder())
    device.encryption_key = (again := Holder()).announced
    device.introduce()
    await stage.settle()
    first, second = device.orders
    assert second.counter > first.counter
    assert again.open(second) == CONTENT_KEY.reveal()
    assert {"encryption-key-changed", "order-signed-again"} <= set(await stage.audit_kinds("t1"))
    await stage.live(lambda view: view.row.state == "completed")
    assert device.version == "2"


async def test_the_same_inventory_again_changes_no_order(stage: Any) -> None:
    device = await prepared(stage, Holder())
    device.introduce()
    await stage.settle()
    assert len(device.orders) == 1
    assert "encryption-key-changed" not in await stage.audit_kinds("t1")


async def test_a_target_in_its_trial_is_left_alone(stage: Any) -> None:
    device = await prepared(stage, Holder())
    device._activate = lambda: None
    device.act()
    await stage.settle()
    assert (await stage.states()) == {"t1": "activating"}
    device.encryption_key = Holder().announced
    device.introduce()
    await stage.settle()
    assert len(device.orders) == 1


async def test_a_target_that_is_done_gets_no_other_order(stage: Any) -> None:
    device = await prepared(stage, Holder())
    await stage.live(lambda view: view.row.state == "completed")
    device.encryption_key = Holder().announced
    device.introduce()
    await stage.settle()
    assert len(device.orders) == 1


async def test_a_new_directors_order_to_do_nothing_brings_no_key(stage: Any) -> None:
    device = await prepared(stage, Holder())
    await stage.live(lambda view: view.row.state == "completed")
    stage.boot(epoch=2)
    device.introduce()
    await stage.settle()
    last = device.orders[-1]
    assert (last.counter.epoch, last.action, last.wrapped_key, last.crit) == (2, "nothing", None, [])


async def test_a_new_directors_order_brings_the_key_anew(stage: Any) -> None:
    device = await prepared(stage, holder := Holder())
    stage.boot(epoch=2)
    device.introduce()
    await stage.settle()
    last = device.orders[-1]
    assert (last.counter.epoch, last.crit) == (2, ["wrapped_key"])
    assert holder.open(last) == CONTENT_KEY.reveal()


@pytest.mark.parametrize(
    "told",
    [
        EncryptionKey(suite="hpke-later", public="A" * 43),
        EncryptionKey(suite=SUITE, public="A" * 42),
        EncryptionKey(suite=SUITE, public="A" * 42 + "B"),
    ],
)
async def test_a_key_of_no_use_is_told_and_not_taken(stage: Any, told: EncryptionKey) -> None:
    (_device,) = await stage.enrol("t1", encryption_key=told)
    await stage.settle()
    target = await stage.database.read(lambda unit: unit.fleet.target("t1"))
    assert target.encryption_key is None
    assert "bad-encryption-key" in await stage.audit_kinds("t1")


async def test_a_key_that_nobody_can_hold_gets_no_order(stage: Any) -> None:
    holder = Holder()
    holder.announced = EncryptionKey(suite=SUITE, public="A" * 43)
    device = await prepared(stage, holder)
    assert device.orders == []
    target = await stage.database.read(lambda unit: unit.fleet.target("t1"))
    assert target.reason_kind == "bad-encryption-key"


# Who is not trusted


async def test_a_quarantined_or_revoked_target_gets_no_key(stage: Any) -> None:
    device = await prepared(stage, Holder())
    standing = StandingService(stage.database, stage.clock)
    topic = of_target("t1", "t1", Leaf.ORDER)
    assert stage.broker.retained[topic]
    keys = ReleaseKeys(stage.file.parent)
    await standing.change("t1", Step.QUARANTINE, by="ann", reason="")
    await stage.settle()
    assert topic not in stage.broker.retained
    release = await stage.database.read(lambda unit: unit.releases.get("lamp", "2"))
    with pytest.raises(RefusedError) as caught:
        await stage.database.read(lambda unit: keys.wrap_for(unit, release, target="t1", hardware="hw-1"))
    assert caught.value.kind == "quarantined"
    await stage.publisher.republish()
    assert topic not in stage.broker.retained
    await standing.change("t1", Step.RELEASE, by="ann", reason="")
    await stage.settle()
    assert stage.broker.retained[topic]
    await standing.change("t1", Step.REVOKE, by="ann", reason="")
    await stage.publisher.republish()
    assert topic not in stage.broker.retained
    assert device.orders


async def test_a_clones_order_is_taken_back_with_its_standing(stage: Any) -> None:
    device = await prepared(stage, Holder())
    topic = of_target("t1", "t1", Leaf.ORDER)
    device.report("staged")
    device.seq -= 1
    device.report("staged", boot_id="another")
    await stage.settle()
    assert "clone" in await stage.audit_kinds("t1")
    assert topic not in stage.broker.retained


async def test_a_withdrawn_order_brings_no_key_any_more(stage: Any) -> None:
    device = await prepared(stage, Holder())
    await stage.service.command("spring", Verb.ABORT, by="ann", reason="")
    await stage.settle()
    last = device.orders[-1]
    assert (last.action, last.wrapped_key, last.crit) == ("nothing", None, [])
