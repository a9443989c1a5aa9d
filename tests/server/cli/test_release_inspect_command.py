"""`otaria release inspect` on images: what a person and a script are told."""

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli.release import release
from tests.firmware.images import makers
from tests.firmware.images.makers import needs


def inspect(path: Path, *more: str) -> str:
    done = CliRunner().invoke(release, ["inspect", str(path), *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def lines(path: Path) -> list[str]:
    return [" ".join(line.split()) for line in inspect(path).splitlines()]


def test_scripts_get_every_fact(tmp_path: Path) -> None:
    said = json.loads(inspect(makers.mcuboot(tmp_path / "image", "--security-counter", "9"), "--json"))
    assert (said["kind"], said["version"], said["security_counter"], said["problems"]) == ("mcuboot", "1.4.2+7", 9, [])
    assert said["details"]["hash"] == "sha256 verified"
    assert [part["name"] for part in said["parts"]] == ["header", "payload", "protected", "unprotected"]


def test_people_read_what_is_inside_a_wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "image.gz").write_bytes(gzip.compress(makers.slot_image(tmp_path / "image")))
    said = lines(tmp_path / "image.gz")
    at = said.index("inside")
    assert {"kind gzip", "version 2.1.0", "compression gzip"} <= set(said[:at])
    assert {"kind slot-image", "product gateway", "counter 4"} <= set(said[at:])


@needs("sfdisk")
def test_people_read_the_layout_of_a_disk_and_its_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    path = makers.disk(tmp_path / "disk", "label: gpt\nstart=2048,size=4MiB,type=U,name=boot\n")
    makers.put(path, 1 << 20, makers.tar("linux"))
    with path.open("r+b") as file:
        file.truncate(3 << 20)
    said = lines(path)
    assert any(line.startswith("part 1 EFI system, 4194304 bytes at 1048576, label=boot") for line in said)
    assert {"kind tar", "first linux"} <= set(said)
    assert "problem The file ends before the end of partition 1." in said


def test_what_is_unknown_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    assert {"kind unknown", "size_bytes 5"} <= set(lines(tmp_path / "x"))
