"""The query language of the fleet: which targets a list shows.

    query  = term, or queries with `and` (may be left out), `or`, `not` and parentheses; `and` binds before `or`
    term   = FIELD (`:` | `=` | `!=`) value, or (value, value …): one of them
           | `version` (`<` | `<=` | `>` | `>=`) value
    value  = a word, or "text in quotes" (with \\" and \\\\); a word may end in `*`: whatever begins so; `*` alone: anything

Such as `state:(failed, fell_back) and site:Ulm and version<2.1`. A query is bounded in length, terms and depth, and an error says
at which character it is. Pure: what a query means to a database is `server.storage.fleet_query`'s.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from firmware.errors import RefusedError
from server.planner.words import AssignmentState
from server.ports.identity import AgentStatus

MAX_CHARS = 1000
MAX_TERMS = 32
MAX_VALUES = 100
MAX_DEPTH = 12
UNKNOWN, NONE = "unknown", "none"
"""The version of who never said one, and the state of who has no assignment."""


class Op(StrEnum):
    """How a field is compared."""

    IS = ":"
    IS_NOT = "!="
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="


ORDERED = frozenset({Op.LESS, Op.AT_MOST, Op.MORE, Op.AT_LEAST})


@dataclass(frozen=True, kw_only=True)
class Value:
    """What a field is compared with; `begins`: only its beginning."""

    text: str
    begins: bool = False


@dataclass(frozen=True, kw_only=True)
class Term:
    """A field (`label`: the one of the name `label`) and the values of which it has one, or, with `IS_NOT`, none."""

    field: str
    op: Op
    values: tuple[Value, ...]
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class All:
    """Everything of this holds."""

    parts: tuple["Query", ...]


@dataclass(frozen=True, kw_only=True)
class Some:
    """Something of this holds."""

    parts: tuple["Query", ...]


@dataclass(frozen=True, kw_only=True)
class Not:
    """This doesn't hold."""

    part: "Query"


Query = Term | All | Some | Not
EVERYBODY = All(parts=())

