"""What protects groups of targets, from plain values. Refusals as in `server.planner.plain`."""

import re
from collections.abc import Mapping
from typing import Any

from firmware.protocol.words import VERSION_PATTERN
from server.planner import plain
from server.planner.budgets import CAMPAIGN, UNLIMITED
from server.planner.strategy import AfterPolicy, BudgetPolicy, RequirePolicy, SkewPolicy, TogetherPolicy
from server.planner.surroundings import AGENT_LABEL

MAX_BUDGETS = 16
MAX_AFTER = 8
MAX_REQUIRES = 8
ORDERS = ("any", "leaves-first")
STATES = ("watching", "completed")
HOLDERS = ("target", "gateway")
_VERSION = re.compile(VERSION_PATTERN)


def parse_budgets(value: object, where: str) -> tuple[BudgetPolicy, ...]:
    """The budgets of a strategy; raises `RefusedError` (`bad-strategy`)."""
    items = plain.sequence(value, where, 0, MAX_BUDGETS)
    budgets = tuple(_budget(item, f"{where}[{index}]") for index, item in enumerate(items))
    names = [budget.by for budget in budgets]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise plain.bad(f"{where}[{index}].by", f"be different from the other budgets' ({name} was used before)")
    return budgets


def _budget(value: object, where: str) -> BudgetPolicy:
    fields = plain.mapping(value, where)
    plain.known(fields, ("by", "limit", "percent", "at_least", "keep", "offline_counts"), where)
    by = fields.get("by")
    if not isinstance(by, str) or not plain.LABEL.fullmatch(by):
        raise plain.bad(f"{where}.by", "be 'campaign' or the name of a label, such as site")
    if len(fields.keys() & {"limit", "percent", "keep"}) != 1:
        raise plain.bad(where, "have one of limit, percent and keep")
    if by.startswith(AGENT_LABEL) and "limit" not in fields:
        text = f"have a limit: with labels of its own ({AGENT_LABEL}…) a device could make a group larger than it is"
        raise plain.bad(where, text)
    return BudgetPolicy(by=by, **_amount(fields, where))


def _amount(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a budget says beside whose it is."""
    offline = plain.flag(fields.get("offline_counts", "keep" in fields), f"{where}.offline_counts")
    if fields.get("by") == CAMPAIGN and ("keep" in fields or "offline_counts" in fields):
        raise plain.bad(where, "have limit or percent only: a campaign is no redundancy set")
    if "at_least" in fields and "percent" not in fields:
        raise plain.bad(f"{where}.at_least", "be left out where there is no percent")
    if "limit" in fields:
        if fields["limit"] == 0:
            raise plain.bad(f"{where}.limit", "be at least 1; with 0 no target could ever activate")
        return {"limit": plain.integer(fields["limit"], f"{where}.limit", 1, UNLIMITED), "offline_counts": offline}
    if "keep" in fields:
        return {"keep": plain.integer(fields["keep"], f"{where}.keep", 1, UNLIMITED), "offline_counts": offline}
    percent = plain.number(fields["percent"], f"{where}.percent", 0, 100)
    if percent == 0:
        raise plain.bad(f"{where}.percent", "be above 0; with 0 no target could ever activate")
    at_least = plain.integer(fields.get("at_least", 0), f"{where}.at_least", 0, UNLIMITED)
    return {"percent": percent, "at_least": at_least, "offline_counts": offline}


def parse_order(value: object, where: str) -> bool:
    """Whether gateways go last; raises `RefusedError` (`bad-strategy`), as all below do."""
    return plain.one_of(value, where, ORDERS) == "leaves-first"


def parse_after(value: object, where: str) -> tuple[AfterPolicy, ...]:
    """The campaigns that come first."""
    items = plain.sequence(value, where, 0, MAX_AFTER)
    return tuple(_after(item, f"{where}[{index}]") for index, item in enumerate(items))


def parse_requires(value: object, where: str) -> tuple[RequirePolicy, ...]:
    """The versions that are needed first."""
    items = plain.sequence(value, where, 0, MAX_REQUIRES)
    return tuple(_require(item, f"{where}[{index}]") for index, item in enumerate(items))


def parse_skew(value: object, where: str) -> SkewPolicy:
    """How far releases of a group may be apart."""
    fields = plain.mapping(value, where)
    plain.known(fields, ("by", "most"), where)
    return SkewPolicy(by=_label(fields, where), most=plain.integer(fields.get("most", 1), f"{where}.most", 1, 100))


def parse_together(value: object, where: str) -> TogetherPolicy:
    """What goes all or not at all."""
    fields = plain.mapping(value, where)
    plain.known(fields, ("by",), where)
    return TogetherPolicy(by=_label(fields, where))


def _after(value: object, where: str) -> AfterPolicy:
    fields = plain.mapping(value, where)
    plain.known(fields, ("campaign", "state", "soak"), where)
    return AfterPolicy(
        campaign=plain.name(fields.get("campaign"), f"{where}.campaign"),
        state=plain.one_of(fields.get("state", "completed"), f"{where}.state", STATES),
        soak_s=plain.duration(fields.get("soak", 0), f"{where}.soak"),
    )


def _require(value: object, where: str) -> RequirePolicy:
    fields = plain.mapping(value, where)
    plain.known(fields, ("of", "product", "label", "at_least"), where)
    if ("product" in fields) == ("label" in fields):
        raise plain.bad(where, "have product or label: where the version is to be found")
    at_least = fields.get("at_least")
    if not isinstance(at_least, str) or not _VERSION.match(at_least):
        raise plain.bad(f"{where}.at_least", 'be a version in quotes, such as "2.1"')
    return RequirePolicy(
        of=plain.one_of(fields.get("of", "target"), f"{where}.of", HOLDERS),
        product=plain.name(fields["product"], f"{where}.product") if "product" in fields else None,
        label=_label(fields, where, "label") if "label" in fields else None,
        at_least=at_least,
    )


def _label(fields: Mapping[str, Any], where: str, key: str = "by") -> str:
    label = fields.get(key)
    if not isinstance(label, str) or not plain.LABEL.fullmatch(label) or label == CAMPAIGN:
        raise plain.bad(f"{where}.{key}", "be the name of a label, such as pair")
    return label
