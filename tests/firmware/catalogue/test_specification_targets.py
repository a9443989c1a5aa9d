"""Downloading a target (TUF specification 5.7): what is asked for, what is kept, and where."""

import hashlib
from pathlib import Path
from urllib.parse import unquote

import pytest

from server.cli.catalogue import local_name, web_path
from tests.tuf_repository import Device, TufRepository

BELOW_ROOT = ("targets", "snapshot", "timestamp")


def released(repository: TufRepository, path: str, data: bytes, *algorithms: str, **more: object) -> None:
    repository.release("targets", path, data, *algorithms, **more)
    repository.publish(*BELOW_ROOT)


def files_asked(repository: TufRepository) -> list[str]:
    return [name for name in repository.asked_now() if name.startswith("targets/")]


def test_a_refresh_downloads_no_target_and_a_download_only_the_one(device: Device, repository: TufRepository) -> None:
    released(repository, "one", b"1")
    released(repository, "two", b"2")
    assert device.refresh() == 0
    assert device.downloaded() == []
    assert device.download("two") == 0
    assert device.downloaded() == [b"2"]
    assert len(files_asked(repository)) == 1


def test_a_target_that_is_there_and_verifies_is_not_asked_for_again(device: Device, repository: TufRepository) -> None:
    released(repository, "file", b"content")
    assert device.download("file") == 0
    file = device.targets / "file"
    before = file.stat()
    repository.asked_now()
    assert device.download("file") == 0
    assert files_asked(repository) == []
    assert "is there already and verifies" in device.text
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("held", [b"contenT", b"conten", b"content!", b""])
def test_a_file_that_does_not_verify_is_replaced(device: Device, repository: TufRepository, held: bytes) -> None:
    released(repository, "file", b"content")
    assert device.download("file") == 0
    (device.targets / "file").write_bytes(held)
    assert device.download("file") == 0
    assert device.downloaded() == [b"content"]


def test_a_changed_target_is_stored_under_the_same_name(device: Device, repository: TufRepository) -> None:
    for version in range(3):
        released(repository, "dir/file", b"%d" % version)
        assert device.download("dir/file") == 0
        assert device.downloaded() == [b"%d" % version]


@pytest.mark.parametrize("served", [b"Content", b"conten", b"content!", b"", b"content" * 10000])
@pytest.mark.parametrize("held", [None, b"older"])
def test_other_bytes_than_signed_are_not_kept(
    device: Device, repository: TufRepository, served: bytes, held: bytes | None
) -> None:
    if held is not None:
        released(repository, "file", held)
        assert device.download("file") == 0
    released(repository, "file", b"content")
    repository.files[f"targets/{hashlib.sha256(b'content').hexdigest()}.file"] = served
    assert device.download("file") == 1
    assert device.downloaded() == ([] if held is None else [held])
    assert list(device.targets.glob(".*")) == []


def test_a_target_that_the_server_does_not_have(device: Device, repository: TufRepository) -> None:
    released(repository, "file", b"content")
    del repository.files[f"targets/{hashlib.sha256(b'content').hexdigest()}.file"]
    assert device.download("file") == 1
    assert "ry again later" in device.text
    assert device.downloaded() == []


def test_a_target_that_is_no_longer_listed_is_refused_though_it_lies_here(
    device: Device, repository: TufRepository
) -> None:
    released(repository, "file", b"content")
    assert device.download("file") == 0
    del repository.bodies["targets"]["targets"]["file"]
    repository.publish(*BELOW_ROOT)
    assert device.download("file") == 1
    assert "No trusted role of the catalogue lists file" in device.text


def test_nothing_is_downloaded_when_the_metadata_cannot_be_brought_up_to_date(
    device: Device, repository: TufRepository
) -> None:
    released(repository, "file", b"content")
    assert device.refresh() == 0
    repository.files["metadata/timestamp.json"] = b"{}"
    repository.asked_now()
    assert device.download("file") == 1
    assert files_asked(repository) == []


@pytest.mark.parametrize("algorithms", [("sha256",), ("sha512",), ("sha256", "sha512"), ("sha384", "blake2b")])
def test_every_listed_hash_that_we_know_is_checked(
    device: Device, repository: TufRepository, algorithms: tuple[str, ...]
) -> None:
    released(repository, "file", b"content", *algorithms)
    assert device.download("file") == 0
    assert len(files_asked(repository)) == 1
    for name in algorithms:
        (device.targets / "file").unlink(missing_ok=True)
        entry = repository.release("targets", "file", b"content", *algorithms)
        entry["hashes"][name] = "0" * len(entry["hashes"][name])
        for kept in (f"targets/{entry['hashes'][other]}.file" for other in algorithms):
            repository.files[kept] = b"content"
        repository.publish(*BELOW_ROOT)
        assert device.download("file") == 1
        assert device.downloaded() == []


