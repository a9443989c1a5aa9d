"""The people's listener over a real database, with a fleet and a campaign in it, for tests of API, pages and commands.

The desk is the real campaign service. `secret[role]` is a token of that role.
"""

import asyncio
import hashlib
import ipaddress
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from jinja2.bccache import Bucket, BytecodeCache
from msgspec.structs import replace
from securesystemslib.signer import CryptoSigner

from firmware.catalogue.publish import Repository
from firmware.encryption.content_key import public_text
from firmware.errors import OtariaError, RefusedError
from firmware.protocol.report import Ack
from server.artifacts import ArtifactStore
from server.audit.keeper import Keeper
from server.audit.recorded import RecordedDatabase
from server.campaigns.bundles import BundleService
from server.campaigns.director import Director
from server.campaigns.engine import Engine
from server.campaigns.forecasting import Forecaster
from server.campaigns.ingest import Ingest
from server.campaigns.rehearsal import Rehearsal, Task
from server.campaigns.rehearsal_process import Progress
from server.campaigns.rehearsing import RehearsalService
from server.campaigns.service import CampaignService
from server.config_limits import LimitSettings
from server.http.callers import Proxies
from server.http.changes import Changes, RingingDatabase
from server.http.limits import Limits
from server.http.streams import STREAMS, Streams
from server.identity.api_tokens import ApiTokens
from server.identity.authorities_service import AuthoritiesService
from server.identity.authority import Authorities
from server.identity.known_devices import KnownDevices
from server.identity.roots import Roots
from server.people import PeopleParts, people_listener
from server.planner.decision import Decision, Put
from server.planner.slices import Footprint
from server.ports import (
    AgentRecord,
    AgentStatus,
    ClaimToken,
    DeltaRecord,
    ReleaseImage,
    ReleaseRecord,
    Role,
    StoredFile,
    Unit,
)
from server.storage.database import SqlDatabase
from server.uploads import Uploads
from server.webhooks.addresses import Addresses
from server.webhooks.delivery import Deliveries
from server.webhooks.desk import WebhookDesk
from server.webhooks.post import Poster
from server.webhooks.signing import WebhookSecrets
from tests.databases import fresh_sqlite
from tests.described import Described

NOW = 1_800_000_000.0
RELEASE_KEY = public_text(X25519PrivateKey.from_private_bytes(bytes(range(32))).public_key())
CAMPAIGN = """
name: spring
product: gateway
version: "1.1.0"
strategy: standard
"""


@dataclass
class SetClock:
    """A clock that tests set."""

    at: float = NOW

    def now(self) -> float:
        return self.at


@dataclass
class PaperClaims:
    """Implements the claims port without certificates."""

    database: RingingDatabase
    made: int = 0

    async def create_claim(
        self, *, uses: int, expires_s: int, labels: Mapping[str, str], by: str
    ) -> tuple[ClaimToken, str]:
        self.made += 1
        token = ClaimToken(
            id=f"c-paper-{self.made}",
            secret_sha256=f"{self.made:064x}",
            expires_at=NOW + expires_s,
            uses_left=uses,
            labels=labels,
            created_by=by,
        )
        await self.database.write(lambda unit: unit.identities.add_claim(token))
        return token, f"otc1.paper-{self.made}"


@dataclass
class PaperPublisher:
    """Implements the publisher port and remembers what it was handed."""

    published: list[tuple[str, str, bytes, bytes, str]] = field(default_factory=list)
    content_keys: list[bytes | None] = field(default_factory=list)

    async def publish(
        self, *, product: str, version: str, manifest: bytes, metadata: bytes, by: str, content_key: bytes | None = None
    ) -> ReleaseRecord:
        self.content_keys.append(content_key)
        self.published.append((product, version, manifest, metadata, by))
        return release(version, 9)

    async def release_key(self) -> str:
        return RELEASE_KEY

    async def make_deltas(self, product: str, version: str) -> Sequence[DeltaRecord]:
        return [delta("1.0.0", "1.1.0")]


