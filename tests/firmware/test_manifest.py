"""Manifests: hashing per window, and refusal of lists that do not fit their lengths."""

import hashlib
import json
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from firmware.encryption.layout import CIPHER, encrypted_length
from firmware.errors import RefusedError
from firmware.manifest import (
    WINDOW_BYTES,
    Data,
    HealthCheck,
    Image,
    Manifest,
    Requires,
    Sbom,
    WindowHasher,
    describe,
    encode_manifest,
    parse_manifest,
)


def a_manifest(**changes: object) -> dict[str, object]:
    data = b"x" * (WINDOW_BYTES + 1)
    facts = describe(BytesIO(data))
    image = Image(path="releases/p/1/image", length=facts.length, sha256=facts.sha256, windows=facts.windows)
    manifest = Manifest(product="p", version="1", counter=1, hardware=["h"], images=[image])
    parsed: dict[str, object] = json.loads(encode_manifest(manifest))
    return parsed | changes


def refused(value: dict[str, object]) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        parse_manifest(json.dumps(value).encode())
    return caught.value


def test_round_trip() -> None:
    manifest = parse_manifest(json.dumps(a_manifest()).encode())
    assert [len(image.windows) for image in manifest.images] == [2]


@given(st.lists(st.integers(0, WINDOW_BYTES), min_size=1, max_size=4))
def test_windows_do_not_depend_on_portions(sizes: list[int]) -> None:
    data = bytes(range(256)) * (sum(sizes) // 256 + 1)
    data = data[: sum(sizes)]
    hasher, at = WindowHasher(), 0
    for size in sizes:
        hasher.update(data[at : at + size])
        at += size
    expected = [hashlib.sha256(data[i : i + WINDOW_BYTES]).hexdigest() for i in range(0, len(data), WINDOW_BYTES)]
    assert (hasher.length, hasher.sha256, hasher.windows) == (len(data), hashlib.sha256(data).hexdigest(), expected)


def test_a_window_too_few_or_too_many_is_refused() -> None:
    value = a_manifest()
    images: list[dict[str, list[str]]] = value["images"]  # type: ignore[assignment]
    images[0]["windows"].append("0" * 64)
    assert refused(value).kind == "malformed"


def test_unknown_fields_that_are_critical_are_refused() -> None:
    assert parse_manifest(json.dumps(a_manifest(colour="blue")).encode()).product == "p"
    assert refused(a_manifest(colour="blue", crit=["colour"])).kind == "not-understood"
    assert refused(a_manifest(crit=["other"])).kind == "not-understood"
    assert parse_manifest(json.dumps(a_manifest(crit=["requires", "floor"])).encode()).crit == ["requires", "floor"]


def strange(seed: dict[str, object]) -> dict[str, object]:
    """A manifest with unknown fields in each of its objects."""
    value = a_manifest(
        health=[{"kind": "command", "argv": ["true"], "url": None, "timeout_s": 1.0, "tries": 1} | seed],
        requires={"min_counter": 0, "through": [0]} | seed,
        sbom={"format": "cyclonedx", "path": "releases/p/1/bom", "length": 1, "sha256": "0" * 64} | seed,
    )
    images: list[dict[str, object]] = value["images"]  # type: ignore[assignment]
    return seed | value | {"images": [images[0] | seed]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KNOWN = {name for kind in (Manifest, Image, HealthCheck, Requires, Sbom) for name in kind.__struct_fields__} - {"other"}


@given(st.dictionaries(st.sampled_from(["other", "x-note", "", "v2"]) | st.text(max_size=9), JSON, max_size=4))
def test_parsing_and_encoding_loses_no_unknown_field_at_any_level(seed: dict[str, object]) -> None:
    value = strange({name: item for name, item in seed.items() if name not in KNOWN})
    encoded = encode_manifest(parse_manifest(json.dumps(value).encode()))
    written = json.loads(encoded)
    if not value["requires"]["min_counter"]:  # type: ignore[index]
        written["requires"].setdefault("min_counter", 0)
    assert written == value
    assert encode_manifest(parse_manifest(encoded)) == encoded


def test_changing_a_parsed_manifest_keeps_what_is_unknown_in_the_rest() -> None:
    manifest = parse_manifest(json.dumps(strange({"other": {"other": 1}})).encode())
    written = json.loads(
        encode_manifest(replace(manifest, notes="new", images=[replace(manifest.images[0], other={})]))
    )
    assert (written["notes"], written["other"], written["sbom"]["other"]) == ("new", {"other": 1}, {"other": 1})
    assert "other" not in written["images"][0]


def test_what_is_not_used_is_not_written() -> None:
    """So that the bytes of releases without the later fields stay what they were."""
    assert not {"requires", "sbom", "fixes", "security_counter", "other"} & a_manifest().keys()
    assert json.loads(encode_manifest(replace(parsed(), security_counter=0)))["security_counter"] == 0


def parsed(**changes: object) -> Manifest:
    return parse_manifest(json.dumps(a_manifest(**changes)).encode())


def test_requirements_fixes_and_sbom_are_read() -> None:
    manifest = parsed(
        counter=9,
        requires={"min_counter": 4, "through": [3, 7]},
        sbom={"path": "releases/p/1/bom.json", "length": 5, "sha256": "a" * 64},
        fixes=["CVE-2024-3094", "CVE-2025-1234567"],
        security_counter=7,
    )
    assert manifest.requires == Requires(min_counter=4, through=[3, 7])
    assert manifest.sbom == Sbom(path="releases/p/1/bom.json", length=5, sha256="a" * 64)
    assert (manifest.fixes, manifest.security_counter) == (["CVE-2024-3094", "CVE-2025-1234567"], 7)


@pytest.mark.parametrize(
    ("requires", "running", "first"),
    [
        (Requires(min_counter=4), 3, 4),
        (Requires(min_counter=4), 4, None),
        (Requires(through=[3, 7]), 0, 3),
        (Requires(through=[3, 7]), 3, 7),
        (Requires(through=[3, 7]), 7, None),
        (Requires(min_counter=5, through=[3, 7]), 3, 5),
        (Requires(min_counter=5, through=[3, 7]), 5, 7),
        (Requires(), 0, None),
    ],
)
def test_the_nearest_requirement_comes_first(requires: Requires, running: int, first: int | None) -> None:
    assert requires.first(running) == first


@given(st.integers(0, 30), st.lists(st.integers(0, 30), max_size=6, unique=True), st.integers(0, 40))
def test_following_the_requirements_step_by_step_ends_at_the_release(
    least: int, steps: list[int], running: int
) -> None:
    requires = Requires(min_counter=least, through=sorted(steps))
    for _ in range(len(steps) + 2):
        if (first := requires.first(running)) is None:
            break
        assert first > running
        running = first
    assert requires.first(running) is None
    assert running >= max([least, *steps])


@pytest.mark.parametrize(
    "changes",
    [
        {"hardware": []},
        {"images": []},
        {"counter": -1},
        {"product": "../x"},
        {"version": ""},
        {"v": 2},
        {"kind": "magic"},
        {"requires": {"min_counter": 1}},
        {"requires": {"through": [1]}},
        {"counter": 9, "requires": {"through": [5, 3]}},
        {"counter": 9, "requires": {"through": [3, 3]}},
        {"counter": 9, "requires": {"through": [-1]}},
        {"counter": 99, "requires": {"through": list(range(65))}},
        {"fixes": ["CVE-24-1"]},
        {"fixes": ["cve-2024-3094"]},
        {"fixes": ["CVE-2024-3094\n"]},
        {"fixes": ["CVE-2024-3094", "CVE-2024-3094"]},
        {"security_counter": -1},
        {"security_counter": 1 << 32},
        {"sbom": {"path": "../bom", "length": 5, "sha256": "a" * 64}},
        {"sbom": {"path": "bom", "length": 0, "sha256": "a" * 64}},
        {"sbom": {"path": "bom", "length": 1 << 40, "sha256": "a" * 64}},
        {"sbom": {"path": "bom", "length": 5, "sha256": "a" * 64, "format": "spdx"}},
    ],
)
def test_out_of_bounds_is_refused(changes: dict[str, object]) -> None:
    assert refused(a_manifest(**changes)).kind == "malformed"


DATA = {"schema": 4, "migrates": [2, 3], "argv": ["/usr/bin/migrate"], "timeout_s": 20.0, "room_bytes": 5}


def test_data_beside_the_slots_comes_back_as_it_was_signed() -> None:
    manifest = parsed(data=DATA | {"x-note": 1}, crit=["data"])
    assert manifest.data is not None
    assert (manifest.data.schema, manifest.data.migrates, manifest.data.room_bytes) == (4, [2, 3], 5)
    assert json.loads(encode_manifest(manifest))["data"] == DATA | {"x-note": 1}
    assert parsed(data={"schema": 4}, crit=["data"]).data == Data(schema=4)
    assert "data" not in a_manifest()


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema": 0},
        {"schema": 3, "migrates": [3], "argv": ["m"]},
        {"schema": 4, "migrates": [3, 3], "argv": ["m"]},
        {"schema": 4, "migrates": [3]},
        {"schema": 4, "argv": ["m"]},
        {"schema": 4, "migrates": [3], "argv": [""]},
        {"schema": 4, "migrates": [3], "argv": ["m"], "timeout_s": 0},
        {"schema": 4, "room_bytes": -1},
        {"migrates": []},
    ],
)
def test_data_that_can_not_be_meant_is_refused(wrong: dict[str, object]) -> None:
    assert refused(a_manifest(data=wrong, crit=["data"])).kind == "malformed"


