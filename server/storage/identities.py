"""Claim tokens, agents and API tokens. Secrets are only ever stored as their sha256."""

import hmac
from collections.abc import Mapping, Sequence

from sqlalchemy import (
    Connection,
    RowMapping,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)

from firmware.errors import RefusedError
from server.ports import AgentRecord, AgentStatus, ApiToken, CertificateRecord, ClaimToken, KnownDevice, Role
from server.storage import group_sizes
from server.storage.desk import Desk
from server.storage.tables import AGENT, API_TOKEN, CERTIFICATE, CLAIM_TOKEN, KNOWN_DEVICE, TARGET, TARGET_LABEL

_RECORD = tuple(AGENT.c[name] for name in AgentRecord.__dataclass_fields__)
_AGENTS = select(*_RECORD).where(AGENT.c.id.in_(bindparam("agents", expanding=True)))
_FEW = 500
"""Names in one statement."""
_SHUT_OUT = tuple(str(status) for status in AgentStatus if status.shut_out)


class SqlIdentities:
    """`server.ports.Identities` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._desk = Desk.of(connection)

    def add_claim(self, token: ClaimToken) -> None:
        """Store a claim token; raises `RefusedError` (`claim-exists`) when its id is taken."""
        if self._db.execute(select(CLAIM_TOKEN.c.id).where(CLAIM_TOKEN.c.id == token.id)).first():
            raise RefusedError("claim-exists", f"There is a claim token {token.id} already; make one with another id.")
        self._db.execute(
            insert(CLAIM_TOKEN).values(
                id=token.id,
                secret_sha256=token.secret_sha256,
                expires_at=token.expires_at,
                uses_left=token.uses_left,
                labels=dict(token.labels),
                created_by=token.created_by,
            )
        )

    def claims(self, *, after: str = "", limit: int | None = None) -> Sequence[ClaimToken]:
        """Claim tokens by id; `after` this one, so many (None: all)."""
        query = select(CLAIM_TOKEN).where(CLAIM_TOKEN.c.id > after).order_by(CLAIM_TOKEN.c.id).limit(limit)
        return [ClaimToken(**row) for row in self._db.execute(query).mappings()]

    def spend_claim(self, token_id: str, secret_sha256: str, now: float) -> ClaimToken:
        """Use one of its uses. Raises `RefusedError` (`claim-unknown`, `claim-expired`, `claim-used-up`)."""
        row = self._db.execute(select(CLAIM_TOKEN).where(CLAIM_TOKEN.c.id == token_id)).mappings().first()
        if row is None or not hmac.compare_digest(row["secret_sha256"].encode(), secret_sha256.encode()):
            raise RefusedError("claim-unknown", "The claim token is not known here; ask the operator for a new one.")
        if row["expires_at"] <= now:
            raise RefusedError("claim-expired", "The claim token has expired; ask the operator for a new one.")
        spent = self._db.execute(
            update(CLAIM_TOKEN)
            .where(CLAIM_TOKEN.c.id == token_id, CLAIM_TOKEN.c.uses_left > 0)
            .values(uses_left=CLAIM_TOKEN.c.uses_left - 1)
        )
        if spent.rowcount != 1:
            raise RefusedError("claim-used-up", "The claim token has no uses left; ask the operator for a new one.")
        return ClaimToken(**{**row, "uses_left": row["uses_left"] - 1})

    def add_agent(self, agent: AgentRecord, *, hardware: str, labels: Mapping[str, str]) -> None:
        """Add an agent and its target of the same id; raises `RefusedError` (`agent-exists`)."""
        if self.agent(agent.id) is not None or self.agent_by_report_key(agent.report_keyid) is not None:
            raise RefusedError(
                "agent-exists",
                f"There is an agent {agent.id}, or one with its report key, already; enrol with a new id and key.",
            )
        self._db.execute(
            insert(AGENT).values(
                id=agent.id,
                status=str(agent.status),
                report_keyid=agent.report_keyid,
                report_key=dict(agent.report_key),
                certificate_serial=agent.certificate_serial,
                enrolled_at=agent.enrolled_at,
                claim_token=agent.claim_token,
                evicting=False,
            )
        )
        self._db.execute(
            insert(TARGET).values(
                id=agent.id,
                agent=agent.id,
                hardware=hardware,
                rollback_available=False,
                settled=True,
                presence=False,
                progress="",
                capabilities=[],
                version=1,
            )
        )
        if labels:
            rows = [{"target": agent.id, "name": name, "value": value} for name, value in labels.items()]
            self._db.execute(insert(TARGET_LABEL), rows)
            group_sizes.after_joining(self._db, agent.id, labels)

    def agent(self, agent_id: str) -> AgentRecord | None:
        """The agent of this id, whatever its standing."""
        known = self._desk.known(AGENT)
        if (agent_id,) not in known:
            self._fetch([agent_id])
        found: AgentRecord | None = self._desk.known(AGENT)[(agent_id,)]
        return found

    def expect(self, agents: Sequence[str]) -> None:
        """Fetch these agents at once."""
        known = self._desk.known(AGENT)
        missing = [agent for agent in dict.fromkeys(agents) if (agent,) not in known]
        for place in range(0, len(missing), _FEW):
            self._fetch(missing[place : place + _FEW])

    def _fetch(self, agents: Sequence[str]) -> None:
        found = {row["id"]: _agent(row) for row in self._db.execute(_AGENTS, {"agents": list(agents)}).mappings()}
        self._desk.known(AGENT).update({(agent,): found.get(agent) for agent in agents})

    def agent_by_report_key(self, keyid: str) -> AgentRecord | None:
        """The agent enrolled with this report key, whatever its standing."""
        row = self._db.execute(select(*_RECORD).where(AGENT.c.report_keyid == keyid)).mappings().first()
        return None if row is None else _agent(row)

    def set_agent_status(self, agent_id: str, status: AgentStatus) -> None:
        """Quarantine, revoke or restore; an unknown agent is left alone."""
        group_sizes.before_status(self._db, agent_id, shut_out=AgentStatus(status).shut_out)
        self._db.execute(update(AGENT).where(AGENT.c.id == agent_id).values(status=str(status)))

    def add_certificate(self, certificate: CertificateRecord) -> None:
        """Note a certificate and make it its agent's current one; the same serial again replaces what was noted."""
        self._db.execute(delete(CERTIFICATE).where(CERTIFICATE.c.serial == certificate.serial))
        self._db.execute(insert(CERTIFICATE).values(**vars(certificate)))
        current = update(AGENT).where(AGENT.c.id == certificate.agent)
        self._db.execute(current.values(certificate_serial=certificate.serial))

    def certificate(self, serial: str) -> CertificateRecord | None:
        """The certificate with this serial, whoever's it is."""
        row = self._db.execute(select(CERTIFICATE).where(CERTIFICATE.c.serial == serial)).mappings().first()
        return None if row is None else CertificateRecord(**row)

    def issuers(self) -> Mapping[str, int]:
        """Number of agents that are not shut out, by the issuer of their current certificate (empty: not noted)."""
        issuer = func.coalesce(CERTIFICATE.c.issuer, literal_column("''"))
        source = AGENT.outerjoin(CERTIFICATE, CERTIFICATE.c.serial == AGENT.c.certificate_serial)
        query = select(issuer, func.count()).select_from(source).where(AGENT.c.status.not_in(_SHUT_OUT))
        return {name: number for name, number in self._db.execute(query.group_by(issuer))}  # noqa: C416 - rows are no pairs to mypy

    def shut_out_serials(self, now: float) -> Sequence[CertificateRecord]:
        """The certificates of agents that are quarantined or shut out for ever and that have not expired, by serial."""
        query = (
            select(CERTIFICATE)
            .join(AGENT, AGENT.c.id == CERTIFICATE.c.agent)
            .where(AGENT.c.status != str(AgentStatus.ACTIVE), CERTIFICATE.c.expires_at > now)
        )
        return [CertificateRecord(**row) for row in self._db.execute(query.order_by(CERTIFICATE.c.serial)).mappings()]

    def set_evicting(self, agent_id: str, evicting: bool) -> None:
        """Whether the agent's live session and retained messages are still to be ended."""
        self._db.execute(update(AGENT).where(AGENT.c.id == agent_id).values(evicting=evicting))

    def evicting(self, limit: int) -> Sequence[str]:
        """Some agents that are still to be put out, by id."""
        query = select(AGENT.c.id).where(AGENT.c.evicting.is_(True)).order_by(AGENT.c.id).limit(limit)
        return [row.id for row in self._db.execute(query)]

    def add_known_device(self, device: KnownDevice) -> None:
        """Store a device that may enrol; the caller has seen that neither its key nor its serial is there."""
        self._db.execute(insert(KNOWN_DEVICE).values(**{**vars(device), "labels": dict(device.labels)}))

    def known_device(self, *, key_sha256: str | None = None, serial: str | None = None) -> KnownDevice | None:
        """The device with this key, else the one with this serial."""
        for column, value in ((KNOWN_DEVICE.c.key_sha256, key_sha256), (KNOWN_DEVICE.c.serial, serial)):
            row = value and self._db.execute(select(KNOWN_DEVICE).where(column == value)).mappings().first()
            if row:
                return KnownDevice(**row)
        return None

    def known_device_by_id(self, known_id: str) -> KnownDevice | None:
        row = self._db.execute(select(KNOWN_DEVICE).where(KNOWN_DEVICE.c.id == known_id)).mappings().first()
        return None if row is None else KnownDevice(**row)

    def known_devices(self, *, after: str = "", limit: int | None = None) -> Sequence[KnownDevice]:
        """By id; `after` this one, so many (None: all)."""
        query = select(KNOWN_DEVICE).where(KNOWN_DEVICE.c.id > after).order_by(KNOWN_DEVICE.c.id).limit(limit)
        return [KnownDevice(**row) for row in self._db.execute(query).mappings()]

    def bind_known_device(self, known_id: str, *, agent: str, key_sha256: str) -> None:
        """It enrolled as this agent, with this key; it may not do so again."""
        known = update(KNOWN_DEVICE).where(KNOWN_DEVICE.c.id == known_id)
        self._db.execute(known.values(agent=agent, key_sha256=key_sha256, again=False))

    def allow_known_device(self, known_id: str) -> None:
        """It may enrol once more."""
        self._db.execute(update(KNOWN_DEVICE).where(KNOWN_DEVICE.c.id == known_id).values(again=True))

    def remove_known_device(self, known_id: str) -> None:
        self._db.execute(delete(KNOWN_DEVICE).where(KNOWN_DEVICE.c.id == known_id))

    def add_api_token(self, token: ApiToken) -> None:
        """Store an API token; raises `RefusedError` (`token-exists`)."""
        if self.api_token(token.secret_sha256) is not None:
            raise RefusedError("token-exists", "There is such an API token already; make a new secret.")
        self._db.execute(
            insert(API_TOKEN).values(
                id=token.id,
                secret_sha256=token.secret_sha256,
                name=token.name,
                role=str(token.role),
                expires_at=token.expires_at,
            )
        )

    def api_token(self, secret_sha256: str) -> ApiToken | None:
        """The token with this hash; whether it has expired is the caller's to judge."""
        query = select(API_TOKEN).where(API_TOKEN.c.secret_sha256 == secret_sha256)
        row = self._db.execute(query).mappings().first()
        return None if row is None else _token(row)

    def api_tokens(self, *, after: tuple[str, str] | None = None, limit: int | None = None) -> Sequence[ApiToken]:
        """By name and id; those after that one, so many (None: all)."""
        query = select(API_TOKEN).order_by(API_TOKEN.c.name, API_TOKEN.c.id).limit(limit)
        if after is not None:
            query = query.where(tuple_(API_TOKEN.c.name, API_TOKEN.c.id) > tuple_(*after))
        return [_token(row) for row in self._db.execute(query).mappings()]

    def change_api_tokens(self, name: str, role: Role) -> int:
        """Give every token of this name a role; how many there were."""
        return self._db.execute(update(API_TOKEN).where(API_TOKEN.c.name == name).values(role=str(role))).rowcount

    def expire_api_tokens(self, at: float, *, name: str | None = None, token: str | None = None) -> int:
        """Let tokens that would be good after then end there: all of this name, or the one with this id; how many did."""
        which = API_TOKEN.c.name == name if token is None else API_TOKEN.c.id == token
        good = or_(API_TOKEN.c.expires_at.is_(None), API_TOKEN.c.expires_at > at)
        return self._db.execute(update(API_TOKEN).where(which, good).values(expires_at=at)).rowcount

    def remove_api_tokens(self, name: str) -> int:
        return self._db.execute(delete(API_TOKEN).where(API_TOKEN.c.name == name)).rowcount


def _token(row: RowMapping) -> ApiToken:
    return ApiToken(**{**row, "role": Role(row["role"])})


def _agent(row: RowMapping) -> AgentRecord:
    return AgentRecord(**{**row, "status": AgentStatus(row["status"])})
