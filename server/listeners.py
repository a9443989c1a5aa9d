"""What a server that leads listens with: the apps of its two listeners, given what they need of its other parts."""

from collections.abc import Callable

from aiohttp import web

from server.campaigns.bundles import BundleService
from server.campaigns.standing import Step, change_standing
from server.campaigns.trust import roles_of
from server.config_shown import shown
from server.core import Core
from server.foundation import Foundation
from server.http.bodies import bodies_from
from server.http.callers import Proxies
from server.http.devices import DeviceRoutes, tls_peer
from server.http.limits import limits_from
from server.identity.authorities_service import AuthoritiesService
from server.identity.authority_keys import keys_at
from server.identity.challenges import Challenges
from server.identity.claims import Claims
from server.identity.enrolment import EnrolmentOverHttp, EnrolmentService
from server.identity.factory import open_factory
from server.identity.key_enrolment import KeyEnrolmentOverHttp, KeyEnrolmentService
from server.identity.known_devices import KnownDevices
from server.identity.renewal import RenewalOverHttp, RenewalService
from server.identity.roots import Roots
from server.people import PeopleParts, people_listener
from server.ports import Unit
from server.ui.trust_pages import Premises


def devices_listener_of(base: Foundation, on_shut_out: Callable[[], None]) -> web.Application:
    """The app of the devices' listener. `on_shut_out` is told when somebody may have been shut out."""
    roots = Roots(base.repository.metadata)
    enrolment = EnrolmentService(
        base.database, base.authorities, roots=roots, addresses=base.addresses, clock=base.clock
    )
    challenges = Challenges()

    def change(unit: Unit, agent: str, step: Step, reason: str) -> None:
        change_standing(unit, agent, step, "enrolment", reason, base.clock.now())

    known = KeyEnrolmentService(
        enrolment.admission,
        factory=open_factory(base.settings.enrolment),
        challenges=challenges,
        quarantine=lambda unit, agent, reason: change(unit, agent, Step.QUARANTINE, reason),
        revoke=lambda unit, agent, reason: change(unit, agent, Step.REVOKE, reason),
        on_shut_out=on_shut_out,
    )
    renewal = RenewalService(base.database, base.authorities, clock=base.clock, challenges=challenges)
    return DeviceRoutes(
        enrolment=EnrolmentOverHttp(enrolment),
        known=KeyEnrolmentOverHttp(known),
        renewal=RenewalOverHttp(renewal),
        database=base.database,
        artifacts=base.artifacts,
        metadata=base.repository.metadata,
        peer=tls_peer,
        bodies=bodies_from(base.settings.limits),
        downloads=base.settings.artifacts.downloads,
    ).app()


def people_listener_of(base: Foundation, core: Core) -> web.Application:
    """The app of the people's listener."""
    claims = Claims(
        base.database,
        url=base.addresses.https_url,
        services_ca=base.services_ca_sha256,
        roots=Roots(base.repository.metadata),
        clock=base.clock,
    )

    def brought() -> None:
        core.engine.wake()
        core.publisher.wake()

    return people_listener(
        PeopleParts(
            database=base.database,
            tokens=base.tokens,
            claims=claims,
            known=KnownDevices(
                base.database,
                url=base.addresses.https_url,
                services_ca=base.services_ca_sha256,
                roots=Roots(base.repository.metadata),
                clock=base.clock,
            ),
            authorities=AuthoritiesService(
                base.database,
                base.authorities.directory,
                in_force=base.authorities.fingerprints,
                clock=base.clock,
                fleet_keys=keys_at(base.settings.fleet_key),
            ),
            desk=core.desk,
            forecasts=core.forecaster,
            rehearsals=core.rehearsals,
            premises=Premises(roles=lambda: roles_of(base.repository), settings=shown(base.settings)),
            publisher=core.releases,
            artifacts=base.artifacts,
            changes=base.changes,
            clock=base.clock,
            ready=lambda: _waiting_for(base, core),
            max_artifact_bytes=base.settings.http.max_artifact_bytes,
            director=base.director,
            bundles=BundleService(base.database, base.clock, base.director, base.repository, base.artifacts),
            ingest=core.line.ingest,
            chains=base.keeper,
            on_brought=brought,
            webhooks=core.hooks.desk,
            meters=base.meters,
            uploads=core.uploads,
            limits=limits_from(base.settings.limits),
            bounds=base.settings.limits,
            proxies=Proxies(networks=base.settings.http.trusted_proxies, header=base.settings.http.forwarded_header),
            on_outbox=core.publisher.wake,
            on_shut_out=core.look_who_is_shut_out,
        )
    )


def _waiting_for(base: Foundation, core: Core) -> list[str]:
    parts = {
        "the connection to the broker": core.line.transport.connected,
        "a clock that is right": base.clock.is_followed,
        "a database that answers": base.leadership.leads,
        core.lookout.missing: core.lookout.is_reached,
    }
    return [name for name, is_there in parts.items() if not is_there]
