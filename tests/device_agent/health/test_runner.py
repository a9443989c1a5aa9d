"""Health checks against real sockets and processes: bounded, stoppable, and saying what was seen."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_agent.health.runner import HealthRunner, Pace
from device_agent.ports import HealthResult
from firmware.manifest import HealthCheck

URL = "http://127.0.0.1:{port}/health"
QUICK = Pace(between_tries_s=0.01, between_connects_s=0.01)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def run(checks: list[HealthCheck], port: int | None, stop: Callable[[], bool] = lambda: False) -> HealthResult:
    return HealthRunner(pace=QUICK).run(checks, program_port=port, stop=stop)


def http(url: str = URL, timeout_s: float = 5.0, tries: int = 1) -> HealthCheck:
    return HealthCheck(kind="http", url=url, timeout_s=timeout_s, tries=tries)


def command(*argv: str, timeout_s: float = 10.0, tries: int = 1) -> HealthCheck:
    return HealthCheck(kind="command", argv=list(argv), timeout_s=timeout_s, tries=tries)


class Server:
    """Answers each connection with the next script: bytes to send in portions, with pauses between."""

    def __init__(self, scripts: list[list[bytes]], pause_s: float = 0.0) -> None:
        self.requests: list[bytes] = []
        self._scripts = scripts
        self._pause_s = pause_s
        self._over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for script in self._scripts:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self._answer(connection, script)

    def _answer(self, connection: socket.socket, script: list[bytes]) -> None:
        try:
            self.requests.append(connection.recv(4096))
            for portion in script:
                connection.sendall(portion)
                self._over.wait(self._pause_s)
        except OSError:
            return

    def close(self) -> None:
        self._over.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*scripts: list[bytes], pause_s: float = 0.0) -> Server:
        servers.append(Server(list(scripts), pause_s))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_gone(pid: int) -> bool:
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_gone(pid: int) -> bool:
    end = time.monotonic() + 10
    while not is_gone(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return is_gone(pid)


# http


def test_an_answer_of_200_passes(serve: Callable[..., Server]) -> None:
    server = serve([OK])
    result = run([http(URL + "?deep=1")], server.port)
    assert result == HealthResult(healthy=True, text="All 1 health checks passed.")
    assert server.requests[0].startswith(b"GET /health?deep=1 HTTP/1.1\r\n")


def test_another_answer_fails_and_is_quoted(serve: Callable[..., Server]) -> None:
    server = serve([b"HTTP/1.1 500 No\r\nContent-Length: 12\r\n\r\nself-test: 7"])
    result = run([http()], server.port)
    assert not result.healthy
    assert "Check 1 of 1 (GET http://127.0.0.1:{port}/health)" in result.text
    assert "it answered 500: 'self-test: 7'" in result.text


def test_a_later_try_may_pass(serve: Callable[..., Server]) -> None:
    server = serve([b"HTTP/1.1 503 Wait\r\nContent-Length: 0\r\n\r\n"], [OK])
    assert run([http(tries=2)], server.port).healthy
    assert len(server.requests) == 2


def test_no_more_tries_than_allowed(serve: Callable[..., Server]) -> None:
    bad = [b"HTTP/1.1 503 Wait\r\nContent-Length: 0\r\n\r\n"]
    server = serve(bad, bad, [OK])
    assert not run([http(tries=2)], server.port).healthy
    assert len(server.requests) == 2


def test_a_program_may_take_a_moment_to_listen() -> None:
    port = free_port()
    opened: list[socket.socket] = []

    def listen_late() -> None:
        time.sleep(0.3)
        listener = socket.create_server(("127.0.0.1", port))
        opened.append(listener)
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(OK)

    thread = threading.Thread(target=listen_late)
    thread.start()
    try:
        assert run([http(timeout_s=10)], port).healthy
    finally:
        thread.join()
        opened[0].close()


def test_nothing_that_listens_fails_after_the_timeout() -> None:
    began = time.monotonic()
    result = run([http(timeout_s=0.2, tries=2)], free_port())
    assert "nothing listens there (try 2 of 2)" in result.text
    assert 0.4 <= time.monotonic() - began < 5


def test_security_a_trickling_answer_is_cut_at_the_deadline(serve: Callable[..., Server]) -> None:
    server = serve([b"H"] * 1000, pause_s=0.05)
    began = time.monotonic()
    result = run([http(timeout_s=0.4)], server.port)
    assert (result.healthy, "in time" in result.text) == (False, True)
    assert time.monotonic() - began < 5


def test_security_an_endless_body_is_not_read(serve: Callable[..., Server]) -> None:
    server = serve([b"HTTP/1.1 500 No\r\n\r\n", *[b"x" * 65536] * 200])
    result = run([http()], server.port)
    assert not result.healthy
    assert len(result.text) < 1024


def test_security_a_redirect_is_not_followed(serve: Callable[..., Server]) -> None:
    other = serve([OK])
    server = serve([b"HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % other.port])
    assert "it answered 302" in run([http()], server.port).text
    assert other.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://",
        "http://a:b@127.0.0.1/",
        "http://127.0.0.1:99999/",
        "nonsense",
    ],
)
def test_security_only_plain_http_addresses(url: str) -> None:
    result = run([http(url)], 1)
    assert not result.healthy
    assert "not an http(s) address" in result.text


def test_garbage_for_an_answer_fails(serve: Callable[..., Server]) -> None:
    server = serve([b"SSH-2.0-OpenSSH\r\n\r\n"])
    assert "no usable answer" in run([http()], server.port).text


def test_an_environment_proxy_is_not_used(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    server = serve([OK])
    assert run([http()], server.port).healthy


def test_a_check_that_needs_the_program_fails_without_one() -> None:
    assert "no program runs" in run([http()], None).text


# command


def test_a_command_passes_with_0_and_is_given_the_port() -> None:
    check = command(sys.executable, "-c", "import sys; sys.exit(0 if sys.argv[1] == '4711' else 1)", "{port}")
    assert run([check], 4711).healthy


def test_a_failing_command_says_its_code_and_what_it_printed() -> None:
    result = run([command(sys.executable, "-c", "print('disk on fire'); raise SystemExit(3)")], None)
    assert "it exited with 3: 'disk on fire'" in result.text


def test_a_command_that_does_not_exist_fails() -> None:
    assert "/no/such/program: No such file" in run([command("/no/such/program")], None).text
    assert "empty" in run([command()], None).text


def test_security_a_command_over_time_is_killed_with_its_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait"
    result = run([command("sh", "-c", script, timeout_s=2)], None)
    assert "did not end in time" in result.text
    for pid in pids.read_text().split():
        assert wait_gone(int(pid))


def test_what_a_command_leaves_in_its_group_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    assert run([command("sh", "-c", f"sleep 600 & echo $! > {pids}")], None).healthy
    assert wait_gone(int(pids.read_text()))


def test_security_a_flood_of_output_neither_blocks_nor_fills_memory() -> None:
    check = command(sys.executable, "-c", "import sys; sys.stdout.write('x' * 5_000_000); sys.exit(4)")
    result = run([check], None)
    assert "it exited with 4" in result.text
    assert len(result.text) < 1024


# The run as a whole


def test_the_first_failure_ends_the_run_and_names_the_check(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve([OK])
    late = tmp_path / "late"
    result = run([http(), command("false"), command("touch", str(late))], server.port)
    assert result.text.startswith("Check 2 of 3 (command false) failed: it exited with 1")
    assert not late.exists()


def test_no_checks_is_healthy() -> None:
    assert run([], None).healthy


@pytest.mark.parametrize("check", [http(timeout_s=60), command("sleep", "60", timeout_s=60)])
def test_stopping_ends_a_check_early(check: HealthCheck) -> None:
    began = time.monotonic()
    result = run([check], free_port(), stop=lambda: time.monotonic() - began > 0.3)
    assert not result.healthy
    assert time.monotonic() - began < 5


def test_a_hanging_server_does_not_outlast_stop(serve: Callable[..., Server]) -> None:
    server = serve([b""], pause_s=30)
    began = time.monotonic()
    result = run([http(timeout_s=60)], server.port, stop=lambda: time.monotonic() - began > 0.3)
    assert not result.healthy
    assert time.monotonic() - began < 5


def test_a_command_dies_with_the_process_that_runs_the_checks(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"""
from device_agent.health.runner import HealthRunner
from firmware.manifest import HealthCheck
argv = ["sh", "-c", "echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 600"]
HealthRunner().run([HealthCheck(kind="command", argv=argv, timeout_s=600)], program_port=None, stop=lambda: False)
"""
    runner = subprocess.Popen([sys.executable, "-c", script])
    end = time.monotonic() + 20
    while not pid_file.exists() and time.monotonic() < end:
        time.sleep(0.02)
    runner.kill()
    runner.wait()
    assert wait_gone(int(pid_file.read_text()))


def test_security_command_gets_no_secret_and_no_directory_of_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTARIA_SECRET", "hush")
    show = "import os, sys; sys.exit(f'{sorted(os.environ)} {os.getcwd()}')"
    text = run([command(sys.executable, "-I", "-c", show)], None).text
    assert "['LANG', 'PATH'] /\"" in text
