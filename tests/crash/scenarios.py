"""What a device may be doing when its power goes. A scenario is one function that makes a device on the point of doing it, and
what must have come of it in the end; it is run with every boot loader."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import time

from device_agent.core import events as ev
from device_agent.core.states import Committed, Deferred, Failed, FellBack
from device_agent.local.policy import LocalPolicy
from firmware.checks import Watch
from firmware.protocol.order import Counter
from firmware.protocol.words import Action, ReasonKind
from firmware.windows import Window
from tests.crash.agents import TwoAgents
from tests.crash.broken import require
from tests.crash.loaders import SETS, Loader
from tests.crash.releases import delta, release
from tests.crash.stick import StickWorld
from tests.crash.world import World

SMALL_BYTES = 1000
LARGE_BYTES = 2_200_000
MIN_UPTIME_S = 120.0
AFTERNOON = Window(days=frozenset(range(7)), start=time(15), end=time(17))


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`make`: the device. `run`: power it until all is done. `version`, `state`, `reason`: what it comes to. `cost`: one of how
    many points is gone on with, 1 being all. `again`: what somebody does after it failed for a failed write."""

    name: str
    make: Callable[[Loader], World]
    version: str
    state: type[Committed] | type[FellBack] = Committed
    reason: str | None = None
    run: Callable[[World], None] = lambda world: world.run()
    cost: int = 1
    again: Callable[[World], None] = lambda world: order_again(world)

    def check(self, world: World) -> None:
        """Whether it has come to that."""
        assert world.runtime is not None
        state = world.runtime.standing.state
        reason = state.reason.kind if isinstance(state, FellBack) else None
        found = (world.running_version(), type(state).__name__, reason)
        require("converges", found == (self.version, self.state.__name__, self.reason), f"{found} came of it")


def device(loader: Loader, **options: object) -> World:
    """A board of the factory."""
    options = {"body_bytes": SMALL_BYTES, **options}
    return World(loader=loader, min_uptime_s=MIN_UPTIME_S, **options)  # type: ignore[arg-type]


def updated(loader: Loader, **options: object) -> World:
    """A board that has committed 2.0, and stayed up."""
    world = device(loader, **options)
    world.server.order(Action.INSTALL, world.new)
    world.run()
    world.disk.system.shut_down()
    return world


def full(loader: Loader) -> World:
    world = device(loader)
    world.server.order(Action.INSTALL, world.new)
    return world


def large(loader: Loader) -> World:
    """An image of three windows."""
    world = device(loader, body_bytes=LARGE_BYTES)
    world.server.order(Action.INSTALL, world.new)
    return world


def several_slots(loader: Loader) -> World:
    """Three images, which switch together or not at all."""
    world = device(loader, images=SETS)
    world.server.order(Action.INSTALL, world.new)
    return world


def several_slots_again(loader: Loader) -> World:
    """Over the previous release in three sets, one of which both releases have in common."""
    world = updated(loader, images=SETS, unchanged=("app",))
    third = release("3.0", 3, sets=SETS, unchanged=("app",), body_bytes=SMALL_BYTES)
    world.depot.releases.append(third)
    world.server.order(Action.INSTALL, third)
    return world


def several_slots_faulty(loader: Loader) -> World:
    world = several_slots(loader)
    world.faulty = {"2.0"}
    return world


def by_delta(loader: Loader) -> World:
    world = device(loader)
    ref, patch = delta(world.old.image, world.new.image)
    world.depot.deltas.append((ref, patch))
    world.server.order(Action.INSTALL, world.new, delta=ref)
    return world


def over_the_previous(loader: Loader) -> World:
    """The third release goes where the first one was, which is gone back to no more."""
    world = updated(loader)
    third = release("3.0", 3, body_bytes=SMALL_BYTES)
    world.depot.releases.append(third)
    world.server.order(Action.INSTALL, third)
    return world


def faulty(loader: Loader) -> World:
    world = full(loader)
    world.faulty = {"2.0"}
    return world


def hanging(loader: Loader) -> World:
    """The new release never comes as far as the agent; a watchdog resets it."""
    world = full(loader)
    world.hanging = {"2.0"}
    return world


def after_a_lost_trial(loader: Loader) -> World:
    """The previous release was committed in the other slot; the trial of the next one there has just been given up by the boot
    loader, and another order comes at once."""
    world = updated(loader)
    third, fourth = release("3.0", 3, body_bytes=SMALL_BYTES), release("4.0", 4, body_bytes=SMALL_BYTES)
    world.depot.releases += [third, fourth]
    world.server.order(Action.INSTALL, third)
    world.hanging = {"3.0"}
    world.min_uptime_s = None
    world.run()
    world.disk.system.shut_down()
    world.min_uptime_s = MIN_UPTIME_S
    world.server.order(Action.INSTALL, fourth)
    return world


def crash_loop(loader: Loader) -> World:
    """What was committed begins to hang."""
    world = updated(loader)
    world.hanging = {"2.0"}
    return world


def ordered_rollback(loader: Loader) -> World:
    world = updated(loader)
    world.server.order(Action.ROLLBACK)
    return world


def regression(loader: Loader) -> World:
    """What was committed begins to fail its checks."""
    world = updated(loader, watch=Watch(heartbeat_s=30, failures=2, on_regression="rollback"))
    world.faulty_later = {"2.0"}
    return world


