"""One soak: makes the scene, lets campaigns and faults go on for so long, checks all the while, and ends in quiet."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware.errors import OtariaError
from simulator.soak import fleet
from simulator.soak.books import Books, Ledger, Violation
from simulator.soak.chaos import CALM_S, LEVELS, Strike, strikes
from simulator.soak.conductor import Conductor, Round
from simulator.soak.connecting import connect
from simulator.soak.evidence import Reports, Trail, compare_fleet, quiet
from simulator.soak.gauges import SAMPLE_S, Gauges, Sample
from simulator.soak.hands import Hands
from simulator.wire.plan import Pulse, Tempo, Truth
from simulator.wire.scene import Scene

TURN_S = 0.5
CHECK_S = 60.0
TRAIL_S = 600.0
ROUND_ENDS_S = 300.0
QUIET_S = 300.0
TRAIL_TRIES = 5
PROCESSES = 2
"""Of simulated devices: one for each processor of the machine that this is meant for."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that came of a soak. `most_down`: at once, by site, by campaign, and of the whole fleet; `limits`: of the first two."""

    devices: int
    hours: float
    chaos: str
    seed: int
    seconds: float
    connected_s: float
    kb_per_device: float
    ledger: Ledger
    conductor: Conductor
    gauges: Gauges
    strikes: tuple[Strike, ...]
    reports: int
    trail_records: int
    permits: int
    followed: int
    most_down: Mapping[str, int]
    limits: Mapping[str, int]
    replayed: int
    refused: int
    troubles: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        return not self.ledger.broken


