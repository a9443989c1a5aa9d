"""Delegations, as the TUF specification (4.5 and 5.6.7) wants them searched: order, patterns, prefixes, bins, names, limits."""

import hashlib
from urllib.parse import quote

import pytest

from firmware.catalogue.trust import Limits
from tests.tuf_repository import Device, Pen, TufRepository, moment

BELOW_ROOT = ("targets", "snapshot", "timestamp")
Edge = tuple[str, str, bool, str]


def edge(parent: str, child: str, paths: str = "*", *, final: bool = False) -> Edge:
    return parent, child, final, paths


def build(repository: TufRepository, *edges: Edge) -> None:
    for parent, child, final, paths in edges:
        repository.delegate(parent, child, terminating=final, paths=paths.split())
    children = dict.fromkeys(child for _, child, _, _ in edges)
    repository.publish(*children, *BELOW_ROOT)


def visited(repository: TufRepository) -> list[str]:
    """Names of the delegated roles that were fetched, in order."""
    top = ("root", "timestamp", "snapshot", "targets")
    names = [name.removesuffix(".json").rpartition(".")[2] for name in repository.asked_now() if "targets/" not in name]
    return [name for name in names if name not in top]


# Order


@pytest.mark.parametrize(
    ("edges", "order"),
    [
        ([edge("targets", "a")], "a"),
        ([edge("targets", "b"), edge("targets", "a")], "ba"),
        ([edge("targets", "a"), edge("targets", "b"), edge("a", "c"), edge("a", "d"), edge("d", "e")], "acdeb"),
        ([edge("targets", "a"), edge("targets", "b"), edge("a", "c", final=True), edge("a", "d")], "ac"),
        ([edge("targets", "a"), edge("targets", "b"), edge("a", "c", final=True), edge("c", "d")], "acd"),
        ([edge("targets", "a", final=True), edge("a", "b"), edge("targets", "c")], "ab"),
        ([edge("targets", "a", "*.py", final=True), edge("targets", "b")], "b"),
        ([edge("targets", "a", "*.py"), edge("a", "b"), edge("targets", "c")], "c"),
        ([edge("targets", "a"), edge("a", "b", "*.py"), edge("b", "c")], "a"),
        ([edge("targets", "a"), edge("a", "b"), edge("b", "a"), edge("b", "c"), edge("c", "a")], "abc"),
        ([edge("targets", "a"), edge("a", "a"), edge("targets", "b")], "ab"),
        ([edge("targets", "a"), edge("targets", "b"), edge("b", "c"), edge("a", "c"), edge("c", "b")], "acb"),
        ([edge("targets", "a"), edge("targets", "b"), edge("b", "c"), edge("a", "c", "*.py")], "abc"),
    ],
    ids=str,
)
def test_delegations_are_searched_depth_first_in_order_of_appearance(
    device: Device, repository: TufRepository, edges: list[Edge], order: str
) -> None:
    build(repository, *edges)
    assert device.download("missing") == 1
    assert "".join(visited(repository)) == order
    assert device.download("missing") == 1
    assert visited(repository) == []


def test_the_first_role_that_lists_a_target_decides(device: Device, repository: TufRepository) -> None:
    repository.delegate("targets", "a", paths=["x/*"])
    repository.delegate("targets", "b")
    for role, data in (("a", b"of a"), ("b", b"of b")):
        repository.release(role, "file", data)
    repository.publish("a", "b", *BELOW_ROOT)
    assert device.download("file") == 0
    assert device.downloaded() == [b"of b"]  # what a lists outside its paths is nobody's
    assert visited(repository) == ["b"]
    repository.release("targets", "file", b"of targets")
    repository.publish(*BELOW_ROOT)
    assert device.download("file") == 0
    assert device.downloaded() == [b"of targets"]
    assert visited(repository) == []