def deferral(loader: Loader) -> World:
    """The device waits for its window and for somebody's consent."""
    world = device(loader, policy=LocalPolicy(windows=[AFTERNOON]), consent=True)
    world.server.order(Action.INSTALL, world.new)
    return world


def from_a_stick(loader: Loader) -> World:
    """A bundle on a stick, on a device without a network."""
    world = StickWorld(loader=loader, body_bytes=SMALL_BYTES, min_uptime_s=MIN_UPTIME_S)
    world.order()
    return world


def run_from_a_stick(world: World) -> None:
    assert isinstance(world, StickWorld)
    world.answers = []
    world.run()
    world.carry_home()
    require("patient", not world.server.asks, "nobody is asked for a permit")


def another_agent(loader: Loader) -> World:
    """The new release's agent writes another journal; then the device goes back."""
    world = TwoAgents(loader=loader, body_bytes=SMALL_BYTES, min_uptime_s=MIN_UPTIME_S)
    world.server.order(Action.INSTALL, world.new)
    return world


def run_there_and_back(world: World) -> None:
    assert isinstance(world, TwoAgents)
    world.there_and_back()


def another_agent_fails(loader: Loader) -> World:
    world = another_agent(loader)
    world.faulty = {"2.0"}
    return world


def run_unacked(world: World) -> None:
    """The server takes reports and acknowledges none until all is over: then everything is still there, and in order."""

    def is_over() -> bool:
        assert world.runtime is not None
        state, highest = world.runtime.standing.state, world.runtime.standing.highest
        return isinstance(state, Committed | Failed) and highest == Counter(epoch=1, n=world.server.n)

    world.server.acking = False
    world.run(until=is_over)
    world.server.acking = True
    world.run()


def run_with_consent(world: World) -> None:
    """Somebody consents as soon as the device asks for it."""

    def ended() -> bool:
        assert world.runtime is not None
        standing = world.runtime.standing
        is_asked = isinstance(standing.state, Deferred) and standing.state.reason.kind == ReasonKind.CONSENT_NEEDED
        if is_asked and standing.local.consent != standing.highest_hash:
            world.runtime.tell(ev.Consented())
        return world.settled()

    world.run(until=ended)
    states = world.server.states()
    if "activating" in states:
        require("patient", "deferred" in states[: states.index("activating")], states)
    for report in world.server.told:
        if report.state == "activating":
            require("patient", 15 * 3600 <= report.at % 86400 < 17 * 3600, f"activated at {report.at}")


def run_to_the_way_back(world: World) -> None:
    def gone_back() -> bool:
        runtime = world.runtime
        assert runtime is not None
        return (
            isinstance(runtime.standing.state, FellBack | Failed)
            and not runtime.waiting_reports
            and world.has_stayed_up()
        )

    world.run(until=gone_back)


def order_again(world: World) -> None:
    """What a server does after a failure: the same with a higher counter."""
    last = world.server.last
    assert last is not None
    if last.release is None:
        world.server.order(last.action)
        return
    release = next(one for one in world.depot.releases if one.manifest.version == last.release.version)
    world.server.order(last.action, release, delta=last.images[0].delta)


def another_stick(world: World) -> None:
    """After a failure somebody comes with another order on the stick."""
    assert isinstance(world, StickWorld)
    world.disk.system.shut_down()
    world.order()


SCENARIOS = {
    one.name: one
    for one in (
        Scenario(name="full", make=full, version="2.0"),
        Scenario(name="delta", make=by_delta, version="2.0"),
        Scenario(name="several slots", make=several_slots, version="2.0"),
        Scenario(name="several slots again", make=several_slots_again, version="3.0"),
        Scenario(
            name="several slots, faulty",
            make=several_slots_faulty,
            version="1.0",
            state=FellBack,
            reason="health-failed",
        ),
        Scenario(name="over the previous", make=over_the_previous, version="3.0"),
        Scenario(name="after a lost trial", make=after_a_lost_trial, version="4.0"),
        Scenario(name="ordered rollback", make=ordered_rollback, version="1.0"),
        Scenario(name="faulty", make=faulty, version="1.0", state=FellBack, reason="health-failed"),
        Scenario(name="hanging", make=hanging, version="1.0", state=FellBack, reason="attempts-exhausted"),
        Scenario(
            name="crash loop",
            make=crash_loop,
            version="1.0",
            state=FellBack,
            reason="boot-loop",
            run=run_to_the_way_back,
        ),
        Scenario(
            name="late regression",
            make=regression,
            version="1.0",
            state=FellBack,
            reason="health-regressed",
            run=run_to_the_way_back,
        ),
        Scenario(name="deferral", make=deferral, version="2.0", run=run_with_consent),
        Scenario(name="offline bundle", make=from_a_stick, version="2.0", run=run_from_a_stick, again=another_stick),
        Scenario(name="another agent", make=another_agent, version="1.0", run=run_there_and_back),
        Scenario(
            name="another agent fails",
            make=another_agent_fails,
            version="1.0",
            state=FellBack,
            reason="health-failed",
        ),
        Scenario(name="unacked", make=full, version="2.0", run=run_unacked),
        Scenario(name="large", make=large, version="2.0", cost=40),
    )
}
