"""Hostile devices with real keys: each misdeed is met by the server or the broker, harms at most the record of who does it, and
what would get through is noticed."""

import hashlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from firmware.protocol.codec import convert, parse_json
from firmware.protocol.envelope import Opened
from firmware.protocol.unverified import read_envelope
from server.campaigns import reading
from server.ports import AgentStatus
from server.transport import access
from simulator.exact.run import ExactRun, play
from simulator.exact.telling import outcome_of, room
from simulator.exact.trace import Head, Trace
from simulator.run_cli import unmet
from simulator.virtual.library import load
from simulator.virtual.outcome import Outcome
from simulator.virtual.world import World
from simulator.virtual.world_file import parse_world
from simulator.wire.hostile_device import Attacker
from simulator.wire.hostile_words import LIES

WORLD = """\
name: among-enemies
days: 0.05
seed: 5
fleet:
  - name: lamp
    devices: DEVICES
    hardware: lamp-r1
    sites: 3
    link: {latency: 0s, mbit: 2}
    health: 2s
    hostile: {share: 40%, does: [DOES]}
releases:
  - {version: "2.0.0", image: 1 MB}
campaigns:
  - file: |
      name: spring
      product: lamp
      version: "2.0.0"
      strategy:
        name: s
        cohorts: [{name: all, gate: {kind: share, max_failure_rate: 90%}}]
        budgets: [{by: campaign, limit: DEVICES}]
        patience: 30s
        trial: 25s
        horizon: 90s
        healthy: 3s
        retry: 5s
expect:
  - {campaign: spring, states: [completed, watching], verified_at_least: 100%, harmed_at_most: 0}
"""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def world(does: str, devices: int = 8) -> World:
    return parse_world(WORLD.replace("DOES", does).replace("DEVICES", str(devices)), "enemies.yaml")


def played(world: World) -> tuple[ExactRun, Outcome]:
    with room() as directory:
        run = ExactRun(world, directory, Trace(Head(world=world.name, seed=world.seed)))
        return run, outcome_of(run, play(run))


def hostile(run: ExactRun) -> set[str]:
    return set(run.hostile.does)


def held(world: World) -> tuple[ExactRun, Outcome]:
    """Play it: whatever is done, the others are updated and all that must hold did."""
    run, outcome = played(world)
    assert outcome.violations == ()
    assert list(unmet(world, outcome)) == []
    states, enemies = run.states["spring"], hostile(run)
    assert len(enemies) >= 2
    assert {state for name, state in states.items() if name not in enemies} == {"verified"}
    assert {one.status for one in run.shown if one.id not in enemies} == {AgentStatus.ACTIVE}
    assert outcome.hostile == len(enemies) == sum(outcome.campaigns[0].hostile.values())
    return run, outcome


def unmoved(run: ExactRun) -> bool:
    """Whether the hostile devices' own records are true: their agents were honest beneath."""
    return {run.states["spring"][name] for name in hostile(run)} == {"verified"}


@pytest.mark.timeout(180)
def test_every_lie_harms_the_record_of_who_tells_it_and_no_other() -> None:
    run, outcome = held(world("lies", 20))
    told = run.states["spring"]
    by_lie = dict(zip(LIES, sorted(hostile(run)), strict=False))
    assert len(by_lie) == len(LIES)
    assert {lie: told[name] for lie, name in by_lie.items()} == {
        "installed nothing": "verified",
        "failed": "failed",
        "committed at once": "verified",
        "fell back": "fell_back",
        "goes unasked": "missing",
        "jumps": "fell_back",
        "numbers far ahead": "staged",
        "a number twice": "downloading",
    }
    versions = {run.fleet.devices[name].truth().version for name in hostile(run)}
    assert versions == {"0.9.0"}
    statuses = {one.id: one.status for one in run.shown}
    assert {name for name, status in statuses.items() if status is AgentStatus.QUARANTINED} == {
        by_lie["a number twice"]
    }
    assert outcome.ignored["clone"] == outcome.ignored["early"] == 1


@pytest.mark.timeout(180)
def test_what_is_forged_on_its_own_topics_is_dropped_and_moves_nothing() -> None:
    run, outcome = held(world("forges"))
    assert unmoved(run)
    ways = {"bad-signature", "malformed", "too-large", "wrong-topic"}
    assert {kind: outcome.ignored[kind] > 0 for kind in ways} == dict.fromkeys(ways, True)


