"""Traces of exact runs: what stood in their place stays until they are whole, and what isn't one is refused by its line."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from firmware.errors import RefusedError
from server.cli import run as otaria
from simulator.exact.trace import Head, Trace
from tests.simulator.exact.test_exact_endings import PLAIN

KEPT = b'{"world":"plain","seed":1,"trace":1}\n{"t":1.0,"who":"a","what":"x"}\n'


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def plain(tmp_path: Path) -> str:
    (tmp_path / "plain.yaml").write_text(PLAIN)
    return str(tmp_path / "plain.yaml")


@pytest.mark.parametrize("how", ["itself", "symlink", "link"])
def test_a_trace_that_is_replayed_is_never_written_over(
    how: str, plain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, other = tmp_path / "kept.jsonl", tmp_path / "other.jsonl"
    kept.write_bytes(KEPT)
    if how == "symlink":
        other.symlink_to(kept)
    elif how == "link":
        os.link(kept, other)
    out = kept if how == "itself" else other
    assert otaria(["sim", "run", "--exact", plain, "--trace", str(out), "--replay", str(kept)]) == 2
    assert "name another file" in capsys.readouterr().err
    assert kept.read_bytes() == KEPT


def test_a_run_that_is_refused_leaves_what_stood_where_its_trace_would(plain: str, tmp_path: Path) -> None:
    early, kept = tmp_path / "early.yaml", tmp_path / "kept.jsonl"
    early.write_text(PLAIN.replace("days: 2", "days: 2\nbegins: 2023-11-14T00:00+00:00"))
    kept.write_bytes(KEPT)
    assert otaria(["sim", "run", "--exact", str(early), "--trace", str(kept)]) == 1
    assert otaria(["sim", "run", "--exact", plain, "--trace", str(kept), "--replay", str(early)]) == 1
    assert kept.read_bytes() == KEPT
    assert {one.name for one in tmp_path.iterdir()} == {"early.yaml", "kept.jsonl", "plain.yaml"}


def test_a_trace_takes_its_place_when_it_is_whole_and_through_a_symlink_the_place_of_its_target(tmp_path: Path) -> None:
    kept, link = tmp_path / "kept.jsonl", tmp_path / "link.jsonl"
    kept.write_bytes(KEPT)
    link.symlink_to(kept)
    trace = Trace(Head(world="w", seed=2), out=link)
    trace.note(1.0, "a", "y")
    assert kept.read_bytes() == KEPT
    trace.close()
    trace.drop()
    assert link.is_symlink()
    assert [json.loads(line) for line in kept.read_text().splitlines()] == [
        {"world": "w", "seed": 2, "trace": 1},
        {"t": 1.0, "who": "a", "what": "y"},
    ]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_trace_may_go_into_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        trace = Trace(Head(world="w", seed=2), out=pipe)
        trace.note(1.0, "a", "y")
        trace.close()
        assert len(os.read(end, 4096).splitlines()) == 2
    finally:
        os.close(end)
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("old", "new", "kind", "text"),
    [
        ('"trace":1', '"trace":2', "other-trace", "is a trace of version 2, and this Otaria reads version 1"),
        ('"seed":1', '"seed":4', "other-trace", "is of plain with seed 4"),
        ('"trace":1', '"trace":1,"more":1', "no-trace", "line 1: this is no trace"),
        ('"what":"x"', '"what":"x","more":1', "no-trace", "line 2: this is no trace"),
    ],
)
def test_what_is_no_trace_of_the_run_is_refused_and_says_why(
    old: str, new: str, kind: str, text: str, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.jsonl"
    kept.write_bytes(KEPT.replace(old.encode(), new.encode()))

    def hold() -> None:
        trace = Trace(Head(world="plain", seed=1), kept=kept)
        try:
            trace.note(1.0, "a", "x")
        finally:
            trace.drop()

    with pytest.raises(RefusedError, match=text) as refused:
        hold()
    assert refused.value.kind == kind


def test_a_replay_has_the_seed_of_its_trace(plain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept.jsonl"
    assert otaria(["sim", "run", "--exact", plain, "--seed", "9", "--trace", str(kept)]) == 0
    capsys.readouterr()
    assert otaria(["sim", "run", "--exact", plain, "--replay", str(kept), "--json"]) == 0
    [one] = json.loads(capsys.readouterr().out)["runs"]
    assert (one["seed"], one["differs"], one["how"]) == (9, [], "exact")
    assert otaria(["sim", "run", "--exact", plain, "--seed", "8", "--replay", str(kept)]) == 1


def test_what_is_refused_when_it_should_run_leaves_the_others_their_results(
    plain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    early, again = tmp_path / "early.yaml", tmp_path / "again.yaml"
    early.write_text(PLAIN.replace("days: 2", "days: 2\nbegins: 2023-11-14T00:00+00:00"))
    again.write_text(PLAIN.replace("name: plain", "name: again"))
    assert otaria(["sim", "run", "--exact", plain, str(early), str(again)]) == 1
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines() if "completed" in line] == ["plain", "again"]
    assert f"{early}: was not run: plain begins before this agent was built" in told.replace("\n", " ")
    assert otaria(["sim", "run", "--exact", str(early), str(early), "--json"]) == 1
    value = json.loads(capsys.readouterr().out)
    assert (value["runs"], [one["scenario"] for one in value["refused"]]) == ([], [str(early)] * 2)
