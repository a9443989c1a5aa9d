"""Attacks with orders: genuine ones in the wrong place or at the wrong time, and forged ones. What the device says is asserted.

The attacker owns the broker and every message that was ever sent; the director's key only where the test says so.
"""

from typing import Any

import pytest
from msgspec.structs import replace
from securesystemslib.signer import CryptoSigner

from device_agent import verify
from device_agent.core import events as ev
from device_agent.identity import Identity
from device_agent.inbound import open_message, open_order
from device_agent.notary import DirectorKeys
from device_agent.ports import Director
from firmware.errors import RefusedError
from firmware.protocol.envelope import seal
from firmware.protocol.order import KIND, Counter, Order, OrderedImage
from firmware.protocol.topics import Leaf
from firmware.protocol.words import Action
from tests.crash.world import IDENTITY, World
from tests.device_agent.core.playbook import NOW, Player, held

DIRECTOR, THIEF = CryptoSigner.generate_ecdsa(), CryptoSigner.generate_ecdsa()
NEW = World().new


def keys_of(*signers: CryptoSigner, epoch: int = 1) -> DirectorKeys:
    known = {signer.public_key.keyid: signer.public_key.to_dict() for signer in signers}
    return DirectorKeys(Director(epoch=epoch, keys=known))


def order(n: int = 1, action: Action = Action.INSTALL, **fields: Any) -> Order:
    return held(n, action, target=IDENTITY.target, agent=IDENTITY.agent, hardware=IDENTITY.hardware, **fields).order


def sealed(message: Order, signer: CryptoSigner = DIRECTOR) -> bytes:
    return seal(message, KIND, signer)


def arrives(data: bytes, identity: Identity = IDENTITY, *, epoch: int = 1) -> ev.OrderArrived | ev.OrderForeign:
    return open_order(data, keys_of(DIRECTOR, epoch=epoch), identity)


def test_replay_of_an_order_to_another_device() -> None:
    """A neighbour's genuine order is published here. Its target is not this one: it moves no counter and starts nothing."""
    data = sealed(order(99))
    neighbour = replace(IDENTITY, target="neighbour", agent="neighbour")
    event = arrives(data, neighbour)
    assert isinstance(event, ev.OrderForeign)
    assert event.reason.kind == "wrong-target"
    assert event.reason.text.endswith("not for this one; it was ignored.")
    player = Player().tell(event)
    assert (player.done, player.told, player.standing.highest) == ([], [("refused", "wrong-target")], None)
    assert player.ordered(held(1)).word == "ordered"


@pytest.mark.parametrize("chapter", ["ordered", "staged", "asking"])
def test_replay_of_an_order_a_second_time(chapter: str) -> None:
    """The retained order comes again and again, also after a reboot. Same counter and hash are the same order: no news."""
    data = sealed(order(7))
    player = Player()
    first = arrives(data)
    player.tell(first)
    if chapter != "ordered":
        player.standing = replace(player.standing, state=getattr(Player(), chapter)().standing.state)
    before = player.standing
    for _ in range(3):
        player.tell(arrives(data))
        assert (player.standing, player.last) == (before, ())


def test_replay_of_an_older_order() -> None:
    """An order from before this one, perhaps to a release with known holes. The counter stops it, and the server hears of it."""
    older, newer = sealed(order(4)), sealed(order(5, Action.NOTHING))
    player = Player().tell(arrives(newer))
    player.tell(arrives(older))
    assert (player.told, player.done) == ([("refused", "stale-counter")], [])
    assert player.standing.highest == Counter(epoch=1, n=5)


def test_two_orders_under_one_counter() -> None:
    """A director that says different things to different people. The second hash under a counter is equivocation."""
    player = Player().tell(arrives(sealed(order(5))))
    player.tell(arrives(sealed(order(5, change_id="another-change"))))
    assert (player.told, player.done) == ([("refused", "equivocation")], [])


def test_an_order_that_was_withheld_until_it_expired() -> None:
    """The broker keeps an order back for months, until its release is full of holes. It carries its own end."""
    player = Player()
    player.trusted = NOW + 10_000.0
    player.tell(arrives(sealed(order())))
    assert player.told == [("refused", "order-expired")]


