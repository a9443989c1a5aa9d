"""`otaria release build` with requirements, a bill of materials, fixed CVEs and security counters."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from firmware.errors import RefusedError
from firmware.manifest import MAX_SBOM_BYTES, parse_manifest
from server.cli.release import release
from tests.firmware.images import makers

SBOM = b'{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": []}'


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    (tmp_path / "pump.img").write_bytes(b"pump" * 1000)
    (tmp_path / "bom.json").write_bytes(SBOM)
    return tmp_path


def build(desk: Path, *more: object, image: str = "pump.img") -> Result:
    fixed = ("--product", "pump", "--version", "2.0", "--counter", 9, "--hardware", "hw", "--image", desk / image)
    words = [str(word) for word in ("build", *fixed, "-o", desk / "built", *more)]
    return CliRunner().invoke(release, words)


def refusal(desk: Path, *more: object, image: str = "pump.img") -> str:
    done = build(desk, *more, image=image)
    assert isinstance(done.exception, RefusedError), done.output
    assert not (desk / "built").exists()
    return done.exception.kind


def inspected(desk: Path) -> dict[str, Any]:
    done = CliRunner().invoke(release, ["inspect", str(desk / "built"), "--json"], catch_exceptions=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_everything_is_written_and_shown(desk: Path) -> None:
    more = ("--min-counter", 4, "--through", 7, "--through", 3, "--fixes", "CVE-2025-1111", "--fixes", "CVE-2024-3094")
    assert build(desk, *more, "--sbom", desk / "bom.json", "--security-counter", 5).exit_code == 0
    facts = inspected(desk)
    assert facts["requires"] == {"min_counter": 4, "through": [3, 7]}
    assert facts["crit"] == ["requires"], "an agent that can't obey the requirements must refuse the release"
    assert facts["fixes"] == ["CVE-2024-3094", "CVE-2025-1111"]
    assert facts["security_counter"] == 5
    assert facts["sbom"] == {
        "format": "cyclonedx",
        "path": "releases/pump/2.0/bom.json",
        "length": len(SBOM),
        "sha256": hashlib.sha256(SBOM).hexdigest(),
    }
    assert (desk / "built/bom.json").read_bytes() == SBOM


def test_a_release_without_them_says_nothing_of_them(desk: Path) -> None:
    assert build(desk).exit_code == 0
    assert not {"requires", "sbom", "fixes", "security_counter"} & inspected(desk).keys()
    assert inspected(desk)["crit"] == []


def test_inspect_shows_fields_it_does_not_know(desk: Path) -> None:
    build(desk)
    path = desk / "built/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"colour": "blue"}))
    assert inspected(desk)["colour"] == "blue"


@pytest.mark.parametrize(
    "more", [("--min-counter", 9), ("--through", 9), ("--fixes", "CVE-1"), ("--through", 3, "--through", 12)]
)
def test_what_cannot_be_is_not_built(desk: Path, more: tuple[object, ...]) -> None:
    assert refusal(desk, *more) == "malformed"


@pytest.mark.parametrize(
    "content", [b"", b"<bom/>", b"[]", b'{"spdxVersion": "SPDX-2.3"}', b'{"bomFormat": "CycloneDX"}', SBOM[:-1]]
)
def test_what_is_not_cyclonedx_is_refused(desk: Path, content: bytes) -> None:
    (desk / "bom.json").write_bytes(content)
    assert refusal(desk, "--sbom", desk / "bom.json") == "bad-sbom"


def test_an_endless_bill_of_materials_is_not_read(desk: Path) -> None:
    with (desk / "bom.json").open("r+b") as file:
        file.truncate(MAX_SBOM_BYTES + 1)
    assert refusal(desk, "--sbom", desk / "bom.json") == "bad-sbom"


@pytest.mark.parametrize("name", ["manifest.json", "pump.img"])
def test_a_bill_of_materials_does_not_overwrite_another_file(desk: Path, name: str) -> None:
    (desk / "elsewhere").mkdir()
    (desk / "elsewhere" / name).write_bytes(SBOM)
    assert refusal(desk, "--sbom", desk / "elsewhere" / name) == "malformed"


def test_the_images_own_security_counter_is_taken_and_not_contradicted(desk: Path) -> None:
    makers.mcuboot(desk / "mcu.img", "--security-counter", "77")
    assert refusal(desk, "--security-counter", 78, image="mcu.img") == "counter-differs"
    assert build(desk, "--security-counter", 77, image="mcu.img").exit_code == 0
    data = (desk / "built/manifest.json").read_bytes()
    assert parse_manifest(data).security_counter == 77


def test_a_bill_of_materials_that_changed_after_the_build_is_not_signed(desk: Path) -> None:
    build(desk, "--sbom", desk / "bom.json")
    (desk / "built/bom.json").write_bytes(SBOM.replace(b"1.6", b"1.5"))
    done = CliRunner().invoke(release, ["sign", str(desk / "built"), "--repository", str(desk)])
    assert isinstance(done.exception, RefusedError)
    assert done.exception.kind == "image-changed"


def test_data_beside_the_slots_is_written_and_marked_critical(desk: Path) -> None:
    (desk / "data.json").write_text('{"schema": 4, "migrates": [3], "argv": ["/usr/bin/migrate"]}')
    assert build(desk, "--data-file", desk / "data.json").exit_code == 0
    manifest = parse_manifest((desk / "built" / "manifest.json").read_bytes())
    assert manifest.data is not None
    assert (manifest.data.schema, manifest.data.argv) == (4, ["/usr/bin/migrate"])
    assert manifest.crit == ["data"]


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"schema": "4"}', '{"schema": 4, "migrate": []}', '{"schema": 4, "migrates": [3]}']
)
def test_data_that_is_not_understood_is_refused_before_anything_is_written(desk: Path, text: str) -> None:
    (desk / "data.json").write_text(text)
    assert refusal(desk, "--data-file", desk / "data.json") == "malformed"
