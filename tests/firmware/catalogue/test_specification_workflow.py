"""The TUF client workflow (specification, section 5) by the command line: what is asked for, in which order, what is kept."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from firmware.errors import RefusedError
from tests.tuf_repository import TOP_LEVEL, Device, Pen, TufRepository, moment, signed

FIRST = ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]
ALL = ("root", "targets", "snapshot", "timestamp")


def test_a_first_refresh_asks_for_each_role_once_and_keeps_the_bytes(device: Device, repository: TufRepository) -> None:
    for role in TOP_LEVEL:  # as no JSON writer would make it, so that only the served bytes can be what is kept
        name = repository.place(role, 1)
        repository.files[name] += b" \n "
    assert device.refresh() == 0
    assert repository.asked_now() == FIRST
    for role in ("targets", "snapshot", "timestamp"):
        assert device.stored(role) == repository.files[repository.place(role, 1)]
    assert sorted(file.name for file in device.metadata.iterdir()) == sorted(f"{role}.json" for role in TOP_LEVEL)


def test_nothing_is_asked_for_at_init_and_the_root_is_kept_as_given(device: Device, repository: TufRepository) -> None:
    assert repository.asked_now() == []
    assert device.stored("root") == repository.files["metadata/1.root.json"]
    assert device.versions() == {"root": 1}


def test_a_refresh_without_news_asks_for_the_next_root_and_the_timestamp_and_writes_nothing(
    device: Device, repository: TufRepository
) -> None:
    assert device.refresh() == 0
    before = {file.name: file.stat().st_mtime_ns for file in device.metadata.iterdir()}
    repository.asked_now()
    assert device.refresh() == 0
    assert repository.asked_now() == FIRST[:2]
    assert {file.name: file.stat().st_mtime_ns for file in device.metadata.iterdir()} == before


def test_only_what_is_new_is_fetched(device: Device, repository: TufRepository) -> None:
    assert device.refresh() == 0
    repository.asked_now()
    repository.publish("timestamp")
    assert device.refresh() == 0
    assert repository.asked_now() == FIRST[:2]
    repository.publish("snapshot", "timestamp")
    assert device.refresh() == 0
    assert repository.asked_now() == [*FIRST[:2], "2.snapshot.json"]
    repository.publish("targets", "snapshot", "timestamp")
    assert device.refresh() == 0
    assert repository.asked_now() == [*FIRST[:2], "3.snapshot.json", "2.targets.json"]
    assert device.versions() == {"root": 1, "targets": 2, "snapshot": 3, "timestamp": 4}


def test_a_download_refreshes_first_even_when_the_target_is_unknown(device: Device, repository: TufRepository) -> None:
    assert device.download("nothing/of/that/name") == 1
    assert repository.asked_now() == FIRST
    assert device.versions() == dict.fromkeys(TOP_LEVEL, 1)
    assert "No trusted role" in device.text


def test_a_refresh_before_init_is_refused(device: Device, repository: TufRepository) -> None:
    (device.metadata / "root.json").unlink()
    assert device.refresh() == 1
    assert "no trusted root" in device.text
    assert repository.asked_now() == []


def test_init_again_with_the_same_root_changes_nothing(device: Device, repository: TufRepository) -> None:
    assert device.refresh() == 0
    kept = device.versions()
    assert device.init() == 0
    assert device.versions() == kept
    assert device.refresh() == 0


@pytest.mark.parametrize("spoil", ["unsigned", "no version", "not JSON", "targets"])
def test_init_again_with_a_bad_root_leaves_the_good_one(device: Device, repository: TufRepository, spoil: str) -> None:
    root = dict(repository.root)
    if spoil == "no version":
        del root["version"]
    given = {
        "unsigned": signed(root, [Pen()]),
        "no version": signed(root, repository.pens["root"]),
        "not JSON": b"{",
        "targets": repository.files["metadata/1.targets.json"],
    }[spoil]
    kept = device.stored("root")
    assert device.init(given) == 1
    assert device.stored("root") == kept


@pytest.mark.parametrize("spoil", ["unsigned", "no version"])
def test_a_bad_root_in_the_store_is_noticed_before_anything_is_asked_for(
    device: Device, repository: TufRepository, spoil: str
) -> None:
    root = dict(repository.root)
    if spoil == "no version":
        del root["version"]
    (device.metadata / "root.json").write_bytes(
        signed(root, [Pen()] if spoil == "unsigned" else repository.pens["root"])
    )
    assert device.refresh() == 1
    assert repository.asked_now() == []


def test_offline_nothing_is_lost_and_the_person_is_told(device: Device, repository: TufRepository) -> None:
    assert device.refresh() == 0
    kept = device.versions()
    device.url = "http://127.0.0.1:9"
    assert device.refresh() == 1
    assert "ry again later" in device.text
    assert device.download("anything") == 1
    assert device.versions() == kept


@pytest.mark.parametrize(
    ("role", "kept"),
    [
        ("timestamp", {"root": 2, "targets": 1, "snapshot": 1, "timestamp": 1}),
        ("snapshot", {"root": 2, "targets": 1, "snapshot": 1, "timestamp": 2}),
        ("targets", {"root": 2, "targets": 1, "snapshot": 2, "timestamp": 2}),
    ],
)
@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_role_that_is_missing_ends_the_refresh_and_what_came_before_is_kept(
    device: Device, repository: TufRepository, role: str, kept: dict[str, int], status: int
) -> None:
    assert device.refresh() == 0
    repository.publish(*ALL)
    del repository.files[repository.place(role, 2)]
    repository.status = status
    if status == 500:  # not the answer for "there is no newer root"
        assert device.refresh() == 1
        assert device.versions()["timestamp"] == 1
        return
    assert device.refresh() == 1
    assert device.versions() == kept
    assert repository.asked_now()[-1] == repository.place(role, 2).removeprefix("metadata/")


# Root


def test_roots_are_followed_one_by_one_and_each_is_asked_for(device: Device, repository: TufRepository) -> None:
    for _ in range(6):
        repository.publish("root")
    assert device.refresh() == 0
    assert repository.asked_now() == [*(f"{n}.root.json" for n in range(2, 9)), *FIRST[1:]]
    assert device.stored("root") == repository.files["metadata/7.root.json"]


def test_a_root_that_is_skipped_is_never_found(device: Device, repository: TufRepository) -> None:
    repository.publish("root")
    repository.publish("root")
    del repository.files["metadata/2.root.json"]
    assert device.refresh() == 0
    assert device.versions()["root"] == 1


@pytest.mark.parametrize("version", [1, 3, 0, -2, "2", 2.0, True, None])
def test_a_root_says_the_version_that_its_name_says(device: Device, repository: TufRepository, version: object) -> None:
    repository.root["version"] = version
    repository.files["metadata/2.root.json"] = signed(repository.root, repository.pens["root"])
    assert device.refresh() == 1
    assert device.versions() == {"root": 1}


@pytest.mark.parametrize("role", ["snapshot", "targets"])
@pytest.mark.parametrize("version", [1, 3])
def test_a_role_says_the_version_that_its_parent_lists(
    device: Device, repository: TufRepository, role: str, version: int
) -> None:
    repository.bodies[role]["version"] = version
    repository.put(role, signed(repository.bodies[role], repository.pens[role]), version=2)
    repository.bodies["snapshot"]["version"] = 2 if role == "targets" else version
    if role == "targets":
        repository.publish("snapshot", bump=False)
    repository.publish("timestamp")
    assert device.refresh() == 1
    assert role not in device.versions()
    assert "where version 2 is listed" in device.text


def test_an_expired_root_on_the_way_is_fine_and_an_expired_last_one_is_kept_but_not_used(
    device: Device, repository: TufRepository
) -> None:
    repository.root["expires"] = moment(-1)
    repository.publish("root")
    assert device.refresh() == 1
    assert device.versions() == {"root": 2}
    assert "root expired" in device.text
    repository.root["expires"] = moment(1)
    repository.publish("root")
    assert device.refresh() == 0


def test_a_root_is_replaced_by_new_keys_only_with_the_old_ones_agreement(
    device: Device, repository: TufRepository
) -> None:
    new, old = Pen("ecdsa"), repository.pens["root"][0]
    repository.entrust("root", new)
    for signers in ([new], [old], []):
        repository.pens["root"] = signers
        repository.root["version"] = 1
        repository.publish("root")
        assert device.refresh() == 1
        assert device.versions() == {"root": 1}
    repository.pens["root"] = [new, old]
    repository.root["version"] = 1
    repository.publish("root")
    repository.pens["root"] = [new]
    repository.publish("root")
    assert device.refresh() == 0
    assert device.versions()["root"] == 3


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_new_keys_count_from_the_root_that_names_them(device: Device, repository: TufRepository, role: str) -> None:
    assert device.refresh() == 0
    new = Pen()
    repository.entrust(role, new)
    repository.publish("root")
    assert device.refresh() == 1
    assert device.versions()["root"] == 2
    repository.publish(*{"timestamp": ("timestamp",), "snapshot": ("snapshot", "timestamp")}.get(role, ALL[1:]))
    assert device.refresh() == 0


# Formats (section 4)


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"[]",
        lambda data: data.replace(b'"version"', b'"version": 1, "version"'),
        lambda data: data.replace(b'"signatures"', b'"signature"'),
        lambda data: data.replace(b'"_type"', b'"type"'),
        lambda data: b"\xff" + data,
    ],
    ids=["cut", "empty", "a list", "twice", "no signatures", "no type", "not UTF-8"],
)
def test_what_is_not_metadata_is_refused(
    device: Device, repository: TufRepository, role: str, spoil: Callable[[bytes], bytes]
) -> None:
    assert device.refresh() == 0
    kept = device.stored(role)
    repository.publish(*ALL)
    name = repository.place(role, 2)
    repository.files[name] = spoil(repository.files[name])
    assert device.refresh() == 1
    assert device.stored(role) == kept


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize("other", ["root", "timestamp", "snapshot", "targets", "mirrors"])
def test_a_type_that_is_not_the_roles_own_is_refused(
    device: Device, repository: TufRepository, role: str, other: str
) -> None:
    """Signed by the right key, and with all that the other type has to have: only the name of the type is wrong."""
    if role == other:
        return
    body: dict[str, Any] = {**repository.bodies.get(other, {}), **repository.bodies[role], "_type": other, "version": 2}
    repository.put(role, signed(body, repository.pens[role]), version=2)
    if role == "targets":
        repository.publish("snapshot")
    if role != "timestamp":
        repository.publish("timestamp")
    assert device.refresh() == 1
    assert role not in device.versions()


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        ("1.0.0", True),
        ("1.0.99", True),
        ("1.99.0", True),
        ("2.0.0", False),
        ("0.9.0", False),
        ("one", False),
        (1, False),
    ],
)
def test_spec_versions_within_the_first_major_are_taken(
    device: Device, repository: TufRepository, version: object, taken: bool
) -> None:
    repository.bodies["targets"]["spec_version"] = version
    repository.publish("targets", "snapshot", "timestamp")
    assert device.refresh() == (0 if taken else 1)
    assert ("targets" in device.versions()) == taken


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_unknown_fields_are_signed_and_kept(device: Device, repository: TufRepository, role: str) -> None:
    odd = {"a": [1, None, True, 'quote " and \\ and \u20ac \U0001f9ad'], "z": {"y": -7}}
    repository.bodies[role]["x-unknown"] = odd
    repository.root["keys"][repository.pens["root"][0].keyid]["x-owner"] = "Alice"
    repository.root["roles"]["root"]["x-note"] = odd
    repository.bodies["timestamp"]["meta"]["snapshot.json"]["x-note"] = odd
    repository.publish(*ALL)
    assert device.refresh() == 0
    stored = device.stored(role)
    assert stored is not None
    assert json.loads(stored)["signed"]["x-unknown"] == odd


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
@pytest.mark.parametrize("change", ["added", "altered", "removed"])
def test_unknown_fields_cannot_be_changed_after_signing(
    device: Device, repository: TufRepository, role: str, change: str
) -> None:
    repository.bodies[role]["x-unknown"] = {"a": 1}
    repository.publish(*ALL)
    name = repository.place(role, 2)
    value = json.loads(repository.files[name])
    value["signed"]["x-unknown"] = {"added": {"a": 1, "b": 2}, "altered": {"a": 2}, "removed": {}}[change]
    repository.files[name] = json.dumps(value).encode()
    assert device.refresh() == 1
    assert device.versions().get(role) in (None, 1)


def test_extra_fields_beside_the_signed_part_do_no_harm(device: Device, repository: TufRepository) -> None:
    name = repository.place("timestamp", 1)
    value = json.loads(repository.files[name])
    value["x-beside"] = {"anything": [1]}
    value["signatures"][0]["x-more"] = "more"
    repository.files[name] = json.dumps(value).encode()
    assert device.refresh() == 0


# Time


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_role_that_is_expired_when_it_comes_is_not_kept(device: Device, repository: TufRepository, role: str) -> None:
    assert device.refresh() == 0
    repository.bodies[role]["expires"] = moment(-1)
    repository.publish(*ALL[1:])
    assert device.refresh() == 1
    assert f"{role} expired" in device.text
    assert device.versions()[role] == 1


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_what_expired_in_the_store_is_replaced(device: Device, repository: TufRepository, role: str) -> None:
    repository.bodies[role]["expires"] = moment(7)
    repository.publish(*ALL)
    device.refresh_at(6)
    with pytest.raises(RefusedError, match=f"{role} expired"):
        device.refresh_at(18)
    repository.bodies[role]["expires"] = moment(21)
    repository.publish(*ALL)
    device.refresh_at(18)
    assert device.versions() == dict.fromkeys(TOP_LEVEL, 3)


def test_an_expired_timestamp_in_the_store_still_guards_against_rollback(
    device: Device, repository: TufRepository
) -> None:
    repository.bodies["timestamp"]["expires"] = moment(7)
    repository.publish("timestamp")
    device.refresh_at(1)
    repository.bodies["timestamp"] |= {"expires": moment(30), "version": 0}
    repository.publish("timestamp")
    with pytest.raises(RefusedError, match="went back"):
        device.refresh_at(18)


# The command itself


def test_the_installed_command_answers_with_exit_codes(device: Device, repository: TufRepository) -> None:
    """In processes of their own, as a stranger's test suite runs it: nothing is carried from step to step but the files."""
    repository.release("targets", "dir/file.bin", b"content")
    repository.publish("targets", "snapshot", "timestamp")

    def run(*arguments: str) -> int:
        code = "from server.cli import main; main()"
        command = [sys.executable, "-c", code, "catalogue", *device.command(*arguments)]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode

    given = device.directory / "given.json"
    (device.metadata / "root.json").unlink()
    address = ("--metadata-url", f"{device.url}/metadata/")
    download = (*address, "--target-base-url", f"{device.url}/targets/", "--target-dir", str(device.targets))
    assert run(*address, "refresh") == 1
    assert run("init", str(given)) == 0
    assert run(*address, "refresh") == 0
    assert run(*download, "--target-name", "dir/file.bin", "download") == 0
    assert run(*download, "--target-name", "dir/other.bin", "download") == 1
    assert device.downloaded() == [b"content"]
    assert device.versions() == {"root": 1, "targets": 2, "snapshot": 2, "timestamp": 2}
