"""Scenarios: YAML that people write, read strictly. Every refusal names the file, the line and the key, and what to write there.

```yaml
name: night-shift
about: Machines that may restart at night only.
days: 14
fleet:
  - {name: press, devices: 200, hardware: plc-r1, sites: 20, presence: {share: 95%}}
releases:
  - {version: "2.0.0", image: 32 MB, defects: [{kind: fails-health, share: 5%}]}
campaigns:
  - file: |                     # a campaign file, word for word
      name: spring
      product: press
      version: "2.0.0"
      strategy: standard
```
"""

from collections.abc import Mapping, Sequence
from typing import Any

from yaml.nodes import Node

from firmware.errors import RefusedError
from server.campaigns.places import line_of
from server.campaigns.strategy_file import parse_campaign
from server.planner import plain
from server.planner.plain import StrategyError, bad
from server.planner.strategy import Strategy
from server.planner.words import CampaignState, Verb
from server.ports import CampaignSpec
from simulator.virtual import approving, world_checks
from simulator.virtual import world_values as values
from simulator.virtual.deeds import deed_of
from simulator.virtual.device import LATE_DEFECTS
from simulator.virtual.fleet_file import MOST_DEVICES, lot_of
from simulator.virtual.world import (
    CHURN,
    DEFECTS,
    Act,
    Churn,
    Expectation,
    Fault,
    Release,
    Start,
    World,
)
from simulator.virtual.world_text import KIND, MAX_BYTES, line_in, load
from simulator.virtual.world_values import hours_of

__all__ = ["KIND", "MAX_BYTES", "MONDAY", "MOST_DAYS", "MOST_DEVICES", "hours_of", "parse_world", "unsupported"]
MOST_DAYS = 400
MONDAY = 1772409600.0
"""When a world begins that doesn't say: Monday 2026-03-02, 00:00 UTC."""


def parse_world(text: str, source: str) -> World:
    """Parse a scenario; `source` names the file in refusals. Raises `RefusedError` (`bad-scenario`)."""
    fields, root = load(text, source, _KEYS)
    try:
        world = _world(fields, root)
        _possible(world)
        world_checks.check(world)
    except StrategyError as error:
        line = line_of(root, error.where)
        said = error.text.replace("no key of a strategy", "no key of a scenario")
        raise RefusedError(KIND, f"{source}{'' if line is None else f', line {line}'}: {said}") from error
    except _CampaignError as error:
        raise RefusedError(KIND, f"{source}{error}") from error
    return world


def unsupported(strategy: Strategy) -> str | None:
    """The first thing of a strategy that virtual time can't carry; None when it carries all."""
    kinds = {gate.kind for cohort in strategy.cohorts for gate in cohort.gates}
    found = {
        "preconditions": bool(strategy.preconditions),
        "verify": strategy.verify is not None,
        "unattended": strategy.unattended is not None,
        "order_ttl: auto": strategy.order_ttl_auto,
        "a gate of kind metrics": "metrics" in kinds,
        "a gate of kind sli": "sli" in kinds,
    }
    return next((name for name, is_there in found.items() if is_there), None)


class _CampaignError(Exception):
    """A campaign file inside a scenario is refused; the line is that of the scenario."""


_KEYS = ("name", "about", "seed", "begins", "days", "fleet", "releases", "campaigns", "acts", "churn", "wire", "expect")