@pytest.mark.timeout(180)
def test_who_speaks_for_others_is_refused_by_the_broker_and_on_its_own_topics_by_the_server() -> None:
    run, outcome = held(world("impersonates"))
    assert unmoved(run)
    ways = {"broker: may not publish", "broker: may not subscribe", "bad-signature", "foreign-target", "wrong-topic"}
    assert {kind: outcome.ignored[kind] > 0 for kind in ways} == dict.fromkeys(ways, True)
    assert all(one.misdeeds.misplaced for one in run.fleet.truths().values() if one.misdeeds)


@pytest.mark.timeout(180)
def test_a_flood_is_slowed_and_keeps_nobody_waiting() -> None:
    run, outcome = held(world("floods"))
    assert unmoved(run)
    assert outcome.ignored["too-fast"] > 500
    calm, _ = played(world("pries"))
    honest = sorted(set(run.members) - hostile(run))
    ends = [{one.member: one.at for one in each.moments if one.state == "committed"} for each in (run, calm)]
    assert all(ends[0][name] - ends[1][name] < 10 for name in honest)


@pytest.mark.timeout(180)
def test_who_wants_what_is_not_its_own_gets_none_of_it() -> None:
    run, outcome = held(world("pries"))
    assert unmoved(run)
    assert outcome.ignored["broker: may not publish"] > 0
    assert outcome.ignored["broker: may not subscribe"] > 0
    assert not any(one.misdeeds.overheard for one in run.fleet.truths().values() if one.misdeeds)


@pytest.mark.timeout(180)
def test_the_same_seed_gives_the_same_misdeeds() -> None:
    first, again = (played(world("impersonates, lies", 5))[1] for _ in range(2))
    assert first.digest == again.digest


@pytest.mark.timeout(180)
def test_the_scenario_of_the_library_ends_as_it_expects() -> None:
    run, _ = held(load("hostile-devices", deeds=True))
    assert set(run.hostile.does.values()) == {"floods", "forges", "impersonates", "lies", "pries"}


# What if it got through


@pytest.mark.timeout(180)
def test_a_broker_that_lets_devices_speak_for_others_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "may_publish", lambda name, topic: True)
    run, _ = played(world("impersonates"))
    assert run.ledger.counts["impersonated"] == len(hostile(run))
    assert run.ledger.counts["presence"] > 0


@pytest.mark.timeout(180)
def test_a_broker_that_lets_devices_listen_to_others_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "may_subscribe", lambda name, topic: True)
    monkeypatch.setattr(access, "may_receive", lambda name, topic: True)
    run, _ = played(world("impersonates"))
    assert run.ledger.counts["overheard"] == len(hostile(run))


def believe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server take everything for signed."""

    def believed(data: bytes, kind: str, model: type[Any], keys: Any, *, max_bytes: int) -> Opened[Any]:
        _, payload = read_envelope(data, max_bytes=max_bytes)
        message = convert(parse_json(payload, max_bytes=max_bytes), model)
        return Opened(message=message, hash=hashlib.sha256(payload).hexdigest(), keyid="")

    monkeypatch.setattr(reading, "open_envelope", believed)
    monkeypatch.setattr(reading, "_check_place", lambda place, message: None)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("does", ["forges", "impersonates"])
def test_a_server_that_believes_what_nobody_signed_is_a_violation(does: str, monkeypatch: pytest.MonkeyPatch) -> None:
    believe(monkeypatch)
    run, _ = played(world(does))
    assert run.ledger.counts["forged-report"] > 0
    assert (run.ledger.counts["standing"] > 0) == (does == "impersonates")  # two seem to have one key


@pytest.mark.timeout(180)
def test_a_report_that_its_device_never_made_is_a_violation_whoever_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    believe(monkeypatch)
    monkeypatch.setattr(Attacker, "_forge", lambda self, topic, payload, retain=False: (topic, payload, retain))
    run, _ = played(world("impersonates"))
    assert run.ledger.counts["forged-report"] == 0
    assert run.ledger.counts["made-up-report"] > 0
