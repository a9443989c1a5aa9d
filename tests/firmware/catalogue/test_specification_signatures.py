"""Signatures, thresholds, key ids and key types, as the TUF specification (4.2 to 4.4, 5.3 to 5.6) counts them."""

import json
from typing import Any

import pytest

from tests.tuf_repository import Device, Json, Pen, TufRepository, canonical, signed

BELOW_ROOT = ("targets", "snapshot", "timestamp")
WITH_PARENTS = {
    "root": ("root",),
    "targets": ("targets", "snapshot", "timestamp"),
    "snapshot": ("snapshot", "timestamp"),
    "timestamp": ("timestamp",),
}


def sign_by_hand(repository: TufRepository, role: str, signatures: list[Json]) -> None:
    """Publish the next version of a role with exactly these signature objects."""
    body = repository.bodies[role]
    repository.put(role, json.dumps({"signatures": signatures, "signed": body}).encode())
    for parent in WITH_PARENTS[role][1:]:
        repository.publish(parent)


def next_payload(repository: TufRepository, role: str) -> bytes:
    repository.bodies[role]["version"] += 1
    return canonical(repository.bodies[role])


# Thresholds


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
@pytest.mark.parametrize(
    ("signers", "good"), [((0, 1), True), ((2, 0), True), ((0, 1, 2), True), ((1,), False), ((), False)]
)
def test_any_keys_that_reach_the_threshold_will_do(
    device: Device, repository: TufRepository, role: str, signers: tuple[int, ...], good: bool
) -> None:
    pens = [Pen(), Pen(), Pen()]
    repository.entrust(role, *pens, threshold=2)
    if role != "root":
        repository.publish("root")
    old = repository.pens["root"][:1] if role == "root" else []
    repository.pens[role] = [*old, *(pens[n] for n in signers)]
    repository.publish(*WITH_PARENTS[role])
    assert device.refresh() == (0 if good else 1)
    assert (device.versions().get(role, 0) == 2) == good
    if not good:
        assert "of the 2 keys it needs" in device.text


def test_a_threshold_above_the_number_of_keys_is_never_reached(device: Device, repository: TufRepository) -> None:
    pens = [Pen(), Pen(), Pen()]
    repository.entrust("snapshot", *pens, threshold=4)
    repository.publish("root", "snapshot", "timestamp")
    assert device.refresh() == 1
    assert device.versions() == {"root": 2, "timestamp": 2}


@pytest.mark.parametrize("threshold", [0, -1, True, "1", 1.0, None])
def test_a_threshold_is_a_positive_integer(device: Device, repository: TufRepository, threshold: object) -> None:
    repository.root["roles"]["snapshot"]["threshold"] = threshold
    repository.publish("root")
    assert device.refresh() == 1
    assert device.versions() == {"root": 1}


def test_a_key_that_a_role_lists_twice_counts_once(device: Device, repository: TufRepository) -> None:
    pen = Pen()
    repository.entrust("snapshot", pen, *[pen] * 8, threshold=2)
    repository.publish("root", "snapshot", "timestamp")
    assert device.refresh() == 1
    assert "snapshot" not in device.versions()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_one_key_under_several_ids_counts_once(device: Device, repository: TufRepository, kind: str) -> None:
    pen = Pen(kind)
    twin = Pen(kind, keyid="twin")
    twin._private, twin.public = pen._private, {**pen.public, "x-other": "so that the hash differs, too"}
    repository.entrust("snapshot", pen, twin, threshold=2)
    repository.publish("root", "snapshot", "timestamp")
    assert device.refresh() == 1
    assert "signed by 1 of the 2 keys" in device.text
    repository.entrust("snapshot", pen, twin, Pen(kind), threshold=2)
    repository.publish("root", "snapshot", "timestamp")
    assert device.refresh() == 0


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_two_signatures_of_one_key_id_are_refused_even_when_good(
    device: Device, repository: TufRepository, role: str
) -> None:
    payload = next_payload(repository, role)
    sign_by_hand(repository, role, [pen.sign(payload) for pen in repository.pens[role] * 2])
    assert device.refresh() == 1
    assert device.versions().get(role) == (1 if role == "root" else None)


