"""The demo's images: built of pinned wheels, equal every time, and with the one fault they are meant to have.

The wheels here are small ones made for the test; the real ones are fetched by the end-to-end run of the demo.
"""

import hashlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import simulator.images
from firmware.errors import RefusedError, UnavailableError
from firmware.images.identify import identify
from firmware.images.slot_image import read_program
from simulator.images import (
    HEALTH,
    NEWER,
    OLDER,
    RELEASES,
    DemoImage,
    Wheel,
    build_demo_images,
    fetch,
    main,
    pip_download,
)

DEADLINE_S = 20


def wheel_bytes(folder: Path, content: bytes) -> bytes:
    path = folder / "made.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("soft/ware.so"), content)
    return path.read_bytes()


class Index:
    """A package index of one file; counts how often it is asked."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked = 0

    def __call__(self, wheel: Wheel, directory: Path) -> None:
        self.asked += 1
        (directory / wheel.filename).write_bytes(self.data)


def pinned(data: bytes) -> Wheel:
    return Wheel(package="software", version="1.2", sha256=hashlib.sha256(data).hexdigest())


def test_a_wheel_is_fetched_once_and_again_when_it_is_damaged(tmp_path: Path) -> None:
    data = wheel_bytes(tmp_path, b"code")
    index, wheel, cache = Index(data), pinned(data), tmp_path / "deep" / "cache"
    path = fetch(wheel, cache, index)
    assert fetch(wheel, cache, index) == path
    assert (path.read_bytes(), index.asked) == (data, 1)
    path.write_bytes(data[:-1])
    assert fetch(wheel, cache, index).read_bytes() == data
    assert index.asked == 2
    assert [entry.name for entry in cache.iterdir()] == [wheel.filename]


def test_a_wheel_that_is_not_the_published_one_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as refused:
        fetch(pinned(b"published"), tmp_path / "cache", Index(b"something else"))
    assert refused.value.kind == "artifact-changed"
    assert not list((tmp_path / "cache").iterdir())


def test_an_index_that_gives_another_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as missing:
        fetch(pinned(b"x"), tmp_path / "cache", lambda wheel, directory: None)
    assert missing.value.kind == "unreachable"


@pytest.fixture
def _no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip, set to an index on a port where nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/simple"
    for name, value in {
        "INDEX_URL": address,
        "EXTRA_INDEX_URL": address,
        "FIND_LINKS": str(tmp_path),
        "RETRIES": "0",
    }.items():
        monkeypatch.setenv(f"PIP_{name}", value)


@pytest.mark.usefixtures("_no_index")
def test_without_an_index_one_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as missing:
        pip_download(Wheel(package="otaria-has-no-such-package", version="1.0", sha256="0" * 64), tmp_path)
    assert missing.value.kind == "unreachable"
    assert "python -m simulator.images --cache" in missing.value.text


@pytest.mark.usefixtures("_no_index")
def test_prefetching_without_an_index_fails_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cache", str(tmp_path / "cache")]) == 1
    assert "Check the network" in capsys.readouterr().err


@pytest.fixture
def images(tmp_path: Path) -> list[DemoImage]:
    """The demo's images with small payloads: the real releases table, with the pins of wheels made here."""
    return build_demo_images(tmp_path / "cache", tmp_path / "out", small_releases(tmp_path / "cache"))


def small_releases(cache: Path) -> tuple[tuple[str, int, Wheel], ...]:
    cache.mkdir(exist_ok=True)
    releases = []
    for version, counter, real in RELEASES:
        data = wheel_bytes(cache, real.version.encode() * 3000)
        wheel = Wheel(package=real.package, version=real.version, sha256=hashlib.sha256(data).hexdigest())
        (cache / wheel.filename).write_bytes(data)
        releases.append((version, counter, wheel))
    return tuple(releases)


def test_three_releases_in_order(images: list[DemoImage], tmp_path: Path) -> None:
    said = [identify(image.path) for image in images]
    assert [facts.kind for facts in said] == ["slot-image"] * 3
    assert [facts.version for facts in said] == ["1.0.0", "2.0.0", "3.0.0"] == [image.version for image in images]
    assert [facts.details["counter"] for facts in said] == ["1", "2", "3"]
    assert [image.counter for image in images] == [1, 2, 3]
    assert all(image.health == list(HEALTH) for image in images)


def test_building_again_gives_the_same_bytes(images: list[DemoImage], tmp_path: Path) -> None:
    before = [image.path.read_bytes() for image in images]
    again = build_demo_images(tmp_path / "cache", tmp_path / "out", small_releases(tmp_path / "cache"))
    assert again == images
    assert [image.path.read_bytes() for image in again] == before
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_the_payload_is_the_wheels_content(images: list[DemoImage]) -> None:
    assert b"12.0.0" * 3000 in images[0].path.read_bytes()
    assert b"12.1.0" * 3000 in images[1].path.read_bytes()
    assert b"12.1.0" * 3000 in images[2].path.read_bytes()


def test_the_pins_are_of_two_releases_of_one_package() -> None:
    assert OLDER.package == NEWER.package
    assert OLDER.version != NEWER.version
    assert [wheel for _, _, wheel in RELEASES] == [OLDER, NEWER, NEWER]


@contextmanager
def running(image: Path) -> Iterator[str]:
    """Run an image's program from its own bytes, from memory, as a board does; gives its health URL."""
    data = image.read_bytes()
    _, program = read_program(lambda offset, size: data[offset : offset + size])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-I", "-", str(port)], stdin=subprocess.PIPE)
    try:
        assert process.stdin is not None
        process.stdin.write(program)
        process.stdin.close()
        yield str(HEALTH[0].url).replace("{port}", str(port))
    finally:
        process.kill()
        process.wait()


def answer(url: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the first answer, which must come within the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own loopback address
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize(("index", "status", "lost"), [(0, 200, 0), (1, 200, 0), (2, 500, 1)])
def test_the_health_check_finds_the_third_releases_fault_and_no_other(
    images: list[DemoImage], index: int, status: int, lost: int
) -> None:
    with running(images[index].path) as url:
        for _ in range(HEALTH[0].tries):
            code, body = answer(url)
            assert code == status
            assert (body["product"], body["version"]) == ("gateway", images[index].version)
            assert body["healthy"] is (lost == 0)
            assert body["self_test"]["sent"] - body["self_test"]["right"] == lost


def test_the_self_test_and_health_code_are_the_same_in_good_and_faulty_release() -> None:
    """The fault is in the bus code alone: nothing in release 3 says "fail"."""
    programs = Path(simulator.images.__file__).parent / "programs"
    sources = [(programs / f"gateway-{version}.0.0.py").read_text() for version in (2, 3)]
    tails = [source[source.index("def self_test") :] for source in sources]
    assert tails[0] == tails[1]
    assert sources[0] != sources[1].replace("3.0.0", "2.0.0")
