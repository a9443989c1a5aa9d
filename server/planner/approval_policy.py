"""Who must agree to a campaign, and emergencies that go first, from plain values. Refusals as in `server.planner.plain`."""

from collections.abc import Mapping

from server.planner import plain
from server.planner.budgets import UNLIMITED
from server.planner.strategy import ApprovalPolicy, ApprovalRule, EmergencyPolicy

MAX_APPROVALS = 5
MAX_APPROVAL_RULES = 16
MOST_RESERVED_S = 86400
LEAST_REMIND_S = 600


def parse_approvals(value: object, where: str) -> ApprovalPolicy:
    """Who must agree before it starts; raises `RefusedError` (`bad-strategy`)."""
    fields = plain.mapping(value, where)
    plain.known(fields, ("need", "rules", "expires"), where)
    usual = ApprovalPolicy()
    items = plain.sequence(fields.get("rules", ()), f"{where}.rules", 0, MAX_APPROVAL_RULES)
    return ApprovalPolicy(
        need=plain.integer(fields.get("need", usual.need), f"{where}.need", 0, MAX_APPROVALS),
        rules=tuple(_approval_rule(item, f"{where}.rules[{index}]") for index, item in enumerate(items)),
        expires_s=plain.positive_duration(fields.get("expires", usual.expires_s), f"{where}.expires"),
    )


def parse_emergency(value: object, where: str) -> bool | EmergencyPolicy:
    """Whether it is an emergency, and how urgent when that is said; raises `RefusedError` (`bad-strategy`)."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, Mapping):
        raise plain.bad(where, "be true, false, or a mapping with reserve and remind")
    fields = plain.mapping(value, where)
    plain.known(fields, ("reserve", "remind"), where)
    usual = EmergencyPolicy()
    reserve_s = plain.duration(fields.get("reserve", usual.reserve_s), f"{where}.reserve")
    remind_s = plain.positive_duration(fields.get("remind", usual.remind_s), f"{where}.remind")
    if reserve_s > MOST_RESERVED_S:
        raise plain.bad(f"{where}.reserve", f"be at most {MOST_RESERVED_S // 3600} hours: others wait for so long")
    if remind_s < LEAST_REMIND_S:
        raise plain.bad(f"{where}.remind", f"be at least {LEAST_REMIND_S // 60} minutes")
    return EmergencyPolicy(reserve_s=reserve_s, remind_s=remind_s)


def _approval_rule(value: object, where: str) -> ApprovalRule:
    fields = plain.mapping(value, where)
    plain.known(fields, ("need", "targets", "labels"), where)
    if not fields.keys() & {"targets", "labels"}:
        raise plain.bad(where, "say for which campaigns it is, with targets or labels or both")
    return ApprovalRule(
        need=plain.integer(fields.get("need"), f"{where}.need", 1, MAX_APPROVALS),
        targets=plain.integer(fields.get("targets", 0), f"{where}.targets", 0, UNLIMITED),
        labels=plain.labels(fields.get("labels", {}), f"{where}.labels"),
    )
