"""Dialects from YAML, read strictly. A refusal names file, line and key, and says what belongs there.

Needs PyYAML (extra `appliances`), which is imported when a dialect is read.
"""

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from device_agent.appliances.dialect import PLACES, Dialect, Exchange
from firmware.errors import RefusedError, UnavailableError

KIND = "bad-dialect"
MAX_BYTES = 256 * 1024
BUILT_IN = ("dual-image", "iosxe", "openwrt", "sonic")
_AT = re.compile(r" - at `(\$[^`]*)`\Z")
_PART = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_PARTS = (
    "identify",
    "facts",
    "precheck",
    "install",
    "verify_staged",
    "arm",
    "disarm",
    "standby",
    "standby_back",
    "activate",
    "commit",
    "rollback",
)
_NEEDED = {"identify": ("serial", "model"), "facts": ("running", "boot")}


def built_in(name: str) -> Dialect:
    """A dialect that comes with the agent."""
    if name not in BUILT_IN:
        raise RefusedError(KIND, f"There is no dialect {name[:64]!r}; there are {', '.join(BUILT_IN)}, or name a file.")
    return parse_dialect((resources.files("device_agent.appliances") / "dialects" / f"{name}.yaml").read_text(), name)


def load_dialect(directory: Path, named: str) -> Dialect:
    """A dialect that comes with the agent, or a YAML file (relative to `directory`). Raises `RefusedError` (`bad-dialect`)."""
    if not named.endswith((".yaml", ".yml")):
        return built_in(named)
    path = directory / named
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise UnavailableError(KIND, f"The dialect {path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise RefusedError(KIND, f"The dialect {path} is not UTF-8.") from error
    return parse_dialect(text, str(path))


def parse_dialect(text: str, where: str) -> Dialect:
    """The dialect in YAML text; `where` names it in errors."""
    if len(text) > MAX_BYTES:
        raise RefusedError(KIND, f"{where}: a dialect has at most {MAX_BYTES // 1024} KiB.")
    value, lines = _read(text, where)
    try:
        dialect = msgspec.convert(value, Dialect, strict=True)
    except msgspec.ValidationError as error:
        at = _AT.search(str(error))
        key = at.group(1) if at else "$"
        raise _refused(where, lines, key, _AT.sub("", str(error))) from error
    for key, problem in _problems(dialect):
        raise _refused(where, lines, key, problem)
    return dialect


def _refused(where: str, lines: dict[str, int], key: str, problem: str) -> RefusedError:
    """With the line of the key, or of the nearest one around it."""
    place = key
    while place not in lines and place != "$":
        place = place[: place.rindex("[") if place.endswith("]") else place.rindex(".")]
    named = key.removeprefix("$").removeprefix(".") or "the file"
    return RefusedError(KIND, f"{where}, line {lines.get(place, 1)}, {named}: {problem}."[:1024])


def _read(text: str, where: str) -> tuple[Any, dict[str, int]]:
    """Plain values, and the line of each key. Aliases, tags and repeated keys are refused."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            raise RefusedError(KIND, f"{where}: the file is empty.")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise RefusedError(KIND, f"{where}: write it out; a dialect has no aliases.")
        lines: dict[str, int] = {}
        _note(node, "$", lines, where)
        return yaml.safe_load(text), lines
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RefusedError(KIND, f"{where}, line {line}: this is no YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RefusedError(KIND, f"{where}: this is no YAML: {str(error)[:200]}.") from error


def _note(node: Any, place: str, lines: dict[str, int], where: str) -> None:
    lines[place] = node.start_mark.line + 1
    if node.id == "sequence":
        for number, one in enumerate(node.value):
            _note(one, f"{place}[{number}]", lines, where)
    elif node.id == "mapping":
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.id != "scalar" or key.tag != "tag:yaml.org,2002:str":
                raise RefusedError(KIND, f"{where}, line {line}: a key must be plain text.")
            if f"{place}.{key.value}" in lines:
                raise RefusedError(KIND, f"{where}, line {line}: {key.value} is given twice.")
            _note(value, f"{place}.{key.value}", lines, where)
            lines[f"{place}.{key.value}"] = line


def _problems(dialect: Dialect) -> Iterator[tuple[str, str]]:
    """What types can't say, with its key."""
    for key, exchange in exchanges_of(dialect):
        yield from _exchange_problems(key, exchange, dialect)
    for key, patterns in (("$.session.errors", dialect.session.errors), ("$.ignore", dialect.ignore)):
        for number, one in enumerate(patterns):
            yield from _regex(f"{key}[{number}]", one, groups=False)
    yield from _regex("$.hashing.pattern", dialect.hashing.pattern, groups=True)
    for key, template in (
        ("$.hashing.run", dialect.hashing.run),
        ("$.upload.to", dialect.upload.to),
        ("$.upload.path", dialect.upload.path),
    ):
        yield from _template(key, template)
    for part, needed in _NEEDED.items():
        found = {name for one in getattr(dialect, part) for name in one.find}
        for name in needed:
            if name not in found:
                yield f"$.{part}", f"one of its commands has to `find` {name}"
    yield from _whole(dialect)


def _whole(dialect: Dialect) -> Iterator[tuple[str, str]]:
    """What belongs together."""
    can = dialect.capabilities
    if dialect.session.kind == "prompt" and not dialect.session.prompt:
        yield "$.session", "a session of kind prompt needs a `prompt`"
    if dialect.session.prompt:
        yield from _regex("$.session.prompt", dialect.session.prompt, groups=False)
    if can.dual_image and not dialect.rollback:
        yield "$.capabilities.dual_image", "a box that keeps the old image needs a `rollback`"
    if not can.dual_image and can.no_return != "activate":
        yield "$.capabilities.no_return", "a box with one image can't go back after `activate`"
    if can.standby and not (dialect.standby and dialect.standby_back):
        yield "$.capabilities.standby", "a second supervisor needs a `standby` and a `standby_back`"
    if (can.trial_boot or can.auto_revert) and not dialect.commit:
        yield "$.commit", "a box that goes back by itself needs a `commit`"
    if not any(one.drops for one in dialect.activate):
        yield "$.activate", "one of its commands ends the connection, and has to say `drops: true`"


def exchanges_of(dialect: Dialect) -> Iterator[tuple[str, Exchange]]:
    """Every command of the dialect with its key."""
    for part in _PARTS:
        for number, one in enumerate(getattr(dialect, part)):
            yield f"$.{part}[{number}]", one
    for number, one in enumerate(dialect.hashing.remove):
        yield f"$.hashing.remove[{number}]", one
    yield "$.backup", dialect.backup
    for name, one in dialect.compare.items():
        yield f"$.compare.{name}", one


def _exchange_problems(key: str, one: Exchange, dialect: Dialect) -> Iterator[tuple[str, str]]:
    yield from _template(f"{key}.run", one.run)
    for name in ("expect", "refuse", "already"):
        for number, pattern in enumerate(getattr(one, name)):
            yield from _regex(f"{key}.{name}[{number}]", pattern, groups=False)
    for name in ("find", "each"):
        for what, pattern in getattr(one, name).items():
            yield from _regex(f"{key}.{name}.{what}", pattern, groups=True)
    for number, answer in enumerate(one.answers):
        yield from _regex(f"{key}.answers[{number}].when", answer.when, groups=False)
    if one.until is not None:
        yield from _regex(f"{key}.until", one.until, groups=False)
    if one.detached and (dialect.session.kind != "commands" or "'" in one.run or one.drops or one.answers):
        yield f"{key}.detached", "only a plain command without quotes, questions or `drops` runs detached, in a shell"


def _regex(key: str, pattern: str, *, groups: bool) -> Iterator[tuple[str, str]]:
    """Templates may stand in patterns: their values are words, and their braces no repetition."""
    try:
        found = re.compile(filled(pattern, dict.fromkeys(PLACES, "1")))
    except (re.error, RecursionError, OverflowError) as error:
        yield key, f"{pattern!r} is no pattern: {error}"
        return
    if groups and found.groups < 1:
        yield key, f"{pattern!r} needs a group (…) around the value"


def _template(key: str, template: str) -> Iterator[tuple[str, str]]:
    for name in re.findall(r"\{([a-z_]+)\}", template):
        if name not in PLACES:
            yield key, f"there is no {{{name}}}; there are {', '.join(f'{{{place}}}' for place in PLACES)}"


def filled(template: str, values: dict[str, str], *, as_pattern: bool = False) -> str:
    """The template with its values. Those in patterns are meant letter by letter."""
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", re.escape(value) if as_pattern else value)
    return template