def _world(fields: Mapping[str, Any], root: Node) -> World:
    plain.known(fields, _KEYS, "")
    values.needed(fields, ("name", "days", "fleet", "releases", "campaigns"), "")
    return World(
        name=plain.name(fields["name"], "name"),
        about=values.text(fields.get("about", ""), "about"),
        seed=plain.integer(fields.get("seed", 1), "seed", 0, (1 << 63) - 1),
        begins=values.moment(fields["begins"], "begins") if "begins" in fields else MONDAY,
        days=plain.number(fields["days"], "days", 0.01, MOST_DAYS),
        lots=values.listed(fields["fleet"], "fleet", 1, 64, lot_of),
        releases=values.listed(fields["releases"], "releases", 1, 16, _release),
        campaigns=values.listed(fields["campaigns"], "campaigns", 1, 16, lambda one, at: _start(one, at, root)),
        acts=values.listed(fields.get("acts", []), "acts", 0, 64, _act),
        churn=values.listed(fields.get("churn", []), "churn", 0, 16, _churn),
        deeds=values.listed(fields.get("wire", []), "wire", 0, 64, deed_of),
        expectations=values.listed(fields.get("expect", []), "expect", 0, 16, _expectation),
    )


def _release(value: object, where: str) -> Release:
    fields = plain.mapping(value, where)
    plain.known(fields, ("version", "image", "hardware", "defects"), where)
    values.needed(fields, ("version",), where)
    hardware = plain.sequence(fields.get("hardware", []), f"{where}.hardware", 0, 16)
    return Release(
        version=values.text(fields["version"], f"{where}.version"),
        size_bytes=values.size(fields.get("image", "32 MB"), f"{where}.image"),
        faults=values.listed(fields.get("defects", []), f"{where}.defects", 0, 16, _fault),
        hardware=tuple(plain.name(one, f"{where}.hardware[{n}]") for n, one in enumerate(hardware)),
    )


def _fault(value: object, where: str) -> Fault:
    fields = plain.mapping(value, where)
    plain.known(fields, ("kind", "share", "hardware", "after"), where)
    values.needed(fields, ("kind",), where)
    kind = plain.one_of(fields["kind"], f"{where}.kind", DEFECTS)
    if ("after" in fields) != (kind in LATE_DEFECTS):
        late = " and ".join(LATE_DEFECTS)
        raise bad(f"{where}.after" if "after" in fields else where, f"say `after` for {late}, and for nothing else")
    return Fault(
        kind=kind,
        share=values.share(fields, "share", where, 1.0),
        hardware=plain.name(fields["hardware"], f"{where}.hardware") if "hardware" in fields else "",
        after_s=plain.positive_duration(fields["after"], f"{where}.after") if "after" in fields else 0.0,
    )


def _start(value: object, where: str, root: Node) -> Start:
    fields = plain.mapping(value, where)
    plain.known(fields, ("file", "after"), where)
    values.needed(fields, ("file",), where)
    text = values.text(fields["file"], f"{where}.file")
    return Start(
        text=text,
        spec=_campaign(text, line_in(root, f"{where}.file")),
        after_s=plain.duration(fields.get("after", 0), f"{where}.after"),
    )


def _campaign(text: str, line: int) -> CampaignSpec:
    """The campaign file, with as many empty lines before it as make its lines those of the scenario."""
    try:
        return parse_campaign("\n" * line + text)
    except RefusedError as error:
        text = error.text
        raise _CampaignError(f", l{text[1:]}" if text.startswith("Line ") else f": {text}") from error


def _act(value: object, where: str) -> Act:
    fields = plain.mapping(value, where)
    plain.known(fields, ("campaign", "verb", "after"), where)
    values.needed(fields, ("campaign", "verb", "after"), where)
    verbs = [str(verb) for verb in (Verb.APPROVE, Verb.PAUSE, Verb.RESUME, Verb.ABORT, Verb.ROLLBACK)]
    return Act(
        campaign=plain.name(fields["campaign"], f"{where}.campaign"),
        verb=Verb(plain.one_of(fields["verb"], f"{where}.verb", verbs)),
        after_s=plain.duration(fields["after"], f"{where}.after"),
    )


def _churn(value: object, where: str) -> Churn:
    fields = plain.mapping(value, where)
    plain.known(fields, ("do", "fleet", "share", "after", "within"), where)
    values.needed(fields, ("do", "fleet", "share"), where)
    return Churn(
        kind=plain.one_of(fields["do"], f"{where}.do", CHURN),
        lot=plain.name(fields["fleet"], f"{where}.fleet"),
        share=values.share(fields, "share", where),
        after_s=plain.duration(fields.get("after", 0), f"{where}.after"),
        within_s=plain.duration(fields.get("within", 0), f"{where}.within"),
    )


