"""The slot image: deterministic to build, and nothing but a well-formed one gives a program to boot."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware.errors import RefusedError
from firmware.images.slot_image import (
    FACTS_MEMBER,
    MAX_AGENT_BYTES,
    MAX_FACTS_BYTES,
    SlotInfo,
    build_slot_image,
    read_agent,
    read_program,
)

FACTS = b'{"counter":7,"entry":"otaria/main.py","product":"gateway","version":"2.0.0"}'
PROGRAM = b"print('up')\n"


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, size: data[offset : offset + size]


def tar_of(*members: tuple[str, bytes] | tuple[str, bytes, bytes]) -> bytes:
    """A tar with these (name, content[, type]) members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content, *kind in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.type = kind[0] if kind else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def build(path: Path, **changes: object) -> bytes:
    facts: dict[str, object] = {
        "product": "gateway",
        "version": "2.0.0",
        "counter": 7,
        "program": PROGRAM,
        "payload": [],
    }
    build_slot_image(path, **(facts | changes))  # type: ignore[arg-type]
    return path.read_bytes()


def test_what_is_built_is_what_is_read(tmp_path: Path) -> None:
    image = build(tmp_path / "image", payload=[("lib/a.so", b"\x7fELF")])
    info, program = read_program(reader(image))
    assert info == SlotInfo(product="gateway", version="2.0.0", counter=7, entry="otaria/main.py")
    assert program == PROGRAM


def test_an_image_is_a_plain_tar_with_its_payload_in_order(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 5000)
    long_name = "deep/" * 40 + "file"
    build(tmp_path / "image", payload=[("z", b"2"), (long_name, b"3"), ("a", tmp_path / "big")])
    with tarfile.open(tmp_path / "image") as tar:
        names = tar.getnames()
        assert names == ["otaria/slot.json", "otaria/main.py", "a", long_name, "z"]
        content = tar.extractfile("a")
        assert content is not None
        assert content.read() == b"x" * 5000
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar.getmembers()} == {(0, 0, 0, "", 0o644)}


def test_equal_content_gives_equal_bytes_whatever_its_order_or_age(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"same")
    first = build(tmp_path / "one", payload=[("b", tmp_path / "f"), ("a", b"1")])
    assert first == build(tmp_path / "two", payload=[("a", b"1"), ("b", b"same")])


def test_a_slot_may_be_longer_than_its_image_and_hold_an_older_images_tail(tmp_path: Path) -> None:
    image = build(tmp_path / "image")
    older = tar_of(("otaria/slot.json", b"{}"), ("otaria/main.py", b"old"))
    assert read_program(reader(image + older + b"\xff" * 4096))[1] == PROGRAM


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../up", "a/../b", "a//b", "./a", "otaria/main.py", "otaria/x", "line\nbreak", "half\ud800"],
)
def test_payload_names_that_could_escape_or_shadow_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RefusedError) as refused:
        build(tmp_path / "image", payload=[(name, b"")])
    assert refused.value.kind == "malformed"
    assert not list(tmp_path.iterdir())


def test_a_repeated_payload_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError):
        build(tmp_path / "image", payload=[("a", b"1"), ("b", b""), ("a", b"2")])


