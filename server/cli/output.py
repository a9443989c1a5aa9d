"""How commands speak: a table or sentence for people, one JSON value with `--json` for scripts; errors go to stderr."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Column, Table

MOST_COLUMNS = 10_000

json_option: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON value for scripts."
)


def emit(value: Any, *, as_json: bool, text: str | Table | None = None) -> None:
    """Print `value` as JSON, or `text` (a sentence or a table) for people."""
    if as_json:
        click.echo(json.dumps(value, sort_keys=True))
    elif isinstance(text, Table):
        Console().print(text)
    elif text:
        click.echo(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """A plain table; cells are shown as text, and what is too long is folded: a hash that is cut off is no hash."""
    out = Table(*(Column(name, overflow="fold") for name in columns), title=title, box=None, header_style="bold")
    for row in rows:
        out.add_row(*("" if cell is None else str(cell) for cell in row))
    return out


def fitting(*tables: Table) -> Table:
    """The first table that the terminal has room for without breaking words; else the last."""
    console = Console()
    room = console.options.update(width=MOST_COLUMNS)
    return next((one for one in tables if console.measure(one, options=room).maximum <= console.width), tables[-1])


def stamp(at: float) -> str:
    """A moment (POSIX seconds), UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def report_error(kind: str, text: str, *, as_json: bool, more: Mapping[str, Any] | None = None) -> None:
    """One error on stderr: `{"error": kind, "text": …}` or a sentence."""
    if as_json:
        print(json.dumps({"error": kind, "text": text, **(more or {})}), file=sys.stderr)
    else:
        print(f"otaria: {text} ({kind})", file=sys.stderr)
