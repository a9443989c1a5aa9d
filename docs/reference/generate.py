"""Writes the parts of the reference that the code knows best: commands, messages, topics and ready-made strategies.

Each such part stands between `<!-- generated: NAME -->` and `<!-- end -->` in its page; people write the rest.
`python docs/reference/generate.py` writes them anew; a test fails while a page and the code differ.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml
from msgspec import inspect as ms

from device_agent.cli import _parser
from firmware import checks, manifest
from firmware.protocol import (
    endpoints,
    enrol,
    enrol_key,
    logs,
    metrics,
    order,
    packages,
    permit,
    renew,
    report,
    topics,
    words,
)
from server.cli import GROUP, cli
from server.planner.policy import READY_MADE

HERE = Path(__file__).parent
_MARKED = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
WORDS = {
    "id": words.ID_PATTERN,
    "version": words.VERSION_PATTERN,
    "path": words.PATH_PATTERN,
    "sha256": words.SHA256_PATTERN,
    "nonce": words.TOKEN_PATTERN,
    "kind": words.KIND_PATTERN,
}
_NAMED = {pattern: name for name, pattern in WORDS.items()}
SIGNED = (order.Order, permit.Ask, permit.Permit, report.Report, report.Ack, logs.LogRequest, logs.LogPart)
PARTS = (
    order.Counter,
    order.FileRef,
    order.OrderedImage,
    order.DeltaRef,
    order.ReleaseRef,
    order.WrappedKey,
    order.Span,
    order.CodeKey,
    report.Reason,
    report.Running,
    report.RunningImage,
    report.Inventory,
    report.EncryptionKey,
    metrics.Metrics,
    metrics.MetricHour,
    metrics.Told,
    packages.PackagesPart,
)
UNSIGNED = (report.Progress, report.Presence)
MANIFEST = (
    manifest.Manifest,
    manifest.Image,
    checks.HealthCheck,
    checks.Watch,
    manifest.Requires,
    manifest.Sbom,
    manifest.Encrypted,
    manifest.Data,
)
RENEWAL = (renew.Challenge, renew.RenewRequest, renew.Renewal, renew.RenewResponse)
ENDPOINTS = (endpoints.Endpoints, endpoints.Endpoint)
ENROLMENT = (
    enrol.Claim,
    enrol.EnrolRequest,
    enrol.Proof,
    enrol.EnrolResponse,
    enrol_key.Introduction,
    enrol_key.KeyEnrolRequest,
    enrol_key.KeyProof,
)


def filled(page: str) -> str:
    """The page with every generated part written anew."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{GENERATORS[found[2]]()}\n\n{found[3]}", page)


def pages() -> list[Path]:
    """The pages with generated parts."""
    return [path for path in sorted(HERE.glob("*.md")) if _MARKED.search(path.read_text())]


def server_commands() -> Iterator[tuple[str, click.Command]]:
    """Every `otaria` command that does something, by its words."""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        yield from _leaves(f"otaria {point.name}", point.load())


def agent_commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every `otaria-agent` command, by its words."""
    for action in _parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, parser in action.choices.items():
                yield f"otaria-agent {name}", parser


def _leaves(words_before: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield words_before, command
        return
    context = click.Context(command)
    for name in sorted(command.list_commands(context)):
        child = command.get_command(context, name)
        if child is not None:
            yield from _leaves(f"{words_before} {name}", child)


def _server_cli() -> str:
    parts = []
    for name, command in server_commands():
        group = _group_options(name)
        text, example = _described(command.help or "")
        rows = [*group, *map(_click_row, command.params)]
        parts.append(_command(name, text, example, rows))
    return "\n\n".join(parts)


def _group_options(name: str) -> list[tuple[str, str, str]]:
    """The options that a group takes before its command."""
    group: Any = cli.get_command(click.Context(cli), name.split()[1])
    return [_click_row(param) for param in group.params] if isinstance(group, click.Group) else []


def _click_row(param: click.Parameter) -> tuple[str, str, str]:
    if isinstance(param, click.Argument):
        return param.make_metavar(click.Context(cli)), "", "required" if param.required else ""
    if not isinstance(param, click.Option):
        raise TypeError(f"The generator doesn't know how to describe {param}.")
    names = ", ".join(param.opts)
    value = "" if param.is_flag else " " + param.make_metavar(click.Context(cli))
    variable = f" Or `{param.envvar}` in the environment." if param.envvar else ""
    shown = param.default if isinstance(param.default, str | int | float) and not param.is_flag else ""
    state = "required" if param.required else str(shown)
    return f"{names}{value}", (param.help or "") + (" May be repeated." if param.multiple else "") + variable, state


def _agent_cli() -> str:
    top = [_argparse_row(action) for action in _parser()._actions if action.option_strings and action.dest != "help"]
    parts = []
    for name, parser in agent_commands():
        example = (parser.epilog or "").removeprefix("Example: ")
        own = [_argparse_row(action) for action in parser._actions if action.dest != "help"]
        parts.append(_command(name, parser.description or "", example, [*top, *own]))
    return "\n\n".join(parts)


def _argparse_row(action: argparse.Action) -> tuple[str, str, str]:
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    value = f" {action.metavar or action.dest.upper()}" if action.option_strings and action.nargs != 0 else ""
    return names + value, action.help or "", "required" if action.required else ""


def _described(text: str) -> tuple[str, str]:
    """A docstring's description and its example."""
    before, _, example = text.partition("Example: ")
    paragraphs = [" ".join(part.split()) for part in before.replace("\b", "").split("\n\n")]
    return "\n\n".join(part for part in paragraphs if part), " ".join(example.split())


