"""Exact runs: the same again by the same seed, books that notice what is broken, and traces that say where a run left them."""

import dataclasses
import json
import logging
import sqlite3
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from device_agent.ports import Slot
from firmware.errors import RefusedError
from server.cli import run as otaria
from server.planner.ask_events import CHECKS, Check, budgets_have_room
from simulator.exact.run import ExactRun, play
from simulator.exact.telling import outcome_of, room, run_exactly
from simulator.exact.trace import Head, Line, Trace
from simulator.run_cli import unmet
from simulator.virtual.library import load
from simulator.virtual.outcome import Outcome
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world

SMALL = """
name: small
days: 3
seed: 4
fleet:
  - name: lamp
    devices: {devices}
    hardware: lamp-r1
    sites: 2
    presence: {{share: 90%, spell: 1h}}
    link: {{mbit: 4, latency: 0.3, loss: 5%, duplication: 20%}}
releases:
  - {{version: "2.0.0", image: 2 MB, defects: [{{kind: {defect}, share: {share}}}]}}
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{{name: canary, count: 2, gate: {{kind: all}}}}, {{name: rest, gate: {{kind: all}}}}]
        budgets: [{{by: site, limit: 1}}]
        patience: 1d
        retry: 1m
"""


def small(*, devices: int = 6, defect: str = "fails-health", share: str = "0%") -> World:
    return parse_world(SMALL.format(devices=devices, defect=defect, share=share), "small.yaml")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def played(world: World, *, checks: tuple[Check, ...] = CHECKS) -> tuple[ExactRun, Outcome]:
    with room() as directory:
        run = ExactRun(world, directory, Trace(Head(world=world.name, seed=world.seed)), checks=checks)
        return run, outcome_of(run, play(run))


def test_the_same_seed_gives_the_same_run_and_trace_and_another_seed_another(tmp_path: Path) -> None:
    world, one, two = small(), tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    first, again = run_exactly(world, out=one), run_exactly(world, out=two, kept=one)
    assert first.outcome.digest == again.outcome.digest
    assert one.read_bytes() == two.read_bytes()
    assert again.difference is None
    whole, _ = played(world)
    assert whole.audited > 50
    assert run_exactly(world, seed=5).outcome.digest != first.outcome.digest
    assert (first.outcome.campaigns[0].state, first.outcome.violations) == ("completed", ())
    assert {json.loads(line)["what"].split()[0] for line in one.read_text().splitlines()[1:]} >= {
        "presence",
        "inventory",
        "report",
        "order",
        "permit",
        "ack",
        "catalogue",
        "down",
        "up",
        "Asked",
    }


@pytest.mark.parametrize("spoiled", [b'{"p', b'"pay', b'"sign', b'"si', b"}]}"])
def test_a_trace_is_of_words_however_they_are_signed_and_wherever_they_are_spoiled(spoiled: bytes) -> None:
    """By one byte, as somebody on the broker does."""

    def line_of(signature: str) -> str:
        payload = b64encode(b"{}").decode()
        whole = json.dumps({"payload": payload, "payloadType": "x", "signatures": [{"keyid": "k", "sig": signature}]})
        data = whole.replace(" ", "").encode()
        at = data.index(spoiled) + len(spoiled) - 1
        trace = Trace(Head(world="w", seed=1))
        trace.message(1.0, "eve", "ack", "d-1", data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        return trace.digest

    assert line_of("QUFB") == line_of("QkJC")


def test_a_replay_names_the_first_line_that_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario, kept = tmp_path / "small.yaml", tmp_path / "kept.jsonl"
    scenario.write_text(SMALL.format(devices=2, defect="bricks", share="0%"))
    again = ["sim", "run", "--exact", str(scenario)]
    assert otaria([*again, "--trace", str(kept)]) == 0
    assert otaria([*again, "--replay", str(kept)]) == 0
    lines = kept.read_text().splitlines()
    lines[20] = lines[20].replace('"t":', '"t":1')
    kept.write_text("\n".join(lines) + "\n")
    capsys.readouterr()
    assert otaria([*again, "--replay", str(kept)]) == 1
    assert "Line 20 differs." in capsys.readouterr().out
    assert otaria([*again, "--seed", "9", "--replay", str(kept)]) == 1
    assert otaria(["sim", "run", "calm", "--trace", str(kept)]) == 2


def test_a_trace_that_ends_early_or_goes_on_differs_there(tmp_path: Path) -> None:
    head, path = Head(world="w", seed=1), tmp_path / "kept.jsonl"

    def trace(*whats: str, out: Path | None = None, kept: Path | None = None) -> Trace:
        made = Trace(head, out=out, kept=kept)
        for what in whats:
            made.note(1.5, "a", what)
        made.close()
        return made

    trace("x", "y", out=path)
    assert trace("x", "y", kept=path).difference is None
    shorter, longer = trace("x", kept=path).difference, trace("x", "y", "z", kept=path).difference
    assert shorter is not None
    assert (shorter.line, shorter.kept, shorter.now) == (2, Line(t=1.5, who="a", what="y"), None)
    assert longer is not None
    assert (longer.line, longer.kept) == (3, None)
    with pytest.raises(RefusedError, match="with seed 1"):
        Trace(Head(world="w", seed=2), kept=path)


def test_both_books_notice_when_budgets_bind_nobody() -> None:
    run, outcome = played(small(devices=8), checks=tuple(check for check in CHECKS if check is not budgets_have_room))
    assert any("got a permit though" in text for text in run.books.violations)
    assert run.ledger.counts["budget"]
    assert any("are down and 1 may be" in violation.text for violation in run.ledger.kept)
    assert outcome.broken >= 2


def test_what_a_release_does_is_found_by_the_real_agent_and_told_with_signed_reports() -> None:
    _, outcome = played(small(defect="fails-boot", share="100%"))
    spring = outcome.campaigns[0]
    assert (spring.state, spring.verified, outcome.violations) == ("paused", 0, ())
    assert 1 <= spring.fell_back == spring.harmed <= 2


def test_a_device_that_is_not_what_the_server_says_is_a_violation() -> None:
    world = small(devices=2)
    with room() as directory:
        run = ExactRun(world, directory, Trace(Head(world=world.name, seed=world.seed)))
        run.timeline.later(600.0, lambda: _forget(run))
        play(run)
    assert any("and the server says" in violation.text for violation in run.ledger.kept)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET text = 'It went well.' WHERE partition = 'planner' AND number = 3",
        "DELETE FROM audit WHERE partition = 'people' AND number > 1",
        "DELETE FROM audit_checkpoint",
    ],
)
def test_a_trail_that_was_changed_cut_off_or_signed_anew_is_a_violation(statement: str) -> None:
    world = small(devices=2)
    with room() as directory:
        run = ExactRun(world, directory, Trace(Head(world=world.name, seed=world.seed)))
        run.timeline.later(3000.0, lambda: _tamper(run, statement))
        play(run)
    [found] = run.ledger.kept
    assert (found.kind, found.text.startswith("The trail does not verify: ")) == ("audit", True)


