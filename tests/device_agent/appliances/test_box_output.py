"""Whatever a box prints becomes bounded lines of plain text; words, sentences and credentials hold what they promise."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.appliances.comparison import differences
from device_agent.appliances.credentials import CredentialFrom, Secret, reader, require_one
from device_agent.appliances.output import LINE, LINES, find, find_all, lines_of, shown
from firmware.errors import OtariaError, RefusedError


@given(st.binary(max_size=4000))
def test_any_bytes_become_plain_bounded_lines(data: bytes) -> None:
    for line in lines_of(data):
        assert len(line) <= LINE
        assert all(character == "\t" or character.isprintable() or ord(character) >= 0xA0 for character in line)
        assert "\x1b" not in line
    assert len(shown(lines_of(data))) < 400


def test_lines_are_those_that_a_person_would_see() -> None:
    assert lines_of(b"one\r\n\x1b[1;31mtwo\x1b[0m  \r\nprogress 1%\rprogress 100%\r\n") == (
        "one",
        "two",
        "progress 100%",
        "",
    )
    assert lines_of(b"\x1b]0;title\x07x") == ("x",)
    assert lines_of("a\u202eb".encode()) == ("a\ufffdb",)


def test_there_is_an_end_to_lines_and_to_a_line() -> None:
    assert len(lines_of(b"\n" * (LINES + 5))) == LINES
    assert len(lines_of(b"x" * 100_000)[0]) == LINE


def test_values_come_out_of_single_lines() -> None:
    lines = ("image 1.0", "image 2.0", "image ")
    assert find(lines, re.compile(r"^image (\S+)$")) == "1.0"
    assert find_all(lines, re.compile(r"^image (\S+)$")) == ("1.0", "2.0")
    assert find(("a", "b"), re.compile(r"a\s+(b)")) is None


def test_what_is_shown_is_short() -> None:
    assert shown(()) == "nothing"
    assert shown(("", "  a ", "b")) == "'a / b'"
    assert len(shown(("x" * 500,))) < 200


def test_differences_are_told_one_by_one() -> None:
    before, after = "a\nb\nb\n", "a\nb\nc\n"
    assert differences("a", "a", {"routes": ("x", "y")}, {"routes": ("y", "z", "x")}) == []
    said = differences(before, after, {"routes": ("x", "y")}, {"routes": ("x",)})
    assert said == [
        "the running configuration lacks 'b'",
        "the running configuration has 'c' besides",
        "of 2 routes 1 are gone: 'y'",
    ]
    assert "and 3 more" in differences("\n".join("abcdefgh"), "", {}, {})[0]


def test_a_credential_comes_from_a_file_the_environment_or_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("hush\n")
    (tmp_path / "secret").chmod(0o600)
    monkeypatch.setenv("BOX_SECRET", "hush")
    vault = CredentialFrom(command=(sys.executable, "-c", "print('hush')"))
    for given_from in (CredentialFrom(file="secret"), CredentialFrom(env="BOX_SECRET"), vault):
        secret = reader(tmp_path, given_from)()
        assert secret.reveal() == "hush"
        assert "hush" not in f"{secret} {secret!r} {[secret]}"


def test_a_private_key_keeps_its_last_line_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n")
    assert reader(tmp_path, CredentialFrom(env="KEY"))().reveal().endswith("x\n")


def test_a_credential_that_others_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(RefusedError, match="chmod 600"):
        reader(tmp_path, CredentialFrom(file="secret"))()


@pytest.mark.parametrize(
    "given_from",
    [
        CredentialFrom(file="absent"),
        CredentialFrom(env="BOX_SECRET_ABSENT"),
        CredentialFrom(command=(sys.executable, "-c", "print('hush', flush=True); raise SystemExit(1)")),
        CredentialFrom(command=("/nonexistent/vault",)),
        CredentialFrom(command=(sys.executable, "-c", "")),
    ],
)
def test_no_credential_is_told_without_what_was_printed(given_from: CredentialFrom, tmp_path: Path) -> None:
    with pytest.raises(OtariaError) as raised:
        reader(tmp_path, given_from)()
    assert raised.value.kind == "no-credential"
    assert "hush" not in raised.value.text
    assert raised.value.__cause__ is None or "hush" not in repr(raised.value.__cause__)


@pytest.mark.parametrize("given_from", [CredentialFrom(), CredentialFrom(file="a", env="B")])
def test_exactly_one_place_is_named(given_from: CredentialFrom) -> None:
    with pytest.raises(RefusedError, match="exactly one"):
        require_one("box core-1", given_from)


def test_a_secret_shows_itself_to_nobody() -> None:
    assert (repr(Secret("hush")), str(Secret("hush"))) == ("Secret(…)", "Secret(…)")
