"""Campaigns without end: publishes the release of each round, starts its campaign, and waits until that is decided.

It works on a thread of its own, and takes it calmly when the server dies meanwhile: it asks again.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from firmware.errors import OtariaError
from simulator.soak import fleet
from simulator.wire.scene import Scene

DECIDED = ("completed", "aborted", "rolled_back", "paused")
WATCHED_S = 20.0
"""For how long a campaign may watch before the next one begins."""
LOOK_S = 1.0
PATIENCE_S = 240.0
"""For how long the server may be away, one way or another."""
ROUND_S, ROUND_S_EACH = 1500.0, 0.3
"""How long a campaign may take: at least so long, or so long for each device; but half of the soak at most, so that a bad
release comes, too."""

_AWAY = (OtariaError, OSError, ValueError, KeyError)
"""What comes of asking a server that is being killed: also half an answer, and a `run.json` that isn't there."""


@dataclass(kw_only=True)
class Round:
    """How a campaign went. Seconds after the beginning of the soak."""

    number: int
    campaign: str
    version: str
    is_bad: bool
    began_s: float
    ended_s: float | None = None
    state: str = "made"
    reason: str = ""
    counts: dict[str, int]


class Conductor:
    """`lasts_s`: how long the soak goes on. `steady` is held while commands run that a dying server would leave half done."""

    def __init__(self, scene: Scene, devices: int, began: float, lasts_s: float, steady: threading.Lock) -> None:
        self.rounds: list[Round] = []
        self._most_s = min(max(ROUND_S, ROUND_S_EACH * devices), lasts_s / 2)
        self._scene, self._devices, self._began, self._steady = scene, devices, began, steady
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="conductor", daemon=True)
        self.failures: list[str] = []
        """Why rounds were not played to their end."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Begin no more rounds; end the one that runs."""
        self._stopping.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for its end."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def versions(self) -> dict[str, str]:
        """What each campaign brings."""
        return {one.campaign: one.version for one in self.rounds}

    def _run(self) -> None:
        for number in range(fleet.ROUNDS):
            if self._stopping.is_set():
                return
            try:
                self._play(number)
            except _AWAY as error:
                self.failures.append(f"round {number}: {error}")

    def _play(self, number: int) -> None:
        release = fleet.release(number)
        self._patiently(lambda: self._publish(number))
        campaign = self._patiently(lambda: self._apply(number))
        played = Round(
            number=number,
            campaign=campaign,
            version=release.version,
            is_bad=fleet.is_bad(number),
            began_s=time.monotonic() - self._began,
            counts={},
        )
        self.rounds.append(played)
        self._watch(played)
        played.ended_s = time.monotonic() - self._began

    def _publish(self, number: int) -> None:
        with self._steady:
            if fleet.release(number).version not in self._published():
                self._scene.publish(fleet.release(number), number + 2)

    def _published(self) -> set[str]:
        return {one["version"] for one in self._scene.lab.rest.get("/releases")["releases"]}

    def _apply(self, number: int) -> str:
        with self._steady:
            name = f"round-{number}"
            found = [one for one in self._scene.lab.rest.get("/campaigns")["campaigns"] if one["name"] == name]
            if not found:
                return self._scene.lab.apply_campaign(fleet.campaign(number, self._devices))
            if found[0]["state"] == "draft":
                self._scene.lab.rest.post(f"/campaigns/{found[0]['id']}/start", {"reason": "the soak goes on"})
            return str(found[0]["id"])

    def _watch(self, played: Round) -> None:
        watched_since: float | None = None
        begin = time.monotonic()
        while True:
            view = self._patiently(lambda: self._scene.lab.campaign(played.campaign))
            played.state, played.reason, played.counts = view["state"], view["reason"], counts_of(view)
            now = time.monotonic()
            if played.state == "watching" and watched_since is None:
                watched_since = now
            is_over = played.state in DECIDED or (watched_since is not None and now - watched_since > WATCHED_S)
            if is_over or self._stopping.is_set() or now - begin > self._most_s:
                self._end(played)
                return
            time.sleep(LOOK_S)

    def _end(self, played: Round) -> None:
        """A campaign that isn't over is aborted: the next one needs its targets."""
        if played.state in ("completed", "aborted", "rolled_back"):
            return

        def abort() -> dict[str, Any]:
            view = self._scene.lab.campaign(played.campaign)
            if view["state"] not in ("completed", "aborted", "rolled_back"):
                self._scene.lab.rest.post(f"/campaigns/{played.campaign}/abort", {"reason": "the next round begins"})
            return self._scene.lab.campaign(played.campaign)

        view = self._patiently(abort)
        played.state, played.reason, played.counts = view["state"], view["reason"], counts_of(view)

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """What a call gives, asked again while the server is away."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return call()
            except _AWAY:
                if time.monotonic() > until:
                    raise
                time.sleep(LOOK_S)


def counts_of(view: dict[str, Any]) -> dict[str, int]:
    """How many targets are in which state, over all cohorts."""
    counts: dict[str, int] = {}
    for cohort in view["cohorts"]:
        for state, number in cohort["counts"].items():
            counts[state] = counts.get(state, 0) + number
    return {state: number for state, number in sorted(counts.items()) if number}