def test_an_order_signed_with_any_other_key() -> None:
    """The thief has a key, only not the director's: that of another fleet, of the deltas, of this device."""
    with pytest.raises(RefusedError, match="No trusted key signed this order") as caught:
        arrives(sealed(order(), THIEF))
    assert caught.value.kind == "bad-signature"


def test_an_order_signed_with_a_stolen_key_after_its_rotation() -> None:
    """The office rotated the director: new key, higher epoch. The old key is unknown, and the old epoch is stale by itself."""
    with pytest.raises(RefusedError) as caught:
        open_order(sealed(order(10**9), THIEF), keys_of(DIRECTOR, epoch=2), IDENTITY)
    assert caught.value.kind == "bad-signature"
    event = arrives(sealed(order(10**9, epoch=1)), epoch=2)
    assert isinstance(event, ev.OrderForeign)
    assert event.reason.kind == "stale-counter"
    assert event.reason.text == "The order is of director epoch 1; the catalogue says 2. It was ignored."


def test_an_order_from_an_epoch_that_does_not_exist() -> None:
    """A stolen director key tries to lock the device out with a counter that no later order can reach."""
    with pytest.raises(RefusedError, match="epoch that the catalogue doesn't know") as caught:
        arrives(sealed(order(1, epoch=9)))
    assert caught.value.kind == "bad-signature"


def test_one_kind_of_message_given_out_as_another() -> None:
    """A genuine order is published as a permit and as an ack. What is signed says which kind it is."""
    for leaf in (Leaf.PERMIT, Leaf.ACK):
        with pytest.raises(RefusedError) as caught:
            open_message(leaf, sealed(order()), keys_of(DIRECTOR), IDENTITY)
        assert caught.value.kind == "bad-signature"


def test_wrong_software_for_the_hardware() -> None:
    """A stolen director key orders another board's release: openly, or calling it this board's. The order, then the manifest
    that was signed offline, says which hardware it is for."""
    event = arrives(sealed(replace(order(), hardware="board-9")))
    assert isinstance(event, ev.OrderArrived)
    assert event.reject is not None
    assert (event.reject.kind, event.reject.text) == (
        "wrong-hardware",
        f"The order is for hardware board-9; this is {IDENTITY.hardware}.",
    )
    assert Player().tell(event).told == [("refused", "wrong-hardware")]
    genuine = order()
    assert genuine.release is not None
    lying = replace(genuine, release=replace(genuine.release, manifest=NEW.manifest_ref), images=NEW.ordered)
    other = replace(NEW.manifest, hardware=["board-9"])
    reason = verify.contradicts_manifest(lying, other, IDENTITY.hardware, {})
    assert reason is not None
    assert reason.kind == "wrong-hardware"
    assert reason.text.endswith(f"is for board-9; this is {IDENTITY.hardware}.")


def test_arbitrary_software_through_a_stolen_director_key() -> None:
    """The thief orders bytes of their own under a path of the catalogue. Length and hash must be the catalogue's."""
    genuine = order()
    assert genuine.release is not None
    lying = replace(
        genuine,
        release=replace(genuine.release, manifest=NEW.manifest_ref),
        images=[OrderedImage(file=replace(NEW.image_ref, sha256="e" * 64))],
    )
    listed = {file.path: file for file in (NEW.manifest_ref, NEW.image_ref)}
    reason = verify.contradicts_catalogue(lying, listed.get)
    assert reason is not None
    assert reason.kind == "catalogue-mismatch"
    assert "lists other bytes for" in reason.text
    assert verify.contradicts_catalogue(replace(lying, images=NEW.ordered), listed.get) is None


def test_rollback_to_a_release_below_the_floor() -> None:
    """The thief orders a release that was signed offline years ago. The floor, signed offline too, stops it."""
    genuine = order()
    assert genuine.release is not None
    true = replace(genuine, release=replace(genuine.release, manifest=NEW.manifest_ref), images=NEW.ordered)
    reason = verify.contradicts_manifest(true, NEW.manifest, IDENTITY.hardware, {NEW.manifest.product: 99})
    assert reason is not None
    assert reason.kind == "below-floor"
    assert reason.text.endswith("below this target's floor 99.")
