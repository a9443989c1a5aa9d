import pytest
from msgspec.structs import replace

from firmware.contents import ROOT_SET
from firmware.errors import RefusedError
from firmware.manifest import Image, Manifest, describe, encode_manifest, parse_manifest
from firmware.patch_set import SetPackage, encode_patch_set, parse_patch_set, patch_set, plan_sha256
from firmware.protocol.codec import canonical

ALPHA = SetPackage(name="alpha", arch="all", version="1:2.0-1~deb12u1", length=10, sha256="a" * 64, source="alpha-src")
BETA = SetPackage(name="beta", arch="amd64", version="2.0+b1", length=20, sha256="b" * 64)


def test_equal_sets_have_equal_bytes_in_any_order_and_are_read_back() -> None:
    one, other = patch_set([ALPHA, BETA]), patch_set([BETA, ALPHA])
    assert encode_patch_set(one) == encode_patch_set(other)
    assert parse_patch_set(encode_patch_set(one)) == one
    assert one.length == 30


@pytest.mark.parametrize(
    "packages",
    [
        [BETA, ALPHA],
        [ALPHA, replace(ALPHA, version="3")],
        [],
        [replace(ALPHA, name="../alpha")],
        [replace(ALPHA, name="-o")],
        [replace(ALPHA, version="1.0; reboot")],
        [replace(ALPHA, arch="all=1")],
        [replace(ALPHA, sha256="short")],
        [replace(ALPHA, length=0)],
    ],
)
def test_a_set_out_of_order_twice_empty_or_with_words_that_are_none_is_refused(packages: list[SetPackage]) -> None:
    data = canonical({"v": 1, "format": "deb", "packages": packages})
    with pytest.raises(RefusedError) as caught:
        parse_patch_set(data)
    assert caught.value.kind == "malformed"


def test_a_field_that_is_not_known_is_refused() -> None:
    with pytest.raises(RefusedError):
        parse_patch_set(canonical({"v": 1, "packages": [ALPHA], "removes": ["gamma"]}))


def test_a_plan_is_named_by_what_it_changes_in_any_order() -> None:
    first, second = ("alpha", "all", "1", "2"), ("beta", "all", "", "2")
    assert plan_sha256([first, second]) == plan_sha256([second, first])
    assert plan_sha256([first]) != plan_sha256([("alpha", "all", "2", "1")])
    assert plan_sha256([("a", "b", "", "2")]) != plan_sha256([("a", "b", "2", "")])


def test_a_release_of_a_patch_set_has_just_that_image() -> None:
    hashes = describe([encode_patch_set(patch_set([ALPHA]))])
    image = Image(
        path="releases/web/1/patch-set.json", length=hashes.length, sha256=hashes.sha256, windows=hashes.windows
    )
    release = Manifest(
        product="web", version="1", counter=1, kind="os-patch-set", hardware=["debian-12"], images=[image]
    )
    assert parse_manifest(encode_manifest(release)).kind == "os-patch-set"
    assert image.slot == ROOT_SET
    second = replace(image, slot="app", path="releases/web/1/other.json")
    for images in ([replace(image, slot="app")], [image, second]):
        with pytest.raises(RefusedError):
            parse_manifest(encode_manifest(replace(release, images=images)))
