"""Holds real answers of the API against its own description."""

import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from jsonschema import Draft202012Validator

from server.http.openapi import DESCRIPTION
from server.http.routes import API


@dataclass
class Description:
    """What an app says of itself, and what was made of it to hold answers against."""

    document: dict[str, Any]
    validators: dict[str, Draft202012Validator] = field(default_factory=dict)


_MADE: dict[frozenset[tuple[str, str]], Description] = {}
"""By the routes: every test serves the same ones, and it takes a tenth of a second to describe them."""


def _description(app: web.Application) -> Description:
    routes = ((route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None)
    key = frozenset(routes)
    if key not in _MADE:
        _MADE[key] = Description(document=app[DESCRIPTION].document)
    return _MADE[key]


@dataclass
class Described:
    """A middleware that looks at every answer of the API. `wrong`: what wasn't as `/openapi.json` says."""

    wrong: list[str] = field(default_factory=list)
    seen: set[tuple[str, int]] = field(default_factory=set)
    _known: Description | None = None

    @property
    def check(self) -> Any:
        @web.middleware
        async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
            response = await handler(request)
            resource = request.match_info.route.resource
            if resource is not None and resource.canonical.startswith(API + "/"):
                self.look(request.app, request.method, resource.canonical, response)
            return response

        return middleware

    def look(self, app: web.Application, method: str, path: str, response: web.StreamResponse) -> None:
        """Note what is wrong with one answer."""
        known = self._known = self._known or _description(app)
        name = f"{method} {path} {response.status}"
        operation = known.document["paths"].get(path, {}).get(method.lower())
        if operation is None:
            self.wrong.append(f"{name}: not described")
            return
        self.seen.add((f"{method} {path}", response.status))
        described = operation["responses"].get(str(response.status))
        if described is None and response.status >= 400:
            described = operation["responses"]["default"]
        if described is None:
            self.wrong.append(f"{name}: no such status is described")
            return
        content = described.get("content", {})
        if not isinstance(response, web.Response) or response.body is None:
            return
        if response.content_type not in content:
            self.wrong.append(f"{name}: {response.content_type} is not described")
        elif response.content_type.endswith("json"):
            self._match(known, name, content[response.content_type]["schema"], json.loads(response.body))

    def _match(self, known: Description, name: str, schema: dict[str, Any], value: Any) -> None:
        key = json.dumps(schema)
        if key not in known.validators:
            components = {"components": {"schemas": strict(known.document["components"]["schemas"])}}
            known.validators[key] = Draft202012Validator({**schema, **components})
        self.wrong += [
            f"{name}: {error.json_path} {error.message}" for error in known.validators[key].iter_errors(value)
        ]


def strict(schema: Any) -> Any:
    """The same, but an object may have no fields that aren't named."""
    if isinstance(schema, dict):
        found = {name: strict(value) for name, value in schema.items()}
        if isinstance(found.get("properties"), dict) and found.get("type") == "object":
            found.setdefault("additionalProperties", False)
        return found
    return [strict(one) for one in schema] if isinstance(schema, list) else schema
