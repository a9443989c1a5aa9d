"""Preconditions of a strategy, from plain values. Refusals as in `server.planner.plain`."""

import re
from typing import Any

from firmware.protocol.logs import What
from server.planner import plain
from server.planner.inquiries import TARGET
from server.planner.strategy import PreconditionPolicy, VerifyPolicy
from server.planner.surroundings import AGENT_LABEL

MAX_PRECONDITIONS = 8
WHEN_MISSING = ("fail", "hold")
WITHOUT_EVIDENCE = ("hold", "proceed")
MOST_WITHIN_S = 7 * 86400
FREE_LABEL = f"{AGENT_LABEL}free-bytes"
"""The device's own label that says how many bytes it has free, unless the strategy names another."""
SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(kB|MB|GB|KiB|MiB|GiB)")
MAX_BYTES = 1 << 50
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_preconditions(value: object, where: str) -> tuple[PreconditionPolicy, ...]:
    """What must be true before a restart; raises `RefusedError` (`bad-strategy`)."""
    items = plain.sequence(value, where, 0, MAX_PRECONDITIONS)
    found = tuple(_precondition(item, f"{where}[{index}]") for index, item in enumerate(items))
    if sum(bool(one.evidence) for one in found) > 1:
        raise plain.bad(where, "ask for evidence once")
    names = [(one.name, one.label, tuple(sorted(one.labels.items()))) for one in found]
    if len(set(names)) < len(names):
        raise plain.bad(where, "name each precondition once")
    return found


def parse_verify(value: object, where: str) -> VerifyPolicy:
    """The word that makes a target verified; raises `RefusedError` (`bad-strategy`)."""
    fields = plain.mapping(value, where)
    plain.known(fields, ("word", "within", "when_missing"), where)
    return VerifyPolicy(
        name=plain.name(fields.get("word"), f"{where}.word"),
        within_s=plain.positive_duration(fields.get("within"), f"{where}.within"),
        when_missing=plain.one_of(fields.get("when_missing", "hold"), f"{where}.when_missing", WHEN_MISSING),
    )


def _precondition(value: object, where: str) -> PreconditionPolicy:
    fields = plain.mapping(value, where)
    if "free_space" in fields:
        plain.known(fields, ("free_space", "label", "for"), where)
        label = fields.get("label", FREE_LABEL)
        if not isinstance(label, str) or not plain.LABEL.fullmatch(label):
            raise plain.bad(f"{where}.label", "be the name of a label that says the bytes free")
        free_bytes = _size(fields["free_space"], f"{where}.free_space")
        return PreconditionPolicy(free_bytes=free_bytes, label=label, labels=_whom(fields, where))
    if "check" in fields:
        return _check(fields, where)
    if "evidence" in fields:
        return _evidence(fields, where)
    plain.known(fields, ("word", "max_age", "for"), where)
    if "word" not in fields:
        raise plain.bad(where, "have word, check, free_space or evidence")
    max_age_s = plain.positive_duration(fields["max_age"], f"{where}.max_age") if "max_age" in fields else None
    name = plain.name(fields["word"], f"{where}.word")
    return PreconditionPolicy(name=name, max_age_s=max_age_s, labels=_whom(fields, where))


def _check(fields: dict[str, Any], where: str) -> PreconditionPolicy:
    plain.known(fields, ("check", "per", "max_age", "for"), where)
    per = fields.get("per", TARGET)
    if not isinstance(per, str) or not plain.LABEL.fullmatch(per) or per.startswith(AGENT_LABEL):
        raise plain.bad(f"{where}.per", "be target, cohort, or the name of a label that people give, such as site")
    age = fields.get("max_age")
    return PreconditionPolicy(
        name=plain.name(fields["check"], f"{where}.check"),
        per=per,
        max_age_s=None if age is None else plain.positive_duration(age, f"{where}.max_age"),
        labels=_whom(fields, where),
    )


def _evidence(fields: dict[str, Any], where: str) -> PreconditionPolicy:
    plain.known(fields, ("evidence", "within", "when_missing", "for"), where)
    items = plain.sequence(fields["evidence"], f"{where}.evidence", 1, len(What))
    kinds = tuple(plain.one_of(one, f"{where}.evidence[{at}]", tuple(What)) for at, one in enumerate(items))
    within_s = plain.positive_duration(fields.get("within"), f"{where}.within")
    if within_s > MOST_WITHIN_S:
        raise plain.bad(f"{where}.within", f"be at most {MOST_WITHIN_S // 86400} days")
    missing = plain.one_of(fields.get("when_missing", "hold"), f"{where}.when_missing", WITHOUT_EVIDENCE)
    whom = _whom(fields, where)
    return PreconditionPolicy(
        evidence=tuple(dict.fromkeys(kinds)), within_s=within_s, when_missing=missing, labels=whom
    )


def _whom(fields: dict[str, Any], where: str) -> dict[str, str]:
    """The labels that a target must have to be bound; a device's own don't do, or it could leave what binds it."""
    if "for" not in fields:
        return {}
    given = plain.mapping(fields["for"], f"{where}.for")
    plain.known(given, ("labels",), f"{where}.for")
    labels = plain.labels(given.get("labels"), f"{where}.for.labels")
    if not labels:
        raise plain.bad(f"{where}.for.labels", "name a label at least, such as {access: on-site}")
    if any(name.startswith(AGENT_LABEL) for name in labels):
        raise plain.bad(f"{where}.for.labels", f"be labels that people give, not a device's own ({AGENT_LABEL}…)")
    return labels


def size_bytes(text: str) -> int | None:
    """The bytes of a size such as `500MB`; None for what is none."""
    match = SIZE.fullmatch(text)
    return int(float(match[1]) * _UNITS[match[2]]) if match else None


def _size(value: object, where: str) -> int:
    value = size_bytes(value) if isinstance(value, str) else value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_BYTES:
        raise plain.bad(where, "be a number of bytes or a size such as 500MB or 2GiB")
    return value
