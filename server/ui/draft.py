"""A campaign written into a form: its fields as the campaign file that they stand for, and refusals put beside their field.

The file is the one truth. The form writes it, what reads files reads it, and a person may go on in the file itself.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import yaml

from firmware.errors import OtariaError
from server.campaigns.strategy_file import CampaignFileError
from server.planner.gate_words import share
from server.planner.policy import READY_MADE, parse_strategy
from server.planner.strategy import BudgetPolicy, CohortPolicy, GatePolicy, Strategy
from server.ports import ReleaseRecord, ReleaseState
from server.ui.wording import plural, span

OWN = "own"
FEW = 10
"""A fleet of at most so many is offered the strategy for a bench first."""
MAX_FILE_CHARS = 200_000
MAX_FIELD_CHARS = 2000
FIELDS = ("name", "release", "labels", "start", "strategy", "own", "file", "mode")
OF_PLACE = {"name": "name", "product": "release", "version": "release", "selection": "labels", "start_at": "start"}
"""The field that a place of the file is written in."""
OF_KIND = {
    "release-unknown": "release",
    "release-withdrawn": "release",
    "nothing-selected": "labels",
    "campaign-exists": "name",
    "revision-refused": "name",
}
MEANT_FOR = {
    "standard": "Most fleets.",
    "cautious": "What may not go wrong: more steps, one target of a site at a time.",
    "emergency": "A hole that is being used: few steps, many at once.",
    "redundant-pairs": "Pairs that stand in for each other; gateways go last.",
    "bench": "A few devices on a desk, one at a time.",
}


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What a form holds. `release`: `product version`; `labels`: `name=value`s with spaces; `start`: a moment in UTC without its
    offset; `own`: the strategy as YAML, where `strategy` is `OWN`; `mode`: `fields`, or `file`, where `file` is all there is."""

    name: str = ""
    release: str = ""
    labels: str = ""
    start: str = ""
    strategy: str = "standard"
    own: str = ""
    file: str = ""
    mode: str = "fields"

    @property
    def is_file(self) -> bool:
        return self.mode == "file"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A ready-made strategy: what it is for, and its steps in words."""

    name: str
    meant_for: str
    steps: str


def read(fields: Mapping[str, str]) -> Filled:
    """What was sent, bounded; browsers end lines with CR LF."""
    cut = {name: fields.get(name, "").replace("\r\n", "\n") for name in FIELDS if fields.get(name)}
    long = ("own", "file")
    return Filled(
        **{
            name: text[: MAX_FILE_CHARS if name in long else MAX_FIELD_CHARS].rstrip("\x00")
            for name, text in cut.items()
        }
    )


def first(releases: Sequence[ReleaseRecord], fleet: int, asked: Filled) -> Filled:
    """What an untouched form starts with: the newest release, a name made of it, and a strategy for a fleet of this size."""
    active = [one for one in releases if one.state is ReleaseState.ACTIVE]
    newest = max(active, key=lambda one: (one.published_at, one.counter), default=None)
    release = asked.release or (f"{newest.product} {newest.version}" if newest else "")
    name = "-".join(release.lower().replace(".", "-").replace("+", "-").split())[:63] if release else ""
    own = yaml.safe_dump(dict(READY_MADE["standard"]) | {"name": "mine"}, sort_keys=False, allow_unicode=True)
    return replace(
        asked, release=release, name=asked.name or name, strategy="bench" if fleet <= FEW else "standard", own=own
    )


def file_of(filled: Filled) -> tuple[str, int]:
    """The campaign file of a form, and how many of its lines are before the person's own strategy.

    Raises `CampaignFileError` for labels that are none."""
    if filled.is_file:
        return filled.file, 0
    product, _, version = filled.release.partition(" ")
    fields: dict[str, object] = {"name": filled.name.strip(), "product": product, "version": version}
    if labels := _labels(filled.labels):
        fields["selection"] = {"labels": labels}
    if filled.start:
        fields["start_at"] = f"{filled.start}+00:00"
    if filled.strategy != OWN:
        fields["strategy"] = filled.strategy
    head = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    if filled.strategy != OWN:
        return head, head.count("\n")
    head += "strategy:\n"
    return head + textwrap.indent(filled.own.rstrip() + "\n", "  "), head.count("\n")


def refusals(error: OtariaError, filled: Filled, before: int) -> dict[str, str]:
    """What is wrong by field; under the empty name what is of no field. `before`: lines of the file before the own strategy."""
    if filled.is_file:
        return {"file": error.text}
    if not isinstance(error, CampaignFileError):
        return {OF_KIND.get(error.kind, _strategy_field(filled) if error.kind == "bad-strategy" else ""): error.text}
    place = error.where.partition(".")[0].partition("[")[0]
    own = filled.strategy == OWN and (place == "strategy" or (not place and (error.line or 0) > before))
    if own:
        line = (error.line or 0) - before
        return {"own": f"Line {line}: {error.bare}" if line > 0 else error.bare}
    return {OF_PLACE.get(place, "strategy" if place == "strategy" else ""): error.bare}


def choices() -> list[Choice]:
    """The ready-made strategies, in the order of how often they fit."""
    return [Choice(name=name, meant_for=text, steps=steps_of(parse_strategy(name))) for name, text in MEANT_FOR.items()]


def steps_of(strategy: Strategy) -> str:
    """A strategy in one line: its cohorts, how many may be down, and what happens on a failure."""
    cohorts = " → ".join(f"{one.name} {size_of(one)}".strip() for one in strategy.cohorts)
    budgets = "".join(f"; {budget_of(one)}" for one in strategy.budgets)
    ends = {"pause": "pauses", "abort": "ends", "rollback": "goes back"}[strategy.on_failure]
    return f"{cohorts}{budgets}; verified after {span(strategy.healthy_s)} of health; {ends} when a gate fails"


def size_of(cohort: CohortPolicy) -> str:
    """How large a cohort shall be: `3`, `20 %`, or nothing for the rest."""
    if cohort.count is not None:
        return str(cohort.count)
    return f"{cohort.percent:g} %" if cohort.percent is not None else ""


def budget_of(budget: BudgetPolicy) -> str:
    """How many may be down at once."""
    where = "at once" if budget.by == "campaign" else f"at once in a {budget.by}"
    if budget.keep is not None:
        return f"{budget.keep} of a {budget.by} always up"
    most = f"{budget.percent:g} %" if budget.percent is not None else str(budget.limit)
    return f"at most {most} down {where}"


def gate_of(gate: GatePolicy) -> str:
    """What a cohort must show before the next one opens."""
    match gate.kind:
        case "all":
            least = f", {plural(gate.min_verified, 'target')} at least" if gate.min_verified > 1 else ""
            return f"every target that tries verifies{least}"
        case "share":
            return f"at most {share(gate.max_failure_rate)} of it fail"
        case "rate":
            return f"its failure rate is proven below {share(gate.max_failure_rate)} ({share(gate.confidence)} sure)"
        case "metrics":
            return f"no metric is worse than its control’s by {gate.effect:g} standard deviations"
        case "sli":
            return f"{gate.name} stays at most {gate.limit:g} for {span(gate.for_s)}"
        case _:
            return f"somebody says that {gate.name} passes"


def _labels(text: str) -> dict[str, object]:
    found: dict[str, list[str]] = {}
    for part in text.replace(",", " ").split():
        name, is_pair, value = part.partition("=")
        if not (is_pair and name and value):
            said = f"`{part[:64]}` is no label; write name=value, such as site=berlin, with spaces between several."
            raise CampaignFileError("bad-campaign", said, "selection")
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _strategy_field(filled: Filled) -> str:
    return "own" if filled.strategy == OWN else "strategy"
