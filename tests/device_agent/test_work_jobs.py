"""The jobs between core and ports: which checks run when, and what a stop or a hook does to a commit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from device_agent import work
from device_agent.core import commands as do
from device_agent.core import events as ev
from device_agent.core.values import Goal
from device_agent.ports import HealthResult, Slot
from device_agent.runtime import Connected
from device_agent.work import Ports
from firmware.checks import HealthCheck
from firmware.errors import UnavailableError
from firmware.manifest import Manifest
from firmware.protocol.order import FileRef
from tests.crash.world import World
from tests.device_agent.core.playbook import content, held

OWN = (HealthCheck(kind="systemd", units=["own.service"]), HealthCheck(kind="server"))
ALL = ["http", "server", "systemd", "server"]


class Asked:
    """`Health` that notes what it was asked to run."""

    def __init__(self, *, healthy: bool = True) -> None:
        self.kinds: list[str] = []
        self._healthy = healthy

    def run(self, checks: Sequence[HealthCheck], *, program_port: int | None, stop: Callable[[], bool]) -> HealthResult:
        self.kinds = [check.kind for check in checks]
        return HealthResult(healthy=self._healthy, text="seen")


def no() -> bool:
    return False


@pytest.fixture
def world() -> World:
    """A device whose new release has two checks of its own."""
    world = World()
    checks = [HealthCheck(kind="http", url="http://127.0.0.1/"), HealthCheck(kind="server")]
    new = world.new
    manifest = Manifest(**{**{f: getattr(new.manifest, f) for f in Manifest.__struct_fields__}, "health": checks})
    world.new = replace(new, manifest=manifest)
    world.depot.releases = [world.old, world.new]
    return world


def ports(world: World, **changes: Any) -> Ports:
    class Nobody:
        def publish(self, *_: object, **__: object) -> bool:
            return True

    return replace(world.powered_agent(Nobody())._ports, **changes)  # type: ignore[arg-type]


def goal(world: World) -> Goal:
    from msgspec.structs import replace as with_fields

    return Goal(slot=Slot.B, content=with_fields(content(), manifest=world.new.manifest_ref))


def test_a_trial_runs_the_releases_checks_and_the_devices(world: World) -> None:
    health = Asked()
    command = do.RunHealth(trial_id="t", goal=goal(world))
    event = work.run_health(ports(world, health=health), command, own=OWN, stop=no)
    assert event == ev.HealthFinished(trial_id="t", healthy=True, text="seen")
    assert health.kinds == ALL


def test_a_heartbeat_leaves_out_what_is_for_the_trial_only(world: World) -> None:
    health = Asked(healthy=False)
    command = do.RunHeartbeat(slot=Slot.B, manifest=world.new.manifest_ref)
    event = work.run_heartbeat(ports(world, health=health), command, own=OWN, stop=no)
    assert event == ev.HeartbeatDone(slot=Slot.B, healthy=False, text="seen")
    assert health.kinds == ["http", "systemd"]


def test_a_heartbeat_that_was_stopped_or_could_not_look_says_nothing_about_health(world: World) -> None:
    command = do.RunHeartbeat(slot=Slot.B, manifest=world.new.manifest_ref)
    stopped = work.run_heartbeat(ports(world, health=Asked(healthy=False)), command, own=(), stop=lambda: True)
    assert isinstance(stopped, ev.HeartbeatDone)
    assert stopped.healthy is None
    gone = do.RunHeartbeat(slot=Slot.B, manifest=FileRef(path="x", length=1, sha256="0" * 64))
    blind = work.run_heartbeat(ports(world, health=Asked()), gone, own=(), stop=no)
    assert isinstance(blind, ev.HeartbeatDone)
    assert blind.healthy is None


def test_somebody_who_asks_sees_all_checks(world: World) -> None:
    health = Asked()
    seen = work.check_now(ports(world, health=health), world.new.manifest_ref, own=OWN, stop=no)
    assert (seen, health.kinds) == (HealthResult(healthy=True, text="seen"), ALL)


def test_security_commit_that_was_stopped_does_not_reach_the_boot_loader(world: World) -> None:
    """A trial that is given up while a hook runs must not be committed after it."""
    made = ports(world)
    command = do.CommitTrial(trial_id="t", held=held())

    class Loader:
        def __init__(self) -> None:
            self.committed: list[str] = []

        def commit(self, trial_id: str) -> None:
            self.committed.append(trial_id)

    loader = Loader()
    stopped = work.commit_trial(replace(made, boot=loader), command, stop=lambda: True)  # type: ignore[arg-type]
    assert stopped == ev.CommitFailed(trial_id="t")
    assert loader.committed == []
    assert work.commit_trial(replace(made, boot=loader), command, stop=no) == ev.TrialCommitted(trial_id="t")  # type: ignore[arg-type]
    assert loader.committed == ["t"]


def test_loader_that_does_not_take_the_commit_is_said(world: World) -> None:
    class Loader:
        def commit(self, trial_id: str) -> None:
            raise UnavailableError("commit-pending", "It does not answer.")

    event = work.commit_trial(
        replace(ports(world), boot=Loader()),  # type: ignore[arg-type]
        do.CommitTrial(trial_id="t", held=held()),
        stop=no,
    )
    assert isinstance(event, ev.CommitFailed)


@pytest.mark.parametrize(
    ("acking", "reachable", "heard"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_the_server_has_answered_with_a_signed_ack_or_with_fresh_metadata(
    acking: bool, reachable: bool, heard: bool
) -> None:
    world = World()
    world.server.acking = acking
    world.depot.down = None if reachable else UnavailableError("unreachable", "No way.")
    world.run(until=lambda: bool(world.server.told) and world.clock.now > 1060)
    runtime = world.runtime
    assert runtime is not None
    reach = runtime._ports.reach
    assert (reach.connected, reach.heard) == (True, heard)
    runtime.handle(Connected(online=False))
    assert not reach.connected
