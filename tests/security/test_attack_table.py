"""The table of attacks in the docs and the tests are the same list: neither loses an entry unnoticed."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "explanation" / "trust.md"
ATTACKS = sorted(Path(__file__).parent.glob("test_*_attacks.py"))
NAMED_IN_THE_FIELD_NOTES = (
    "arbitrary software",
    "rollback",
    "indefinite freeze",
    "fast-forward",
    "mix and match",
    "endless data",
    "wrong software",
    "slow retrieval",
    "replay of an order to another device",
    "replay of an order a second time",
    "replay of a report",
    "key compromise below the threshold",
)


def names_in(file: Path) -> set[str]:
    """Names of the test functions in a file."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    found = {node.name for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, functions)}
    return {name for name in found if name.startswith("test_")}


CONTROLS = {
    "test_a_device_goes_where_the_office_says",
    "test_the_same_again_is_no_proposal_and_none_needs_clearing",
    "test_endpoints_of_a_later_version_of_otaria_are_not_taken",
}


def named() -> set[str]:
    return set(re.findall(r"`(test_\w+)`", PAGE.read_text()))


def test_every_test_that_the_page_names_is_there() -> None:
    there = set().union(*(names_in(file) for file in TESTS.rglob("test_*.py")))
    assert named() - there == set()


@pytest.mark.parametrize("file", ATTACKS, ids=lambda file: file.stem)
def test_every_attack_that_is_tried_is_on_the_page(file: Path) -> None:
    """Controls, which show what goes through beside the attacks, are no attacks."""
    attacks = {name for name in names_in(file) if "honest_order" not in name}
    assert attacks - CONTROLS - named() == set()


def test_the_attack_files_are_found() -> None:
    assert {file.stem for file in ATTACKS} >= {"test_catalogue_attacks", "test_order_attacks", "test_report_attacks"}


@pytest.mark.parametrize("attack", NAMED_IN_THE_FIELD_NOTES)
def test_every_attack_of_the_literature_has_a_row_with_a_test(attack: str) -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {attack} |")]
    assert rows
    assert all("`test_" in row for row in rows)