@dataclass
class PaperStage:
    """Implements the rehearser port: plays when it is let, and gives what it was told to."""

    tasks: list[Task] = field(default_factory=list)
    curtain: asyncio.Event = field(default_factory=asyncio.Event)
    early: Rehearsal | None = None
    gives: Rehearsal | OtariaError = field(default_factory=lambda: RefusedError("not-rehearsable", "Nothing was set."))

    async def rehearse(self, task: Task, progress: Progress) -> Rehearsal:
        self.tasks.append(task)
        await progress(3, None)
        if self.early is not None:
            await progress(5, self.early)
        await self.curtain.wait()
        if isinstance(self.gives, OtariaError):
            raise self.gives
        return self.gives


async def keep_quiet(acks: Sequence[Ack]) -> None:
    """There is no broker to send acks over."""


@dataclass(kw_only=True)
class PeopleSide:
    """A running people's listener."""

    client: TestClient
    database: RingingDatabase
    changes: Changes
    clock: SetClock
    desk: CampaignService
    engine: Engine
    artifacts: ArtifactStore
    publisher: PaperPublisher
    keeper: Keeper
    secret: dict[Role, str]
    waiting_for: list[str]
    limits: Limits
    deliveries: Deliveries
    stage: PaperStage
    rehearsals: RehearsalService
    webhooks: WebhookDesk

    def headers(self, role: Role = Role.ADMIN) -> dict[str, str]:
        """The headers of an API request of this role."""
        return {"Authorization": f"Bearer {self.secret[role]}"}

    @property
    def streams(self) -> Streams:
        """Who follows."""
        return self.client.server.app[STREAMS]

    @property
    def url(self) -> str:
        return str(self.client.make_url("")).rstrip("/")

    async def sign_in(self, role: Role = Role.ADMIN) -> None:
        """Sign the client in as a browser would."""
        answer = await self.client.post("/login", data={"token": self.secret[role]}, allow_redirects=False)
        assert answer.status == 303, await answer.text()


@pytest.fixture
async def people(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[PeopleSide]:
    """Four devices in Berlin and two in Rome, two releases with a delta, no campaign yet. As an indirect parameter: its
    `LimitSettings`, or its `Proxies`."""
    given = getattr(request, "param", None)
    bounds = given if isinstance(given, LimitSettings) else LimitSettings()
    changes, clock = Changes(), SetClock()
    database = RingingDatabase(RecordedDatabase(SqlDatabase.open(fresh_sqlite(tmp_path / "people.db")), clock), changes)
    tokens = ApiTokens(database, clock=clock)
    secret = {role: await tokens.create(f"the {role}", role) for role in Role}
    await database.write(furnish)
    stage = PaperStage()
    rehearsals = RehearsalService(database, clock, stage)
    director = Director(signer=CryptoSigner.generate_ecdsa(), epoch=1)
    engine = Engine(database, clock, director)
    desk = CampaignService(database, clock, engine)
    authorities = fresh_authorities(tmp_path / "identity", clock)
    artifacts, publisher, waiting_for = ArtifactStore(tmp_path / "artifacts"), PaperPublisher(), list[str]()
    addresses, secrets = Addresses([ipaddress.ip_network("127.0.0.0/8")]), WebhookSecrets(tmp_path)
    poster = Poster(addresses, timeout_s=2.0)
    deliveries = Deliveries(database=database, clock=clock, secrets=secrets, posts=poster, source="/test")
    webhooks = WebhookDesk(database=database, clock=clock, secrets=secrets, addresses=addresses)
    limits = Limits()
    keeper = Keeper(database, clock, CryptoSigner.generate_ecdsa(), tmp_path / "checkpoint.json")
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "1.root.json").write_bytes(b"{}")
    app = people_listener(
        PeopleParts(
            database=database,
            tokens=tokens,
            claims=PaperClaims(database),
            known=KnownDevices(
                database,
                url="https://127.0.0.1:8443",
                services_ca=authorities.services.fingerprint,
                roots=Roots(tmp_path / "roots"),
                clock=clock,
            ),
            authorities=AuthoritiesService(
                database, tmp_path / "identity", in_force=authorities.fingerprints, clock=clock
            ),
            desk=desk,
            forecasts=Forecaster(database, clock),
            rehearsals=rehearsals,
            publisher=publisher,
            artifacts=artifacts,
            changes=changes,
            clock=clock,
            ready=lambda: waiting_for,
            director=director,
            bundles=BundleService(database, clock, director, Repository(tmp_path / "metadata"), artifacts),
            ingest=Ingest(database, clock, director, answer=keep_quiet),
            webhooks=webhooks,
            chains=keeper,
            max_artifact_bytes=1 << 20,
            uploads=Uploads(artifacts, clock, bounds, max_bytes=1 << 20),
            limits=limits,
            bounds=bounds,
            proxies=given if isinstance(given, Proxies) else Proxies(),
            compiled=_COMPILED,
        )
    )
    described = Described()
    app.middlewares.insert(0, described.check)
    async with poster, TestClient(TestServer(app)) as client:
        yield PeopleSide(
            client=client,
            database=database,
            changes=changes,
            clock=clock,
            desk=desk,
            engine=engine,
            artifacts=artifacts,
            publisher=publisher,
            keeper=keeper,
            secret=secret,
            waiting_for=waiting_for,
            limits=limits,
            deliveries=deliveries,
            stage=stage,
            rehearsals=rehearsals,
            webhooks=webhooks,
        )
        changes.close()
    assert described.wrong == []
    await database.close()


