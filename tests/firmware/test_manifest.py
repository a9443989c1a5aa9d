"""Manifests: hashing per window, and refusal of lists that do not fit their lengths."""

import hashlib
import json
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from firmware.manifest import WINDOW_BYTES, Image, Manifest, WindowHasher, describe, encode_manifest, parse_manifest


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


def test_unknown_fields_are_kept_out_but_critical_ones_refused() -> None:
    assert parse_manifest(json.dumps(a_manifest(colour="blue")).encode()).product == "p"
    assert refused(a_manifest(colour="blue", crit=["colour"])).kind == "not-understood"


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
    ],
)
def test_out_of_bounds_is_refused(changes: dict[str, object]) -> None:
    assert refused(a_manifest(**changes)).kind == "malformed"