@pytest.mark.parametrize(
    "change", [{"product": "No Spaces"}, {"version": "../1"}, {"counter": -1}, {"program": b"#" * (1 << 20) + b"#"}]
)
def test_facts_out_of_bounds_are_refused_before_anything_is_written(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(RefusedError):
        build(tmp_path / "image", **change)
    assert not list(tmp_path.iterdir())


def test_a_payload_that_cannot_be_read_leaves_no_half_image(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        build(tmp_path / "image", payload=[("a", b"x" * 100_000), ("b", tmp_path / "missing")])
    assert not list(tmp_path.iterdir())


NOT_BOOTABLE = {
    "empty slot": b"",
    "erased slot": b"\xff" * 8192,
    "zeroed slot": bytes(8192),
    "another first member": tar_of(("otaria/main.py", PROGRAM), (FACTS_MEMBER, FACTS)),
    "facts behind a dot": tar_of(("./otaria/slot.json", FACTS), ("otaria/main.py", PROGRAM)),
    "facts are a link": tar_of((FACTS_MEMBER, b"", tarfile.SYMTYPE), ("otaria/main.py", PROGRAM)),
    "facts are sparse": tar_of((FACTS_MEMBER, FACTS, tarfile.CONTTYPE), ("otaria/main.py", PROGRAM)),
    "facts are no JSON": tar_of((FACTS_MEMBER, b"{"), ("otaria/main.py", PROGRAM)),
    "facts repeat a key": tar_of((FACTS_MEMBER, FACTS[:-1] + b',"counter":8}'), ("otaria/main.py", PROGRAM)),
    "facts say more": tar_of((FACTS_MEMBER, FACTS[:-1] + b',"uid":0}'), ("otaria/main.py", PROGRAM)),
    "facts too long": tar_of((FACTS_MEMBER, b" " * MAX_FACTS_BYTES + FACTS), ("otaria/main.py", PROGRAM)),
    "entry escapes": tar_of((FACTS_MEMBER, FACTS.replace(b"otaria/main", b"../main")), ("../main.py", PROGRAM)),
    "entry is elsewhere": tar_of((FACTS_MEMBER, FACTS), ("lib/other.py", PROGRAM)),
    "entry is a directory": tar_of((FACTS_MEMBER, FACTS), ("otaria/main.py", b"", tarfile.DIRTYPE)),
    "program is empty": tar_of((FACTS_MEMBER, FACTS), ("otaria/main.py", b"")),
    "program is missing": tar_of((FACTS_MEMBER, FACTS)),
    "program is cut off": tar_of((FACTS_MEMBER, FACTS), ("otaria/main.py", b"x" * 3000))[: 512 * 3 + 2999],
}


@pytest.mark.parametrize("slot", NOT_BOOTABLE.values(), ids=NOT_BOOTABLE.keys())
def test_anything_off_is_a_failed_boot_with_a_reason(slot: bytes) -> None:
    with pytest.raises(RefusedError) as refused:
        read_program(reader(slot))
    assert refused.value.kind == "boot-failed"


def test_a_program_at_its_limit_is_read_and_one_byte_more_is_not() -> None:
    slot = tar_of((FACTS_MEMBER, FACTS), ("otaria/main.py", b"x" * 100))
    assert len(read_program(reader(slot), 100)[1]) == 100
    with pytest.raises(RefusedError):
        read_program(reader(slot), 99)


def test_a_size_below_zero_or_beyond_all_bounds_is_never_read() -> None:
    """Tar can say both in its base-256 form, with a valid checksum."""
    for size in (-1, -(1 << 40), 1 << 60):
        info = tarfile.TarInfo(FACTS_MEMBER)
        info.size = size
        asked: list[int] = []

        def read(
            offset: int, count: int, header: bytes = info.tobuf(tarfile.GNU_FORMAT), asked: list[int] = asked
        ) -> bytes:
            asked.append(count)
            return (header + bytes(8192))[offset : offset + count]

        with pytest.raises(RefusedError) as refused:
            read_program(read)
        assert refused.value.kind == "boot-failed"
        assert asked == [512]


GOOD = tar_of((FACTS_MEMBER, FACTS), ("otaria/main.py", PROGRAM * 40))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(at=st.integers(0, len(GOOD) - 1), patch=st.binary(min_size=1, max_size=32))
def test_mutated_slots_boot_or_are_refused(at: int, patch: bytes) -> None:
    slot = GOOD[:at] + patch + GOOD[at + len(patch) :]
    booted = ""
    try:
        info, program = read_program(reader(slot), 4096)
        booted = f"{info.entry} {len(program)}"
    except RefusedError as error:
        booted = error.kind
    assert booted in ("boot-failed", f"otaria/main.py {len(PROGRAM) * 40}")


def test_an_image_may_bring_its_own_agent(tmp_path: Path) -> None:
    image = build(tmp_path / "image", agent=b"PK wheel", payload=[("a", b"1")])
    assert read_agent(reader(image)) == b"PK wheel"
    assert read_program(reader(image))[1] == PROGRAM
    assert read_agent(reader(build(tmp_path / "plain"))) is None


def test_an_agent_that_is_named_and_not_there_is_refused(tmp_path: Path) -> None:
    facts = FACTS[:-1] + b',"agent":"otaria/agent.whl"}'
    for members in (
        (("otaria/slot.json", facts), ("otaria/main.py", PROGRAM)),
        (("otaria/slot.json", facts), ("otaria/main.py", PROGRAM), ("otaria/other", b"x")),
    ):
        with pytest.raises(RefusedError) as caught:
            read_agent(reader(tar_of(*members)))
        assert caught.value.kind == "boot-failed"
    with pytest.raises(RefusedError, match="at most"):
        build(tmp_path / "big", agent=bytes(MAX_AGENT_BYTES + 1))
