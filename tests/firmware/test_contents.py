"""What a slot holds has one name, however many images it is made of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.contents import contents_sha256, named_file, twice

hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
pairs = st.dictionaries(st.sampled_from(["root", "boot", "app", "a", "root-2"]), hashes, min_size=1)


@given(pairs, st.randoms(use_true_random=False))
def test_the_name_does_not_depend_on_the_order(images: dict[str, str], random: object) -> None:
    listed = list(images.items())
    random.shuffle(listed)  # type: ignore[attr-defined]
    assert contents_sha256(listed) == contents_sha256(images.items())


@given(pairs, pairs)
def test_other_content_has_another_name(one: dict[str, str], other: dict[str, str]) -> None:
    assert (contents_sha256(one.items()) == contents_sha256(other.items())) == (one == other)


def test_one_image_in_root_is_named_by_its_own_hash() -> None:
    assert contents_sha256([("root", "a" * 64)]) == "a" * 64
    assert contents_sha256([("app", "a" * 64)]) != "a" * 64


def test_the_name_never_changes() -> None:
    """Journals, databases and reports hold it."""
    name = contents_sha256([("root", "a" * 64), ("app", "b" * 64)])
    assert name == "d74a52ce5eacf6632fe9d6d21ebe33991ba07e302f740bdb74f522020a6ae88e"


@pytest.mark.parametrize(("names", "found"), [("", None), ("abc", None), ("abcb", "b"), ("aabb", "a")])
def test_what_comes_twice(names: str, found: str | None) -> None:
    assert twice(names) == found


@pytest.mark.parametrize(
    ("text", "slot", "path"),
    [
        ("a.img", "root", "a.img"),
        ("app=a.img", "app", "a.img"),
        ("root=x/y=z.img", "root", "x/y=z.img"),
        ("./app=a.img", "root", "app=a.img"),
        ("App=a.img", "root", "App=a.img"),
        ("app=", "root", "app="),
    ],
)
def test_files_named_with_their_slot_set(text: str, slot: str, path: str) -> None:
    assert (named_file(text)[0], str(named_file(text)[1])) == (slot, path)