def _tamper(run: ExactRun, statement: str) -> None:
    """Somebody with the database's file does as they like."""
    with closing(sqlite3.connect(run.server.url.removeprefix("sqlite:///"))) as database:
        assert database.execute(statement).rowcount
        database.commit()


OFFICE = """
name: office
days: 4
fleet:
  - name: till
    devices: 2
    hardware: till-r1
    presence: {hours: 10-11}
    link: {mbit: 1}
releases:
  - {version: "2.0.0", image: 675 MB}
campaigns:
  - file: |
      name: spring
      product: till
      version: "2.0.0"
      strategy: {name: s, cohorts: [{name: all, gate: {kind: all}}], patience: 3d, retry: 1m}
expect:
  - {campaign: spring, states: [completed], verified_at_least: 99%}
"""


def test_what_takes_longer_to_load_than_a_device_is_there_goes_on_when_it_is_there_again() -> None:
    world = parse_world(OFFICE, "office.yaml")  # an hour a day, and an image of an hour and a half
    run, outcome = played(world)
    assert (outcome.violations, list(unmet(world, outcome))) == ((), [])
    for name in run.members:
        began, ended = (
            next(one.at for one in run.moments if one.member == name and one.state == state and one.order)
            for state in ("downloading", "staged")
        )
        assert ended - began > 22 * 3600


def _forget(run: ExactRun) -> None:
    """Once all is done, the first device's slots hold its factory's image again, and nobody tells its agent."""
    done_s = run.marks["spring"].done_s if "spring" in run.marks else None
    if done_s is None or len(run.admitted) < 2 or run.after_s < done_s + 900:
        run.timeline.later(run.timeline.now() + 60, lambda: _forget(run))
        return
    device = run.fleet.devices["lamp-000000"]
    for slot in Slot:
        device._slots.put(slot, device._common.factory)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["hostile-broker", "key-rotation-mid-campaign"])
def test_what_is_done_to_server_and_broker_breaks_nothing(name: str) -> None:
    whole = load(name, deeds=True)
    world = dataclasses.replace(whole, lots=tuple(dataclasses.replace(lot, devices=8) for lot in whole.lots))
    run, outcome = played(world)
    assert (outcome.violations, list(unmet(world, outcome))) == ((), [])
    if name == "hostile-broker":
        assert run.deeds.misused >= 30
        assert outcome.ignored
        assert played(world)[1].digest == outcome.digest, "spoiled signatures are no words"
    else:
        assert run.deeds.rotations == 2


def test_a_world_before_the_agents_own_time_is_refused() -> None:
    world = dataclasses.replace(small(), begins=1_700_000_000.0)
    with room() as directory, pytest.raises(RefusedError, match="later `begins`"):
        ExactRun(world, directory, Trace(Head(world=world.name, seed=world.seed)))
