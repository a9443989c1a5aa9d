"""Rollback, fast-forward and its healing, and bounds by length and hash: TUF specification 5.4 to 5.6."""

import hashlib
from pathlib import Path

import pytest

from tests.tuf_repository import Device, Pen, TufRepository, serving

BELOW_ROOT = ("targets", "snapshot", "timestamp")


@pytest.fixture(params=[False, True], ids=["versions only", "with lengths and hashes"])
def listed(request: pytest.FixtureRequest, repository: TufRepository) -> bool:
    """Whether parents list lengths and hashes: rollback has to be noticed either way."""
    repository.sizes = repository.digests = request.param
    return bool(request.param)


def back(repository: TufRepository, *roles: str) -> None:
    """These roles begin again at version 1."""
    for role in roles:
        repository.bodies[role]["version"] = 0


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("role", "kept", "last"),
    [
        ("timestamp", {"timestamp": 2, "snapshot": 2, "targets": 2}, "timestamp.json"),
        ("snapshot", {"timestamp": 2, "snapshot": 2, "targets": 2}, "timestamp.json"),
        ("targets", {"timestamp": 3, "snapshot": 2, "targets": 2}, "3.snapshot.json"),
        ("child", {"timestamp": 3, "snapshot": 2, "targets": 2}, "3.snapshot.json"),
    ],
)
def test_no_role_goes_back(
    device: Device, repository: TufRepository, role: str, kept: dict[str, int], last: str
) -> None:
    repository.delegate("targets", "child", paths=["x"])
    repository.publish("child")
    repository.publish("child", *BELOW_ROOT)
    assert device.refresh() == 0
    repository.asked_now()
    back(repository, role)
    repository.publish("child", *BELOW_ROOT)
    assert device.refresh() == 1
    assert "went back" in device.text
    assert device.versions() == {"root": 1, **kept}
    assert repository.asked_now()[-1] == last


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("role", ["targets", "child"])
def test_no_role_vanishes_from_the_snapshot(device: Device, repository: TufRepository, role: str) -> None:
    repository.delegate("targets", "child")
    repository.publish("child", *BELOW_ROOT)
    assert device.refresh() == 0
    del repository.bodies["snapshot"]["meta"][f"{role}.json"]
    repository.publish("snapshot", "timestamp")
    assert device.refresh() == 1
    assert f"no longer lists {role}.json" in device.text
    assert device.versions()["snapshot"] == 2


def test_a_timestamp_of_the_same_version_is_left_alone_whatever_it_says(
    device: Device, repository: TufRepository
) -> None:
    assert device.refresh() == 0
    kept = device.stored("timestamp")
    repository.asked_now()
    repository.bodies["timestamp"]["meta"]["snapshot.json"]["version"] = 100
    repository.publish("timestamp", bump=False)
    assert device.refresh() == 0
    assert repository.asked_now() == ["2.root.json", "timestamp.json"]
    assert device.stored("timestamp") == kept


def test_a_new_timestamp_may_name_the_same_snapshot_but_no_other_bytes_of_it(
    device: Device, repository: TufRepository
) -> None:
    repository.digests = True
    repository.publish(*BELOW_ROOT)
    assert device.refresh() == 0
    repository.bodies["snapshot"]["x-other"] = 1
    repository.publish("snapshot", bump=False)
    repository.publish("timestamp")
    assert device.refresh() == 0  # the timestamp's key may replace it; what was listed is still a bound
    assert device.stored("snapshot") == repository.files["metadata/2.snapshot.json"]


def test_a_version_in_the_snapshot_may_not_differ_from_what_comes(device: Device, repository: TufRepository) -> None:
    repository.publish(*BELOW_ROOT)
    repository.bodies["snapshot"]["meta"]["targets.json"]["version"] = 1
    repository.files["metadata/1.targets.json"] = repository.files["metadata/2.targets.json"]
    repository.publish("snapshot", "timestamp")
    assert device.refresh() == 1
    assert device.versions() == {"root": 1, "snapshot": 3, "timestamp": 3}


