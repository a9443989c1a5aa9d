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
from yaml.nodes import MappingNode

from firmware.errors import RefusedError
from firmware.protocol.words import ID_PATTERN, VERSION_PATTERN
from server.planner.policy import parse_strategy
from server.ports import CampaignSpec, Selection

MAX_BYTES = 256 * 1024
MAX_ALIASES = 64
KIND = "bad-campaign"
_KEYS = ("name", "product", "version", "selection", "start_at", "strategy")
_ID = re.compile(ID_PATTERN)
_VERSION = re.compile(VERSION_PATTERN)


def parse_campaign(text: str) -> CampaignSpec:
    """Parse a campaign file; raises `RefusedError` (`bad-campaign`, `bad-strategy`)."""
    fields = _load(text)
    unknown = sorted(str(key)[:64] for key in fields if key not in _KEYS)
    if unknown:
        raise _bad(f"A campaign has no key {unknown[0]}; its keys are {', '.join(_KEYS)}.")
    if "strategy" not in fields:
        raise _bad("The campaign names no strategy; write `strategy: standard` or describe one.")
    return CampaignSpec(
        name=_matching(fields, "name", _ID, "lower-case letters, digits and dashes, at most 63"),
        product=_matching(fields, "product", _ID, "the product's name: lower-case letters, digits and dashes"),
        version=_matching(fields, "version", _VERSION, 'a version in quotes, such as "2.1"'),
        strategy=parse_strategy(fields["strategy"]),
        selection=Selection(labels=_labels(fields.get("selection", {}))),
        start_at=_start_at(fields.get("start_at")),
    )


class _StrictLoader(yaml.SafeLoader):
    """Plain values only; a repeated key is an error instead of the last one winning, and aliases are few."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise yaml.constructor.ConstructorError(None, None, "too many aliases", self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _load(text: str) -> Mapping[str, Any]:
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise _bad(f"The campaign file is larger than {MAX_BYTES // 1024} KiB; a campaign needs a page at most.")
    try:
        value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (it is a SafeLoader, and stricter)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" in line {mark.line + 1}" if mark else ""
        raise _bad(f"The campaign file is not valid YAML{line}: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _bad(f"The campaign file is not valid YAML: {str(error).splitlines()[0][:200]}.") from error
    if not isinstance(value, dict):
        raise _bad(f"A campaign file is a mapping with the keys {', '.join(_KEYS)}.")
    return value


def _matching(fields: Mapping[str, Any], key: str, pattern: re.Pattern[str], must: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not pattern.match(value):
        raise _bad(f"`{key}` must be {must}.")
    return value


def _start_at(value: object) -> float | None:
    """POSIX seconds of a moment with its offset; YAML makes a moment of a text that is one."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        moment = datetime(1970, 1, 1)  # noqa: DTZ001 (refused below)
    if moment.tzinfo is None:
        raise _bad("`start_at` must be a moment with its offset from UTC, such as 2026-12-01T02:00+01:00.")
    return moment.timestamp()


def _labels(selection: object) -> dict[str, str]:
    if not isinstance(selection, dict) or not set(selection) <= {"labels"}:
        raise _bad("`selection` must be a mapping with `labels`, such as {labels: {site: berlin}}.")
    labels = selection.get("labels", {})
    if not isinstance(labels, dict) or len(labels) > 64:
        raise _bad("`selection.labels` must be a mapping of at most 64 labels, such as {site: berlin}.")
    for name, value in labels.items():
        if not isinstance(value, str) or len(name) > 64 or len(value) > 128:
            raise _bad(f"The label {name[:64]} must be text in quotes, at most 128 characters.")
    return labels


def _bad(text: str) -> RefusedError:
    return RefusedError(KIND, text)
