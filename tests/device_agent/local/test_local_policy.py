"""Windows, conditions and hooks together, and a whole update on a device that has them."""

import threading
from datetime import UTC, datetime, time
from pathlib import Path

import pytest

from device_agent.core.values import Phase
from device_agent.local import policy as policy_module
from device_agent.local.hooks import Hook, Hooks, Point
from device_agent.local.policy import VALID_S, Condition, LocalPolicy, No
from device_agent.local.settings import ConditionEntry, HookSettings, LocalSettings, WindowEntry, policy_of
from firmware.checks import HealthCheck
from firmware.errors import RefusedError
from firmware.protocol.words import Action
from firmware.windows import Window
from tests.crash.world import BOARD, World

DAILY = Window(days=frozenset(range(7)), start=time(2), end=time(4))
TWO = datetime(2026, 3, 10, 2, tzinfo=UTC).timestamp()


def never() -> bool:
    return False


def hook(point: Point, command: str) -> Hook:
    return Hook(at=point, argv=("sh", "-c", command), timeout_s=20)


def battery(path: Path, *phases: Phase) -> Condition:
    check = HealthCheck(kind="metric", metric="file", path=str(path), least=30, tries=1)
    return Condition(name="battery", before=frozenset(phases), check=check)


def look(policy: LocalPolicy, phase: Phase = Phase.ACTIVATION, at: float = TWO) -> No | float:
    return policy.look(phase, {"order": "abc"}, at, never)


def test_nothing_set_allows_everything_and_asks_nothing() -> None:
    assert not LocalPolicy().asks_before_activation
    assert look(LocalPolicy()) == pytest.approx(VALID_S, abs=1)


def test_window_withholds_an_activation_until_it_opens_and_no_download() -> None:
    policy = LocalPolicy(windows=[DAILY])
    assert policy.asks_before_activation
    no = look(policy, at=TWO - 5000)
    assert isinstance(no, No)
    assert (no.reason.kind, no.retry_s, no.veto) == ("outside-window", 5000, False)
    assert (
        no.reason.text == "It waits for this device's next maintenance window, which opens at 2026-03-10T02:00+00:00."
    )
    assert not isinstance(look(policy, Phase.DOWNLOAD, at=TWO - 5000), No)


def test_yes_ends_with_the_window() -> None:
    assert look(LocalPolicy(windows=[DAILY]), at=TWO + 7140) == pytest.approx(60, abs=1)


def test_condition_withholds_its_phases_only(tmp_path: Path) -> None:
    level = tmp_path / "capacity"
    level.write_text("12\n")
    policy = LocalPolicy(conditions=[battery(level, Phase.DOWNLOAD)])
    assert not policy.asks_before_activation
    assert not isinstance(look(policy), No)
    no = look(policy, Phase.DOWNLOAD)
    assert isinstance(no, No)
    assert no.reason.kind == "condition-not-met"
    assert no.reason.text.startswith("Condition battery is not met. ")
    assert "it is 12, below 30" in no.reason.text
    level.write_text("80\n")
    assert not isinstance(look(policy, Phase.DOWNLOAD), No)


@pytest.mark.parametrize(
    ("code", "kind", "veto"), [(75, "hook-deferred", False), (77, "vetoed", True), (9, "hook-failed", False)]
)
def test_exit_codes_of_a_before_hook(code: int, kind: str, veto: bool) -> None:
    policy = LocalPolicy(hooks=Hooks([hook(Point.BEFORE_ACTIVATION, f"exit {code}")]), retry_s=7)
    no = look(policy)
    assert isinstance(no, No)
    assert (no.reason.kind, no.veto, no.retry_s) == (kind, veto, 7)


def test_hooks_do_not_run_outside_the_window(tmp_path: Path) -> None:
    policy = LocalPolicy(windows=[DAILY], hooks=Hooks([hook(Point.BEFORE_ACTIVATION, f"touch {tmp_path}/ran")]))
    look(policy, at=TWO - 1)
    assert not (tmp_path / "ran").exists()
    look(policy, at=TWO)
    assert (tmp_path / "ran").exists()


def test_download_is_lost_when_its_condition_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    level = tmp_path / "capacity"
    level.write_text("80")
    lost = LocalPolicy(conditions=[battery(level, Phase.DOWNLOAD)]).lost(Phase.DOWNLOAD, never)
    level.write_text("5")
    assert not lost(), "it is looked at now and then"
    monkeypatch.setattr(policy_module, "CONDITION_EVERY_S", 0.0)
    assert lost()
    assert lost.reason is not None
    level.write_text("80")
    assert lost(), "once lost it stays lost"


def test_stop_is_passed_on() -> None:
    stopped = threading.Event()
    lost = LocalPolicy().lost(Phase.DOWNLOAD, stopped.is_set)
    assert not lost()
    stopped.set()
    assert (lost(), lost.reason) == (True, None)


def test_settings_make_the_policy(tmp_path: Path) -> None:
    (tmp_path / "level").write_text("10")
    check = HealthCheck(kind="metric", metric="file", path=str(tmp_path / "level"), least=30, tries=1)
    local = LocalSettings(
        timezone="Europe/Berlin",
        windows=[WindowEntry(start="02:00", end="04:00", days=["tue"])],
        conditions=[ConditionEntry(name="battery", check=check)],
    )
    policy = policy_of(HookSettings(retry_s=9), local)
    no = look(policy, at=TWO + 7200)
    assert isinstance(no, No)
    assert "opens at 2026-03-17T02:00+01:00" in no.reason.text
    inside = look(policy, at=TWO)
    assert isinstance(inside, No)
    assert (inside.reason.kind, inside.retry_s) == ("condition-not-met", 9)