# Healing after a thief raised versions out of reach


@pytest.mark.parametrize("far", [100, 2**31, 2**53])
@pytest.mark.parametrize(
    ("forwarded", "rotated", "begun_again"),
    [
        (("timestamp",), ("timestamp",), ("timestamp",)),
        (("snapshot", "timestamp"), ("snapshot", "timestamp"), ("snapshot",)),
        (("targets", "snapshot", "timestamp"), ("snapshot",), ("targets",)),
        (("child", "targets", "snapshot", "timestamp"), ("snapshot",), ("child",)),
    ],
)
def test_new_keys_heal_a_fast_forward(
    device: Device,
    repository: TufRepository,
    far: int,
    forwarded: tuple[str, ...],
    rotated: tuple[str, ...],
    begun_again: tuple[str, ...],
) -> None:
    repository.delegate("targets", "child")
    repository.publish("child", *BELOW_ROOT)
    repository.bodies[forwarded[0]]["version"] = far
    repository.publish(*forwarded)
    assert device.refresh() == 0
    assert far < max(device.versions().values()) or forwarded[0] == "child"
    back(repository, *begun_again)
    repository.publish("child", *BELOW_ROOT)
    assert device.refresh() == 1
    for role in rotated:
        repository.entrust(role, Pen())
    back(repository, *begun_again)
    repository.publish("root", "child", *BELOW_ROOT)
    assert device.refresh() == 0
    assert device.versions().get(begun_again[0], 1) == 1


def test_new_snapshot_keys_let_roles_go_that_the_thief_left(device: Device, repository: TufRepository) -> None:
    repository.delegate("targets", "child")
    repository.publish("child", *BELOW_ROOT)
    assert device.refresh() == 0
    del repository.bodies["snapshot"]["meta"]["child.json"]
    repository.entrust("snapshot", Pen())
    repository.publish("root", "snapshot", "timestamp")
    assert device.refresh() == 0


def test_one_more_key_is_no_rotation_and_forgets_nothing(device: Device, repository: TufRepository) -> None:
    repository.publish("timestamp")
    assert device.refresh() == 0
    repository.entrust("timestamp", *repository.pens["timestamp"], Pen())
    back(repository, "timestamp")
    repository.publish("root", "timestamp")
    assert device.refresh() == 1
    assert device.versions()["timestamp"] == 2


def test_fewer_keys_than_the_threshold_are_no_rotation_either(device: Device, repository: TufRepository) -> None:
    """What two honest keys signed still counts when the third is replaced."""
    pens = [Pen(), Pen(), Pen()]
    repository.entrust("timestamp", *pens, threshold=2)
    repository.pens["timestamp"] = pens[:2]
    repository.publish("root", "timestamp")
    assert device.refresh() == 0
    repository.entrust("timestamp", *pens[:2], Pen(), threshold=2)
    back(repository, "timestamp")
    repository.publish("root", "timestamp")
    assert device.refresh() == 1
    assert "went back" in device.text
    assert device.versions()["root"] == 3


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_new_targets_keys_forget_nothing(device: Device, repository: TufRepository, role: str) -> None:
    """Only the keys of timestamp and snapshot void versions (5.3.11)."""
    repository.publish(*BELOW_ROOT)
    assert device.refresh() == 0
    repository.entrust("targets", Pen())
    back(repository, role)
    repository.publish("root", *BELOW_ROOT)
    assert device.refresh() == 1
    assert "went back" in device.text


# Lengths and hashes of metadata