class Soak:
    """`say` is told in sentences what begins; `show` is told each sample."""

    def __init__(
        self,
        directory: Path,
        *,
        devices: int,
        hours: float,
        chaos: str,
        seed: int,
        say: Callable[[str], None] = lambda _: None,
        show: Callable[[Sample, Conductor | None, Ledger], None] = lambda *_: None,
        on_enrolled: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._directory, self._devices, self._lasts_s, self._chaos, self._seed = (
            directory,
            devices,
            hours * 3600,
            chaos,
            seed,
        )
        self._say, self._show, self._on_enrolled = say, show, on_enrolled
        self._members = {one.id: one for one in fleet.members(devices, seed)}
        self._strikes = strikes(LEVELS[chaos], seed, self._lasts_s, list(self._members))
        self._steady, self._pulses = threading.Lock(), threading.Lock()
        self._ledger = Ledger()
        self._gauges = Gauges(time.monotonic())
        self._troubles: list[str] = []
        self._books: Books | None = None
        self._scene = Scene(
            directory,
            product=fleet.PRODUCT,
            members=list(self._members.values()),
            releases=[fleet.release(number) for number in range(fleet.ROUNDS)],
            seed=seed,
            begins=fleet.BEGINS,
            tempo=Tempo(),
            processes=min(PROCESSES, devices),
            published=0,
            on_pulse=self._hear,
            say=say,
        )

    def run(self) -> Outcome:
        """All of it. Raises `UnavailableError` when it can't even begin. One that is ended by hand, or by an error, is told as
        far as it came."""
        try:
            self._scene.open(self._on_enrolled)
            return self._run()
        finally:
            self._scene.close()

    def _run(self) -> Outcome:
        self._say(f"connecting {self._devices} devices")
        connected = connect(self._scene.crew, self._gauges, self._devices)
        began = time.monotonic()
        self._gauges.began = began
        with self._pulses:
            self._books = books = Books(
                self._members,
                self._ledger,
                processes=len(self._scene.crew.pids),
                site_limit=fleet.site_limit(self._devices),
                campaign_limit=fleet.campaign_limit(self._devices),
                began=began,
            )
        conductor = Conductor(self._scene, self._devices, began, self._lasts_s, self._steady)
        hands = Hands(self._scene, self._seed, self._steady, lambda text: self._broke("server", began, text))
        reports = Reports(self._scene.lab.database_url, self._ledger)
        trail = Trail(self._scene.lab, self._directory / "trail", self._ledger)
        self._say("the soak begins")
        conductor.start()
        try:
            self._go_on(began, conductor, hands, reports, trail)
            self._settle(began, conductor, hands, reports, trail)
        except (OtariaError, KeyboardInterrupt) as error:
            why = error.text if isinstance(error, OtariaError) else "by hand"
            self._broke("ended", began, f"It was ended before its time, and not compared with its devices: {why}")
        finally:
            conductor.stop()
            hands.close()
        for text in self._gauges.growth():
            self._broke("growth", began, text)
        for text in idle(conductor.rounds, conductor.failures, books.followed):
            self._broke("idle", began, text)
        return Outcome(
            devices=self._devices,
            hours=self._lasts_s / 3600,
            chaos=self._chaos,
            seed=self._seed,
            seconds=time.monotonic() - began,
            connected_s=connected.seconds,
            kb_per_device=connected.kb_per_device,
            ledger=self._ledger,
            conductor=conductor,
            gauges=self._gauges,
            strikes=tuple(self._strikes),
            reports=reports.stored,
            trail_records=trail.records,
            permits=trail.permits,
            followed=books.followed,
            most_down=books.most_down,
            limits=books.limits,
            replayed=hands.misused,
            refused=hands.refused,
            troubles=(*self._troubles, *conductor.failures, *hands.failures),
        )

    def _broke(self, kind: str, began: float, text: str) -> None:
        with self._pulses:
            self._ledger.add(Violation(kind=kind, at_s=time.monotonic() - began, text=text))

    def _hear(self, pulse: Pulse) -> None:
        with self._pulses:
            self._gauges.hear(pulse)
            self._troubles += pulse.troubles[:5]
            for text in pulse.troubles:
                self._ledger.add(Violation(kind="agent-broke", at_s=pulse.at - self._gauges.began, text=text))
            if self._books is not None:
                self._books.hear(pulse.number, pulse.at, pulse.moments)

    def _go_on(self, began: float, conductor: Conductor, hands: Hands, reports: Reports, trail: Trail) -> None:
        todo, checks, trails = list(self._strikes), CHECK_S, TRAIL_S
        sampled = float("-inf")
        while (at_s := time.monotonic() - began) < self._lasts_s:
            while todo and todo[0].at_s <= at_s:
                self._strike(todo.pop(0), hands)
            hands.tend()
            self._look_after_server(began)
            if at_s - sampled >= SAMPLE_S:
                sampled = at_s
                self._sample(conductor, reports)
            if at_s >= checks:
                checks = at_s + CHECK_S
                self._check_reports(reports, began)
            if at_s >= trails:
                trails = at_s + TRAIL_S
                self._check_trail(trail, began)
            time.sleep(TURN_S)

    def _look_after_server(self, began: float) -> None:
        """A server that nobody killed goes on running; else that is told, and it is started again."""
        if not self._steady.acquire(blocking=False):
            return  # it is being killed just now, or used: the next look will do
        try:
            if self._scene.lab.has_ended:
                self._broke("server", began, f"The server ended by itself: {self._scene.lab.server_log()[-800:]}")
                self._scene.lab.start_server()
        finally:
            self._steady.release()

    def _strike(self, strike: Strike, hands: Hands) -> None:
        with self._pulses:
            if self._books is not None:
                self._books.struck(strike, time.monotonic())
        hands.strike(strike)

    def _sample(self, conductor: Conductor, reports: Reports) -> None:
        with self._pulses:
            down = self._books.down if self._books is not None else 0
            sample = self._gauges.sample(
                server=self._scene.lab.server_pid, broker=self._scene.broker.pid, down=down, stored=reports.stored
            )
        self._show(sample, conductor, self._ledger)

    def _traces(self) -> dict[str, tuple[str, ...]]:
        with self._pulses:
            books = self._books
            return {} if books is None else {name: books.trace(name) for name in self._members}

    def _check_reports(self, reports: Reports, began: float) -> list[Truth]:
        truths = list(self._scene.crew.truths().values())
        reports.compare(truths, time.monotonic() - began, self._traces())
        return truths

    def _check_trail(self, trail: Trail, began: float, tries: int = 1) -> None:
        for _ in range(tries):
            try:
                with self._steady:
                    trail.verify(time.monotonic() - began)
                return
            except OtariaError as error:
                why = error.text
                self._troubles.append(f"The trail could not be exported: {why}")
                time.sleep(TURN_S * tries)
        if tries > 1:
            self._broke("audit", began, f"The trail could not be exported in {tries} tries: {why}")

    def _settle(self, began: float, conductor: Conductor, hands: Hands, reports: Reports, trail: Trail) -> None:
        """End the campaign and the faults, wait until all is said and heard, and hold every target against its device."""
        self._say("no more campaigns and faults: waiting until all is said and heard")
        hands.rest()
        self._scene.crew.gather()
        conductor.stop()
        if not conductor.join(ROUND_ENDS_S):
            self._broke("idle", began, f"The last campaign did not end within {ROUND_ENDS_S:g} s.")
        why, until = "", time.monotonic() + QUIET_S
        while time.monotonic() < until:
            time.sleep(CALM_S / 4)
            self._sample(conductor, reports)
            truths = self._check_reports(reports, began)
            pending = reports.pending
            why = quiet(truths) or (f"the server has {pending} reports to handle" if pending else "")
            if not why:
                break
        at_s = time.monotonic() - began
        if why:
            self._ledger.add(Violation(kind="not-quiet", at_s=at_s, text=f"After {QUIET_S:g} s of quiet, {why}."))
        self._check_trail(trail, began, TRAIL_TRIES)
        trail.end(self._books.followed if self._books is not None else 0, at_s)
        by_target = {one.target: one for one in self._scene.crew.truths().values()}
        compare_fleet(self._fleet(), by_target, conductor.versions, self._ledger, at_s, self._traces())

    def _fleet(self) -> list[dict[str, Any]]:
        try:
            return self._scene.lab.rest.fleet()
        except OtariaError as error:
            self._ledger.add(
                Violation(kind="server", at_s=0, text=f"The server does not tell of its fleet: {error.text}")
            )
            return []


def idle(rounds: Sequence[Round], failures: Sequence[str], followed: int) -> Sequence[str]:
    """Why a soak showed nothing, in sentences."""
    if not rounds:
        return [f"No campaign was begun. {' '.join(failures[-1:])}".strip()]
    return [] if followed else ["No device followed a permit."]
