"""The page of one signed envelope: who signed it, whether that still holds, what it says, and the envelope to take along."""

import json

import msgspec
from aiohttp import web
from securesystemslib.signer import Key

from server.campaigns.signed import Evidence, evidence
from server.http.bodies import path_id
from server.http.signed import envelope_id
from server.ports import AuditRecord, Database, Unit
from server.ui.rendering import Templates
from server.ui.sessions import Session, Sessions, signed_in


class SignedPages:
    """The handlers. `director`: the public key that orders and permits are signed by now."""

    def __init__(self, *, database: Database, sessions: Sessions, director: Key, templates: Templates) -> None:
        self._database, self._sessions, self._director, self._templates = database, sessions, director, templates

    def mount(self, app: web.Application) -> None:
        """Add them to the people's app."""
        one = "/fleet/{target}/signed/{envelope}"
        app.router.add_get(one, signed_in(self._sessions, self.page))
        app.router.add_get(f"{one}/download", signed_in(self._sessions, self.download))

    async def page(self, request: web.Request, session: Session) -> web.StreamResponse:
        shown, record = await self._found(request)
        says = json.dumps(shown.says, indent=2, ensure_ascii=False)
        return self._templates.page("signed.html", request, session, one=shown, record=record, says=says)

    async def download(self, request: web.Request, session: Session) -> web.StreamResponse:
        """The DSSE envelope as JSON, and nothing else."""
        shown, _ = await self._found(request)
        name = f"{shown.target}-{shown.kind}-{shown.id}.dsse.json"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return web.Response(body=msgspec.json.encode(shown.envelope), content_type="application/json", headers=headers)

    async def _found(self, request: web.Request) -> tuple[Evidence, AuditRecord | None]:
        name, number = path_id(request, "target"), envelope_id(request)

        def work(unit: Unit) -> tuple[Evidence, AuditRecord | None]:
            found = evidence(unit, name, number, self._director)
            records = () if found.record is None else unit.audit.page(after=found.record - 1, limit=1)
            return found, next(iter(records), None)

        return await self._database.read(work)
