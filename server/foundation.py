"""What every part of a server stands on: its catalogue, keys, database, broker and addresses, opened in that order.

Each thing that must be closed is put on the caller's exit stack as soon as it is open.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from msgspec import Struct

from firmware.catalogue.publish import Repository
from firmware.errors import RefusedError, UnavailableError
from firmware.protocol.codec import convert, parse_json
from server.artifacts import ArtifactStore
from server.audit import restored
from server.audit.keeper import Keeper
from server.audit.key import audit_signer
from server.audit.recorded import RecordedDatabase
from server.campaigns.code_keys import CodeKeys
from server.campaigns.director import Director
from server.campaigns.release_keys import ReleaseKeys
from server.config import Settings
from server.errors import DeniedError
from server.http.changes import Changes, RingingDatabase
from server.identity.api_tokens import ApiTokens
from server.identity.authority import Authorities
from server.identity.authority_keys import keys_at
from server.identity.enrolment import Addresses
from server.identity.private_files import write_private
from server.identity.revocation import Revocations
from server.leadership import FencedDatabase, Leadership
from server.observe.measured import MeasuredDatabase
from server.observe.measured_shelf import MeasuredShelf
from server.observe.meters import Meters
from server.ports import Database, Role, Unit
from server.shelves.opening import open_artifacts
from server.storage.database import SqlDatabase
from server.transport.broker import RunningBroker, start_broker
from server.transport.endpoint import BrokerEndpoint

log = logging.getLogger(__name__)
ADMIN_TOKEN = "admin.token"
CHECKPOINT = "audit-checkpoint.json"
ADMIN = "admin"
EPOCH_FILE = "least-epoch.json"
"""In the state directory of a server that was restored: the director epoch that it waits for."""
MAX_LEAP_S = 3600.0
OUTBOX_PAGE = 1000


class SystemClock:
    """The machine's clock, except that a leap forward is not followed until the server is started again.

    What the server signs carries its time, and a target never unlearns a time it has seen: a clock that is a year ahead
    for a minute would make it refuse every catalogue for a year. A step back is followed: it only makes deadlines later.
    """

    def __init__(self, *, wall: Callable[[], float] = time.time, counted: Callable[[], float] | None = None) -> None:
        """`wall`: POSIX seconds; `counted`: seconds that nobody can set, counted through a suspension too."""
        self._wall = wall
        self._counted = counted or counted_s
        self._apart_s = self._wall() - self._counted()
        self._told = False

    def now(self) -> float:
        counted = self._counted()
        ahead_s = self._wall() - counted - self._apart_s
        if ahead_s > MAX_LEAP_S:
            self._tell(ahead_s)
            return counted + self._apart_s
        self._told = False
        self._apart_s = max(self._apart_s, self._apart_s + ahead_s)
        return counted + self._apart_s + min(0.0, ahead_s)

    @property
    def is_followed(self) -> bool:
        """Whether this is the machine's time."""
        self.now()
        return not self._told

    def _tell(self, ahead_s: float) -> None:
        if not self._told:
            log.error(
                "the machine's clock leapt %.0f s ahead and is not followed; set it right or, if it is right now, "
                "start the server again",
                ahead_s,
            )
        self._told = True


def counted_s() -> float:
    """Seconds that nobody can set, counted through a suspension too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class LeastEpoch(Struct, frozen=True, kw_only=True):
    """What `least-epoch.json` holds. `made_at`: of the backup, where the database has yet to be told of it."""

    least: int
    made_at: int | None = None


@dataclass(frozen=True, kw_only=True)
class Foundation:
    """The opened parts. `broker` None: an external one. `addresses` are what agents are told."""

    settings: Settings
    clock: SystemClock
    repository: Repository
    director: Director
    authorities: Authorities
    artifacts: ArtifactStore
    changes: Changes
    database: RingingDatabase
    leadership: Leadership
    keeper: Keeper
    tokens: ApiTokens
    revocations: Revocations
    broker: RunningBroker | None
    endpoint: BrokerEndpoint
    addresses: Addresses
    meters: Meters

    async def renew_revocations(self) -> None:
        """Make our broker refuse whoever is shut out now. One that runs elsewhere must be told by whoever runs it."""
        if await self.revocations.write() and self.broker is not None:
            self.broker.reload()

    @property
    def services_ca_sha256(self) -> str:
        """What claim tokens pin: sha256 (hex) of the services CA's DER."""
        certificate = x509.load_pem_x509_certificate(self.authorities.services.pem)
        return certificate.fingerprint(hashes.SHA256()).hex()