def _expectation(value: object, where: str) -> Expectation:
    fields = plain.mapping(value, where)
    plain.known(fields, ("campaign", "states", "verified_at_least", "harmed_at_most"), where)
    values.needed(fields, ("campaign",), where)
    states = plain.sequence(fields.get("states", []), f"{where}.states", 0, 16)
    most = fields.get("harmed_at_most")
    return Expectation(
        campaign=plain.name(fields["campaign"], f"{where}.campaign"),
        states=tuple(
            plain.one_of(one, f"{where}.states[{n}]", [str(state) for state in CampaignState])
            for n, one in enumerate(states)
        ),
        verified_at_least=values.share(fields, "verified_at_least", where),
        harmed_at_most=None if most is None else plain.integer(most, f"{where}.harmed_at_most", 0, MOST_DEVICES),
    )


def _possible(world: World) -> None:
    """Refuse what can't be, or can't be carried in virtual time."""
    names = [lot.name for lot in world.lots]
    for n, lot in enumerate(world.lots):
        if lot.name in names[:n]:
            raise bad(f"fleet[{n}].name", f"be different from the others' ({lot.name} was used before)")
        if lot.sites > lot.devices:
            raise bad(f"fleet[{n}].sites", f"be at most the {lot.devices} devices there are")
        if lot.habit.share == 0 and lot.habit.rest == 0:
            raise bad(f"fleet[{n}].presence", "let the devices be there at some time, or none can ever be updated")
    if sum(lot.devices for lot in world.lots) > MOST_DEVICES:
        raise bad("fleet", f"have at most {MOST_DEVICES:,} devices in all")
    versions = [release.version for release in world.releases]
    for n, version in enumerate(versions):
        if version in versions[:n]:
            raise bad(f"releases[{n}].version", f"be different from the others' ({version} was used before)")
    hardware = {lot.hardware for lot in world.lots}
    for n, release in enumerate(world.releases):
        for fault in release.faults:
            if fault.hardware and fault.hardware not in hardware:
                raise bad(f"releases[{n}].defects", f"be about hardware of the fleet, not {fault.hardware}")
    _possible_churn(world, names)
    _possible_campaigns(world, versions)


def _possible_churn(world: World, lots: Sequence[str]) -> None:
    for n, one in enumerate(world.churn):
        if one.lot not in lots:
            raise bad(f"churn[{n}].fleet", f"be one of {', '.join(lots)}")
        if one.after_s + one.within_s > world.days * 86400:
            raise bad(f"churn[{n}]", "be over before the world's days are")


def _possible_campaigns(world: World, versions: Sequence[str]) -> None:
    names = [start.spec.name for start in world.campaigns]
    products = {start.spec.product for start in world.campaigns}
    if len(products) > 1:
        raise bad("campaigns", f"be about one product, not {', '.join(sorted(products))}")
    for n, start in enumerate(world.campaigns):
        where = f"campaigns[{n}].file"
        if start.spec.name in names[:n]:
            raise bad(where, f"have another name: {start.spec.name} was used before")
        if start.spec.version not in versions:
            raise bad(where, f"name one of the releases {', '.join(versions)}, not {start.spec.version}")
        if start.after_s > world.days * 86400:
            raise bad(f"campaigns[{n}].after", "be before the world's days are over")
        if (what := unsupported(start.spec.strategy)) is not None:
            raise bad(where, f"do without {what}: virtual time has nobody to ask")
    named = {f"acts[{n}]": act.campaign for n, act in enumerate(world.acts)}
    named |= {f"expect[{n}]": one.campaign for n, one in enumerate(world.expectations)}
    for place, name in named.items():
        if name not in names:
            raise bad(f"{place}.campaign", f"be one of {', '.join(names)}")
    approving.require_possible(world)
