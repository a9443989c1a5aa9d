"""The part `selection` of campaign files."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from firmware.protocol.words import ID_PATTERN, VERSION_PATTERN
from server.planner.selection import MEMBERSHIPS, Match, Selection, Values

MAX_LABELS = 64
MAX_NAME, MAX_VALUE = 64, 128
MAX_LISTED, MAX_TARGETS, MAX_EXCLUDED = 64, 1000, 16
MATCH_KEYS = ("labels", "hardware", "versions", "targets")
KEYS = (*MATCH_KEYS, "exclude", "membership")
_HARDWARE = rf"^.{{1,{MAX_VALUE}}}\Z"
Refuse = Callable[[str, str], Exception]
"""Makes the error of a sentence and its place."""


def selection_of(value: object, refuse: Refuse) -> Selection:
    """The selection that a file describes; raises what `refuse` makes."""
    fields = _mapping(value, "selection", KEYS, refuse)
    excluded, membership = fields.get("exclude", []), fields.get("membership", MEMBERSHIPS[0])
    if not isinstance(excluded, list) or len(excluded) > MAX_EXCLUDED:
        text = f"`selection.exclude` must be a list of at most {MAX_EXCLUDED}, such as [{{labels: {{ring: lab}}}}]."
        raise refuse(text, "selection.exclude")
    if membership not in MEMBERSHIPS:
        raise refuse(f"`selection.membership` must be one of {', '.join(MEMBERSHIPS)}.", "selection.membership")
    return Selection(
        **_match(fields, "selection", refuse),
        exclude=tuple(_excluded(one, f"selection.exclude[{index}]", refuse) for index, one in enumerate(excluded)),
        membership=membership,
    )


def _excluded(value: object, where: str, refuse: Refuse) -> Match:
    fields = _mapping(value, where, MATCH_KEYS, refuse)
    found = Match(**_match(fields, where, refuse))
    if found == Match():
        raise refuse(f"`{where}` fits every target, so nobody would be left; say whom it leaves out.", where)
    return found


def _mapping(value: object, where: str, keys: tuple[str, ...], refuse: Refuse) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not set(value) <= set(keys):
        raise refuse(f"`{where}` must be a mapping with some of {', '.join(keys)}.", where)
    return value


def _match(fields: Mapping[str, Any], where: str, refuse: Refuse) -> dict[str, Any]:
    return {
        "labels": _labels(fields.get("labels", {}), f"{where}.labels", refuse),
        "hardware": _listed(fields, "hardware", _HARDWARE, MAX_LISTED, where, refuse),
        "versions": _listed(fields, "versions", VERSION_PATTERN, MAX_LISTED, where, refuse),
        "targets": _listed(fields, "targets", ID_PATTERN, MAX_TARGETS, where, refuse),
    }


def _labels(value: object, where: str, refuse: Refuse) -> dict[str, Values]:
    if not isinstance(value, dict) or len(value) > MAX_LABELS:
        raise refuse(f"`{where}` must be a mapping of at most {MAX_LABELS} labels, such as {{site: berlin}}.", where)
    return {name: _label(name, one, f"{where}.{name}", refuse) for name, one in value.items()}


def _label(name: str, value: object, where: str, refuse: Refuse) -> Values:
    several = isinstance(value, list)
    values: list[Any] = value if isinstance(value, list) else [value]
    fits = all(isinstance(one, str) and len(one) <= MAX_VALUE for one in values)
    if not fits or len(name) > MAX_NAME or not 1 <= len(values) <= MAX_LISTED:
        text = f"The label {name[:MAX_NAME]} must be text in quotes, at most {MAX_VALUE} characters, or a list of that."
        raise refuse(text, where)
    return tuple(values) if several else str(value)


def _listed(
    fields: Mapping[str, Any], key: str, pattern: str, most: int, where: str, refuse: Refuse
) -> tuple[str, ...]:
    if key not in fields:
        return ()
    values, fits = fields[key], re.compile(pattern)
    if not isinstance(values, list) or not 1 <= len(values) <= most:
        raise refuse(f"`{where}.{key}` must be a list of 1 to {most}.", f"{where}.{key}")
    for index, one in enumerate(values):
        if not isinstance(one, str) or not fits.match(one):
            raise refuse(f"`{where}.{key}[{index}]` must be text such as a {key[:-1]} is.", f"{where}.{key}[{index}]")
    return tuple(values)