@pytest.mark.parametrize("sig", ["", "00", "zz", "ab" * 64, "ab" * 5000])
def test_a_bad_signature_beside_enough_good_ones_does_no_harm(
    device: Device, repository: TufRepository, sig: str
) -> None:
    second = Pen()
    repository.entrust("timestamp", second, repository.pens["timestamp"][0])
    repository.publish("root")
    payload = next_payload(repository, "timestamp")
    sign_by_hand(
        repository, "timestamp", [second.sign(payload), {"keyid": repository.pens["timestamp"][1].keyid, "sig": sig}]
    )
    assert device.refresh() == 0
    assert device.versions()["timestamp"] == 2


def test_signatures_of_keys_that_nobody_asked_for_are_ignored(device: Device, repository: TufRepository) -> None:
    for role in ("root", *BELOW_ROOT):
        repository.pens[role] = [Pen(), *repository.pens[role], Pen("ecdsa"), repository.pens["root"][0]]
        repository.pens[role] = list(dict.fromkeys(repository.pens[role]))
    repository.publish("root", *BELOW_ROOT)
    assert device.refresh() == 0
    assert set(device.versions().values()) == {2}


def test_a_role_whose_keys_are_listed_without_being_given_is_not_signed(
    device: Device, repository: TufRepository
) -> None:
    repository.entrust("snapshot", Pen(), keys=False)
    repository.publish("root", "snapshot", "timestamp")
    assert device.refresh() == 1
    assert "signed by 0 of the 1 keys" in device.text


# Key ids


@pytest.mark.parametrize("keyid", ["a", "not a hash", "\u20ac", "0" * 64, "x" * 1000])
def test_a_key_id_need_not_be_a_hash(device: Device, repository: TufRepository, keyid: str) -> None:
    pens = {role: Pen(keyid=f"{keyid}{n}") for n, role in enumerate(BELOW_ROOT)}
    for role, pen in pens.items():
        repository.entrust(role, pen)
    repository.publish("root", *BELOW_ROOT)
    assert device.refresh() == 0
    assert device.versions()["targets"] == 2


def test_a_key_id_means_what_its_own_delegator_says(device: Device, repository: TufRepository) -> None:
    """Root and targets give one id to different keys; each of them is asked only about the roles it delegates."""
    above, below = Pen(keyid="same"), Pen(keyid="same")
    repository.entrust("targets", above)
    repository.delegate("targets", "child", below)
    repository.publish("root", "child", *BELOW_ROOT)
    assert device.download("nothing") == 1
    assert device.versions()["child"] == 1
    repository.pens["child"] = [above]
    repository.publish("child", "snapshot", "timestamp")
    assert device.download("nothing") == 1
    assert "child is signed by 0" in device.text


def test_a_key_hash_algorithm_field_of_old_times_means_nothing(device: Device, repository: TufRepository) -> None:
    repository.entrust("snapshot", Pen(keyid_hash_algorithms=["md5"]))
    repository.publish("root", "snapshot", "timestamp")
    assert device.refresh() == 0


# Key types and schemes


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_each_key_type_of_the_specification_signs_and_is_checked(
    device: Device, repository: TufRepository, kind: str
) -> None:
    pen = Pen(kind)
    repository.entrust("root", repository.pens["root"][0], pen, threshold=2)
    repository.publish("root")
    assert device.refresh() == 0
    assert device.versions()["root"] == 2
    payload = next_payload(repository, "root")
    good, wrong = repository.pens["root"][0].sign(payload), pen.sign(payload + b" ")
    sign_by_hand(repository, "root", [good, wrong])
    assert device.refresh() == 1
    assert device.versions()["root"] == 2