_KNOWN: dict[str, frozenset[str] | None] = {
    "id": None,
    "version": None,
    "product": None,
    "hardware": None,
    "state": frozenset([*AssignmentState, NONE]),
    "reason": None,
    "campaign": None,
    "status": frozenset(AgentStatus),
    "online": frozenset({"true", "false"}),
}
"""The fields apart from labels, and their words where they have some of their own."""
FIELDS = (*_KNOWN, "site", "label.NAME")
_LABEL = "label."
_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<op><=|>=|!=|[:=<>])|(?P<mark>[(),])|(?P<text>"(?:[^"\\]|\\["\\])*")|(?P<word>[^\s()",:=<>!]+)"""
)


def parse(text: str) -> Query:
    """A query; an empty text is everybody. Raises `RefusedError` (`bad-query`), which names the character, counted from 1."""
    if len(text) > MAX_CHARS:
        raise RefusedError("bad-query", f"The query has {len(text)} characters; it may have {MAX_CHARS}.")
    tokens = _tokens(text)
    if not tokens:
        return EVERYBODY
    return _Parser(tokens, len(text)).whole()


def one(field: str, value: str, *, label: str = "") -> Term:
    """The query for one value."""
    return Term(field=field, op=Op.IS, values=(Value(text=value),), label=label)


def quoted(text: str) -> str:
    """A text as a value of a query."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@dataclass(frozen=True, kw_only=True)
class _Token:
    kind: str
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            why = "the text in quotes doesn't end" if text[at] == '"' else f"{text[at]!r} means nothing here"
            _refuse(at, f"{why}; put text with signs into double quotes")
        if match.lastgroup != "space":
            found.append(_Token(kind=str(match.lastgroup), text=match[0], at=at))
        at = match.end()
    return found


class _Parser:
    """Recursive descent, one token ahead."""

    def __init__(self, tokens: Sequence[_Token], end: int) -> None:
        self._tokens, self._end = tokens, end
        self._next, self._terms, self._depth = 0, 0, 0

    def whole(self) -> Query:
        query = self._some()
        if (left := self._peek()) is not None:
            _refuse(left.at, f"{left.text!r} closes nothing" if left.text == ")" else f"{left.text!r} is not expected")
        return query

    def _some(self) -> Query:
        parts = [self._all()]
        while self._taken("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Some(parts=tuple(parts))

    def _all(self) -> Query:
        parts = [self._negated()]
        while (ahead := self._peek()) is not None and ahead.text not in (")", ",") and not _is_word(ahead, "or"):
            self._taken("and")
            parts.append(self._negated())
        return parts[0] if len(parts) == 1 else All(parts=tuple(parts))

    def _negated(self) -> Query:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            _refuse(self._at, f"it is nested more than {MAX_DEPTH} deep")
        found: Query
        if self._taken("not"):
            found = Not(part=self._negated())
        elif self._marked("("):
            found = self._some()
            self._close()
        else:
            found = self._term()
        self._depth -= 1
        return found

    def _term(self) -> Term:
        name = self._take("word", f"a field is missing; there are {', '.join(FIELDS)}")
        field, label = _field(name)
        self._terms += 1
        if self._terms > MAX_TERMS:
            _refuse(name.at, f"it has more than {MAX_TERMS} terms")
        sign = self._take("op", f"after {name.text!r} comes one of : != < <= > >=")
        op = Op.IS if sign.text == "=" else Op(sign.text)
        if op in ORDERED and field != "version":
            _refuse(sign.at, f"only versions have an order; compare {name.text!r} with : or !=")
        listed = op not in ORDERED and self._marked("(")
        values = [self._value(field, op)]
        while listed and self._marked(","):
            values.append(self._value(field, op))
        if listed:
            self._close()
        if len(values) > MAX_VALUES:
            _refuse(name.at, f"it names more than {MAX_VALUES} values")
        return Term(field=field, op=op, values=tuple(values), label=label)

    def _value(self, field: str, op: Op) -> Value:
        ahead = self._peek()
        if ahead is None or ahead.kind not in ("word", "text"):
            _refuse(self._at, "a value is missing")
        self._next += 1
        if ahead.kind == "text":
            value = Value(text=re.sub(r"\\(.)", r"\1", ahead.text[1:-1]))
        else:
            value = Value(text=ahead.text.removesuffix("*"), begins=ahead.text.endswith("*"))
        known = _KNOWN.get(field)
        if known is not None and (value.begins or value.text not in known):
            _refuse(ahead.at, f"{ahead.text!r} is no {field}; known are {', '.join(sorted(known))}")
        if op in ORDERED and value.begins:
            _refuse(ahead.at, "a version in an order is a whole one, without `*`")
        return value

    @property
    def _at(self) -> int:
        ahead = self._peek()
        return self._end if ahead is None else ahead.at

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _taken(self, word: str) -> bool:
        """Whether this word came; it is behind us then. A field may be called like it, and is followed by a sign."""
        ahead = self._peek()
        after = self._tokens[self._next + 1] if self._next + 1 < len(self._tokens) else None
        found = ahead is not None and _is_word(ahead, word) and (after is None or after.kind != "op")
        self._next += found
        return found

    def _marked(self, mark: str) -> bool:
        ahead = self._peek()
        found = ahead is not None and ahead.kind == "mark" and ahead.text == mark
        self._next += found
        return found

    def _take(self, kind: str, missing: str) -> _Token:
        ahead = self._peek()
        if ahead is None or ahead.kind != kind:
            _refuse(self._at, missing)
        self._next += 1
        return ahead

    def _close(self) -> None:
        if not self._marked(")"):
            _refuse(self._at, "a closing parenthesis is missing")


def _field(name: _Token) -> tuple[str, str]:
    """The field, and of a label its name."""
    if name.text == "site":
        return "label", "site"
    if name.text.startswith(_LABEL) and len(name.text) > len(_LABEL):
        return "label", name.text.removeprefix(_LABEL)
    if name.text not in _KNOWN:
        _refuse(name.at, f"there is no field {name.text!r}; there are {', '.join(FIELDS)}")
    return name.text, ""


def _is_word(token: _Token, word: str) -> bool:
    return token.kind == "word" and token.text.lower() == word


def _refuse(at: int, why: str) -> NoReturn:
    raise RefusedError("bad-query", f"The query is wrong at character {at + 1}: {why}.")