def test_the_search_ends_at_a_limit(device: Device, repository: TufRepository) -> None:
    """Nothing is looked at past the limit, even where the last role would have it."""
    count = Limits().visits
    parent = "targets"
    pen = Pen()
    for number in range(count):
        repository.delegate(parent, f"r{number}", pen)
        parent = f"r{number}"
    for role in (f"r{count - 2}", f"r{count - 1}"):
        repository.release(role, f"in-{role}", b"content")
    repository.publish(*(f"r{number}" for number in range(count)), *BELOW_ROOT)
    assert device.download(f"in-r{count - 1}") == 1
    assert visited(repository) == [f"r{number}" for number in range(count - 1)]
    assert device.download(f"in-r{count - 2}") == 0


# Which paths


@pytest.mark.parametrize(
    ("pattern", "path", "meant"),
    [
        ("*", "file", True),
        ("*", "a/file", False),
        ("*", "", True),
        ("a/*", "a/file", True),
        ("a/*", "a/b/file", False),
        ("a/*", "b/file", False),
        ("a/*/*", "a/b/file", True),
        ("*/file", "a/file", True),
        ("a", "a", True),
        ("a", "a/b", False),
        ("*.zip", "a.zip", True),
        ("*.zip", "a.zip.txt", False),
        ("*.ZIP", "a.zip", False),
        ("fil?", "file", True),
        ("fil?", "fil/", False),
        ("a/?", "a/\u20ac", True),
        ("..", "..", True),
        ("../*", "../x", True),
        ("a/*", "a/../x", False),
        ("a/*/*", "a/../x", True),
        ("releases/x/*", "releases/x/v 1+2 #3?.zip", True),
    ],
)
def test_a_pattern_means_whole_segments(
    device: Device, repository: TufRepository, pattern: str, path: str, meant: bool
) -> None:
    repository.delegate("targets", "child", paths=[pattern])
    repository.release("child", path, b"content")
    repository.publish("child", *BELOW_ROOT)
    assert device.download(path) == (0 if meant else 1)
    assert visited(repository) == (["child"] if meant else [])
    assert device.downloaded() == ([b"content"] if meant else [])


@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_a_hash_prefix_means_the_paths_whose_hash_begins_with_it(
    device: Device, repository: TufRepository, length: int
) -> None:
    found = hashlib.sha256(b"releases/a.bin").hexdigest()[:length]
    other = ("0" if found[0] != "0" else "1") + found[1:]
    repository.delegate("targets", "wrong", paths=None, path_hash_prefixes=[other], terminating=True)
    repository.delegate("targets", "right", paths=None, path_hash_prefixes=[other, found])
    for role in ("wrong", "right"):
        repository.release(role, "releases/a.bin", role.encode())
    repository.publish("wrong", "right", *BELOW_ROOT)
    assert device.download("releases/a.bin") == 0
    assert device.downloaded() == [b"right"]
    assert visited(repository) == ["right"]


@pytest.mark.parametrize(
    "terms",
    [
        {"path_hash_prefixes": ["0"]},
        {"paths": None, "path_hash_prefixes": None},
        {"paths": "*"},
        {"paths": [1]},
        {"paths": None, "path_hash_prefixes": "0"},
        {"threshold": 0},
        {"threshold": True},
        {"terminating": "false"},
        {"terminating": 0},
        {"keyids": "a"},
        {"name": ""},
        {"name": "root"},
        {"name": "snapshot"},
        {"name": "targets"},
        {"name": "timestamp"},
    ],
    ids=str,
)
def test_a_delegation_that_makes_no_sense_is_refused(
    device: Device, repository: TufRepository, terms: dict[str, object]
) -> None:
    repository.delegate("targets", "child")
    delegation = repository.bodies["targets"]["delegations"]["roles"][0]
    delegation |= terms
    if delegation["paths"] is None:
        del delegation["paths"]
    repository.publish("child", *BELOW_ROOT)
    assert device.refresh() == 1
    assert "targets" not in device.versions()


def test_two_delegations_of_one_name_are_refused(device: Device, repository: TufRepository) -> None:
    build(repository, edge("targets", "a"), edge("targets", "a", "x"))
    assert device.refresh() == 1


