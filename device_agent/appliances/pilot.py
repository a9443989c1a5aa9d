"""Takes one box along its course: stores the step, does its work, stores where that led. Killed anywhere, a new pilot over the
same directory goes on.

The callers give their word (`prepare`, `arm`, `switch`, `keep`, `leave`), and each call runs until the next step that waits for
one. What a call could not do now is raised as `UnavailableError`, and the same call goes on later; what was refused is raised as
`RefusedError`, and the course tells where the box was left.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from msgspec.structs import replace

from device_agent.appliances.comparison import differences
from device_agent.appliances.course import (
    SWITCHING,
    TABLE,
    WORK,
    Course,
    Step,
    Turn,
    Work,
    begun,
    found,
    is_under_way,
    turned,
)
from device_agent.appliances.course_file import CourseFile
from device_agent.appliances.declared import DeclaredDriver
from device_agent.appliances.dialect import Dialect
from device_agent.appliances.driver import BoxIdentity, BoxImage, Driver, Facts
from device_agent.appliances.line import Lines
from firmware.errors import OtariaError, RefusedError, UnavailableError

log = logging.getLogger(__name__)
FIRST_LOOK_S, LAST_LOOK_S = 0.5, 20.0
IDLE_S = 60.0
"""A line that rested for longer is not used again: boxes end what is idle, some without a word."""
_LONG_RESTS = frozenset({Step.IDLE, Step.STAGED, Step.COMMITTED, Step.FELL_BACK, Step.STRANDED})
"""Where a box may wait for hours; no line is held meanwhile."""

_BUSY = frozenset({*SWITCHING, Step.TRIAL, Step.COMMITTING, Step.GIVEN_UP} - {Step.STANDBY_BACK})
_BEFORE_ARMED = (Step.STAGED, Step.SNAPSHOT, Step.ARMING, Step.DISARMING)


class Sleeper(Protocol):
    """Time of the process: monotonic seconds, and waiting."""

    def seconds(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the settings say of a box: which one it is, whether it may be updated without a way back, what is compared before and
    after, and for how long that may take to become as it was."""

    identity: BoxIdentity
    single_image: Literal["refuse", "one-way"] = "refuse"
    compare: tuple[str, ...] = ()
    config_may_change: bool = False
    settle_s: float = 120.0


