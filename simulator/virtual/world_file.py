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

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from firmware.errors import RefusedError
from server.campaigns.places import line_of
from server.campaigns.strategy_file import parse_campaign
from server.planner import plain
from server.planner.plain import StrategyError, bad
from server.planner.strategy import Strategy
from server.planner.words import CampaignState, Verb
from server.ports import CampaignSpec
from simulator.virtual.device import Link
from simulator.virtual.presence import Outages
from simulator.virtual.world import (
    CHURN,
    DEEDS,
    DEFECTS,
    Act,
    Churn,
    Deed,
    Expectation,
    Fault,
    Habit,
    Lot,
    Release,
    Start,
    World,
)

KIND = "bad-scenario"
MAX_BYTES = 256 * 1024
MOST_DEVICES = 2_000_000
MOST_DAYS = 400
MONDAY = 1772409600.0
"""When a world begins that doesn't say: Monday 2026-03-02, 00:00 UTC."""
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(kB|MB|GB)")
_UNIT = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
_HOURS = re.compile(r"(?:([A-Z][a-z]{2})(?:-([A-Z][a-z]{2}))? )?([0-9]{2})-([0-9]{2})")


def parse_world(text: str, source: str) -> World:
    """Parse a scenario; `source` names the file in refusals. Raises `RefusedError` (`bad-scenario`)."""
    fields, root = _load(text, source)
    try:
        world = _world(fields, root)
        _possible(world)
    except StrategyError as error:
        line = line_of(root, error.where)
        said = error.text.replace("no key of a strategy", "no key of a scenario")
        raise RefusedError(KIND, f"{source}{'' if line is None else f', line {line}'}: {said}") from error
    except _CampaignError as error:
        raise RefusedError(KIND, f"{source}{error}") from error
    return world


def hours_of(text: object, where: str) -> tuple[int, ...]:
    """Hours of the week from `22-06`, `Mon-Fri 07-18`, or several of these with commas."""
    found: set[int] = set()
    for part in text.split(", ") if isinstance(text, str) else ("",):
        match = _HOURS.fullmatch(part)
        first, last = (match[1] or "Mon", match[2] or match[1] or "Sun") if match else ("", "")
        if match is None or first not in DAYS or last not in DAYS or not (int(match[3]) < 24 and int(match[4]) <= 24):
            raise bad(where, "be hours such as '22-06', 'Mon-Fri 07-18', or several with commas")
        begin, end = int(match[3]), int(match[4])
        length = (end - begin) % 24 or 24
        days = (DAYS.index(last) - DAYS.index(first)) % 7
        for day in range(DAYS.index(first), DAYS.index(first) + days + 1):
            found |= {(day * 24 + begin + hour) % 168 for hour in range(length)}
    return tuple(sorted(found))


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