# The delegated roles themselves


def test_a_role_that_is_delegated_and_not_in_the_snapshot_ends_the_search(
    device: Device, repository: TufRepository
) -> None:
    build(repository, edge("targets", "a"), edge("targets", "b"))
    del repository.bodies["snapshot"]["meta"]["a.json"]
    repository.release("b", "file", b"content")
    repository.publish("b", "snapshot", "timestamp")
    assert device.refresh() == 0
    assert device.download("file") == 1
    assert "does not list a" in device.text
    assert device.download("a/file") == 1
    assert "No trusted role" in device.text


@pytest.mark.parametrize("wrong", ["missing", "unsigned", "expired", "version", "type"])
def test_a_delegated_role_that_is_not_good_ends_the_search(
    device: Device, repository: TufRepository, wrong: str
) -> None:
    build(repository, edge("targets", "a"), edge("targets", "b"))
    repository.release("b", "file", b"content")
    if wrong == "unsigned":
        repository.pens["a"] = [Pen()]
    if wrong == "expired":
        repository.bodies["a"]["expires"] = moment(-1)
    if wrong == "type":
        repository.bodies["a"]["_type"] = "snapshot"
    repository.publish("a", "b", "snapshot", "timestamp")
    if wrong == "version":
        repository.files["metadata/2.a.json"] = repository.files["metadata/1.a.json"]
    if wrong == "missing":
        del repository.files["metadata/2.a.json"]
    assert device.download("file") == 1
    assert device.downloaded() == []
    assert "a" not in device.versions()
    assert device.refresh() == 0


def test_a_delegated_role_that_expired_in_the_store_is_replaced_or_not_used(
    device: Device, repository: TufRepository
) -> None:
    build(repository, edge("targets", "a"))
    repository.bodies["a"]["expires"] = moment(-1)
    repository.publish("a", "snapshot", "timestamp")
    (device.metadata / "a.json").write_bytes(repository.files["metadata/2.a.json"])
    assert device.download("missing") == 1
    assert "a expired" in device.text
    repository.bodies["a"]["expires"] = moment(1)
    repository.publish("a", "snapshot", "timestamp")
    assert device.download("missing") == 1
    assert "No trusted role" in device.text
    assert device.versions()["a"] == 3


def test_each_delegator_names_the_keys_of_its_own_delegation(device: Device, repository: TufRepository) -> None:
    """The role is signed as one delegator wants; through the other one it is not believed."""
    repository.delegate("targets", "a", paths=["only-a"])
    repository.delegate("targets", "b", paths=["only-b"])
    repository.delegate("a", "child", Pen(), paths=["only-a"])
    repository.delegate("b", "child", Pen(), paths=["only-b"])
    repository.pens["child"] = repository.pens["child"][:1]
    for path in ("only-a", "only-b"):
        repository.release("child", path, path.encode())
    repository.publish("child", "a", "b", *BELOW_ROOT)
    assert device.download("only-a") == 0
    assert device.download("only-b") == 1
    assert "child is signed by 0" in device.text


@pytest.mark.parametrize(
    "role",
    ["?", "#", "%", "%2F", "/a", "../a", "..", ".", "a/../../b", "a b", "\u20ac", "\U0001f9ad" * 40, "x" * 240, "con", "\x00",
     "Root", "root.json", "1.root", "a\nb", "\\", '"', "recovering", "given"],
)  # fmt: skip
def test_an_unusual_role_name_is_quoted_in_the_address_and_in_the_store(
    device: Device, repository: TufRepository, role: str
) -> None:
    repository.delegate("targets", role)
    repository.publish(role, *BELOW_ROOT)
    outside = sorted(path for path in device.directory.iterdir() if path != device.metadata)
    assert device.download("missing") == 1
    assert repository.asked_now()[-1] == f"1.{quote(role, safe='')}.json"
    assert sorted(path for path in device.directory.iterdir() if path != device.metadata) == outside
    files = [path for path in device.metadata.rglob("*") if path.is_file()]
    assert len(files) == 5
    assert repository.files[repository.place(role, 1)] in [path.read_bytes() for path in files]
    quoted = f"{quote(role, safe='')}.json"
    assert (device.metadata / quoted in files) == (len(quoted) <= 205)
    assert device.download("missing") == 1
    assert visited(repository) == []


