"""A desk at which somebody types `otaria keys`, and the ceremony with three root keys that most tests begin with."""

import json
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from server.cli import run

ROLES = ("alice", "bob", "carol")


class Desk:
    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str], typed: Callable[[str], None]) -> None:
        self.dir, self._capsys, self.types = directory, capsys, typed
        self.acme = directory / "acme"
        self.out = self.err = ""

    def run(self, *arguments: object) -> int:
        code = run(["keys", *(str(argument) for argument in arguments)])
        self.out, self.err = self._capsys.readouterr()
        return code

    def json(self, *arguments: object) -> Any:
        assert self.run(*arguments, "--json") == 0, self.err
        return json.loads(self.out)

    def state(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.acme.rglob("*") if path.is_file()}


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("OTARIA_KEY_PASSPHRASE", "correct horse")
    return Desk(tmp_path, capsys, lambda text: monkeypatch.setattr(sys, "stdin", StringIO(text)))


def ceremony(desk: Desk, *more: object) -> Path:
    for name in ROLES:
        assert desk.run("generate", desk.dir / f"{name}.pem", "--encrypt") == 0, desk.err
    publics = [word for name in ROLES for word in ("--public", f"root={desk.dir / name}.key.json")]
    facts = desk.json("init", desk.acme, "--product", "pump", *publics, *more)
    assert facts["missing"] == ["root (the new root) has 0 of 2 signatures"]
    return Path(facts["proposal"])
