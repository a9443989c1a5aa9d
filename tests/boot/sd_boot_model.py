"""systemd-boot's documented rules: which entry it boots, and how it counts. Boot Loader Specification, "Boot counting" and
"Sorting"; Automatic Boot Assessment. `tests/boot/test_systemd_tools.py` holds the order against the real `bootctl list`.

Written from the documents alone; it shares no code with the back end.
"""

import functools
import re
from pathlib import Path

NAME = re.compile(r"(?P<id>[^+]+)(?:\+(?P<left>\d+)(?:-(?P<done>\d+))?)?\.conf")


def entries_in_order(folder: Path) -> list[str]:
    """The names of all entries, the one that boots by default first."""
    return sorted((path.name for path in folder.glob("*.conf") if _is_whole(path)), key=_key(folder))


def boot(folder: Path) -> str | None:
    """Boot once: count the default entry by renaming it; the kernel command line it gives, or None when there is no entry."""
    order = entries_in_order(folder)
    if not order:
        return None
    path = folder / order[0]
    options = " ".join(_fields(path).get("options", []))
    named = NAME.fullmatch(path.name)
    assert named is not None
    if named["left"] is not None:
        left, done = int(named["left"]), int(named["done"] or 0)
        if left > 0:
            path.rename(folder / f"{named['id']}+{left - 1}-{done + 1}.conf")
        else:
            path.rename(folder / f"{named['id']}+0-{done + 1}.conf")
    return options


def _is_whole(path: Path) -> bool:
    """An entry without a kernel is passed over."""
    return bool({"linux", "efi"} & set(_fields(path)))


def _fields(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text(errors="replace").splitlines():
        name, _, value = line.strip().partition(" ")
        if name and not name.startswith("#"):
            found.setdefault(name, []).append(value.strip())
    return found


def _key(folder: Path) -> "functools.cmp_to_key":  # type: ignore[valid-type]
    def compare(a: str, b: str) -> int:
        one, two = NAME.fullmatch(a), NAME.fullmatch(b)
        assert one is not None
        assert two is not None
        bad = [match["left"] is not None and int(match["left"]) == 0 for match in (one, two)]
        if bad[0] != bad[1]:
            return 1 if bad[0] else -1
        fields = [_fields(folder / name) for name in (a, b)]
        keys = [field.get("sort-key", [""])[0] for field in fields]
        if keys[0] != keys[1]:
            return -1 if keys[0] < keys[1] else 1
        versions = [int(field.get("version", ["0"])[0]) for field in fields]
        if versions[0] != versions[1]:
            return versions[1] - versions[0]
        ids = [_natural(match["id"]) for match in (one, two)]
        if ids[0] != ids[1]:
            return -1 if ids[0] > ids[1] else 1
        lefts = [int(match["left"] or 0) for match in (one, two)]
        return lefts[1] - lefts[0]

    return functools.cmp_to_key(compare)


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