def fresh_authorities(directory: Path, clock: SetClock) -> Authorities:
    """Authorities of a test's own, with the keys that all tests have: to make them takes a tenth of a second."""
    directory.mkdir(mode=0o700)
    for name, data in _made().items():
        (directory / name).write_bytes(data)
        (directory / name).chmod(0o600)
    return Authorities.open_or_create(directory, clock=clock.now)


@cache
def _made() -> Mapping[str, bytes]:
    """The files of authorities, made at the time at which tests begin."""
    with tempfile.TemporaryDirectory() as made:
        Authorities.open_or_create(Path(made), clock=SetClock().now)
        return {path.name: path.read_bytes() for path in Path(made).iterdir()}


class Compiled(BytecodeCache):
    """The pages' templates, compiled once for all tests of a process: it takes longer than most tests."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._kept:
            bucket.bytecode_from_string(self._kept[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._kept[bucket.key] = bucket.bytecode_to_string()


_COMPILED = Compiled()


def furnish(unit: Unit) -> None:
    """The fleet and releases of the fixture."""
    for number in range(6):
        add_device(unit, f"gw-{number}", {"site": "berlin" if number < 4 else "rome"})
    for version, counter in (("1.0.0", 1), ("1.1.0", 2)):
        unit.releases.add(release(version, counter))
    unit.releases.add_delta(delta("1.0.0", "1.1.0"))


def add_device(unit: Unit, name: str, labels: Mapping[str, str], hardware: str = "gateway-r1") -> None:
    """An enrolled device."""
    agent = AgentRecord(
        id=name,
        status=AgentStatus.ACTIVE,
        report_keyid=hashlib.sha256(name.encode()).hexdigest(),
        report_key={},
        certificate_serial=name,
        enrolled_at=NOW,
    )
    unit.identities.add_agent(agent, hardware=hardware, labels=labels)


async def run_first_release(people: PeopleSide, number: int) -> None:
    """So many of the devices run 1.0.0 and can apply deltas."""

    def work(unit: Unit) -> None:
        for name in (f"gw-{index}" for index in range(number)):
            unit.fleet.set_inventory(name, labels={}, capabilities=["delta-otd1"])
            target = unit.campaigns.load(Footprint(target=name)).target
            assert target is not None
            runs = replace(target, running_version="1.0.0", running_sha256=_hash("1.0.0"))
            unit.campaigns.commit(Decision(changes=(Put(row=runs),)))

    await people.database.write(work)


def release(version: str, counter: int, notes: str = "") -> ReleaseRecord:
    """A release record of the product `gateway`."""
    folder = f"releases/gateway/{version}"
    return ReleaseRecord(
        product="gateway",
        version=version,
        counter=counter,
        hardware=("gateway-r1",),
        manifest=StoredFile(path=f"{folder}/manifest.json", length=900, sha256=_hash(f"manifest {version}")),
        images=(ReleaseImage(file=StoredFile(path=f"{folder}/root.img", length=16 << 20, sha256=_hash(version))),),
        notes=notes,
        published_at=NOW,
    )


def delta(source: str, target: str) -> DeltaRecord:
    """A delta record between two of those."""
    return DeltaRecord(
        file=StoredFile(path=f"deltas/{source}-{target}.otd", length=1 << 20, sha256=_hash(source + target)),
        source_sha256=_hash(source),
        source_length=16 << 20,
        target_sha256=_hash(target),
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