def _command(name: str, text: str, example: str, rows: list[tuple[str, str, str]]) -> str:
    out = f"### {name}\n\n{text}\n\n"
    if example:
        out += f"```\n{example}\n```\n\n"
    return out + _table(("option", "what", "default"), [(f"`{names}`", what, state) for names, what, state in rows])


def _words() -> str:
    rows = [(name, f"`{pattern.replace('|', chr(92) + '|')}`") for name, pattern in WORDS.items()]
    return _table(("word", "pattern"), rows)


def _topics() -> str:
    root = f"{topics.ROOT}/{{shard}}/{{agent}}"
    rows = [(f"`{topics.CATALOGUE}`", "server")]
    for leaf in topics.Leaf:
        below = leaf if leaf is topics.Leaf.PRESENCE else f"t/{{target}}/{leaf}"
        rows.append((f"`{root}/{below}`", "agent" if leaf in topics.SENT_BY_AGENT else "server"))
    return _table(("topic", "sent by"), rows)


def _structs(kinds: tuple[type[msgspec.Struct], ...]) -> str:
    return "\n\n".join(_struct(kind) for kind in kinds)


def _struct(kind: type[msgspec.Struct]) -> str:
    info: Any = ms.type_info(kind)
    written = [
        field for field in info.fields if field.encode_name != "other"
    ]  # which holds what a manifest has besides
    rows = [(f"`{field.encode_name}`", _type(field.type), _default(field)) for field in written]
    doc = " ".join((kind.__doc__ or "").split())
    return f"### {kind.__name__}\n\n{doc}\n\n" + _table(("field", "type and bound", "when left out"), rows)


def _default(field: ms.Field) -> str:
    if field.required:
        return "refused"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, Enum):
        value = value.value
    return "none" if value is None else f"`{msgspec.json.encode(value).decode()}`"


def _type(kind: ms.Type) -> str:
    writer = _TYPES.get(type(kind))
    if writer is None:
        raise TypeError(f"The generator doesn't know how to describe {kind}.")
    return writer(kind)


def _integer(kind: Any) -> str:
    if kind.ge is not None and kind.ge == kind.le:
        return f"always {kind.ge}"
    return f"integer, {_number(kind.ge)} to {_number(kind.le)}" if kind.le is not None else "integer"


def _float(kind: Any) -> str:
    least = f"above {kind.gt:g}" if kind.gt is not None else f"at least {kind.ge:g}"
    return f"number, {least}, at most {kind.le:g}"


def _number(value: int) -> str:
    powers = {1 << 40: "2^40", (1 << 53) - 1: "2^53 - 1"}
    return powers.get(value, str(value))


def _text(kind: Any) -> str:
    if kind.pattern in _NAMED:
        return _NAMED[kind.pattern]
    if kind.pattern is not None and kind.pattern.startswith("^-----BEGIN"):
        return f"PEM text, at most {kind.max_length} characters"
    if kind.pattern is not None:
        return f"text like `{kind.pattern.replace('|', chr(92) + '|')}`"
    if kind.max_length is None:
        return "text"
    return f"text, at most {kind.max_length} characters"


def _list(kind: Any) -> str:
    return f"list of {_type(kind.item_type)}{_items(kind)}"


def _dict(kind: Any) -> str:
    return f"object: {_type(kind.key_type)} → {_type(kind.value_type)}{_items(kind)}"


def _items(kind: Any) -> str:
    least = f"{kind.min_length} to " if kind.min_length else "at most "
    return f"; {least}{kind.max_length} entries" if kind.max_length is not None else ""


def _union(kind: Any) -> str:
    return " or ".join("null" if isinstance(one, ms.NoneType) else _type(one) for one in kind.types)


_TYPES: Mapping[type[Any], Callable[[Any], str]] = {
    ms.IntType: _integer,
    ms.FloatType: _float,
    ms.StrType: _text,
    ms.BytesType: lambda kind: "bytes, as base64",
    ms.BoolType: lambda kind: "true or false",
    ms.ListType: _list,
    ms.DictType: _dict,
    ms.UnionType: _union,
    ms.AnyType: lambda kind: "anything",
    ms.StructType: lambda kind: f"[{kind.cls.__name__}](#{kind.cls.__name__.lower()})",
    ms.EnumType: lambda kind: "one of " + ", ".join(f"`{one.value}`" for one in kind.cls),
    ms.LiteralType: lambda kind: "one of " + ", ".join(f"`{one}`" for one in sorted(kind.values)),
}


def _ready_made() -> str:
    return "\n\n".join(
        f"```yaml\n{yaml.safe_dump(dict(strategy), sort_keys=False, width=100).rstrip()}\n```"
        for strategy in READY_MADE.values()
    )


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


GENERATORS: Mapping[str, Callable[[], str]] = {
    "otaria": _server_cli,
    "otaria-agent": _agent_cli,
    "words": _words,
    "topics": _topics,
    "signed": lambda: _structs(SIGNED),
    "parts": lambda: _structs(PARTS),
    "unsigned": lambda: _structs(UNSIGNED),
    "manifest": lambda: _structs(MANIFEST),
    "enrolment": lambda: _structs(ENROLMENT),
    "renewal": lambda: _structs(RENEWAL),
    "endpoints": lambda: _structs(ENDPOINTS),
    "ready-made": _ready_made,
}

if __name__ == "__main__":
    for path in pages():
        path.write_text(filled(path.read_text()))
        print(path)
