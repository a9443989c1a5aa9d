"""Keeps the gauges up to date, in the background, so that a scrape reads no storage and no file.

What is cheap is looked at every few seconds; what reads an index over the whole fleet, or files, once a minute.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from firmware.errors import OtariaError
from server.audit.keeper import Standing
from server.identity.authority_files import load_certificates
from server.identity.revocation import list_state
from server.observe.following import TrailFollower
from server.observe.meters import Meters
from server.planner.words import CampaignState, CohortState
from server.ports import Clock, Database, Unit

EVERY_S = 5.0
SLOW_EVERY_S = 60.0
PLACES = ("canary", "wave", "late")
CERTIFICATES = ("fleet-ca", "services-ca", "https", "broker", "mqtt-client")
_log = logging.getLogger(__name__)
Expiries = Callable[[], Mapping[str, float]]
"""Until when each role of the catalogue is signed; reads files."""


class Chains(Protocol):
    """Knows how the trail stands."""

    async def standing(self) -> Standing: ...


class Watching:
    """Keep `run` running. `identity`: the directory of the CAs; `expiries`: of the catalogue."""

    def __init__(
        self,
        database: Database,
        meters: Meters,
        chains: Chains,
        *,
        clock: Clock,
        identity: Path,
        revocation_lists: Path,
        expiries: Expiries,
        connected: Callable[[], bool],
        store_reached: Callable[[], bool],
    ) -> None:
        self._database, self._meters, self._chains, self._clock = database, meters, chains, clock
        self._identity, self._lists = identity, revocation_lists
        self._expiries, self._connected, self._store_reached = expiries, connected, store_reached
        self._follower = TrailFollower(database, meters)
        self._outbox_first: tuple[int, float] | None = None
        self._slow_at = float("-inf")

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except (OtariaError, OSError) as error:
                _log.warning("the metrics are not up to date: %s", error)
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Bring the gauges up to date. Raises `OtariaError`, `OSError`."""
        now = self._clock.now()
        self._meters.leader.set(1)
        self._meters.broker_connected.set(self._connected())
        self._meters.artifacts_reached.set(self._store_reached())
        await self._follower.follow()
        await self._database.read(lambda unit: self._quick(unit, now))
        if now - self._slow_at >= SLOW_EVERY_S or now < self._slow_at:
            self._slow_at = now
            await self._database.read(self._fleet)
            await asyncio.to_thread(self._files, now)
            self._trail(await self._chains.standing())
        self._meters.watched_at.set(now)

    def _quick(self, unit: Unit, now: float) -> None:
        meters, seen = self._meters, unit.observations
        queues, budgets = seen.queues(), seen.budgets()
        meters.inbox.set(queues.inbox)
        meters.inbox_age.set(0 if queues.inbox_since is None else max(0.0, now - queues.inbox_since))
        meters.outbox.set(queues.outbox)
        meters.outbox_age.set(self._waited(queues.outbox_first, now))
        for state, number in (("all", budgets.groups), ("full", budgets.full), ("exceeded", budgets.exceeded)):
            meters.groups.labels(state).set(number)
        campaigns, cohorts = seen.campaigns(), seen.cohorts()
        for one in CampaignState:
            meters.campaigns.labels(one).set(campaigns.get(one, 0))
        for place in PLACES:
            for which in CohortState:
                meters.cohorts.labels(place, which).set(cohorts.get((place, which), 0))

    def _waited(self, first: int | None, now: float) -> float:
        """For how long the same message has been the oldest of the outbox."""
        if first is None:
            self._outbox_first = None
            return 0.0
        if self._outbox_first is None or self._outbox_first[0] != first:
            self._outbox_first = (first, now)
        return max(0.0, now - self._outbox_first[1])

    def _fleet(self, unit: Unit) -> None:
        counts = unit.observations.fleet()
        self._meters.targets.labels("online").set(counts.online)
        self._meters.targets.labels("offline").set(counts.targets - counts.online)
        self._meters.drifted.set(unit.fleet.drifted())

    def _files(self, now: float) -> None:
        lists = list_state(self._lists, now)
        self._meters.revocation_signed_at.set(lists.made_at or 0)
        self._meters.revoked.set(lists.revoked)
        for name in CERTIFICATES:
            ends = load_certificates(self._identity / f"{name}.pem")[0].not_valid_after_utc.timestamp()
            self._meters.certificate_expiry.labels(name).set(ends)
        for role, at in self._expiries().items():
            self._meters.role_expiry.labels(role).set(at)

    def _trail(self, standing: Standing) -> None:
        self._meters.audit_records.set(standing.records)
        self._meters.audit_unsigned.set(standing.since)
        self._meters.audit_signed_at.set(standing.signed_at or 0)
        self._meters.audit_faults.set(len(standing.faults))
