"""Churn with real agents: who comes late is enrolled then, who is replaced leaves the fleet in order, who is flashed anew
remembers nothing but its keys."""

import dataclasses
import logging
from collections.abc import Iterator

import pytest

from server.ports import AgentStatus
from simulator.exact.run import ExactRun, play
from simulator.exact.telling import outcome_of, room
from simulator.exact.trace import Head, Trace
from simulator.virtual.churn import happenings
from simulator.virtual.library import load
from simulator.virtual.outcome import Outcome
from simulator.virtual.world import Churn, World


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def scaled(*churn: Churn) -> World:
    whole = load("turnover")
    return dataclasses.replace(
        whole, lots=(dataclasses.replace(whole.lots[0], devices=8, sites=2),), churn=churn or whole.churn
    )


def played(world: World) -> tuple[ExactRun, Outcome]:
    with room() as directory:
        run = ExactRun(world, directory, Trace(Head(world=world.name, seed=world.seed)))
        return run, outcome_of(run, play(run))


def met(world: World, kind: str) -> set[str]:
    found = happenings(world.churn, world.members(world.seed), world.seed)
    return {one.member.id for one in found if one.kind == kind}


@pytest.mark.timeout(180)
def test_who_joins_is_replaced_or_flashed_anew_is_what_the_server_says_in_the_end() -> None:
    day = 86400.0
    world = scaled(
        Churn(kind="join", lot="meter", share=0.3, after_s=day, within_s=day),
        Churn(kind="replace", lot="meter", share=0.4, after_s=day, within_s=day),
        Churn(kind="reflash", lot="meter", share=0.6, after_s=8 * day, within_s=day),
    )
    joined, replaced, flashed = (met(world, kind) for kind in ("join", "replace", "reflash"))
    assert joined
    assert replaced
    assert flashed
    run, outcome = played(world)
    assert outcome.violations == ()
    spring, summer = run.states["spring"], run.states["summer"]
    new = {f"{name}-new" for name in replaced}
    assert not (joined | new) & set(spring)
    assert joined | new <= set(summer)
    assert not replaced & set(summer)
    assert {spring[name] for name in flashed} == {"regressed"}
    assert set(summer.values()) == {"verified"}
    assert {one.id for one in run.shown if one.status is AgentStatus.DECOMMISSIONED} == replaced
    assert {run.fleet.devices[name].truth().version for name in summer} == {"2.1.0"}


@pytest.mark.timeout(180)
def test_the_server_finds_a_copy_by_its_first_word_and_listens_to_neither_any_more() -> None:
    day = 86400.0
    world = scaled(Churn(kind="clone", lot="meter", share=0.4, after_s=8 * day, within_s=day))
    copied = met(world, "clone")
    assert copied
    run, outcome = played(world)
    assert outcome.violations == ()
    assert outcome.ignored["clone"] == len(copied)
    assert {one.id for one in run.shown if one.status is AgentStatus.QUARANTINED} == copied
    assert {run.states["spring"][name] for name in copied} == {"verified"}
    assert not copied & set(run.states["summer"])
    assert {run.fleet.devices[name].truth().version for name in copied} == {"2.0.0"}