async def open_database(settings: Settings, stack: AsyncExitStack) -> SqlDatabase:
    """Open the database; its tables are brought up to date by whoever leads, but for the first time."""
    url = settings.storage_url or f"sqlite:///{settings.state / 'otaria.db'}"
    database = await asyncio.to_thread(SqlDatabase.open, url, unless_led=True)
    stack.push_async_callback(database.close)
    return database


async def authorities_of(settings: Settings, clock: SystemClock) -> Authorities:
    """The certificate authorities of this server, made if there are none."""
    directory, keys = settings.state / "identity", keys_at(settings.fleet_key)
    return await asyncio.to_thread(
        Authorities.open_or_create, directory, hosts=_names(settings), clock=clock.now, fleet_keys=keys
    )


async def open_foundation(
    settings: Settings,
    *,
    devices_url: str,
    clock: SystemClock,
    database: Database,
    leadership: Leadership,
    stack: AsyncExitStack,
) -> Foundation:
    """Open everything for a server that leads; raises typed errors that name what is missing (`catalogue-missing`,
    `key-missing`, …). No part is given `database` but behind the fence."""
    repository = repository_of(settings)
    wanted = await asyncio.to_thread(refuse_low_epoch, settings, repository)
    director = Director(
        signer=repository.director_signer(),
        epoch=repository.director_epoch(),
        release_keys=ReleaseKeys(settings.online_keys),
        code_keys=CodeKeys(settings.online_keys),
    )
    authorities = await authorities_of(settings, clock)
    changes = Changes()
    stack.callback(changes.close)
    meters = Meters()
    artifacts = await asyncio.to_thread(open_artifacts, settings, lambda shelf: MeasuredShelf(shelf, meters))
    stack.callback(artifacts.close)
    measured = MeasuredDatabase(FencedDatabase(database, leadership), meters)
    fenced = RingingDatabase(RecordedDatabase(measured, clock), changes)
    await say_restored(settings, wanted, fenced, clock.now())
    keeper = await _keeper(settings, fenced, clock)
    tokens = ApiTokens(fenced, clock=clock)
    await keep_admin_token(tokens, settings.state / ADMIN_TOKEN)
    revocations = Revocations(fenced, authorities, clock=clock)
    await _write_lists(revocations)
    broker = await _broker(settings, authorities, stack)
    return Foundation(
        settings=settings,
        clock=clock,
        repository=repository,
        director=director,
        authorities=authorities,
        artifacts=artifacts,
        changes=changes,
        database=fenced,
        leadership=leadership,
        keeper=keeper,
        tokens=tokens,
        revocations=revocations,
        broker=broker,
        endpoint=broker.services if broker else _external(settings, authorities),
        addresses=_addresses(settings, broker, devices_url),
        meters=meters,
    )


async def _write_lists(revocations: Revocations) -> None:
    """Without a signature the broker starts with the list it had: we refuse whoever was shut out since, who is evicted from it
    as soon as the CA's token is back."""
    try:
        await revocations.write()
    except UnavailableError as error:
        log.error("the revocation lists could not be signed: %s", error)


async def _keeper(settings: Settings, database: Database, clock: SystemClock) -> Keeper:
    wanted = settings.audit
    return Keeper(
        database,
        clock,
        await asyncio.to_thread(audit_signer, settings.online_keys, wanted.key),
        settings.state / CHECKPOINT,
        every_s=wanted.checkpoint_s,
        keep_s=None if wanted.keep_days is None else wanted.keep_days * 86400,
    )


