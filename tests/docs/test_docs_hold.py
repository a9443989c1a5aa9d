"""What the docs tell people to type exists, and their links lead somewhere."""

import argparse
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import jsonschema
import pytest
import yaml

from device_agent.cli import _parser, _UsageError
from device_agent.config import CONFIG_FILE, Config, load_config
from server.campaigns.schema import campaign_schema
from server.campaigns.strategy_file import parse_campaign
from server.cli import cli
from server.cli.release_contents import data_of, health_of
from server.config import merged, validated
from server.planner.policy import parse_strategy
from simulator.virtual.world_file import parse_world

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
FENCE = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(otaria(?:-agent)? [^`\n]+)`")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`[^`\n]*`")
PLACEHOLDERS = {"…", "...", "|"}


def commands(text: str) -> Iterator[str]:
    """Every command line of the two programs: in code blocks, and whole ones in running text."""
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"^(?:\$ )?(?:[A-Z_]+=\S+ )?(otaria(?:-agent)? .*)$", line)
            if found:
                yield found[1]
    yield from INLINE.findall(FENCE.sub("", text))


def words_of(command: str) -> list[str]:
    """The words that the program would get: without redirections, and without what stands for something else."""
    words = shlex.split(command, comments=True)
    for index, word in enumerate(words):
        if re.match(r"^(\d?>{1,2}|&|\|)", word):
            return words[:index]
    return words


def parses(words: list[str]) -> None:
    """Raises when the words are no command line; runs nothing."""
    if words[0] == "otaria-agent":
        _parser().parse_args(words[1:])
        return
    context: click.Context | None = None
    command: click.Command = cli
    left = words[1:]
    while isinstance(command, click.Group):
        context = command.make_context(command.name, left, parent=context, resilient_parsing=False)
        name, child, left = command.resolve_command(context, [*context._protected_args, *context.args])
        assert child is not None, name
        command = child
    check_options(command, left, context)


def check_options(command: click.Command, left: list[str], parent: click.Context | None) -> None:
    """Options exist, take their values, and nothing required is missing; files need not exist."""
    context = click.Context(command, parent=parent, info_name=command.name)
    values, rest, _ = command.make_parser(context).parse_args(list(left))
    assert rest == []
    for param in command.params:
        given = values.get(param.name)
        missing = not isinstance(given, str | bool | list | tuple) or given in ((), [])
        assert not (param.required and missing), f"{param.name} is missing"
        choice = param.type
        is_word = isinstance(given, str) and not given.startswith("$")  # which the shell fills in
        if not missing and not isinstance(choice, click.Path | click.File) and is_word:
            choice.convert(given, param, context)


def lines(page: Path) -> list[str]:
    return [line for line in commands(page.read_text()) if not any(mark in line for mark in PLACEHOLDERS)]


WITH_COMMANDS = [page for page in PAGES if lines(page)]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_in_the_docs_parses(page: Path) -> None:
    wrong = {}
    for line in lines(page):
        words = words_of(line)
        # In running text a command may be named without its arguments: then only the command must exist.
        try:
            parses(words)
        except (click.ClickException, _UsageError, AssertionError) as error:
            if not (is_only_named(words) and line in INLINE.findall(FENCE.sub("", page.read_text()))):
                wrong[line] = str(error) or repr(error)
        except click.exceptions.Exit:
            pass  # --help and --version end at once
    assert wrong == {}


def is_only_named(words: list[str]) -> bool:
    """Whether it is the name of a command or group, perhaps with options that exist, and no more."""
    if words[0] == "otaria-agent":
        (subparsers,) = (one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction))
        named = subparsers.choices.get(words[1])
        known = {name for action in named._actions for name in action.option_strings} if named else set()
        return named is not None and all(word.split("=")[0] in known for word in words[2:] if word.startswith("-"))
    command: click.Command = cli
    rest = words[1:]
    while rest and isinstance(command, click.Group):
        child = command.get_command(click.Context(command), rest[0])
        if child is None:
            return False
        command, rest = child, rest[1:]
    known = {name for param in command.params for name in param.opts}
    return all(word.split("=")[0] in known for word in rest if word.startswith("-"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(CODE.sub("", FENCE.sub("", page.read_text()))):
        if re.match(r"^[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every code block in this language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(str(page.relative_to(ROOT)), text) for page in PAGES for text in fence.findall(page.read_text())]


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_every_campaign_strategy_and_scenario_in_the_docs_is_taken(page: str, text: str) -> None:
    fields = yaml.safe_load(text)
    if "fleet" in fields:
        parse_world(text, page)
        return
    if "product" in fields:
        parse_campaign(text)
        whole = fields
    else:
        strategy = fields.get("strategy", fields)
        parse_strategy(strategy)
        whole = {"name": "a", "product": "b", "version": "1", "strategy": strategy}
    jsonschema.validate(json.loads(json.dumps(whole, default=str)), campaign_schema())


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_every_config_in_the_docs_is_taken(page: str, text: str, tmp_path: Path) -> None:
    raw = tomllib.loads(text)
    assert raw
    if raw.keys() & (set(Config.__struct_fields__) - {"board"}):
        (tmp_path / CONFIG_FILE).write_text(text)
        load_config(tmp_path)
    else:
        validated(merged(raw), base=tmp_path)


@pytest.mark.parametrize(("page", "text"), blocks("json"))
def test_every_file_for_a_release_in_the_docs_is_taken(page: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    assert data_of(path) if '"schema"' in text else health_of(path)[0]


def test_the_guards_can_fail() -> None:
    for bad in (
        "otaria campaign begin x",
        "otaria campaign start",
        "otaria campaign start x --force",
        "otaria release pack --product p --version 1 --counter none --program p.py -o i.img",
        "otaria-agent --dir x stats",
        "otaria-agent enrol --claim x",
    ):
        with pytest.raises((click.ClickException, _UsageError, AssertionError)):
            parses(words_of(bad))
    assert not is_only_named(["otaria", "release", "bild"])
    assert not is_only_named(["otaria", "release", "build", "--nope"])
    assert list(commands("```\n$ A_B=c otaria fleet list > x\n```\nand `otaria serve`")) == [
        "otaria fleet list > x",
        "otaria serve",
    ]
    assert len(WITH_COMMANDS) > 5
    assert min(len(blocks("yaml")), len(blocks("toml")), len(blocks("json"))) > 1
