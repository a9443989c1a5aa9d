"""The fleet's query language: what is read, what is refused, and where."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from server.ports.querying import (
    EVERYBODY,
    MAX_CHARS,
    MAX_DEPTH,
    MAX_TERMS,
    MAX_VALUES,
    All,
    Not,
    Op,
    Some,
    Term,
    Value,
    one,
    parse,
    quoted,
)

FAILED, ULM = one("state", "failed"), one("label", "Ulm", label="site")


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("", EVERYBODY),
        ("  ", EVERYBODY),
        ("state:failed", FAILED),
        ("state=failed", FAILED),
        ("site:Ulm", ULM),
        ('label.site:"Ulm"', ULM),
        ("( ((site : Ulm)) )", ULM),
        ("state:failed site:Ulm", All(parts=(FAILED, ULM))),
        ("state:failed AND site:Ulm", All(parts=(FAILED, ULM))),
        ("state:failed or site:Ulm", Some(parts=(FAILED, ULM))),
        ("state:failed or site:Ulm state:failed", Some(parts=(FAILED, All(parts=(ULM, FAILED))))),
        ("(state:failed or site:Ulm) state:failed", All(parts=(Some(parts=(FAILED, ULM)), FAILED))),
        ("not state:failed site:Ulm", All(parts=(Not(part=FAILED), ULM))),
        ("not (not state:failed)", Not(part=Not(part=FAILED))),
        ("version<2.1", Term(field="version", op=Op.LESS, values=(Value(text="2.1"),))),
        ("version>=2.0-rc1", Term(field="version", op=Op.AT_LEAST, values=(Value(text="2.0-rc1"),))),
        ("state!=failed", Term(field="state", op=Op.IS_NOT, values=(Value(text="failed"),))),
        (
            "hardware:(r1, r2*)",
            Term(field="hardware", op=Op.IS, values=(Value(text="r1"), Value(text="r2", begins=True))),
        ),
        ("label.or:*", Term(field="label", op=Op.IS, label="or", values=(Value(text="", begins=True),))),
        ('id:"a*"', Term(field="id", op=Op.IS, values=(Value(text="a*"),))),
        (r'site:"a \"b\" \\"', one("label", r'a "b" ' + "\\", label="site")),
    ],
)
def test_what_it_reads(text: str, query: object) -> None:
    assert parse(text) == query


@pytest.mark.parametrize(
    ("text", "at", "word"),
    [
        ("verison:1", 1, "no field"),
        ("state:failed and colour:red", 18, "no field"),
        ("state:flying", 7, "known are"),
        ("online:yes", 8, "known are"),
        ("state:fail*", 7, "known are"),
        ("hardware<3", 9, "only versions"),
        ("version<2*", 9, "whole"),
        ("version<", 9, "value is missing"),
        ("version", 8, "comes one of"),
        ("version:(1.0", 13, "parenthesis is missing"),
        ("version:()", 10, "value is missing"),
        ("(version:1", 11, "parenthesis is missing"),
        ("version:1)", 10, "closes nothing"),
        ("version:1, version:2", 10, "not expected"),
        ("and version:1", 1, "no field"),
        ("version:1 or", 13, "field is missing"),
        ("not", 4, "field is missing"),
        ('site:"Ulm', 6, "doesn't end"),
        (r'site:"a\x"', 6, "doesn't end"),
        ("site:a!b", 7, "means nothing"),
        ("label.:x", 1, "no field"),
        ("'; drop table target; --", 1, "no field"),
        ("(" * (MAX_DEPTH + 1) + "site:x", MAX_DEPTH + 1, "nested"),
        ("not " * (MAX_DEPTH + 1) + "site:x", 1 + 4 * MAX_DEPTH, "nested"),
        ("id:a " * (MAX_TERMS + 1), 1 + 5 * MAX_TERMS, "terms"),
        (f"id:({','.join('a' * (MAX_VALUES + 1))})", 1, "values"),
    ],
)
def test_what_it_refuses_says_where(text: str, at: int, word: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse(text)
    assert caught.value.kind == "bad-query"
    assert f"at character {at}:" in caught.value.text
    assert word in caught.value.text


def test_a_query_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(RefusedError, match="may have"):
        parse("x" * (MAX_CHARS + 1))


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60) | st.from_regex(r'[a-z:!=<>()," .*\\]{0,40}'))
def test_anything_is_read_or_refused_with_a_character_that_there_is(text: str) -> None:
    try:
        parse(text)
    except RefusedError as error:
        found = re.search(r"character (\d+)", error.text)
        assert found is not None
        assert 1 <= int(found[1]) <= len(text) + 1


@given(st.text(max_size=40))
def test_a_quoted_text_is_that_text(text: str) -> None:
    assert parse(f"site:{quoted(text)}") == one("label", text, label="site")
