"""The API's description, OpenAPI 3.1, made of the routes themselves: there is no other text of it that could go stale."""

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from server.http.access import Caller, Need, roles_for
from server.http.idempotency import HEADER, MAX_CHARS, MIN_CHARS
from server.http.routes import API, PATHS, Raw, Route, reply

VERSION = "3.1.0"
_ABOUT = """Otaria's REST API. Send a token as `Authorization: Bearer TOKEN`. Times are POSIX seconds, UTC. Errors are
problem+json (RFC 9457): `type` is a stable kind, `detail` a sentence that says what to do. Lists come in pages: `next` goes
into `cursor`, and null is the end; a page may have fewer rows than `limit` and a `next`."""
_PROBLEM = "Problem"
_JSON, _PROBLEM_JSON = "application/json", "application/problem+json"
_COMPONENT = "#/components/schemas/{name}"


class Problem(Struct, frozen=True, kw_only=True):
    """What went wrong (RFC 9457). `type`: a stable kind; `title`: the status in words; `detail`: what to do."""

    type: str
    title: str
    status: int
    detail: str


class DescriptionRoutes:
    """The route of the description; `others`: all other routes."""

    def __init__(self, others: Sequence[Route]) -> None:
        self._others = others
        self._made: dict[str, Any] | None = None

    def routes(self) -> Sequence[Route]:
        return (
            Route(
                method="GET",
                path="/openapi.json",
                need=Need.READ,
                action=self.show,
                answer=Raw(media=_JSON, text="An OpenAPI 3.1 document."),
            ),
        )

    @property
    def document(self) -> dict[str, Any]:
        """The description of all routes, this one too."""
        if self._made is None:
            self._made = document([*(self._others or ()), *self.routes()])
        return self._made

    async def show(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """This description."""
        return reply(self.document)


DESCRIPTION = web.AppKey("description", DescriptionRoutes)
"""Where the people's app keeps it."""


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in sorted(routes, key=lambda one: (one.path, one.method)):
        paths.setdefault(API + route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": VERSION,
        "info": {"title": "Otaria", "version": "1", "description": " ".join(_ABOUT.split())},
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "tags": [{"name": name} for name in sorted({tag_of(route.path) for route in routes})],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def tag_of(path: str) -> str:
    """What a route is about: the first part of its path."""
    return path.split("/")[1]


class _Schemas:
    """JSON schemas of every type that routes name."""

    def __init__(self, routes: Sequence[Route]) -> None:
        taken = [kind for route in routes for kind in (route.query, route.body) if _is_shape(kind)]
        given = [*(route.answer for route in routes if _is_shape(route.answer)), Problem]
        paths = list(PATHS.values())
        kinds = list(dict.fromkeys([*taken, *given]))
        refs, components = msgspec.json.schema_components([*kinds, *paths], ref_template=_COMPONENT)
        self._of = dict(zip(kinds, refs, strict=False))
        self.paths = {name: _tidy(ref) for name, ref in zip(PATHS, refs[len(kinds) :], strict=True)}
        self.components = {name: _tidy(schema) for name, schema in components.items()}
        asked = _reached(self.components, [self._of[kind] for kind in taken])
        for name in _reached(self.components, [self._of[kind] for kind in given]) - asked:
            _all_present(self.components[name])
        for kind in taken:
            if kind in {route.query for route in routes}:
                self.components.pop(_name(self._of[kind]), None)
        self._queries = {kind: _tidy(msgspec.json.schema(kind)) for kind in taken}

    def ref(self, kind: Any) -> dict[str, Any]:
        """A reference to its schema."""
        found: dict[str, Any] = self._of[kind]
        return found

    def parameters(self, kind: type[Struct]) -> Iterator[dict[str, Any]]:
        """The fields of a query."""
        inner: dict[str, Any] = self._queries[kind]["$defs"][kind.__name__]
        for name, schema in inner["properties"].items():
            shown = {key: value for key, value in schema.items() if not (key == "default" and value in (None, ""))}
            if "anyOf" in shown:  # None only means that it was left out
                first, *more = [one for one in shown.pop("anyOf") if one != {"type": "null"}]
                shown |= {"anyOf": [first, *more]} if more else first
            yield {"name": name, "in": "query", "required": name in inner.get("required", ()), "schema": shown}


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    first, _, rest = route.says.partition(". ")
    roles = " or ".join(sorted(roles_for(route.need)))
    needs = "Any role." if route.need is Need.READ else f"Takes the role {roles}."
    said = f"{rest} {needs}".strip()
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": schemas.paths[name]}
        for name in re.findall(r"\{([a-z]+)\}", route.path)
    ]
    if route.query is not None:
        parameters += schemas.parameters(route.query)
    parameters += _headers(route)
    operation: dict[str, Any] = {
        "operationId": _id(route),
        "tags": [tag_of(route.path)],
        "summary": first.rstrip("."),
        "description": said,
        "x-otaria-need": str(route.need),
        "parameters": parameters,
        "responses": _responses(route, schemas),
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.may_be_left_out,
            "content": _content(route.body, schemas),
        }
    return operation


def _responses(route: Route, schemas: _Schemas) -> dict[str, Any]:
    problem = {
        "description": "Refused, or not to be had now; `type` says why.",
        "content": {_PROBLEM_JSON: {"schema": schemas.ref(Problem)}},
    }
    found: dict[str, Any] = {}
    for status in route.statuses:
        found[str(status)] = {"description": HTTPStatus(status).phrase}
        if route.answer is not None:
            found[str(status)]["content"] = _content(route.answer, schemas)
    if route.method == "GET" and (not isinstance(route.answer, Raw) or route.answer.media == _JSON):
        found["304"] = {"description": "The client has it: `If-None-Match` names its `ETag`."}
    return {**found, "default": problem}


def _headers(route: Route) -> Iterator[dict[str, Any]]:
    """The headers that change what a request does."""
    for one in route.headers:
        yield {
            "name": one.name,
            "in": "header",
            "required": one.required,
            "schema": one.schema,
            "description": one.text,
        }
    if route.method == "POST":
        key = {"type": "string", "minLength": MIN_CHARS, "maxLength": MAX_CHARS}
        said = "The same key again does nothing again, and is answered as before; for 24 hours."
        yield {"name": HEADER, "in": "header", "required": False, "schema": key, "description": said}
    if route.method not in ("GET", "HEAD") and "}" in route.path:
        said = "Only if what is changed still has this ETag; else 412."
        yield {"name": "If-Match", "in": "header", "required": False, "schema": {"type": "string"}, "description": said}


def _content(kind: Any, schemas: _Schemas) -> dict[str, Any]:
    if isinstance(kind, Raw):
        return {kind.media: {"schema": {"description": kind.text}}}
    return {_JSON: {"schema": schemas.ref(kind)}}


def _id(route: Route) -> str:
    """Such as `post_campaigns_campaign_pause`."""
    return "_".join([route.method.lower(), *re.findall(r"[a-z0-9]+", route.path)])


def _is_shape(kind: Any) -> bool:
    return kind is not None and not isinstance(kind, Raw)


def _tidy(schema: Any) -> Any:
    """Docstrings on one line, and patterns as JSON Schema has them: `\\Z` is Python's."""
    if isinstance(schema, Mapping):
        tidied = {name: _tidy(value) for name, value in schema.items()}
        if isinstance(tidied.get("description"), str):
            tidied["description"] = " ".join(tidied["description"].split())
        if isinstance(tidied.get("pattern"), str):
            tidied["pattern"] = tidied["pattern"].replace(r"\Z", "$")
        return tidied
    return [_tidy(one) for one in schema] if isinstance(schema, list | tuple) else schema


def _all_present(schema: dict[str, Any]) -> None:
    """What we send has all of its fields, also those that have a default."""
    if "properties" in schema:
        schema["required"] = list(schema["properties"])
        for one in schema["properties"].values():
            one.pop("default", None)


def _reached(components: Mapping[str, Any], roots: Sequence[Any]) -> set[str]:
    """The names of all components that these schemas name, directly or not."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            if isinstance(one.get("$ref"), str) and (name := _name(one)) not in found:
                found.add(name)
                waiting.append(components[name])
            waiting += list(one.values())
        elif isinstance(one, list):
            waiting += one
    return found


def _name(ref: Mapping[str, Any]) -> str:
    return str(ref["$ref"]).rpartition("/")[2]
