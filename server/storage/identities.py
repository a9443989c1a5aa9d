"""Claim tokens, agents and API tokens. Secrets are only ever stored as their sha256."""

import hmac
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, insert, select, update

from firmware.errors import RefusedError
from server.ports import AgentRecord, AgentStatus, ApiToken, ClaimToken, Role
from server.storage.tables import AGENT, API_TOKEN, CLAIM_TOKEN, TARGET, TARGET_LABEL

_AGENT = select(AGENT).where(AGENT.c.id == bindparam("agent"))


class SqlIdentities:
    """`server.ports.Identities` on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

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

    def claims(self) -> Sequence[ClaimToken]:
        """All claim tokens, by id."""
        rows = self._db.execute(select(CLAIM_TOKEN).order_by(CLAIM_TOKEN.c.id)).mappings()
        return [ClaimToken(**row) for row in rows]

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

    def agent(self, agent_id: str) -> AgentRecord | None:
        """The agent of this id, whatever its standing."""
        row = self._db.execute(_AGENT, {"agent": agent_id}).mappings().first()
        return None if row is None else AgentRecord(**{**row, "status": AgentStatus(row["status"])})

    def agent_by_report_key(self, keyid: str) -> AgentRecord | None:
        """The agent enrolled with this report key, whatever its standing."""
        row = self._db.execute(select(AGENT).where(AGENT.c.report_keyid == keyid)).mappings().first()
        return None if row is None else AgentRecord(**{**row, "status": AgentStatus(row["status"])})

    def set_agent_status(self, agent_id: str, status: AgentStatus) -> None:
        """Quarantine, revoke or restore; an unknown agent is left alone."""
        self._db.execute(update(AGENT).where(AGENT.c.id == agent_id).values(status=str(status)))

    def add_api_token(self, token: ApiToken) -> None:
        """Store an API token; raises `RefusedError` (`token-exists`)."""
        if self.api_token(token.secret_sha256) is not None:
            raise RefusedError("token-exists", "There is such an API token already; make a new secret.")
        self._db.execute(
            insert(API_TOKEN).values(
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
        return None if row is None else ApiToken(**{**row, "role": Role(row["role"])})
