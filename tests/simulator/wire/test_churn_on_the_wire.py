"""Churn over a real server and Mosquitto: who joins and who comes in somebody's place enrols and is updated, who is replaced is
out for good, who is flashed anew is brought up again, and a copy is found by what it says. An exact run ends alike."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from firmware.errors import RefusedError
from server.ports import AuditRecord
from server.storage.database import SqlDatabase
from simulator.exact.run import ExactRun
from simulator.exact.run import play as play_exactly
from simulator.exact.telling import room
from simulator.exact.trace import Head, Trace
from simulator.virtual.churn import happenings
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world
from simulator.wire.play import Play, Played
from tests.brokers import skip_without
from tests.simulator.wire.test_both_ways import TEMPO

STRATEGY = """{name: brisk, cohorts: [{name: all, gate: {kind: share, max_failure_rate: 90%}}],
        budgets: [{by: campaign, limit: 12}], patience: 1m, trial: 8s, horizon: 10s, healthy: 1s, retry: 2s}"""
WORLD = """
name: comings-and-goings
days: 0.01
seed: 67
fleet:
  - {name: lamp, devices: 12, hardware: lamp-r1, sites: 2, link: {latency: 0s, mbit: 2}, health: 1s}
releases: [{version: "2.0.0", image: 500 kB}, {version: "2.1.0", image: 500 kB}]
campaigns:
  - file: |
      {name: spring, product: lamp, version: "2.0.0", strategy: STRATEGY}
  - after: 42s
    file: |
      {name: summer, product: lamp, version: "2.1.0", strategy: STRATEGY}
churn:
  - {do: join, fleet: lamp, share: 17%, after: 25s, within: 8s}
  - {do: replace, fleet: lamp, share: 20%, after: 25s, within: 8s}
  - {do: reflash, fleet: lamp, share: 25%, after: 25s, within: 8s}
  - {do: clone, fleet: lamp, share: 30%, after: 25s, within: 8s}
""".replace("STRATEGY", STRATEGY)
End = tuple[str, str, str]
"""Of a target: its standing in the fleet, its state in its campaign, and what the server says that it runs."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def world(text: str = WORLD) -> World:
    return parse_world(text, "comings-and-goings.yaml")


def met(made: World) -> Mapping[str, set[str]]:
    """By kind, the names of those to whom it happens."""
    found: dict[str, set[str]] = {}
    for one in happenings(made.churn, made.members(made.seed), made.seed):
        found.setdefault(one.kind, set()).add(one.member.id)
    return found


def ends_exactly(made: World) -> Mapping[str, End]:
    with room() as directory:
        run = ExactRun(made, directory, Trace(Head(world=made.name, seed=made.seed)), tempo=TEMPO)
        play_exactly(run)
        assert run.ledger.kept == []
        return {one.id: (one.status, one.state or "", one.running_version or "") for one in run.shown}


def trail(directory: Path, kind: str) -> Sequence[AuditRecord]:
    async def read() -> Sequence[AuditRecord]:
        database = SqlDatabase.open(f"sqlite:///{directory / 'server' / 'state' / 'otaria.db'}", aside=False)
        try:
            return await database.read(lambda unit: unit.audit.page(kind=kind))
        finally:
            await database.close()

    return asyncio.run(read())


def ends(played: Played) -> Mapping[str, End]:
    return {name: (played.standing[name], played.states[name], played.versions[name]) for name in played.standing}


@pytest.mark.timeout(300)
def test_each_kind_ends_as_it_should_and_as_in_an_exact_run(tmp_path: Path) -> None:
    skip_without("mosquitto")
    made = world()
    kinds = met(made)
    assert set(kinds) == {"join", "replace", "reflash", "clone"}
    assert "lamp-000000" in kinds["clone"], (
        "the first device's certificate fetches for all, and has to be replaced by another"
    )
    played = Play(made, tmp_path, tempo=TEMPO).run()
    assert played.outcome.violations == ()

    found = ends(played)
    new = {f"{name}-new" for name in kinds["replace"]}
    assert {name for name, end in found.items() if end[0] == "decommissioned"} == kinds["replace"]
    assert {name for name, end in found.items() if end[0] == "quarantined"} == kinds["clone"]
    updated = set(found) - kinds["replace"] - kinds["clone"]
    assert kinds["join"] | kinds["reflash"] | new <= updated
    assert {found[name] for name in updated} == {("active", "verified", "2.1.0")}
    assert {found[name] for name in kinds["clone"]} == {("quarantined", "verified", "2.0.0")}
    assert found == ends_exactly(made)

    spring, summer = played.outcome.campaigns
    assert (spring.targets, summer.targets) == (12 - len(kinds["join"]), len(updated))
    assert spring.counts.get("regressed") == len(kinds["reflash"])
    assert kinds["replace"].isdisjoint(played.truths)
    copies = {f"{name}-copy" for name in kinds["clone"]}
    assert {name for name, truth in played.truths.items() if not truth.is_connected} == copies | kinds["clone"]

    said = {one.target: one.text for one in trail(tmp_path, "clone")}
    assert set(said) == {played.targets[name] for name in kinds["clone"]}
    assert all(f"{target}'s key is in use twice. It is quarantined" in text for target, text in said.items())
    assert {played.targets[name] for name in kinds["replace"] | kinds["clone"]} == {
        one.target for one in trail(tmp_path, "session-ended")
    }


def test_a_world_in_which_nobody_is_there_at_first_is_refused(tmp_path: Path) -> None:
    everybody = "  - {do: join, fleet: lamp, share: 100%, after: 25s}\n"
    later = WORLD.replace("campaigns:\n  - file: |", "campaigns:\n  - after: 41s\n    file: |")
    made = world(later[: later.index("  - {do: join")] + everybody)
    with pytest.raises(RefusedError, match="Nobody of comings-and-goings is there when it begins") as refused:
        Play(made, tmp_path)
    assert refused.value.kind == "cannot-happen"
