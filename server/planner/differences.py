"""What two strategies differ in, place by place, in the words of campaign files."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from server.planner.strategy import Strategy

_KEYS = ("by", "name", "campaign", "label")
"""What tells the entries of a list apart, where they have it."""
_WORDS = {
    "calendar": "",
    "urgency": "emergency",
    "leaves_first": "order",
    "zone": "timezone",
    "order_ttl_auto": "order_ttl",
    "binds_rollback": "rollback_any_time",
}
_SAID = {
    "order": {True: "leaves-first", False: "any"},
    "order_ttl": {True: "auto", False: "given"},
    "rollback_any_time": {True: "false", False: "true"},
}
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One place, and what stood and stands there (None: nothing)."""

    where: str
    before: str | None
    after: str | None

    @property
    def text(self) -> str:
        """Such as `budgets[site].limit: 1 → 2`."""
        return f"{self.where}: {self.before or 'none'} → {self.after or 'none'}"


def differences(old: Strategy, new: Strategy) -> tuple[Difference, ...]:
    """The places in which they differ, in the order of the strategy's fields."""
    return tuple(_between("", asdict(old), asdict(new)))


def _between(where: str, old: Any, new: Any) -> Iterator[Difference]:
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _between(_join(where, key), _timed(key, old.get(key)), _timed(key, new.get(key)))
    elif _is_list(old) and _is_list(new):
        before, after = _entries(old), _entries(new)
        for key in dict.fromkeys((*before, *after)):
            yield from _between(f"{where}[{key}]", before.get(key), after.get(key))
    else:
        yield Difference(where=where, before=_shown(where, old), after=_shown(where, new))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _entries(items: Any) -> Mapping[object, Any]:
    """The entries of a list by what tells them apart, or else by their number."""
    key = next(
        (key for key in _KEYS if items and all(isinstance(item, dict) and item.get(key) for item in items)), None
    )
    names = [item[key] for item in items] if key else []
    if len(set(names)) < len(items):
        return dict(enumerate(items))
    return dict(zip(names, items, strict=True))


def _join(where: str, key: str) -> str:
    word = _WORDS.get(key, key.removesuffix("_s"))
    return f"{where}.{word}" if where and word else word or where


def _timed(key: str, value: Any) -> Any:
    """The value of a field; a duration as it is written."""
    return _duration(value) if key.endswith("_s") and isinstance(value, int | float) else value


def _shown(where: str, value: Any) -> str | None:
    words = _SAID.get(where.rpartition(".")[2])
    if words is not None and isinstance(value, bool):
        return words[value]
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        inner = [
            f"{_join('', key)}: {told}"
            for key, item in value.items()
            if (told := _shown(_join("", key), _timed(key, item)))
        ]
        return "{" + ", ".join(inner) + "}" if inner else None
    if _is_list(value):
        return "[" + ", ".join(told for item in value if (told := _shown("", item))) + "]" if value else None
    return f"{value:g}" if isinstance(value, float) else str(value) or None


def _duration(seconds: float) -> str:
    """A duration as campaign files write it: in the largest unit that it is whole in."""
    for size, unit in _UNITS:
        if seconds and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
