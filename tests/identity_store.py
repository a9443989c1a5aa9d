"""Identity storage for tests: `database` runs a test over a small in-memory store and over SQL."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from firmware.errors import RefusedError
from server.ports import (
    AgentRecord,
    AgentStatus,
    ApiToken,
    CertificateRecord,
    ClaimToken,
    Database,
    KnownDevice,
    Role,
    Unit,
)
from server.storage.database import SqlDatabase
from tests.databases import fresh_sqlite


class SettableClock:
    """A clock that stands until it is set."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.time = now

    def now(self) -> float:
        return self.time


@dataclass
class MemoryIdentities:
    """`server.ports.Identities` in dictionaries."""

    claims_by_id: dict[str, ClaimToken] = field(default_factory=dict)
    agents: dict[str, AgentRecord] = field(default_factory=dict)
    targets: dict[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    tokens: dict[str, ApiToken] = field(default_factory=dict)
    certificates: dict[str, CertificateRecord] = field(default_factory=dict)
    known: dict[str, KnownDevice] = field(default_factory=dict)

    def add_claim(self, token: ClaimToken) -> None:
        self.claims_by_id[token.id] = token

    def claims(self) -> Sequence[ClaimToken]:
        return list(self.claims_by_id.values())

    def spend_claim(self, token_id: str, secret_sha256: str, now: float) -> ClaimToken:
        claim = self.claims_by_id.get(token_id)
        if claim is None or claim.secret_sha256 != secret_sha256:
            raise RefusedError("claim-unknown", "No such claim token.")
        if claim.expires_at <= now:
            raise RefusedError("claim-expired", "The claim token has expired.")
        if claim.uses_left < 1:
            raise RefusedError("claim-used-up", "The claim token is used up.")
        self.claims_by_id[token_id] = replace(claim, uses_left=claim.uses_left - 1)
        return self.claims_by_id[token_id]

    def add_agent(self, agent: AgentRecord, *, hardware: str, labels: Mapping[str, str]) -> None:
        self.agents[agent.id] = agent
        self.targets[agent.id] = (hardware, labels)

    def agent(self, agent_id: str) -> AgentRecord | None:
        return self.agents.get(agent_id)

    def agent_by_report_key(self, keyid: str) -> AgentRecord | None:
        return next((agent for agent in self.agents.values() if agent.report_keyid == keyid), None)

    def set_agent_status(self, agent_id: str, status: AgentStatus) -> None:
        self.agents[agent_id] = replace(self.agents[agent_id], status=status)

    def add_certificate(self, certificate: CertificateRecord) -> None:
        self.certificates[certificate.serial] = certificate
        agent = self.agents[certificate.agent]
        self.agents[agent.id] = replace(agent, certificate_serial=certificate.serial)

    def certificate(self, serial: str) -> CertificateRecord | None:
        return self.certificates.get(serial)

    def add_known_device(self, device: KnownDevice) -> None:
        self.known[device.id] = device

    def known_device(self, *, key_sha256: str | None = None, serial: str | None = None) -> KnownDevice | None:
        by_key = [one for one in self.known.values() if key_sha256 and one.key_sha256 == key_sha256]
        by_serial = [one for one in self.known.values() if serial and one.serial == serial]
        return next(iter([*by_key, *by_serial]), None)

    def known_device_by_id(self, known_id: str) -> KnownDevice | None:
        return self.known.get(known_id)

    def known_devices(self, *, after: str = "", limit: int | None = None) -> Sequence[KnownDevice]:
        return [self.known[one] for one in sorted(self.known) if one > after][:limit]

    def bind_known_device(self, known_id: str, *, agent: str, key_sha256: str) -> None:
        self.known[known_id] = replace(self.known[known_id], agent=agent, key_sha256=key_sha256, again=False)

    def allow_known_device(self, known_id: str) -> None:
        self.known[known_id] = replace(self.known[known_id], again=True)

    def remove_known_device(self, known_id: str) -> None:
        del self.known[known_id]

    def add_api_token(self, token: ApiToken) -> None:
        self.tokens[token.secret_sha256] = token

    def api_token(self, secret_sha256: str) -> ApiToken | None:
        return self.tokens.get(secret_sha256)

    def api_tokens(self, *, after: tuple[str, str] | None = None, limit: int | None = None) -> Sequence[ApiToken]:
        found = sorted(self.tokens.values(), key=lambda one: (one.name, one.id))
        return [one for one in found if after is None or (one.name, one.id) > after][:limit]

    def change_api_tokens(self, name: str, role: Role) -> int:
        return self._each(lambda one: one.name == name, role=role)

    def expire_api_tokens(self, at: float, *, name: str | None = None, token: str | None = None) -> int:
        def ends(one: ApiToken) -> bool:
            which = one.name == name if token is None else one.id == token
            return which and (one.expires_at is None or one.expires_at > at)

        return self._each(ends, expires_at=at)

    def remove_api_tokens(self, name: str) -> int:
        gone = [one.secret_sha256 for one in self.tokens.values() if one.name == name]
        for secret in gone:
            del self.tokens[secret]
        return len(gone)

    def _each(self, fits: Callable[[ApiToken], bool], **fields: Any) -> int:
        which = [one for one in self.tokens.values() if fits(one)]
        self.tokens.update({one.secret_sha256: replace(one, **fields) for one in which})
        return len(which)


@dataclass
class MemoryAudit:
    """The part of `server.ports.Audit` that identity uses."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **line: Any) -> None:
        self.lines.append(line)

    def latest(self, *, limit: int = 100, **_: Any) -> list[Any]:
        return [type("Line", (), line) for line in reversed(self.lines)][:limit]


@dataclass
class MemoryUnit:
    identities: MemoryIdentities = field(default_factory=MemoryIdentities)
    audit: MemoryAudit = field(default_factory=MemoryAudit)


class MemoryDatabase:
    """One writer at a time; an exception rolls everything back."""

    def __init__(self) -> None:
        self._unit = MemoryUnit()
        self._lock = asyncio.Lock()

    async def read(self, work: Callable[[Any], Any]) -> Any:
        return work(self._unit)

    async def write(self, work: Callable[[Any], Any]) -> Any:
        async with self._lock:
            trial = copy.deepcopy(self._unit)
            result = await asyncio.to_thread(work, trial)
            self._unit = trial
            return result

    async def close(self) -> None:
        return None


@pytest_asyncio.fixture(params=["memory", "sql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    made: Database = (
        MemoryDatabase() if request.param == "memory" else SqlDatabase.open(fresh_sqlite(tmp_path / "test.db"))
    )
    yield made
    await made.close()


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


async def only_agent(database: Database, agent_id: str) -> AgentRecord:
    """The agent's record, which must be there."""

    def work(unit: Unit) -> AgentRecord | None:
        return unit.identities.agent(agent_id)

    found = await database.read(work)
    assert found is not None
    return found
