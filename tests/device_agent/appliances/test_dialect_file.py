"""Dialects are read strictly, and a refusal names file, line and key."""

from importlib import resources
from pathlib import Path

import pytest

from device_agent.appliances.dialect_file import BUILT_IN, built_in, exchanges_of, load_dialect, parse_dialect
from firmware.errors import OtariaError, RefusedError

TEXT = (resources.files("device_agent.appliances") / "dialects" / "dual-image.yaml").read_text()


def refusal(text: str) -> str:
    with pytest.raises(RefusedError) as raised:
        parse_dialect(text, "my.yaml")
    assert raised.value.kind == "bad-dialect"
    return raised.value.text


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.parametrize("name", BUILT_IN)
def test_those_that_come_with_the_agent_are_whole(name: str) -> None:
    dialect = built_in(name)
    assert dialect.dialect == name
    assert len(list(exchanges_of(dialect))) > 8


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ("dual_image: true", "dual_image: maybe", "capabilities.dual_image", "Expected `bool`"),
        ("kind: prompt", "kind: telnet", "session.kind", "Invalid enum"),
        ("run: show storage", "say: show storage", "precheck[0]", "unknown field `say`"),
        ("room: 2.0", "room: lots", "room", "Expected `float`"),
        ("'^serial (\\S+)$'", "'^serial (\\S+$'", "identify[0].find.serial", "is no pattern"),
        ("'^serial (\\S+)$'", "'^serial \\S+$'", "identify[0].find.serial", "needs a group"),
        ("boot once {version}", "boot once {release}", "arm[0].run", "there is no {release}"),
        ("by: sftp", "by: tftp", "upload.by", "Invalid enum"),
        ("timeout_s: 900", "timeout_s: 0", "standby[1].timeout_s", "> 0"),
        ("- run: boot always {version}", "- run: ''  # nothing", "commit[0].run", "length >= 1"),
    ],
)
def test_a_wrong_value_is_named_with_line_and_key(old: str, new: str, key: str, says: str) -> None:
    text = TEXT.replace(old, new, 1)
    assert text != TEXT
    said = refusal(text)
    assert said.startswith("my.yaml, line ")
    assert f", {key}: " in said
    assert says in said
    near = int(said.split("line ")[1].split(",")[0])
    assert abs(near - line_of(text, new)) <= 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("- a\n", "Expected `object`"),
        ("dialect: [", "no YAML"),
        (TEXT + "\nroom: 2.0\n", "given twice"),
        (TEXT.replace("dialect: dual-image", "dialect: &a dual-image\nabout: *a"), "no aliases"),
        (TEXT.replace("  standby: true", "  standby: true\n  1: x"), "plain text"),
        (TEXT.replace("  prompt: '^\\S{1,63}>$'\n", ""), "needs a `prompt`"),
        (TEXT.replace("      serial: '^serial (\\S+)$'\n", ""), "has to `find` serial"),
        (TEXT.replace("      boot: '^boot (\\S+)$'\n", "      bot: '^boot (\\S+)$'\n"), "has to `find` boot"),
        (TEXT.replace("    drops: true\n", "", 1), "`drops: true`"),
        (TEXT.replace("dual_image: true", "dual_image: false"), "can't go back"),
        (TEXT[: TEXT.index("rollback:")] + TEXT[TEXT.index("compare:") :], "needs a `rollback`"),
        (TEXT.replace("  - run: install {path}", "  - run: install {path}\n    detached: true"), "runs detached"),
        ("x" * 300_000, "at most 256 KiB"),
        ("a: !!python/object:os.system x", "no YAML"),
        ("dialect: \x00", "no YAML"),
    ],
)
def test_what_does_not_belong_together_is_refused(text: str, says: str) -> None:
    assert says in refusal(text)


def test_a_file_of_ones_own_is_read_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(TEXT.replace("dialect: dual-image", "dialect: mine"))
    assert load_dialect(tmp_path, "my.yaml").dialect == "mine"
    with pytest.raises(OtariaError, match="can't be read"):
        load_dialect(tmp_path, "other.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"\xff")
    with pytest.raises(RefusedError, match="not UTF-8"):
        load_dialect(tmp_path, "bad.yaml")


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(RefusedError, match="iosxe, openwrt, sonic"):
        load_dialect(Path(), "junos")
