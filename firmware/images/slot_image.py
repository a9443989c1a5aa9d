"""The slot image: an uncompressed tar that a file-backed board boots from.

Its first member is `otaria/slot.json`, `{"product", "version", "counter", "entry"}`; its second is the member `entry`
names, a Python program that runs from memory with a port as its argument. A third, `otaria/agent.whl`, may be the agent that
belongs to the release: then `slot.json` names it as `agent`. Then comes the payload. Building is deterministic: equal content
gives equal bytes. Reading takes these members straight from the slot's bytes and looks at nothing behind them, because a slot
is longer than its image.
"""

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from msgspec import Struct

from firmware.atomic import atomic_output
from firmware.errors import RefusedError
from firmware.protocol.codec import canonical, convert, parse_json
from firmware.protocol.words import Count, Id, ReasonKind, Version
from firmware.protocol.words import Path as MemberName

FACTS_MEMBER = "otaria/slot.json"
ENTRY_MEMBER = "otaria/main.py"
AGENT_MEMBER = "otaria/agent.whl"
MAX_FACTS_BYTES = 4096
MAX_AGENT_BYTES = 16 << 20
MAX_PROGRAM_BYTES = 1 << 20

_BLOCK_BYTES = tarfile.BLOCKSIZE


class SlotInfo(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `otaria/slot.json` says."""

    product: Id
    version: Version
    counter: Count
    entry: MemberName
    agent: MemberName | None = None


def build_slot_image(
    out: Path,
    *,
    product: str,
    version: str,
    counter: int,
    program: bytes,
    payload: Iterable[tuple[str, Path | bytes]],
    agent: bytes | None = None,
) -> None:
    """Write a slot image to `out`, atomically. `payload` names files below the image's root and gives their bytes or paths.
    `agent`: a wheel of the agent that belongs to the release.

    Raises `RefusedError` (`malformed`) for facts or names that are not allowed, `too-large` for program or agent, and `OSError`.
    """
    facts: dict[str, object] = {"product": product, "version": version, "counter": counter, "entry": ENTRY_MEMBER}
    if agent is not None:
        facts["agent"] = AGENT_MEMBER
    convert(facts, SlotInfo)
    if agent is not None and len(agent) > MAX_AGENT_BYTES:
        raise RefusedError(
            ReasonKind.TOO_LARGE, f"The agent has {len(agent)} bytes; at most {MAX_AGENT_BYTES} are allowed."
        )
    if len(program) > MAX_PROGRAM_BYTES:
        raise RefusedError(
            ReasonKind.TOO_LARGE, f"The program has {len(program)} bytes; at most {MAX_PROGRAM_BYTES} are allowed."
        )
    members = sorted(payload, key=lambda member: member[0])
    _check_names([name for name, _ in members])
    with atomic_output(out) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, FACTS_MEMBER, canonical(facts))
        _add(tar, ENTRY_MEMBER, program)
        if agent is not None:
            _add(tar, AGENT_MEMBER, agent)
        for name, content in members:
            _add(tar, name, content)


def read_program(read: Callable[[int, int], bytes], limit: int = MAX_PROGRAM_BYTES) -> tuple[SlotInfo, bytes]:
    """The slot's facts and its program, from `read(offset, size)`, which may give less at the end of the slot.

    Raises `RefusedError` (`boot-failed`) for anything but an image that `build_slot_image` could have made, or for a program of
    more than `limit` bytes. What `read` raises passes through.
    """
    info, after = _info(read)
    program, _ = _member(read, after, info.entry, limit)
    return info, program


def read_agent(read: Callable[[int, int], bytes]) -> bytes | None:
    """The wheel of the agent in the slot, or None when the image brings none. Raises as `read_program`."""
    info, after = _info(read)
    if info.agent is None:
        return None
    _, after = _member(read, after, info.entry, MAX_PROGRAM_BYTES)
    return _member(read, after, info.agent, MAX_AGENT_BYTES)[0]


def _info(read: Callable[[int, int], bytes]) -> tuple[SlotInfo, int]:
    """What the image says of itself, and where its next member is."""
    facts, after = _member(read, 0, FACTS_MEMBER, MAX_FACTS_BYTES)
    try:
        return convert(parse_json(facts, max_bytes=MAX_FACTS_BYTES), SlotInfo), after
    except RefusedError as error:
        raise _unbootable(f"its {FACTS_MEMBER} is not understood: {error.text}") from error


def _check_names(names: list[str]) -> None:
    for before, name in zip(["", *names], names, strict=False):
        if name == before or name.startswith("otaria/") or not _is_plain(name):
            raise RefusedError(
                ReasonKind.MALFORMED,
                f"{name[:200]!r} cannot be a payload file: use unique relative paths without dots as parts, outside otaria/.",
            )


def _is_plain(name: str) -> bool:
    return all(part not in ("", ".", "..") for part in name.split("/")) and name.isprintable()


def _add(tar: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    """Add one file with no owner and no time."""
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
        member = tarfile.TarInfo(name)
        member.size = _size(source)
        tar.addfile(member, source)


def _size(source: IO[bytes]) -> int:
    size = source.seek(0, io.SEEK_END)
    source.seek(0)
    return size


def _member(read: Callable[[int, int], bytes], at: int, name: str, limit: int) -> tuple[bytes, int]:
    """The content of the plain file `name`, whose tar header is at `at`, and where the next header is."""
    header = read(at, _BLOCK_BYTES)
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise _unbootable(f"there is no tar member at byte {at}: {error}") from error
    if member.name != name or member.type != tarfile.REGTYPE:
        raise _unbootable(f"its member at byte {at} is not the file {name}")
    if not 0 < member.size <= limit:
        raise _unbootable(f"its member {name} claims {member.size} bytes; 1 to {limit} are allowed")
    content = read(at + _BLOCK_BYTES, member.size)
    if len(content) != member.size:
        raise _unbootable(f"it ends within {name}")
    return content, at + _BLOCK_BYTES + -(-member.size // _BLOCK_BYTES) * _BLOCK_BYTES


def _unbootable(why: str) -> RefusedError:
    return RefusedError(ReasonKind.BOOT_FAILED, f"The slot does not hold a bootable image: {why[:300]}.")
