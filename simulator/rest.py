"""A small blocking client of the people's REST API, for the demo and the tests."""

import json
import urllib.error
import urllib.request
from typing import Any

from firmware.errors import OtariaError, UnavailableError

TIMEOUT_S = 120.0
MAX_BYTES = 64 << 20


class RestError(OtariaError):
    """The server answered with a problem: its `kind`, `text` and HTTP `status`."""

    def __init__(self, kind: str, text: str, status: int) -> None:
        super().__init__(kind, text)
        self.status = status


class RestClient:
    """Calls `/api/v1` of one server with one bearer token."""

    def __init__(self, base_url: str, token: str) -> None:
        self._base = base_url.rstrip("/")
        self._token = token

    def by(self, token: str) -> "RestClient":
        """The same server's, with another token."""
        return RestClient(self._base, token)

    def get(self, path: str) -> Any:
        """GET below `/api/v1`; the parsed JSON. Raises `RestError` or `UnavailableError`."""
        return self._call("GET", path, None)

    def post(self, path: str, body: object = None) -> Any:
        """POST JSON (or text, as it is) below `/api/v1`; the parsed JSON."""
        return self._call("POST", path, body)

    def fleet(self) -> list[dict[str, Any]]:
        """All targets, page by page."""
        targets: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self.get(f"/fleet?limit=500{cursor}")
            targets += page["targets"]
            if not page.get("next"):
                return targets
            cursor = f"&cursor={page['next']}"

    def _call(self, method: str, path: str, body: object) -> Any:
        data = body.encode() if isinstance(body, str) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the address is our own server's
            f"{self._base}/api/v1{path}",
            data=data,
            method=method,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return json.loads(answer.read(MAX_BYTES) or b"null")
        except urllib.error.HTTPError as error:
            raise _problem(error) from error
        except OSError as error:
            raise UnavailableError("unreachable", f"{self._base} does not answer: {error}.") from error


def _problem(error: urllib.error.HTTPError) -> RestError:
    with error:
        text = error.read(65536).decode(errors="replace")
    try:
        problem = json.loads(text)
        return RestError(str(problem["type"]), str(problem.get("detail") or problem.get("title")), error.code)
    except (ValueError, KeyError, TypeError):
        return RestError("http", text[:500], error.code)
