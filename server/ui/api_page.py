"""The page about the API: its own description, for people to look through."""

from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from server.http.openapi import DescriptionRoutes
from server.ui.rendering import Templates
from server.ui.sessions import Session, Sessions, signed_in

MAX_DEPTH = 6


class ApiPage:
    """The handler of `/api`."""

    def __init__(self, *, sessions: Sessions, templates: Templates, description: DescriptionRoutes) -> None:
        self._sessions, self._templates, self._description = sessions, templates, description

    def mount(self, app: web.Application) -> None:
        """Add the page to the people's app."""
        app.router.add_get("/api", signed_in(self._sessions, self.show))

    async def show(self, request: web.Request, session: Session) -> web.StreamResponse:
        """Every operation by what it is about, and every shape."""
        document = self._description.document
        about: dict[str, list[dict[str, Any]]] = {}
        for path, item in document["paths"].items():
            for method, operation in item.items():
                about.setdefault(operation["tags"][0], []).append(_shown(method, path, operation))
        shapes = {name: list(_fields(schema)) for name, schema in sorted(document["components"]["schemas"].items())}
        notes = {name: schema.get("description", "") for name, schema in document["components"]["schemas"].items()}
        return self._templates.page("api.html", request, session, about=about, shapes=shapes, notes=notes)


def _shown(method: str, path: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    answers = {status: _content(one) for status, one in operation["responses"].items() if status.startswith("2")}
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": operation["summary"],
        "description": operation["description"],
        "parameters": [(one["name"], one["in"], spoken(one["schema"])) for one in operation["parameters"]],
        "body": _content(operation.get("requestBody", {})),
        "answers": answers,
    }


def _content(described: Mapping[str, Any]) -> str:
    """What a body is: its shape, or its media type."""
    for media, content in described.get("content", {}).items():
        return spoken(content["schema"]) if "$ref" in content["schema"] else str(media)
    return ""


def _fields(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "enum" in schema:
        yield "one of", ", ".join(map(str, schema["enum"]))
    for name, one in schema.get("properties", {}).items():
        yield name, spoken(one)


def spoken(schema: Mapping[str, Any], depth: int = 0) -> str:
    """A schema in a few words."""
    if depth > MAX_DEPTH or not schema:
        return "anything"
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(spoken(one, depth + 1) for one in schema[several])
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {spoken(schema.get('items') or schema.get('prefixItems', [{}])[0] or {}, depth + 1)}"
    if schema.get("type") == "object":
        inside = schema.get("additionalProperties")
        return f"object of {spoken(inside, depth + 1)}" if isinstance(inside, Mapping) else "object"
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS.items() if key in schema]
    return ", ".join([str(schema.get("type", "anything")), *bounds])


_BOUNDS = {
    "minimum": "from",
    "maximum": "to",
    "exclusiveMaximum": "below",
    "minLength": "at least characters:",
    "maxLength": "at most characters:",
}
