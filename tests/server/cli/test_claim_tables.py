"""Tables of claim tokens: what a spreadsheet writes is read, what is wrong in it is named with its line, and nothing is lost."""

import csv
import io
from pathlib import Path

import pytest

from firmware.errors import RefusedError
from server.cli.claims import ClaimRow, read, with_tokens


def rows_of(tmp_path: Path, text: bytes | str) -> list[ClaimRow]:
    path = tmp_path / "sites.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(path)


def test_a_spreadsheet_is_read(tmp_path: Path) -> None:
    text = '\ufeffsite, uses ,"pair"\r\nber,2,ber\r\n"köln, west",,\r\n'
    assert rows_of(tmp_path, text) == [
        ClaimRow(uses=2, labels={"site": "ber", "pair": "ber"}),
        ClaimRow(uses=1, labels={"site": "köln, west"}),
    ]


def test_what_is_written_with_tokens_is_read_again(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "site,gateway,uses\nber,,2\nber,d-1,7\n")
    again = rows_of(tmp_path, with_tokens(rows, ["one", "two"]))
    assert [(row.token, row.uses, row.labels) for row in again] == [
        ("one", 2, {"site": "ber"}),
        ("two", 7, {"site": "ber", "gateway": "d-1"}),
    ]
    header, *_ = csv.reader(io.StringIO(with_tokens(rows, ["one", "two"])))
    assert header == ["token", "uses", "gateway", "site"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the first line must name every column"),
        ("site,site\na,b\n", "each once"),
        ("site,\na,b\n", "name every column"),
        ("site\n", "1 to 20000 rows"),
        ("site,pair\nber\n", "Line 2"),
        ("site\nber,b\n", "Line 2"),
        ("site,uses\nber,1\nber,many\n", "Line 3"),
        ("site,uses\nber,0\n", "not '0'"),
        ("site,uses\nber,-1\n", "not '-1'"),
        ("site,uses\nber,²\n", "uses must be"),
        (f"site,uses\nber,{'9' * 5000}\n", "uses must be"),
        ('site\n"ber\n', "no CSV file"),
        (b"site\n\xff\n", "no CSV file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: bytes | str, says: str) -> None:
    with pytest.raises(RefusedError) as caught:
        rows_of(tmp_path, text)
    assert caught.value.kind == "bad-table"
    assert says in caught.value.text
