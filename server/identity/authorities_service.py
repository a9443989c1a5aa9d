"""What people do about the CAs: see who depends on which, and replace them without losing a device.

A change is refused while devices would lose their way by it, unless it is forced. Every change is written to the files at
once, leaves a line on the trail, and comes into force when the server, and a broker of one's own, are started again.
"""

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cryptography import x509

from firmware.errors import OtariaError, RefusedError
from server.identity.authority import FLEET, NEXT_SERVICES, RETIRED_FILE, REVOCATION_FILE, SERVICES
from server.identity.authority_files import fingerprint_of, load_certificates
from server.identity.authority_keys import MakeKey
from server.identity.certificates import new_key, pem_of
from server.identity.private_files import locked_directory
from server.identity.revocation import ListState, list_state
from server.identity.rotation import Rotation
from server.ports import Clock, Database, Unit


class Kind(StrEnum):
    FLEET = "fleet"
    SERVICES = "services"


class CaStep(StrEnum):
    ROTATE = "rotate"
    SWITCH = "switch"
    RETIRE = "retire"


@dataclass(frozen=True, kw_only=True)
class CaView:
    """A CA as people see it. `standing`: `signs`, `next`, `accepted` or `retired`. `targets`: of a fleet CA, those whose
    certificate it signed; of a services CA, those that said they trust it."""

    kind: Kind
    fingerprint: str
    standing: str
    made_at: float
    ends_at: float
    targets: int
    pem: str


@dataclass(frozen=True, kw_only=True)
class CasView:
    """All CAs, and what a person should do next."""

    cas: tuple[CaView, ...]
    restart_needed: bool
    targets: int
    revocation_lists: ListState


