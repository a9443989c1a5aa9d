"""Campaign files: YAML that people write, read strictly. Every refusal names the line or the place and what to write there.

```yaml
name: spring-rollout
product: lamp
version: "2.1"
selection:            # all of these labels; left out: every target whose hardware fits
  labels: {site: berlin}
strategy: standard    # a ready-made one, or a mapping of your own
```
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node

from firmware.errors import RefusedError
from firmware.protocol.words import ID_PATTERN, VERSION_PATTERN
from server.campaigns.places import line_of
from server.campaigns.selection_file import selection_of
from server.planner.plain import StrategyError
from server.planner.policy import parse_strategy
from server.ports import CampaignSpec

MAX_BYTES = 256 * 1024
MAX_ALIASES = 64
KIND = "bad-campaign"
KEYS = ("name", "product", "version", "selection", "start_at", "strategy")
_ID = re.compile(ID_PATTERN)
_VERSION = re.compile(VERSION_PATTERN)


class CampaignFileError(RefusedError):
    """A campaign file is refused. `where`: the place in it, such as `strategy.cohorts[1]`; empty: the file as a whole. `line`: of
    that place, from 1; `bare`: the sentence without the line."""

    def __init__(self, kind: str, text: str, where: str = "", line: int | None = None, *, whole: str = "") -> None:
        super().__init__(kind, whole or (text if line is None else f"Line {line}: {text}"))
        self.where, self.line, self.bare = where, line, text


def parse_campaign(text: str) -> CampaignSpec:
    """Parse a campaign file; raises `CampaignFileError` (`bad-campaign`, `bad-strategy`)."""
    fields, root = _load(text)
    try:
        return _campaign(fields)
    except CampaignFileError as error:
        raise CampaignFileError(KIND, error.bare, error.where, line_of(root, error.where)) from error
    except StrategyError as error:
        where = f"strategy.{error.where}"
        raise CampaignFileError(error.kind, error.text, where, line_of(root, where)) from error


def _campaign(fields: Mapping[str, Any]) -> CampaignSpec:
    unknown = sorted(str(key)[:64] for key in fields if key not in KEYS)
    if unknown:
        raise _bad(f"A campaign has no key {unknown[0]}; its keys are {', '.join(KEYS)}.", unknown[0])
    if "strategy" not in fields:
        raise _bad("The campaign names no strategy; write `strategy: standard` or describe one.")
    spec = CampaignSpec(
        name=_matching(fields, "name", _ID, "lower-case letters, digits and dashes, at most 63"),
        product=_matching(fields, "product", _ID, "the product's name: lower-case letters, digits and dashes"),
        version=_matching(fields, "version", _VERSION, 'a version in quotes, such as "2.1"'),
        strategy=parse_strategy(fields["strategy"]),
        selection=selection_of(fields.get("selection", {}), _bad),
        start_at=_start_at(fields["start_at"]) if "start_at" in fields else None,
    )
    if spec.selection.is_live and spec.strategy.approvals.rules:
        text = (
            "A live selection grows after it was agreed to, so `approvals.rules` could not be kept; say `need` instead."
        )
        raise _bad(text, "selection.membership")
    return spec


class PlainLoader(yaml.SafeLoader):
    """Plain values only; a key is plain text, and a repeated one is an error instead of the last one winning."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _StrictLoader(PlainLoader):
    """The same, with few aliases."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise yaml.constructor.ConstructorError(None, None, "too many aliases", self.get_mark())
        return super().compose_node(parent, index)


def _load(text: str) -> tuple[Mapping[str, Any], Node]:
    """What the file says, and the same with its lines."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise _bad(f"The campaign file is larger than {MAX_BYTES // 1024} KiB; a campaign needs a page at most.")
    try:
        loader = _StrictLoader(text)
        root = loader.get_single_node()
        value = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        whole = f"The campaign file is not valid YAML{f' in line {line}' if line else ''}: {error.problem}."
        raise CampaignFileError(KIND, f"This is not valid YAML: {error.problem}.", "", line, whole=whole) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _bad(f"The campaign file is not valid YAML: {str(error).splitlines()[0][:200]}.") from error
    if root is None or not isinstance(value, dict):
        raise _bad(f"A campaign file is a mapping with the keys {', '.join(KEYS)}.")
    return value, root


def _matching(fields: Mapping[str, Any], key: str, pattern: re.Pattern[str], must: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not pattern.match(value):
        raise _bad(f"`{key}` must be {must}.", key)
    return value


def _start_at(value: object) -> float:
    """POSIX seconds of a moment with its offset; YAML makes a moment of a text that is one."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        moment = datetime(1970, 1, 1)  # noqa: DTZ001 (refused below)
    if moment.tzinfo is None:
        raise _bad("`start_at` must be a moment with its offset from UTC, such as 2026-12-01T02:00+01:00.", "start_at")
    return moment.timestamp()


def _bad(text: str, where: str = "") -> CampaignFileError:
    return CampaignFileError(KIND, text, where)
