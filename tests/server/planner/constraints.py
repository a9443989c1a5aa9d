"""The planner's constraints beside those that an ask must pass (`ask_events.CHECKS`, whose scenes test_planner_permits.py plays
without each of them): the words of its source that make each bind, what they become without it, and the tests that must then
fail. Imports nothing of the planner: it is read before that is."""

from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parents[3]
HERE = Path("tests/server/planner")


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """`old` stands in the module's source exactly once; `caught_by`: a file of these tests."""

    module: str
    old: str
    new: str
    caught_by: str

    @property
    def path(self) -> Path:
        return TOP / (self.module.replace(".", "/") + ".py")

    def mutated(self) -> str:
        """The module's source without the constraint. Raises `ValueError` when the words aren't there once."""
        source = self.path.read_text()
        if source.count(self.old) != 1:
            raise ValueError(f"{self.path.name} has {self.old!r} {source.count(self.old)} times, not once.")
        return source.replace(self.old, self.new)


def _in(module: str, caught_by: str, **words: tuple[str, str]) -> dict[str, Constraint]:
    return {
        f"{module}.{name}": Constraint(
            module=f"server.planner.{module}", old=old, new=new, caught_by=f"test_planner_{caught_by}.py"
        )
        for name, (old, new) in words.items()
    }


CONSTRAINTS: dict[str, Constraint] = {
    **_in(
        "admission",
        "campaigns",
        cohort_is_open=("    if not _may_admit(ledger):", "    if False:"),
        quarantined=("    elif target.quarantined:\n        _skip", "    elif False:\n        _skip"),
        already_there=("    elif target.running_sha256 == campaign.release.sha256:", "    elif False:"),
    ),
    **_in("admission", "campaigns", gone=("    elif target.gone:\n        _skip", "    elif False:\n        _skip")),
    **_in(
        "admission",
        "rivals",
        held=("    elif target.holder not in (None, campaign.id) and not target.settled:", "    elif False:"),
        superseded=("(over := rivals.newer(ledger)) is not None", "(over := rivals.newer(ledger)) is ledger"),
        outranked=(
            "(first := rivals.first_in_line(ledger)) is not None",
            "(first := rivals.first_in_line(ledger)) is ledger",
        ),
    ),
    **_in(
        "admission",
        "downloads",
        place_to_download=(
            "    elif not downloads.stand_in_line(ledger):\n        rivals",
            "    else:\n        rivals",
        ),
    ),
    **_in(
        "admission",
        "rollback",
        way_back=("    elif not target.rollback_available:", "    elif False:"),
        still_ours=("    elif target.holder != ledger.campaign.id:", "    elif False:"),
    ),
    **_in(
        "budgets",
        "budgets",
        offline_counts=("is_full = used + offline + 1 > allowed", "is_full = used + 1 > allowed"),
        keep=("return min(self.limit, members - self.keep) if self.keep else self.limit", "return self.limit"),
        percent=("limit=max(share, budget.at_least)", "limit=UNLIMITED"),
        limit=("UNLIMITED if budget.limit is None else budget.limit", "UNLIMITED"),
        all_campaigns=(
            "return demand if is_own or not group.used else demand.stricter(_held_to(group))",
            "return demand",
        ),
        failed_keeps_its_token=(
            "            ledger.put_token(replace(token, kind=kind))",
            "            _give_back(ledger, key)",
        ),
    ),
    **_in(
        "group_checks",
        "gateways",
        gateway_is_up=("        if _used(ledger, key):", "        if False:"),
        nothing_behind=("    if not number:\n", "    if True:\n"),
        path_is_known=("    if target.path_fault:", "    if False:"),
    ),
    **_in(
        "group_checks",
        "order",
        soak_after=("        if ledger.at < until:", "        if False:"),
        of_gateway=('ledger.around.gateways if policy.of == "gateway" else (own,)', "(own,)"),
        one_after_the_other=("    if state in _BUSY:\n", "    if state in _BUSY:\n        return None\n"),
        all_staged=("    if state in _COMING:\n", "    if state in _COMING:\n        return None\n"),
        skew_of_unknown=(
            "    if row.counter is None:",
            "    if row.counter is None:\n        return ''\n    if False:",
        ),
        skew_in_flight=("    if row.in_flight:", "    if False:"),
    ),
    **_in(
        "preconditions",
        "preconditions",
        room=("    if int(told) < (policy.free_bytes or 0):", "    if False:"),
        refusal=("    if refused is not None:", "    if False:"),
        age=("return policy.max_age_s is None or ledger.at <= word.at + policy.max_age_s", "return True"),
        expiry=(
            "word.name == policy.name and ledger.at < word.expires_at]\n    refused",
            "word.name == policy.name]\n    refused",
        ),
    ),
    **_in(
        "calendar",
        "calendar",
        freeze=("            if shut_to > at and shut_from < stop:", "            if False:"),
        fits=("if held[1] - max(held[0], at) >= needs_s:", "if held[1] > max(held[0], at):"),
    ),
    **_in("ask_events", "calendar", own_zone=("ledger.target.zone or calendar.zone", "calendar.zone")),
    **_in("downloads", "downloads", limit=("group.used >= _binding(ledger, group, limit)", "False")),
    **_in(
        "downloads",
        "downloads",
        all_campaigns=("min(limit, group.limit) if group.used and not _is_own(ledger, group) else limit", "limit"),
    ),
    **_in(
        "approvals",
        "approvals",
        asked=("    if not lacking(campaign):\n", "    if True:\n"),
        two_people=("    if by == campaign.asked_by:", "    if False:"),
        nobody_twice=("    if any(one.by == by for one in campaign.approvals):", "    if False:"),
        start_time=("    if start_at is None or start_at <= ledger.at:", "    if True:"),
    ),
    **_in(
        "suspicion",
        "suspicion",
        holds=('return bool(campaign.suspect) and campaign.strategy.on_suspect == "hold"', "return False"),
    ),
    **_in(
        "progress",
        "campaigns",
        gate_before_next=(
            "if ledger.cohorts[index].state not in (CohortState.PASSED, CohortState.ROLLED_BACK):",
            "if False:",
        ),
    ),
    **_in("progress", "late", breaker=("    if failed <= max(most, count(before, FAILURES)):", "    if True:")),
    **_in(
        "campaign_events",
        "campaigns",
        failed_gate_ends=("    if failed:\n", "    if False:\n"),
        late_end_of_a_cohort=("or event.cohort < ledger.campaign.cohort:", "or False:"),
    ),
    **_in(
        "retrying",
        "retries",
        attempts=("assignment.state in WAITING or assignment.attempt < strategy.max_attempts", "True"),
        worth_it=("reason_kind in WORTH_IT and", "True and"),
        most=("assignment.retries < strategy.retries.most", "True"),
    ),
    **_in("handing", "handing", checks=("    if wait is not None:\n", "    if False:\n")),
    **_in("verifying", "verifying", bad_word=("    if bad is not None:", "    if False:")),
    **_in("reservations", "reservations", reserved=("return is_held and group", "return False and group")),
    **_in(
        "evidence",
        "evidence",
        comes_first=(
            "    if found is None:\n        return wait",
            "    if found is None:\n        return None\n        return wait",
        ),
        may_not_go_without=('    if policy.when_missing == "proceed":', "    if True:"),
    ),
    **_in("rivals", "rivals", priority=("mine.priority > rival.priority", "True")),
}
"""By the names of its module and its own."""
