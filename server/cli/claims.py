"""Tables of claim tokens: one row for each kind of device at each site, as a spreadsheet has them."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from firmware.errors import RefusedError

MAX_ROWS = 20_000
MAX_BYTES = 8 << 20
USES, TOKEN = "uses", "token"


@dataclass(frozen=True, kw_only=True)
class ClaimRow:
    """`uses`: how many devices enrol with the token. `token`: empty before there is one."""

    uses: int
    labels: dict[str, str]
    token: str = ""


def read(path: Path, uses: int = 1) -> list[ClaimRow]:
    """The rows of a CSV file with a header: `uses` (else as given), `token` if there, and a label for each other column; an empty
    cell is no label. Raises `RefusedError` (`bad-table`), naming the line."""
    if path.stat().st_size > MAX_BYTES:
        raise RefusedError("bad-table", f"{path} has more than {MAX_BYTES >> 20} MiB; split it.")
    try:
        reader = csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline=""), strict=True)
        columns = [(name or "").strip() for name in reader.fieldnames or ()]
        if not columns or "" in columns or len(set(columns)) != len(columns):
            raise _bad(path, 1, "the first line must name every column, each once")
        reader.fieldnames = columns
        rows = [_row(path, reader.line_num, cells, uses) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise RefusedError("bad-table", f"{path} is no CSV file in UTF-8: {error}.") from error
    if not 1 <= len(rows) <= MAX_ROWS:
        raise RefusedError("bad-table", f"{path} must have 1 to {MAX_ROWS} rows below its header.")
    return rows


def with_tokens(rows: Sequence[ClaimRow], tokens: Sequence[str]) -> str:
    """The rows as CSV, each with its token in front."""
    labels = sorted({name for row in rows for name in row.labels})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((TOKEN, USES, *labels))
    for row, token in zip(rows, tokens, strict=True):
        writer.writerow((token, row.uses, *(row.labels.get(name, "") for name in labels)))
    return out.getvalue().rstrip("\n")


def _row(path: Path, line: int, cells: dict[str, str | None], uses: int) -> ClaimRow:
    if None in cells or None in cells.values():
        raise _bad(path, line, "it has not as many cells as the first line")
    values = {name: (value or "").strip() for name, value in cells.items()}
    number, token = values.pop(USES, ""), values.pop(TOKEN, "")
    if number and not (number.isascii() and number.isdecimal() and len(number) <= 6 and 1 <= int(number) <= 100_000):
        raise _bad(path, line, f"uses must be 1 to 100,000, not {number[:40]!r}")
    return ClaimRow(
        uses=int(number) if number else uses,
        labels={name: value for name, value in values.items() if value},
        token=token,
    )


def _bad(path: Path, line: int, why: str) -> RefusedError:
    return RefusedError("bad-table", f"Line {line} of {path}: {why}.")
