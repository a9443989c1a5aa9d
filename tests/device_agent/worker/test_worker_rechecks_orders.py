"""The worker takes nobody's word for an order: it is opened and compared again before anything is written."""

from typing import Any

import pytest
from msgspec.structs import replace
from securesystemslib.signer import CryptoSigner

from device_agent.notary import DirectorKeys
from device_agent.ports import Director
from device_agent.worker.orders import recheck
from firmware.errors import RefusedError
from firmware.protocol.envelope import open_envelope, seal
from firmware.protocol.order import KIND, Counter, Order
from firmware.protocol.words import Action
from tests.crash.world import IDENTITY, DepotCatalogue, World

DIRECTOR, THIEF = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
KEYS = DirectorKeys(Director(epoch=1, keys={DIRECTOR.public_key.keyid: DIRECTOR.public_key.to_dict()}))


class Device:
    """What a worker has: the catalogue; and a good order for this device, to be changed."""

    def __init__(self) -> None:
        self.world = World()
        self.catalogue = DepotCatalogue(self.world.depot)
        made = self.world.server.order(Action.INSTALL, self.world.new)
        director = self.catalogue.director()
        given = DirectorKeys(director).keys
        self.order = open_envelope(made, KIND, Order, given).message

    def recheck(self, order: Order, signer: CryptoSigner = DIRECTOR) -> Any:
        return recheck(seal(order, KIND, signer), KEYS, self.catalogue, IDENTITY)


@pytest.fixture
def device() -> Device:
    return Device()


def test_a_good_order_is_given_back_with_its_manifest(device: Device) -> None:
    order, manifest = device.recheck(device.order)
    assert order == device.order
    assert manifest == device.catalogue.manifest(device.order.release.manifest)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"target": "dev-2", "agent": "dev-2"}, "wrong-target"),
        ({"hardware": "other"}, "wrong-hardware"),
        ({"counter": Counter(epoch=2, n=99)}, "bad-signature"),
        ({"counter": Counter(epoch=0, n=99)}, "stale-counter"),
        ({"crit": ["new-thing"]}, "not-understood"),
        ({"action": Action.NOTHING, "release": None, "images": []}, "malformed"),
        ({"images": []}, "malformed"),
    ],
)
def test_security_an_order_that_contradicts_what_the_worker_knows_is_refused(
    device: Device, change: dict[str, Any], kind: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        device.recheck(replace(device.order, **change))
    assert caught.value.kind == kind


def test_security_an_order_of_a_stranger_is_refused(device: Device) -> None:
    with pytest.raises(RefusedError) as caught:
        device.recheck(device.order, THIEF)
    assert caught.value.kind == "bad-signature"


def test_security_a_release_that_the_catalogue_does_not_list_is_refused(device: Device) -> None:
    release = device.order.release
    assert release is not None
    unlisted = replace(release, manifest=replace(release.manifest, sha256="2" * 64))
    with pytest.raises(RefusedError) as caught:
        device.recheck(replace(device.order, release=unlisted))
    assert caught.value.kind == "catalogue-mismatch"