def test_zone_that_is_not_there_is_refused_when_it_is_needed() -> None:
    window = [WindowEntry(start="02:00", end="04:00")]
    with pytest.raises(ValueError, match="no time zone"):
        policy_of(HookSettings(), LocalSettings(timezone="Nowhere", windows=window))


# Whole updates


def owned(policy: LocalPolicy, *, faulty: set[str] | None = None) -> World:
    world = World(faulty=faulty, policy=policy)
    world.server.order(Action.INSTALL, world.new)
    return world


def traced(tmp_path: Path) -> LocalPolicy:
    say = f'echo "$OTARIA_HOOK $OTARIA_ACTION $OTARIA_VERSION $OTARIA_REASON_KIND" >> {tmp_path}/trace; echo "seen: $OTARIA_HOOK"'
    return LocalPolicy(hooks=Hooks([hook(point, say) for point in Point]))


def trace(tmp_path: Path) -> list[list[str]]:
    return [line.split() for line in (tmp_path / "trace").read_text().splitlines()]


def test_every_hook_of_a_good_update_runs_in_its_place(tmp_path: Path) -> None:
    world = owned(traced(tmp_path))
    world.run()
    assert [line[0] for line in trace(tmp_path)] == [
        "before-download",
        "before-install",
        "after-download",
        "after-install",
        "before-activation",
        "after-activation",
        "before-commit",
        "after-commit",
    ]
    assert all(line[1:] == ["install", "2.0"] for line in trace(tmp_path))
    assert world.server.states() == ["ordered", "downloading", "staged", "activating", "trial", "committed"]


def test_what_the_failure_hook_says_follows_the_failure(tmp_path: Path) -> None:
    world = owned(traced(tmp_path), faulty={"2.0"})
    world.run(until=lambda: world.settled() and world.server.told[-1].reason.kind == "failure-log")  # type: ignore[union-attr]
    assert trace(tmp_path)[-1] == ["on-failure", "install", "2.0", "health-failed"]
    failed, log = world.server.told[-2:]
    assert (failed.state, failed.reason and failed.reason.kind) == ("fell_back", "health-failed")
    assert (log.state, log.reason and log.reason.text) == ("fell_back", "seen: on-failure")
    assert log.order_hash == failed.order_hash


def test_veto_before_the_commit_falls_back_with_the_hooks_words() -> None:
    world = owned(LocalPolicy(hooks=Hooks([hook(Point.BEFORE_COMMIT, "echo not here; exit 77")])))
    world.run()
    reason = world.server.told[-1].reason
    assert (world.server.states()[-1], reason and reason.kind) == ("fell_back", "vetoed")
    assert reason is not None
    assert "ended with 77: 'not here'" in reason.text
    assert world.running_version() == "1.0"


def test_hook_that_never_lets_it_commit_ends_at_the_deadline_and_is_named() -> None:
    world = owned(LocalPolicy(hooks=Hooks([hook(Point.BEFORE_COMMIT, "exit 1")])))
    world.run()
    reason = world.server.told[-1].reason
    assert reason is not None
    assert (reason.kind, "Hook before-commit (sh) ended with 1." in reason.text) == ("trial-deadline", True)


def test_veto_before_the_download_writes_nothing() -> None:
    world = owned(LocalPolicy(hooks=Hooks([hook(Point.BEFORE_DOWNLOAD, "exit 77")])))
    before = {path: data for path, data in world.disk.files.items() if path.name.startswith("slot")}
    world.run()
    assert world.server.states()[-1] == "refused"
    assert {path: world.disk.files[path] for path in before} == before


def test_deferring_hook_is_asked_again_and_the_server_is_told_once(tmp_path: Path) -> None:
    counting = f"echo x >> {tmp_path}/count; test $(wc -l < {tmp_path}/count) -ge 3 || exit 75"
    world = owned(LocalPolicy(hooks=Hooks([hook(Point.BEFORE_ACTIVATION, counting)])))
    world.run()
    assert world.server.states() == [
        "ordered",
        "downloading",
        "staged",
        "deferred",
        "staged",
        "activating",
        "trial",
        "committed",
    ]
    assert len(world.server.asks) == 1


def test_closed_window_keeps_the_device_from_asking() -> None:
    world = owned(LocalPolicy(windows=[DAILY]))
    world.run()
    assert world.server.states()[-1] == "committed"
    deferred = next(report for report in world.server.told if report.state == "deferred")
    assert deferred.reason is not None
    assert deferred.reason.kind == "outside-window"
    activated = next(report for report in world.server.told if report.state == "activating")
    assert 2 <= datetime.fromtimestamp(activated.at, UTC).hour < 4


def test_empty_battery_stops_a_download_before_its_first_byte(tmp_path: Path) -> None:
    level = tmp_path / "capacity"
    level.write_text("5")
    world = owned(LocalPolicy(conditions=[battery(level, Phase.DOWNLOAD)]))
    world.run(until=lambda: "deferred" in world.server.states())
    assert not any(world.disk.files[BOARD.slot(world.boots[-1].slot.other)])
    level.write_text("90")
    world.run()
    assert world.server.states()[-1] == "committed"


@pytest.mark.parametrize("windows", [[], [WindowEntry(start="02:00", end="04:00")]])
def test_two_conditions_need_two_names(windows: list[WindowEntry]) -> None:
    from device_agent.local.settings import require_sensible

    one = ConditionEntry(name="battery", check=HealthCheck(kind="server"))
    with pytest.raises(RefusedError):
        require_sensible(HookSettings(), LocalSettings(conditions=[one, one], windows=windows))