class Pilot:
    """One box."""

    def __init__(
        self,
        lines: Lines,
        dialect: Dialect,
        expected: Expected,
        file: CourseFile,
        sleeper: Sleeper,
        *,
        on_step: Callable[[Course], None] = lambda course: None,
    ) -> None:
        """`on_step` is told of every course that was stored."""
        self._lines, self._dialect, self._expected = lines, dialect, expected
        self._file, self._sleeper, self._on_step = file, sleeper, on_step
        self._driver: Driver | None = None
        self._busy = asyncio.Lock()
        self._rests_since = 0.0
        self._on_bytes: Callable[[int], None] = lambda done: None
        self._stop: Callable[[], bool] = lambda: False
        self.course = file.load()
        self._works: Mapping[Work, Callable[[Driver], Awaitable[Turn]]] = {
            Work.IDENTIFY: self._identify,
            Work.PRECHECK: self._precheck,
            Work.BACKUP: self._backup,
            Work.UPLOAD: self._upload,
            Work.CHECK: self._done(lambda driver: driver.check(self._image)),
            Work.INSTALL: self._done(lambda driver: driver.install(self._image, self._old)),
            Work.VERIFY_STAGED: self._done(lambda driver: driver.verify_staged(self._image, self._old)),
            Work.SNAPSHOT: self._snapshot,
            Work.ARM: self._done(lambda driver: driver.arm(self._image, self._old, self.course.trial_s)),
            Work.DISARM: self._done(lambda driver: driver.disarm(self._image, self._old)),
            Work.STANDBY: self._standby,
            Work.STANDBY_BACK: self._standby_back,
            Work.ACTIVATE: self._activate,
            Work.COMMIT: self._commit,
            Work.ROLLBACK: self._roll_back,
        }

    # Words

    async def prepare(
        self,
        image: BoxImage,
        *,
        on_bytes: Callable[[int], None] = lambda done: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Facts:
        """Bring the image to the box and beside the running one; the box goes on running what it runs. What it said before."""
        async with self._word():
            self._on_bytes, self._stop = on_bytes, stop
            if self.course.step in _BUSY:
                raise UnavailableError("box-busy", f"The box is {self.course.step.value}; it is staged to afterwards.")
            same = self.course.image is not None and self.course.image.digests == image.digests
            await self._call_off(same)
            if same and self.course.step is Step.STAGED:
                await self._store(turned(self.course, Turn.CHECK))
            elif not (same and is_under_way(self.course)):
                await self._store(begun(self.course, image))
            await self._run()
            return self._before

    async def arm(self, trial_id: str, trial_s: int) -> None:
        """Take the picture that is compared later, and ask for the trial where that is apart from the restart. Idempotent."""
        async with self._word():
            if self.course.trial_id == trial_id and self.course.step not in _BEFORE_ARMED:
                return
            if self.course.step not in _BEFORE_ARMED:
                text = f"The box is {self.course.step.value}, so no trial can be asked for; stage the release anew."
                raise RefusedError("trial-refused", text)
            if self.course.step is Step.STAGED:
                await self._store(
                    replace(turned(self.course, Turn.ARM), trial_id=trial_id, trial_s=trial_s, cause="", why="")
                )
            await self._run()

    async def switch(self) -> None:
        """Restart the box: into the new image when it is armed, into the old one when it is given up. Returns when it is back and
        says what it runs."""
        async with self._word():
            course = self.course
            if course.step is Step.GIVEN_UP and not self._dialect.rollback:
                text = f"{course.why} This kind of box has one image, so there is no way back; the new one runs on."
                await self._store(turned(course, Turn.FAILED, error=RefusedError(course.cause or "requested", text)))
            elif course.step in (Step.ARMED, Step.GIVEN_UP):
                await self._store(turned(course, Turn.GO))
            await self._run()

    async def keep(self, trial_id: str) -> None:
        """Commit the trial. Idempotent."""
        async with self._word():
            if self.course.trial_id != trial_id:
                raise RefusedError("not-committed", "Another trial runs on the box than the one to be committed.")
            if self.course.step is Step.TRIAL:
                await self._store(turned(self.course, Turn.KEEP))
            await self._run()
            if self.course.step is not Step.COMMITTED:
                raise UnavailableError("not-committed", f"The box did not commit. {self.course.why}"[:1024])

    async def leave(self, trial_id: str, why: OtariaError) -> None:
        """Give the trial up, or take back that it was asked for. Idempotent; `switch` then goes back."""
        async with self._word():
            if self.course.trial_id == trial_id and self.course.step in (Step.TRIAL, Step.ARMED):
                await self._store(turned(self.course, Turn.LEAVE, error=why))
                await self._run()

    async def look(self) -> Facts:
        """What the box says now. If it left a trial by itself, the course says so afterwards."""
        async with self._word():
            driver = await self._open()
            try:
                self._require(await driver.identify())
                facts = await driver.facts()
            except OtariaError:
                await self.close()
                raise
            turn = found(self.course, facts) if self.course.image is not None else None
            if self.course.step is Step.TRIAL and turn is not None and turn is not Turn.NEW:
                text = f"The box went back by itself: it runs {facts.running}."
                await self._store(turned(self.course, turn, error=RefusedError("trial-deadline", text)))
            if self.course.step is Step.ARMED and facts.boot != self._before.boot and turn is not None:
                text = f"The box was restarted by somebody else, and runs {facts.running}."
                await self._store(turned(self.course, turn, error=RefusedError("boot-failed", text)))
            if self.course.step is Step.STANDBY_BACK:
                with contextlib.suppress(RefusedError):  # the course tells
                    await self._run()
            return facts

    async def judge(self) -> list[str]:
        """What is different on the box now from before its restart; waits until it is as it was, or `settle_s` have passed.
        Raises when the box can't be asked, or is another one."""
        async with self._word():
            until = self._sleeper.seconds() + self._expected.settle_s
            pause = FIRST_LOOK_S
            while True:
                said = await self._differences()
                if not said or self._sleeper.seconds() + pause > until:
                    return said
                await self._sleeper.sleep(pause)
                pause = min(pause * 2, LAST_LOOK_S)

    async def close(self) -> None:
        """Hang up."""
        driver, self._driver = self._driver, None
        if driver is not None:
            await driver.close()

    @contextlib.asynccontextmanager
    async def _word(self) -> AsyncIterator[None]:
        """One call at a time, over a line that is not older than it may be, and that is hung up where a long rest begins."""
        async with self._busy:
            if self._sleeper.seconds() - self._rests_since > IDLE_S:
                await self.close()
            try:
                yield
            except OtariaError:
                await self._rest()
                raise
            await self._rest()

    async def _rest(self) -> None:
        self._rests_since = self._sleeper.seconds()
        if self.course.step in _LONG_RESTS:
            await self.close()

    async def _call_off(self, same: bool) -> None:
        """Finish what another order began, so that the box boots what it runs. `same`: it was about the same image."""
        if not same and self.course.step in (Step.INSTALL, Step.VERIFY_STAGED):
            await self._store(turned(self.course, Turn.FAILED))
        if not same and self.course.step is Step.UNDOING:
            await self._run()
        if self.course.step in (Step.SNAPSHOT, Step.ARMING, Step.DISARMING, Step.STANDBY_BACK):
            with contextlib.suppress(RefusedError):
                await self._run()
        if self.course.step is Step.ARMED:
            await self._store(turned(self.course, Turn.LEAVE))
            await self._run()

    # The course

    async def _run(self) -> None:
        """Work until somebody's word is needed. What was refused is raised once the box is left in peace."""
        refused: OtariaError | None = None
        while is_under_way(self.course):
            turn, error = await self._work()
            refused = error or refused
            await self._store(turned(self.course, turn, error=error))
        if refused is not None:
            raise refused

    async def _work(self) -> tuple[Turn, OtariaError | None]:
        step = self.course.step
        try:
            if WORK[step] is Work.AWAIT_RETURN:
                return await self._await_return()
            return await self._works[WORK[step]](await self._open()), None
        except RefusedError as error:
            await self.close()
            if (step, Turn.FAILED) not in TABLE:
                raise UnavailableError(error.kind, error.text) from error
            return Turn.FAILED, error
        except UnavailableError:
            await self.close()
            if self._may_be_restarting:
                return Turn.DONE, None
            raise

    @property
    def _may_be_restarting(self) -> bool:
        """Whether the box was told to restart at this step, by us or by whoever was killed: then it is waited for."""
        step, left = self.course.step, self.course.left
        told = step is Step.ACTIVATING and left == self._before.boot
        return told or (step is Step.ROLLING_BACK and left not in ("", self._before.boot))

    async def _store(self, course: Course) -> None:
        await asyncio.to_thread(self._file.store, course)
        self.course = course
        self._on_step(course)

    async def _open(self) -> Driver:
        if self._driver is None:
            self._driver = DeclaredDriver(self._dialect, await self._lines.open())
        return self._driver

    @property
    def _image(self) -> BoxImage:
        assert self.course.image is not None  # noqa: S101 (every course with work to do has one)
        return self.course.image

    @property
    def _before(self) -> Facts:
        assert self.course.before is not None  # noqa: S101 (known since `IDENTIFY`)
        return self.course.before

    @property
    def _old(self) -> str:
        return self._before.running

    # Work

    def _done(self, verb: Callable[[Driver], Awaitable[None]]) -> Callable[[Driver], Awaitable[Turn]]:
        async def work(driver: Driver) -> Turn:
            await verb(driver)
            return Turn.DONE

        return work

    def _require(self, identity: BoxIdentity) -> None:
        """Whether this is the box that we mean."""
        if identity != self._expected.identity:
            seen, wanted = (f"{one.model} with serial {one.serial}" for one in (identity, self._expected.identity))
            raise RefusedError("box-not-it", f"The box says that it is {seen}; the settings say {wanted}."[:1024])

    async def _identify(self, driver: Driver) -> Turn:
        self._require(await driver.identify())
        facts = await driver.facts()
        if not driver.capabilities.dual_image and self._expected.single_image != "one-way":
            text = 'This box has one image, so there is no way back; allow it with `single_image = "one-way"`.'
            raise RefusedError("box-single-image", text)
        if facts.permanent != facts.running:
            text = f"The box runs {facts.running} and would boot {facts.permanent}: somebody else updates it."
            raise RefusedError("box-busy", text)
        self.course = replace(self.course, before=facts)
        return Turn.DONE

    async def _precheck(self, driver: Driver) -> Turn:
        await driver.precheck(self._image)
        return Turn.DONE

    async def _backup(self, driver: Driver) -> Turn:
        config = await driver.backup()
        if not config.strip():
            raise RefusedError("box-output", "The box printed no running configuration, so nothing could be compared.")
        self.course = replace(self.course, config=config)
        return Turn.DONE

    async def _upload(self, driver: Driver) -> Turn:
        await driver.upload(self._image, on_bytes=self._on_bytes, stop=self._stop)
        return Turn.DONE

    async def _snapshot(self, driver: Driver) -> Turn:
        """The box as it is right before its restart."""
        self._require(await driver.identify())
        facts = await driver.facts()
        if facts.running != self._old:
            text = f"The box runs {facts.running}, and ran {self._old} when the image was staged: stage it anew."
            raise RefusedError("box-busy", text)
        await driver.verify_staged(self._image, self._old)
        config, sets = await driver.backup(), await driver.sets(self._expected.compare)
        self.course = replace(self.course, before=facts, config=config, sets=sets)
        return Turn.DONE

    async def _standby(self, driver: Driver) -> Turn:
        """The second supervisor first; a box that has none goes on."""
        if self._has_standby(driver):
            await driver.standby(self._image, self._old)
        return Turn.DONE

    async def _standby_back(self, driver: Driver) -> Turn:
        """The second supervisor as it was, if it is not; when it won't, that is told beside what went wrong before."""
        if self._has_standby(driver) and (await driver.facts()).standby != self._before.standby:
            try:
                await driver.standby_back(self._image, self._old)
            except RefusedError as error:
                text = f"{self.course.why} The second supervisor did not go back: {error.text}"
                raise RefusedError(self.course.cause or error.kind, text[:1024]) from error
        return Turn.DONE

    def _has_standby(self, driver: Driver) -> bool:
        return driver.capabilities.standby and self._before.standby is not None

    async def _activate(self, driver: Driver) -> Turn:
        """Restart the box, unless it was restarted since it was armed."""
        if (await driver.facts()).boot == self._before.boot:
            await self._leave_box(driver.activate(self._image, self._old, self.course.trial_s), self._before.boot)
        await self.close()
        return Turn.DONE

    async def _commit(self, driver: Driver) -> Turn:
        """Keep what runs, which must be the new image; the box has to say so itself afterwards."""
        turn = found(self.course, await driver.facts())
        if turn is not Turn.NEW:
            return Turn.OLD
        await driver.commit(self._image, self._old)
        facts = await driver.facts()
        if facts.permanent != self._image.version:
            raise RefusedError(
                "not-committed", f"The box would still boot {facts.permanent} after it was told to commit."
            )
        return Turn.DONE

    async def _roll_back(self, driver: Driver) -> Turn:
        """Restart into the old image, unless the box is there already."""
        facts = await driver.facts()
        if found(self.course, facts) is Turn.NEW:
            if self._has_standby(driver) and facts.standby != self._before.standby:
                await driver.standby_back(self._image, self._old)
            self.course = replace(self.course, left=facts.boot)
            await self._leave_box(driver.rollback(self._image, self._old), facts.boot)
        await self.close()
        return Turn.DONE

    async def _leave_box(self, verb: Awaitable[None], boot: str) -> None:
        """A restart ends the connection however it likes; whether there was one is seen from `boot` when the box is back."""
        self.course = replace(self.course, left=boot)
        await asyncio.to_thread(self._file.store, self.course)
        try:
            await verb
        except UnavailableError as error:
            log.info("the connection ended by a restart", extra={"reason_kind": error.kind})

    async def _await_return(self) -> tuple[Turn, OtariaError | None]:
        """Look for the box until it says, in a new boot, what it runs."""
        began, pause = self._sleeper.seconds(), FIRST_LOOK_S
        while True:
            waited = self._sleeper.seconds() - began
            try:
                driver = await self._open()
                self._require(await driver.identify())
                facts = await driver.facts()
                if facts.boot != self.course.left:
                    return self._returned(facts)
                if waited > self._dialect.leave_s:
                    text = f"The box did not restart within {self._dialect.leave_s:g} s and still runs {facts.running}."
                    return Turn.STAYED, RefusedError("box-stayed", text)
            except UnavailableError as error:
                await self.close()
                if waited > self._dialect.return_s:
                    text = f"The box is not back after {waited:.0f} s: {error.text} It is looked for again."
                    raise UnavailableError("box-away", text[:1024]) from error
            except RefusedError:
                await self.close()
                if waited > self._dialect.return_s:
                    raise
            await self._sleeper.sleep(pause)
            pause = min(pause * 2, LAST_LOOK_S)

    def _returned(self, facts: Facts) -> tuple[Turn, OtariaError | None]:
        turn = found(self.course, facts)
        if turn is Turn.NEW:
            return turn, None
        if turn is Turn.OLD:
            if self.course.step is Step.AWAITING_OLD:
                return turn, None
            text = f"The box came back with {facts.running}: the new image did not boot."
            return turn, RefusedError("boot-failed", text)
        text = f"The box came back with {facts.running}, which is neither the old nor the new image."
        return turn, RefusedError("boot-failed", text)

    async def _differences(self) -> list[str]:
        driver = await self._open()
        try:
            self._require(await driver.identify())
            facts = await driver.facts()
            said = [] if facts.running == self._image.version else [f"the box runs {facts.running}"]
            if self._has_standby(driver) and facts.standby != facts.running:
                said.append(f"the second supervisor runs {facts.standby}")
            after = await driver.backup() if not self._expected.config_may_change else self.course.config
            return said + differences(
                self.course.config, after, self.course.sets, await driver.sets(self._expected.compare)
            )
        except OtariaError:
            await self.close()
            raise