class AuthoritiesService:
    """Shows and changes the CAs of the identity directory."""

    def __init__(
        self,
        database: Database,
        directory: Path,
        *,
        in_force: frozenset[str],
        clock: Clock,
        fleet_keys: MakeKey | None = None,
    ) -> None:
        """`in_force`: fingerprints of the CAs that this process signs with. `fleet_keys` makes the keys of new fleet CAs."""
        self._database, self._directory, self._in_force, self._clock = database, directory, in_force, clock
        self._fleet_keys = fleet_keys or new_key

    async def show(self) -> CasView:
        """Every CA there is, with how many targets depend on it."""
        files, lists = await asyncio.to_thread(self._certificates), await self.lists()
        return await self._database.read(lambda unit: self._view(unit, files, lists))

    async def lists(self) -> ListState:
        """How old the revocation lists are."""
        return await asyncio.to_thread(list_state, self._directory / REVOCATION_FILE, self._clock.now())

    async def step(self, kind: Kind, step: CaStep, *, by: str, force: bool) -> CasView:
        """Take a step.

        Raises `RefusedError`: `ca-in-use` unless `force`, `restart-first` while the step before is not in force yet,
        `too-many-cas`, `same-key`, `no-next-ca`, `nothing-to-retire`, `wrong-step`; `UnavailableError` (`authority-unavailable`).
        """
        before = await self.show()
        self._require_possible(kind, step, before)
        in_need = await self._in_need(kind, step, before)
        if in_need and not force:
            raise RefusedError("ca-in-use", _in_need_text(kind, step, in_need))
        await self._record(
            f"ca-{step}", f"{by} does `{step} {kind}` to the CAs; {in_need} targets depend on what it ends.", by
        )
        try:
            await asyncio.to_thread(self._carry_out, kind, step)
        except (OtariaError, OSError) as error:
            await self._record("ca-not-done", f"`{step} {kind}` was not done: {error}.", by)
            raise
        return await self.show()

    async def _record(self, kind: str, text: str, by: str) -> None:
        """Before the files change: what isn't on the trail is not done."""
        now = self._clock.now()
        await self._database.write(lambda unit: unit.audit.add(at=now, kind=kind, text=text, actor=by))

    def _require_possible(self, kind: Kind, step: CaStep, view: CasView) -> None:
        if kind is Kind.FLEET and step is CaStep.SWITCH:
            raise RefusedError("wrong-step", "A new fleet CA signs from the next start on; there is nothing to switch.")
        if view.restart_needed and step is not CaStep.ROTATE:
            raise RefusedError("restart-first", "The step before is not in force yet; restart `otaria serve` first.")

    async def _in_need(self, kind: Kind, step: CaStep, view: CasView) -> int:
        """How many targets would lose their way by the step."""
        if kind is Kind.FLEET:
            return sum(ca.targets for ca in view.cas if ca.standing == "accepted") if step is CaStep.RETIRE else 0
        if step is CaStep.ROTATE:
            return 0
        wanted = "next" if step is CaStep.SWITCH else "signs"
        chosen = [ca.fingerprint for ca in view.cas if ca.kind is Kind.SERVICES and ca.standing == wanted]
        if not chosen:
            return 0
        return await self._database.read(lambda unit: unit.fleet.without_services_ca(chosen[0]))

    def _carry_out(self, kind: Kind, step: CaStep) -> None:
        rotation, now = Rotation(directory=self._directory, fleet_keys=self._fleet_keys), self._clock.now()
        match kind, step:
            case Kind.FLEET, CaStep.ROTATE:
                rotation.rotate_fleet(now)
            case Kind.FLEET, _:
                rotation.retire_fleet()
            case Kind.SERVICES, CaStep.ROTATE:
                rotation.prepare_services(now)
            case Kind.SERVICES, CaStep.SWITCH:
                rotation.switch_services()
            case _:
                rotation.retire_services()

    def _certificates(self) -> list[tuple[Kind, str, x509.Certificate]]:
        with locked_directory(self._directory):
            fleet = load_certificates(self._directory / f"{FLEET}.pem")
            services = load_certificates(self._directory / f"{SERVICES}.pem")
            retired, upcoming = self._directory / RETIRED_FILE, self._directory / f"{NEXT_SERVICES}.pem"
            found = [(Kind.FLEET, "accepted" if place else "signs", one) for place, one in enumerate(fleet)]
            found += [(Kind.FLEET, "retired", one) for one in (load_certificates(retired) if retired.exists() else ())]
            found += [
                (Kind.SERVICES, "next", one) for one in (load_certificates(upcoming) if upcoming.exists() else ())
            ]
            found += [(Kind.SERVICES, "accepted" if place else "signs", one) for place, one in enumerate(services)]
        return found

    def _view(self, unit: Unit, found: list[tuple[Kind, str, x509.Certificate]], lists: ListState) -> CasView:
        issuers, total = dict(unit.identities.issuers()), sum(unit.identities.issuers().values())
        known = {fingerprint_of(one) for kind, _, one in found if kind is Kind.FLEET}
        # Certificates from before issuers were noted are of the oldest CA that is known.
        unnoted = sum(number for issuer, number in issuers.items() if issuer not in known)
        oldest = [fingerprint_of(one) for kind, _, one in found if kind is Kind.FLEET][-1]
        views = []
        for kind, standing, one in found:
            name = fingerprint_of(one)
            targets = (
                issuers.get(name, 0) + (unnoted if name == oldest else 0)
                if kind is Kind.FLEET
                else total - unit.fleet.without_services_ca(name)
            )
            views.append(
                CaView(
                    kind=kind,
                    fingerprint=name,
                    standing=standing,
                    made_at=one.not_valid_before_utc.timestamp(),
                    ends_at=one.not_valid_after_utc.timestamp(),
                    targets=targets,
                    pem=pem_of(one).decode(),
                )
            )
        signing = {
            view.fingerprint for view in views if view.standing in ("signs", "accepted") and view.kind is Kind.FLEET
        }
        signing |= {view.fingerprint for view in views if view.standing == "signs"}
        return CasView(
            cas=tuple(views), restart_needed=signing != self._in_force, targets=total, revocation_lists=lists
        )


def _in_need_text(kind: Kind, step: CaStep, number: int) -> str:
    who = "1 target" if number == 1 else f"{number} targets"
    if kind is Kind.FLEET:
        what = "still has a certificate" if number == 1 else "still have certificates"
        return (
            f"{who} {what} of the old fleet CA; wait until they have renewed them, or say --yes: they can't connect after "
            "that until they have renewed by proof of possession, which they do by themselves."
        )
    verb = "has" if number == 1 else "have"
    return (
        f"{who} {verb} not said that they trust the {'next' if step is CaStep.SWITCH else 'new'} services CA; sign it into the "
        "catalogue (`otaria keys endpoints`) and wait, or say --yes: such a device finds back when it fetches the catalogue."
    )