async def keep_admin_token(tokens: ApiTokens, path: Path) -> None:
    """Make sure that `path` (0600) holds an administrator's token this database knows."""
    held = await asyncio.to_thread(_token_in, path)
    if held:
        try:
            await tokens.authenticate(held)
        except DeniedError:
            log.warning("%s is not known to this database; writing a new one", path)
        else:
            return
    secret = await tokens.create(ADMIN, Role.ADMIN)
    await asyncio.to_thread(write_private, path, f"{secret}\n".encode())


def _token_in(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def repository_of(settings: Settings) -> Repository:
    """The catalogue that this server signs; raises `RefusedError` (`catalogue-missing`)."""
    if not (settings.repository / "timestamp.json").is_file():
        raise RefusedError(
            "catalogue-missing",
            f"{settings.repository} holds no catalogue; make one with `otaria keys init` and set `catalogue.repository`.",
        )
    return Repository(settings.repository, online_keys=settings.online_keys)


def refuse_low_epoch(settings: Settings, repository: Repository) -> LeastEpoch | None:
    """Refuse to lead (`director-epoch-behind`) with a restored database until the director epoch is above that of every order
    that was given since the backup: those are unknown, and an order must not go back behind them. Of what it was restored."""
    path = settings.state / EPOCH_FILE
    if not path.exists():
        return None
    wanted = convert(parse_json(path.read_bytes(), max_bytes=4096), LeastEpoch)
    epoch = repository.director_epoch()
    if epoch < wanted.least:
        raise RefusedError(
            "director-epoch-behind",
            "This server was restored from a backup, so orders may be out that it doesn't know: the director epoch must be "
            f"{wanted.least}, and is {epoch}. Where the keys of `targets` are: `otaria keys raise-epoch --repository DIR`.",
        )
    return wanted


def begin_anew(unit: Unit, made_at: int, now: float) -> None:
    """What a restored database is told first. What waited to be sent is of another time: reports are sent and asked again, and
    orders signed anew."""
    restored.record(unit, made_at=made_at, now=now)
    while waiting := unit.outbox.pending(OUTBOX_PAGE):
        unit.outbox.done([item.id for item in waiting])


async def say_restored(settings: Settings, wanted: LeastEpoch | None, database: Database, now: float) -> None:
    """A database that somebody else restored, such as PostgreSQL's, is told by the server that leads with it first."""
    if wanted is not None and wanted.made_at is not None:
        made_at = wanted.made_at
        await database.write(lambda unit: begin_anew(unit, made_at, now))
    (settings.state / EPOCH_FILE).unlink(missing_ok=True)


async def _broker(settings: Settings, authorities: Authorities, stack: AsyncExitStack) -> RunningBroker | None:
    wanted = settings.broker
    if wanted.kind == "external":
        return None
    broker = await start_broker(
        settings.state / "broker",
        authorities,
        kind=wanted.kind,
        listen=wanted.listen,
        agents_port=wanted.agents_port,
        services_port=wanted.services_port,
    )
    stack.push_async_callback(broker.stop)
    return broker


def _external(settings: Settings, authorities: Authorities) -> BrokerEndpoint:
    host = settings.broker.services_host or ""
    return BrokerEndpoint(host=host, port=settings.broker.services_port, tls=authorities.mqtt_client)


def _addresses(settings: Settings, broker: RunningBroker | None, devices_url: str) -> Addresses:
    return Addresses(
        mqtt_host=settings.broker.agents_host or (broker.host if broker else ""),
        mqtt_port=broker.ports.agents if broker else settings.broker.agents_port,
        https_url=devices_url,
    )


def _names(settings: Settings) -> list[str]:
    """Names for our server certificates beyond loopback: those configured, and the addresses we listen on."""
    http, broker = settings.http, settings.broker
    hosts = [*http.names, http.devices.host, broker.listen, broker.agents_host]
    everywhere = ("0.0.0.0", "::")  # noqa: S104 - left out, not bound
    return list(dict.fromkeys(host for host in hosts if host and host not in everywhere))