UNKNOWN: list[Json] = [
    {"keytype": "lattice", "scheme": "lattice-1", "keyval": {"public": "00"}},
    {"keytype": "ed25519", "scheme": "ed25519-next", "keyval": {"public": "00" * 32}},
    {"keytype": "sigstore-oidc", "scheme": "Fulcio", "keyval": {"identity": "a@b", "issuer": "c"}, "x-owner": "A"},
    {"keytype": "lattice", "scheme": "lattice-1", "keyval": {}},
    {"keytype": "rsa", "scheme": "pgp+rsa-pkcsv1.5", "keyval": {"public": {"q": "0"}, "private": ""}},
]


@pytest.mark.parametrize("key", UNKNOWN, ids=lambda key: f"{key['keytype']}-{key['scheme']}")
def test_a_key_of_unknown_type_is_ignored_where_the_threshold_is_reached_without_it(
    device: Device, repository: TufRepository, key: Json
) -> None:
    stranger = Pen(keyid="stranger")
    stranger.public = key
    for role in ("root", *BELOW_ROOT):
        repository.entrust(role, *repository.pens[role], stranger)
    repository.delegate("targets", "child", Pen(), stranger)
    repository.publish("root", "child", *BELOW_ROOT)
    assert device.refresh() == 0
    assert device.versions() == {"root": 2, "targets": 2, "snapshot": 2, "timestamp": 2}
    assert device.download("nothing") == 1
    assert device.versions()["child"] == 1


@pytest.mark.parametrize("key", UNKNOWN, ids=lambda key: f"{key['keytype']}-{key['scheme']}")
@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "child"])
def test_a_key_of_unknown_type_counts_for_no_threshold(
    device: Device, repository: TufRepository, key: Json, role: str
) -> None:
    stranger = Pen(keyid="stranger")
    stranger.public = key
    repository.delegate("targets", "child", Pen(), stranger, threshold=2)
    if role != "child":
        repository.entrust(role, *repository.pens[role], stranger, threshold=2)
    repository.publish("root", "child", *BELOW_ROOT)
    assert device.download("nothing") == 1
    assert "signed by 1 of the 2 keys" in device.text
    assert device.versions().get(role) == (1 if role == "root" else None)


@pytest.mark.parametrize(
    "key",
    [
        None,
        [],
        "key",
        {},
        {"keytype": 1, "scheme": "x", "keyval": {"public": "00"}},
        {"keytype": "lattice", "keyval": {"public": "00"}},
        {"keytype": "lattice", "scheme": "lattice-1", "keyval": "00"},
        {"keytype": "ed25519", "scheme": "ed25519", "keyval": {}},
    ],
)
def test_what_is_no_key_at_all_is_refused(device: Device, repository: TufRepository, key: Any) -> None:
    repository.root["keys"]["odd"] = key
    repository.publish("root")
    assert device.refresh() == 1
    assert device.versions() == {"root": 1}


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("public", ["", "zz", "00", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_key_with_a_broken_value_signs_nothing_and_breaks_nothing(
    device: Device, repository: TufRepository, kind: str, public: str
) -> None:
    odd = Pen(kind, keyid="odd")
    odd.public["keyval"] = {"public": public}
    repository.entrust("timestamp", odd, *repository.pens["timestamp"])
    repository.publish("root", "timestamp")
    assert device.refresh() == 0
    repository.entrust("timestamp", odd)
    repository.publish("root", "timestamp")
    assert device.refresh() == 1
    assert "signed by 0 of the 1 keys" in device.text


def test_metadata_signed_with_the_key_of_another_role_is_refused(device: Device, repository: TufRepository) -> None:
    for role in BELOW_ROOT:
        others = [pen for other, pens in repository.pens.items() if other != role for pen in pens]
        body = {**repository.bodies[role], "version": 2}
        kept = dict(repository.files)
        repository.put(role, signed(body, others), version=2)
        for parent in WITH_PARENTS[role][1:]:
            repository.publish(parent)
        assert device.refresh() == 1
        assert role not in device.versions()
        repository.files = kept
        for file in device.metadata.glob("*.json"):
            if file.name != "root.json":
                file.unlink()