def _load(text: str, source: str) -> tuple[Mapping[str, Any], Node]:
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise RefusedError(KIND, f"{source} is larger than {MAX_BYTES // 1024} KiB; a scenario needs a page.")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        value = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RefusedError(KIND, f"{source}{line}: not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RefusedError(KIND, f"{source} is not valid YAML: {str(error).splitlines()[0][:200]}.") from error
    if root is None or not isinstance(value, dict):
        raise RefusedError(KIND, f"{source}: a scenario is a mapping with the keys {', '.join(_KEYS)}.")
    return value, root


class _Loader(yaml.SafeLoader):
    """Plain values; a repeated key is an error, and there are no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "a scenario has no aliases", self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_KEYS = ("name", "about", "seed", "begins", "days", "fleet", "releases", "campaigns", "acts", "churn", "wire", "expect")


def _world(fields: Mapping[str, Any], root: Node) -> World:
    plain.known(fields, _KEYS, "")
    _needed(fields, ("name", "days", "fleet", "releases", "campaigns"), "")
    return World(
        name=plain.name(fields["name"], "name"),
        about=_text(fields.get("about", ""), "about"),
        seed=plain.integer(fields.get("seed", 1), "seed", 0, (1 << 63) - 1),
        begins=_moment(fields["begins"], "begins") if "begins" in fields else MONDAY,
        days=plain.number(fields["days"], "days", 0.01, MOST_DAYS),
        lots=_list(fields["fleet"], "fleet", 1, 64, _lot),
        releases=_list(fields["releases"], "releases", 1, 16, _release),
        campaigns=_list(fields["campaigns"], "campaigns", 1, 16, lambda one, at: _start(one, at, root)),
        acts=_list(fields.get("acts", []), "acts", 0, 64, _act),
        churn=_list(fields.get("churn", []), "churn", 0, 16, _churn),
        deeds=_list(fields.get("wire", []), "wire", 0, 64, _deed),
        expectations=_list(fields.get("expect", []), "expect", 0, 16, _expectation),
    )


def _lot(value: object, where: str) -> Lot:
    fields = plain.mapping(value, where)
    keys = (
        "name",
        "devices",
        "hardware",
        "sites",
        "labels",
        "timezone",
        "pairs",
        "gateway",
        "presence",
        "link",
        "faults",
    )
    plain.known(fields, (*keys, "health"), where)
    _needed(fields, ("name", "devices", "hardware"), where)
    faults = plain.mapping(fields.get("faults", {}), f"{where}.faults")
    plain.known(faults, ("flash", "power_cut"), f"{where}.faults")
    link, spread = _link(fields.get("link", {}), f"{where}.link")
    return Lot(
        name=plain.name(fields["name"], f"{where}.name"),
        devices=plain.integer(fields["devices"], f"{where}.devices", 1, MOST_DEVICES),
        hardware=plain.name(fields["hardware"], f"{where}.hardware"),
        sites=plain.integer(fields.get("sites", 1), f"{where}.sites", 1, MOST_DEVICES),
        labels=plain.labels(fields.get("labels", {}), f"{where}.labels"),
        zone=_zone(fields.get("timezone", "UTC"), f"{where}.timezone"),
        pairs=plain.flag(fields.get("pairs", False), f"{where}.pairs"),
        gateway=plain.flag(fields.get("gateway", False), f"{where}.gateway"),
        habit=_habit(fields.get("presence", {}), f"{where}.presence"),
        link=link,
        link_spread=spread,
        flash_faults=_share(faults, "flash", f"{where}.faults"),
        power_cuts=_share(faults, "power_cut", f"{where}.faults"),
        health_s=plain.positive_duration(fields.get("health", 60), f"{where}.health"),
    )


def _habit(value: object, where: str) -> Habit:
    fields = plain.mapping(value, where)
    plain.known(fields, ("share", "hours", "else", "spell", "outages", "asleep"), where)
    outages = plain.mapping(fields.get("outages", {}), f"{where}.outages")
    plain.known(outages, ("share", "spell"), f"{where}.outages")
    asleep = plain.mapping(fields.get("asleep", {}), f"{where}.asleep")
    plain.known(asleep, ("share", "until"), f"{where}.asleep")
    if asleep:
        _needed(asleep, ("share", "until"), f"{where}.asleep")
    if "else" in fields and "hours" not in fields:
        raise bad(f"{where}.else", "be left out where there are no hours")
    return Habit(
        share=_share(fields, "share", where, 1.0),
        hours=hours_of(fields["hours"], f"{where}.hours") if "hours" in fields else (),
        rest=_share(fields, "else", where),
        spell_h=_hours(fields.get("spell", "6h"), f"{where}.spell"),
        outages=Outages(
            share=_share(outages, "share", f"{where}.outages"),
            spell_h=_hours(outages.get("spell", "8h"), f"{where}.outages.spell"),
        ),
        asleep=_share(asleep, "share", f"{where}.asleep"),
        asleep_s=plain.duration(asleep.get("until", 0), f"{where}.asleep.until"),
    )


def _link(value: object, where: str) -> tuple[Link, float]:
    fields = plain.mapping(value, where)
    plain.known(fields, ("mbit", "spread", "latency", "loss", "duplication"), where)
    link = Link(
        bytes_per_s=plain.number(fields.get("mbit", 20), f"{where}.mbit", 0.001, 100_000) * 1e6 / 8,
        latency_s=plain.duration(fields.get("latency", 0.2), f"{where}.latency"),
        loss=_share(fields, "loss", where, most=0.9),
        duplication=_share(fields, "duplication", where),
    )
    return link, plain.number(fields.get("spread", 1), f"{where}.spread", 1, 100)


def _release(value: object, where: str) -> Release:
    fields = plain.mapping(value, where)
    plain.known(fields, ("version", "image", "hardware", "defects"), where)
    _needed(fields, ("version",), where)
    hardware = plain.sequence(fields.get("hardware", []), f"{where}.hardware", 0, 16)
    return Release(
        version=_text(fields["version"], f"{where}.version"),
        size_bytes=_size(fields.get("image", "32 MB"), f"{where}.image"),
        faults=_list(fields.get("defects", []), f"{where}.defects", 0, 16, _fault),
        hardware=tuple(plain.name(one, f"{where}.hardware[{n}]") for n, one in enumerate(hardware)),
    )


def _fault(value: object, where: str) -> Fault:
    fields = plain.mapping(value, where)
    plain.known(fields, ("kind", "share", "hardware", "after"), where)
    _needed(fields, ("kind",), where)
    kind = plain.one_of(fields["kind"], f"{where}.kind", DEFECTS)
    if ("after" in fields) != (kind == "crashes"):
        raise bad(f"{where}.after" if "after" in fields else where, "say `after` for crashes, and for nothing else")
    return Fault(
        kind=kind,
        share=_share(fields, "share", where, 1.0),
        hardware=plain.name(fields["hardware"], f"{where}.hardware") if "hardware" in fields else "",
        after_s=plain.positive_duration(fields["after"], f"{where}.after") if "after" in fields else 0.0,
    )


def _start(value: object, where: str, root: Node) -> Start:
    fields = plain.mapping(value, where)
    plain.known(fields, ("file", "after"), where)
    _needed(fields, ("file",), where)
    text = _text(fields["file"], f"{where}.file")
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


def line_in(root: Node, where: str) -> int:
    """How many lines of the file are before the text at `where`: it begins in the line after its key when it is a block."""
    line, node = line_of(root, where) or 1, _node(root, where)
    return line if isinstance(node, ScalarNode) and node.style in ("|", ">") else line - 1


def _node(root: Node, where: str) -> Node | None:
    node: Node | None = root
    for step in re.findall(r"[^.\[\]]+", where):
        if isinstance(node, MappingNode):
            node = next((below for key, below in node.value if key.value == step), None)
        else:
            node = None if node is None else node.value[int(step)]
    return node


def _act(value: object, where: str) -> Act:
    fields = plain.mapping(value, where)
    plain.known(fields, ("campaign", "verb", "after"), where)
    _needed(fields, ("campaign", "verb", "after"), where)
    verbs = [str(verb) for verb in (Verb.PAUSE, Verb.RESUME, Verb.ABORT, Verb.ROLLBACK)]
    return Act(
        campaign=plain.name(fields["campaign"], f"{where}.campaign"),
        verb=Verb(plain.one_of(fields["verb"], f"{where}.verb", verbs)),
        after_s=plain.duration(fields["after"], f"{where}.after"),
    )


def _churn(value: object, where: str) -> Churn:
    fields = plain.mapping(value, where)
    plain.known(fields, ("do", "fleet", "share", "after", "within"), where)
    _needed(fields, ("do", "fleet", "share"), where)
    return Churn(
        kind=plain.one_of(fields["do"], f"{where}.do", CHURN),
        lot=plain.name(fields["fleet"], f"{where}.fleet"),
        share=_share(fields, "share", where),
        after_s=plain.duration(fields.get("after", 0), f"{where}.after"),
        within_s=plain.duration(fields.get("within", 0), f"{where}.within"),
    )


def _deed(value: object, where: str) -> Deed:
    fields = plain.mapping(value, where)
    plain.known(fields, ("do", "after", "for"), where)
    _needed(fields, ("do", "after"), where)
    kind = plain.one_of(fields["do"], f"{where}.do", DEEDS)
    if ("for" in fields) != (kind == "hostile"):
        raise bad(f"{where}.for" if "for" in fields else where, "say `for` for hostile, and for nothing else")
    return Deed(
        kind=kind,
        after_s=plain.duration(fields["after"], f"{where}.after"),
        for_s=plain.positive_duration(fields["for"], f"{where}.for") if "for" in fields else 0.0,
    )


def _expectation(value: object, where: str) -> Expectation:
    fields = plain.mapping(value, where)
    plain.known(fields, ("campaign", "states", "verified_at_least", "harmed_at_most"), where)
    _needed(fields, ("campaign",), where)
    states = plain.sequence(fields.get("states", []), f"{where}.states", 0, 16)
    most = fields.get("harmed_at_most")
    return Expectation(
        campaign=plain.name(fields["campaign"], f"{where}.campaign"),
        states=tuple(
            plain.one_of(one, f"{where}.states[{n}]", [str(state) for state in CampaignState])
            for n, one in enumerate(states)
        ),
        verified_at_least=_share(fields, "verified_at_least", where),
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


def _list(value: object, where: str, least: int, most: int, parse: Callable[[object, str], Any]) -> tuple[Any, ...]:
    items = plain.sequence(value, where, least, most)
    return tuple(parse(item, f"{where}[{index}]") for index, item in enumerate(items))


def _needed(fields: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in fields:
            raise bad(where or key, f"have the key {key}" if where else "be given")


def _share(fields: Mapping[str, Any], key: str, where: str, usual: float = 0.0, most: float = 1.0) -> float:
    value = fields.get(key, usual)
    return 1.0 if value == "100%" and most == 1 else plain.share(value, f"{where}.{key}", 0, most)


def _hours(value: object, where: str) -> int:
    seconds = plain.positive_duration(value, where)
    if seconds % 3600:
        raise bad(where, "be whole hours, such as 6h")
    return int(seconds // 3600)


def _size(value: object, where: str) -> int:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise bad(where, "be a size such as 32 MB")
    return int(float(match[1]) * _UNIT[match[2]])


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise bad(where, "be a text")
    return value


def _zone(value: object, where: str) -> str:
    try:
        ZoneInfo(str(value))
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise bad(where, "be the name of a time zone, such as Europe/Berlin") from error
    return str(value)


def _moment(value: object, where: str) -> float:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise bad(where, "be a moment with its offset from UTC, such as 2026-03-02T00:00+00:00")
    return moment.timestamp()
