"""The planner's rows, events and commands are structs, which `dataclasses.replace` and its like only fail on when they run."""

import ast
from pathlib import Path
from typing import get_args

import pytest
from msgspec import Struct

from server.planner import commands, decision, events, rows
from server.planner.decision import Decision
from server.planner.slices import Slice

ROOT = Path(__file__).parents[2] / "server"
FOR_DATACLASSES = frozenset({"replace", "asdict", "astuple", "fields"})
OF_DATACLASSES = {
    "planner/differences.py": "strategies",
    "planner/gate_policy.py": "the gates of a strategy",
    "planner/revising.py": "strategies",
    "planner/selection.py": "selections",
    "campaigns/deltas.py": "what the process that makes deltas is told",
    "campaigns/expecting.py": "files of campaigns, and strategies",
    "campaigns/legs.py": "legs",
    "campaigns/revising.py": "plans of a revision",
    "campaigns/service.py": "views and strategies",
    "storage/campaigns.py": "views and selections",
    "storage/fleet.py": "what targets announced",
    "storage/identities.py": "agents",
    "storage/logs.py": "asks for logs",
    "storage/releases.py": "releases",
}
"""The modules that use those functions, and on what."""


def test_only_what_works_on_dataclasses_asks_for_their_functions() -> None:
    users = {
        str(path.relative_to(ROOT))
        for part in ("planner", "campaigns", "storage")
        for path in sorted((ROOT / part).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if asks(node)
    }
    assert users == set(OF_DATACLASSES)


def asks(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "dataclasses" and bool(FOR_DATACLASSES & {alias.name for alias in node.names})
    return isinstance(node, ast.Attribute) and node.attr == "__dataclass_fields__"


@pytest.mark.parametrize("value", [*get_args(rows.Row), *get_args(events.Event), *get_args(commands.Command)])
def test_rows_events_and_commands_are_frozen_structs(value: type[Struct]) -> None:
    assert issubclass(value, Struct)
    assert value.__struct_config__.frozen
    assert not value.__struct_config__.gc


def test_so_is_what_holds_them() -> None:
    for value in (Slice, Decision, *get_args(decision.Change)):
        assert value.__struct_config__.frozen