@pytest.mark.parametrize("role", ["snapshot", "targets", "child"])
@pytest.mark.parametrize("sizes", [False, True])
@pytest.mark.parametrize("digests", [False, True])
def test_lengths_and_hashes_may_be_listed_or_not(
    device: Device, repository: TufRepository, role: str, sizes: bool, digests: bool
) -> None:
    """What is listed must be true; what is not listed is not asked for."""
    repository.sizes, repository.digests = sizes, digests
    repository.delegate("targets", "child")
    repository.publish("child", *BELOW_ROOT)
    assert device.download("nothing") == 1
    assert device.versions() == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2, "child": 1}
    name = f"metadata/{1 if role == 'child' else 2}.{role}.json"
    repository.files[name] += b" "
    (device.metadata / f"{role}.json").unlink()
    assert device.download("nothing") == 1
    assert (role in device.versions()) == (not sizes and not digests)


@pytest.mark.parametrize("role", ["snapshot", "targets", "child"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"length": 10},
        {"length": 10**6},
        {"hashes": {"sha256": "a" * 64}},
        {"hashes": {"sha512": "a" * 128}},
        {"hashes": {"sha256": ""}},
        {"hashes": {"md-unknown": "a" * 64}},
    ],
    ids=str,
)
def test_a_wrong_length_or_hash_is_refused(
    device: Device, repository: TufRepository, role: str, wrong: dict[str, object]
) -> None:
    repository.delegate("targets", "child")
    repository.publish("child", *BELOW_ROOT)
    parent = "timestamp" if role == "snapshot" else "snapshot"
    repository.bodies[parent]["meta"][f"{role}.json"] |= wrong
    repository.publish(*BELOW_ROOT[BELOW_ROOT.index(parent) :])
    assert device.download("nothing") == 1
    assert role not in device.versions()


@pytest.mark.parametrize("entry", [{}, {"version": 0}, {"version": -1}, {"version": "1"}, {"version": 1, "length": -1},
                                   {"version": 1, "hashes": {}}, {"version": 1, "length": 0}, None, 1])  # fmt: skip
def test_an_entry_that_makes_no_sense_is_refused(device: Device, repository: TufRepository, entry: object) -> None:
    repository.bodies["timestamp"]["meta"]["snapshot.json"] = entry
    repository.publish("timestamp")
    assert device.refresh() == 1
    assert "snapshot" not in device.versions()


@pytest.mark.parametrize(
    ("role", "limit"), [("root", 512_000), ("timestamp", 16_384), ("snapshot", 2_000_000), ("targets", 5_000_000)]
)
def test_without_a_listed_length_our_own_bound_holds(
    device: Device, repository: TufRepository, role: str, limit: int
) -> None:
    for size, code in ((limit, 0), (limit + 1, 1)):
        repository.publish("root", *BELOW_ROOT)
        name = repository.place(role, repository.bodies[role]["version"])
        repository.files[name] = repository.files[name].ljust(size)
        assert device.refresh() == code
    assert f"longer than the {limit} bytes" in device.text


# Consistent snapshots


@pytest.mark.parametrize("consistent", [False, None])
def test_without_consistent_snapshots_names_carry_no_version_and_no_hash(
    consistent: bool | None, tmp_path: Path
) -> None:
    repository = TufRepository(consistent=consistent)
    repository.delegate("targets", "child", paths=["a/*"])
    repository.release("child", "a/b.bin", b"content")
    repository.publish("child", *BELOW_ROOT)
    with serving(repository) as url:
        device = Device(tmp_path, repository, url)
        assert device.init() == 0
        assert device.download("a/b.bin") == 0
    assert repository.asked_now() == [
        "2.root.json",
        "timestamp.json",
        "snapshot.json",
        "targets.json",
        "child.json",
        "targets/a/b.bin",
    ]
    assert device.downloaded() == [b"content"]


def test_with_consistent_snapshots_a_targets_hash_stands_before_its_file_name(
    device: Device, repository: TufRepository
) -> None:
    repository.release("targets", "a/b.bin", b"content")
    repository.publish(*BELOW_ROOT)
    assert device.download("a/b.bin") == 0
    assert repository.asked_now()[-1] == f"targets/a/{hashlib.sha256(b'content').hexdigest()}.b.bin"