@pytest.mark.parametrize("hashes", [{"unheard-of": "ab" * 32}, {"shake_128": "ab" * 16}, {"sha256": "AB" * 16}])
def test_a_hash_that_cannot_be_checked_is_none(
    device: Device, repository: TufRepository, hashes: dict[str, str]
) -> None:
    entry = repository.release("targets", "file", b"content")
    entry["hashes"] = hashes
    repository.files[f"targets/{next(iter(hashes.values()))}.file"] = b"content"
    repository.publish(*BELOW_ROOT)
    assert device.download("file") == 1
    assert device.downloaded() == []
    assert "another length or hash" in device.text


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"length": 7},
        {"length": 7, "hashes": {}},
        {"hashes": {"sha256": "ab" * 32}},
        {"length": -1, "hashes": {"sha256": "ab" * 32}},
        {"length": 7.0, "hashes": {"sha256": "ab" * 32}},
        {"length": True, "hashes": {"sha256": "ab" * 32}},
        {"length": "7", "hashes": {"sha256": "ab" * 32}},
        {"length": 7, "hashes": {"sha256": 7}},
        {"length": 7, "hashes": []},
    ],
    ids=str,
)
def test_an_entry_without_a_length_or_a_hash_is_refused(
    device: Device, repository: TufRepository, entry: object
) -> None:
    repository.bodies["targets"]["targets"]["file"] = entry
    repository.publish(*BELOW_ROOT)
    assert device.refresh() == 1
    assert "targets" not in device.versions()


def test_custom_metadata_is_carried_along(device: Device, repository: TufRepository) -> None:
    custom = {"any": ["thing", {"deep": None}], "number": 3}
    released(repository, "file", b"content", custom=custom, **{"x-unknown": True})
    assert device.download("file") == 0


def test_an_empty_target_is_a_target(device: Device, repository: TufRepository) -> None:
    released(repository, "file", b"")
    assert device.download("file") == 0
    assert device.downloaded() == [b""]


@pytest.mark.parametrize(
    "name",
    ["a/b/c.bin", "/a", "//a", "a/", "..", ".", "../a", "../../../a", "a/../../b", "a/./b", "a b+c", "?x=1#y", "%2e%2e%2fa",
     "\u20ac/\U0001f9ad", "\\a\\b", "a\x00b", "a\nb", "\U0001f9ad" * 40, "d/" * 100 + "x", "", ".hidden", "CON", "-rf", "~"],
)  # fmt: skip
def test_whatever_a_target_is_called_it_is_asked_for_as_such_and_stays_in_its_directory(
    device: Device, repository: TufRepository, name: str
) -> None:
    released(repository, name, b"content")
    outside = set(device.directory.rglob("*"))
    if "\x00" in name:  # no command line can carry it
        assert local_name(name) == "a%00b"
        return
    assert device.download(name) == 0
    (asked,) = files_asked(repository)
    directory, slash, file = name.rpartition("/")
    assert unquote(asked) == f"targets/{directory}{slash}{hashlib.sha256(b'content').hexdigest()}.{file}"
    assert ".." not in asked.split("/")
    (stored,) = (
        {path for path in device.directory.rglob("*") if path.is_file()} - outside - set(device.metadata.iterdir())
    )
    assert stored.parent == device.targets
    assert stored.name == local_name(name)
    assert device.download(name) == 0
    assert files_asked(repository) == []


def test_a_name_that_is_no_text_is_wrong_use(device: Device, repository: TufRepository) -> None:
    repository.delegate_bins("targets", "bin", 1)
    repository.publish("bin-0", "bin-1", *BELOW_ROOT)
    assert device.download("file-\udcff") == 2
    assert "not UTF-8" in device.text


def test_names_that_look_alike_are_kept_apart() -> None:
    names = ["a/b", "a%2Fb", "a//b", "/a/b", "a/b/", "a\\b", "", ".", "..", "x" * 201, "x" * 202, "A/b"]
    assert len({local_name(name) for name in names}) == len(names)
    assert all(len(local_name(name)) <= 200 and "/" not in local_name(name) for name in names)


def test_an_address_never_climbs() -> None:
    assert web_path("a/../b/./c d") == "a/%2E%2E/b/%2E/c%20d"
    assert web_path("/..x/...") == "/..x/..."


@pytest.mark.parametrize(
    ("obstacle", "said"), [("a directory", "Is a directory"), ("no room for one", "o such file or directory")]
)
def test_a_place_that_cannot_be_written_to_is_told(
    device: Device, repository: TufRepository, obstacle: str, said: str
) -> None:
    released(repository, "file", b"content")
    if obstacle == "a directory":
        (device.targets / "file" / "in-the-way").mkdir(parents=True)
    else:
        device.targets = Path("/proc/otaria/targets")
    assert device.download("file") == 1
    assert said in device.text
    assert str(device.targets) in device.text or "/proc" in device.text


def test_a_link_in_the_target_directory_is_replaced_and_not_followed(
    device: Device, repository: TufRepository, tmp_path: Path
) -> None:
    released(repository, "file", b"content")
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    device.targets.mkdir()
    (device.targets / "file").symlink_to(precious)
    assert device.download("file") == 0
    assert precious.read_bytes() == b"mine"
    assert not (device.targets / "file").is_symlink()
    assert (device.targets / "file").read_bytes() == b"content"