def test_data_must_be_critical() -> None:
    """Who doesn't know it would run the release on data that it doesn't understand."""
    assert refused(a_manifest(data=DATA)).kind == "malformed"


def second(**changes: object) -> dict[str, object]:
    """The manifest's image once more, for another set."""
    (image,) = a_manifest()["images"]  # type: ignore[misc]
    return {**image, "slot": "app", "path": "releases/p/1/app", **changes}


def test_a_release_of_several_images_has_one_hash_and_one_length() -> None:
    value = a_manifest()
    manifest = parse_manifest(json.dumps(a_manifest(images=[*value["images"], second()])).encode())  # type: ignore[misc]
    assert manifest.length == 2 * manifest.images[0].length
    assert manifest.sha256 not in {image.sha256 for image in manifest.images}
    assert parse_manifest(encode_manifest(manifest)) == manifest


@pytest.mark.parametrize("changes", [{"slot": "root"}, {"path": "releases/p/1/image"}])
def test_security_one_slot_set_or_one_file_for_two_images_is_refused(changes: dict[str, object]) -> None:
    value = a_manifest()
    error = refused(a_manifest(images=[*value["images"], second(**changes)]))  # type: ignore[misc]
    assert error.kind == "malformed"
    assert "twice" in error.text


def test_security_seventeen_images_are_refused() -> None:
    many = [second(slot=f"s{n}", path=f"releases/p/1/{n}") for n in range(17)]
    assert refused(a_manifest(images=many)).kind == "malformed"
    assert parse_manifest(json.dumps(a_manifest(images=many[:16])).encode())


def encrypted(path: str, **changes: object) -> dict[str, object]:
    data: dict[str, object] = {
        "cipher": CIPHER,
        "image": path,
        "path": f"{path}.enc",
        "length": encrypted_length(WINDOW_BYTES + 1),
        "sha256": "a" * 64,
        "salt": hashlib.sha256(path.encode()).hexdigest(),
        "key_check": "b" * 64,
    }
    return {**data, **changes}


def test_security_encrypted_images_have_one_key_and_a_salt_each() -> None:
    value = a_manifest()
    both = [*value["images"], second()]  # type: ignore[misc]
    one, other = encrypted("releases/p/1/image"), encrypted("releases/p/1/app")
    facts: dict[str, object] = {"images": both, "crit": ["encrypted"]}
    fine = parse_manifest(json.dumps(a_manifest(**facts, encrypted=[one, other])).encode())
    assert fine.encrypted_sha256 not in {"a" * 64, fine.sha256}
    for lie in ({"salt": one["salt"]}, {"key_check": "c" * 64}, {"path": one["path"], "image": one["image"]}):
        assert refused(a_manifest(**facts, encrypted=[one, {**other, **lie}])).kind == "malformed", lie
