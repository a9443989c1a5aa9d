"""Draining by HTTP: asked, asked again while it isn't answered as expected, and waited for until it is so."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agent.drain.command import CommandDrainer
from device_agent.drain.port import Pacing
from device_agent.drain.settings import CommandDrain, HttpDrain
from device_agent.drain.web import WebDrainer
from firmware.errors import RefusedError


class Balancer:
    """A load balancer's API: answers as it is told, the last answer again and again."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, str]]] = {}
        self.asked: list[tuple[str, str, str, str | None]] = []
        self.address = ""
        self.slept: list[float] = []

    def next(self, path: str) -> tuple[int, str]:
        told = self.answers.get(path, [(200, "")])
        return told.pop(0) if len(told) > 1 else told[0]

    @property
    def pacing(self) -> Pacing:
        return Pacing(now=lambda: sum(self.slept), sleep=self.slept.append)

    def drainer(self, **changes: Any) -> WebDrainer:
        values = {"drain": f"{self.address}/drain", "undrain": f"{self.address}/undrain", "timeout_s": 60}
        return WebDrainer(HttpDrain(**{**values, **changes}), self.pacing)


@pytest.fixture
def balancer() -> Iterator[Balancer]:
    one = Balancer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def _all(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            one.asked.append((self.command, self.path, body, self.headers.get("Authorization")))
            status, text = one.next(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            if status == 503:
                self.send_header("Retry-After", "20")
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = _all  # noqa: N815 (the names that http.server looks for)

        def log_message(self, *said: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        one.address = f"http://127.0.0.1:{server.server_port}"
        yield one
        server.shutdown()
        thread.join()


def test_it_is_asked_and_waited_for_and_brought_back(balancer: Balancer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    balancer.answers["/state"] = [(200, "draining"), (503, ""), (200, "state: drained")]
    one = balancer.drainer(
        body='{"weight": 0}', poll=f"{balancer.address}/state", poll_text="drained", token_file=str(tmp_path / "token")
    )
    one.drain("trial-1")
    one.undrain("trial-1")
    token = "Bearer abc"
    assert balancer.asked == [
        ("POST", "/drain", '{"weight": 0}', token),
        *[("GET", "/state", "", token)] * 3,
        ("POST", "/undrain", "", token),
    ]


def test_what_is_not_expected_is_asked_again_after_as_long_as_it_says(balancer: Balancer) -> None:
    balancer.answers["/drain"] = [(500, "oops"), (503, ""), (202, "")]
    balancer.drainer(method="PUT").drain("trial-1")
    assert [path for _, path, _, _ in balancer.asked] == ["/drain"] * 3
    assert balancer.slept == [5.0, 20.0]


def test_only_expected_statuses_count(balancer: Balancer) -> None:
    balancer.answers["/drain"] = [(200, "not that one")]
    with pytest.raises(RefusedError, match=r"within 60 s.*it answered 200: not that one") as refused:
        balancer.drainer(expect=(202,)).drain("trial-1")
    assert refused.value.kind == "drain-failed"


def test_a_host_that_never_empties_is_given_up(balancer: Balancer) -> None:
    balancer.answers["/state"] = [(202, "")]
    with pytest.raises(RefusedError, match=r"/state: it answered 202"):
        balancer.drainer(poll=f"{balancer.address}/state").drain("trial-1")
    assert sum(balancer.slept) == 60.0


def test_nobody_there_is_waited_for_and_then_given_up(balancer: Balancer) -> None:
    with pytest.raises(RefusedError, match="can't be reached"):
        balancer.drainer(undrain="http://127.0.0.1:9/").undrain("trial-1")
    assert sum(balancer.slept) == 60.0


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "http://[::1/", "http:///x", "https://a..b/"])
def test_an_address_that_is_none_is_told_at_once_or_given_up(balancer: Balancer, url: str) -> None:
    with pytest.raises(RefusedError) as refused:
        balancer.drainer(drain=url).drain("trial-1")
    assert refused.value.kind == "drain-failed"


@pytest.mark.parametrize("token", ["", "two words", "x" * 20_000, "späße"])
def test_a_file_without_a_token_sends_nothing(balancer: Balancer, tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token)
    with pytest.raises(RefusedError, match="holds no token"):
        balancer.drainer(token_file=str(tmp_path / "token")).drain("trial-1")
    assert balancer.asked == []


def test_programs_drain_and_their_failure_is_told() -> None:
    ran: list[tuple[Any, ...]] = []

    def run(argv: Any, facts: Any, timeout_s: float) -> str | None:
        ran.append((tuple(argv), dict(facts), timeout_s))
        return "it ended with 3" if argv[0] == "/bin/undrain" else None

    one = CommandDrainer(CommandDrain(drain=("/bin/drain", "x"), undrain=("/bin/undrain",), timeout_s=7), run)
    one.drain("trial-1")
    with pytest.raises(RefusedError, match="ended with 3"):
        one.undrain("trial-1")
    assert ran == [(("/bin/drain", "x"), {"trial": "trial-1"}, 7), (("/bin/undrain",), {"trial": "trial-1"}, 7)]