# Hash bins


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_hash_bins_are_found_by_the_first_bits_of_the_paths_hash(
    device: Device, repository: TufRepository, bits: int
) -> None:
    names = repository.delegate_bins("targets", "bin", bits)
    paths = [f"releases/{n}/file.bin" for n in range(3)]
    mine = {path: names[hashlib.sha256(path.encode()).digest()[0] >> (8 - bits)] for path in paths}
    for path, name in mine.items():
        repository.release(name, path, path.encode())
    repository.publish(*names, *BELOW_ROOT)
    for path, name in mine.items():
        held = set(device.versions())
        assert device.download(path) == 0
        assert visited(repository) == ([] if name in held else [name])
    assert len(device.downloaded()) == len(paths)


def test_a_target_in_another_bin_than_its_own_is_not_found(device: Device, repository: TufRepository) -> None:
    names = repository.delegate_bins("targets", "bin", 2)
    own = hashlib.sha256(b"file").digest()[0] >> 6
    for number, name in enumerate(names):
        if number != own:
            repository.release(name, "file", b"content")
    repository.publish(*names, *BELOW_ROOT)
    assert device.download("file") == 1
    assert visited(repository) == [names[own]]


def test_bins_below_a_delegated_role_and_roles_below_a_bin(device: Device, repository: TufRepository) -> None:
    repository.delegate("targets", "product", paths=["p/*"])
    names = repository.delegate_bins("product", "bin-product", 1)
    own = names[hashlib.sha256(b"p/x").digest()[0] >> 7]
    repository.delegate(own, "below")
    repository.delegate(own, "deeper", paths=["p/*"])
    repository.release("deeper", "p/x", b"content")
    repository.publish("deeper", "below", *names, "product", *BELOW_ROOT)
    assert device.download("p/x") == 0
    assert visited(repository) == ["product", own, "deeper"]


@pytest.mark.parametrize(
    "terms",
    [
        {"bit_length": 0},
        {"bit_length": 33},
        {"bit_length": "8"},
        {"bit_length": True},
        {"name_prefix": 1},
        {"threshold": 0},
        {"threshold": True},
        {"keyids": "a"},
    ],
    ids=str,
)
def test_bins_that_make_no_sense_are_refused(
    device: Device, repository: TufRepository, terms: dict[str, object]
) -> None:
    repository.delegate_bins("targets", "bin", 1)
    repository.bodies["targets"]["delegations"]["succinct_roles"] |= terms
    repository.publish(*BELOW_ROOT)
    assert device.refresh() == 1
    assert "targets" not in device.versions()


def test_bins_and_named_roles_do_not_mix(device: Device, repository: TufRepository) -> None:
    repository.delegate_bins("targets", "bin", 1)
    repository.bodies["targets"]["delegations"]["roles"] = []
    repository.publish(*BELOW_ROOT)
    assert device.refresh() == 1


def test_a_very_wide_set_of_bins_costs_one_bin(device: Device, repository: TufRepository) -> None:
    """32 bits are four thousand million names; none but the one that is needed may be thought of."""
    repository.delegate_bins("targets", "bin", 1)
    repository.bodies["targets"]["delegations"]["succinct_roles"]["bit_length"] = 32
    name = f"bin-{hashlib.sha256(b'file').hexdigest()[:8]}"
    repository.begin(name, *repository.pens["bin-0"])
    repository.release(name, "file", b"content")
    repository.publish(name, *BELOW_ROOT)
    assert device.download("file") == 0
    assert visited(repository) == [name]
