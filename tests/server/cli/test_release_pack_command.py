"""`otaria release pack`: images made by hand are the ones that boards boot, and what cannot be one is refused by name."""

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from firmware.images.slot_image import MAX_PROGRAM_BYTES, read_program
from server.cli import run

PROGRAM = b"print('pump')\n"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("pump.py").write_bytes(PROGRAM)
    (tmp_path / "files" / "etc").mkdir(parents=True)
    (tmp_path / "files" / "etc" / "pump.conf").write_bytes(b"speed=3\n")
    (tmp_path / "files" / "table.bin").write_bytes(bytes(range(256)))
    return tmp_path


def pack(*more: str, version: str = "2.0", counter: str = "2", program: str = "pump.py", out: str = "pump.img") -> int:
    facts = ("--product", "pump", "--version", version, "--counter", counter)
    return run(["release", "pack", *facts, "--program", program, *more, "-o", out, "--json"])


def error(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().err)["error"]


def test_a_packed_image_boots_its_program_and_carries_its_files(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack("--payload", "files") == 0
    said = json.loads(capsys.readouterr().out)
    image = bench / "pump.img"
    data = image.read_bytes()
    info, program = read_program(lambda offset, size: data[offset : offset + size])
    assert (info.product, info.version, info.counter, program) == ("pump", "2.0", 2, PROGRAM)
    with tarfile.open(image) as tar:
        assert tar.getnames()[2:] == ["etc/pump.conf", "table.bin"]
        assert tar.extractfile("table.bin").read() == bytes(range(256))  # type: ignore[union-attr]
    assert said == {"image": "pump.img", "product": "pump", "version": "2.0", "files": 2, "length": len(data)}


def test_equal_input_gives_equal_bytes_whatever_the_clock_and_modes_say(bench: Path) -> None:
    assert pack("--payload", "files") == 0
    os.utime(bench / "files" / "table.bin", (1, 1))
    (bench / "files" / "table.bin").chmod(0o600)
    assert pack("--payload", "files", out="again.img") == 0
    assert (bench / "pump.img").read_bytes() == (bench / "again.img").read_bytes()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"version": "../2"}, "malformed"),
        ({"version": ""}, "malformed"),
        ({"program": "empty.py"}, "program-empty"),
        ({"program": "huge.py"}, "too-large"),
    ],
)
def test_what_no_board_could_boot_is_not_packed(
    bench: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], kind: str
) -> None:
    (bench / "empty.py").write_bytes(b"")
    (bench / "huge.py").write_bytes(b"#" * (MAX_PROGRAM_BYTES + 1))
    assert pack(**change) == 1  # type: ignore[arg-type]
    assert error(capsys) == kind
    assert not (bench / "pump.img").exists()


def test_a_payload_of_links_or_reserved_names_is_refused(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bench / "files" / "passwd").symlink_to("/etc/passwd")
    assert pack("--payload", "files") == 1
    assert error(capsys) == "malformed"
    (bench / "files" / "passwd").unlink()
    (bench / "files" / "etc" / "loop").symlink_to(bench)
    assert pack("--payload", "files") == 1
    assert error(capsys) == "malformed"
    (bench / "files" / "etc" / "loop").unlink()
    os.mkfifo(bench / "files" / "pipe")
    assert pack("--payload", "files") == 1
    assert error(capsys) == "malformed"
    (bench / "files" / "pipe").unlink()
    (bench / "files" / "otaria").mkdir()
    (bench / "files" / "otaria" / "slot.json").write_text("{}")
    assert pack("--payload", "files") == 1
    assert error(capsys) == "malformed"
    assert not (bench / "pump.img").exists()


def test_wrong_use_exits_with_2_and_changes_nothing(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack(out="pump.py") == 2
    assert (bench / "pump.py").read_bytes() == PROGRAM
    assert pack("--payload", "files", out="files/pump.img") == 2
    assert pack(out="nowhere/pump.img") == 2
    assert pack(program="missing.py") == 2
    assert pack("--payload", "missing") == 2
    assert pack(counter="-1") == 2
    capsys.readouterr()
    assert sorted(path.name for path in bench.iterdir()) == ["files", "pump.py"]
