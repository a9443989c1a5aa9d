"""The commands as people type them: keys, release, catalogue; against a real HTTP server that takes what it is given."""

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware.catalogue.publish import Repository
from firmware.errors import OtariaError
from server.cli import run
from server.cli.catalogue import local_name

TOKEN = "secret-token"


class Shelf(http.server.BaseHTTPRequestHandler):
    """The publishing surface of the server's REST API, and its devices' surface for reading."""

    protocol_version = "HTTP/1.1"
    metadata: Path
    online_keys: Path
    artifacts: dict[str, bytes]
    received: list[str]

    def do_HEAD(self) -> None:
        self._answer(200 if self.path.rpartition("/")[2] in self.artifacts else 404)

    def do_PATCH(self) -> None:
        """The whole of an upload in one part, whose id is the hash."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sha256 = self.path.rpartition("/")[2]
        self.received.append(f"PUT {self.path}")
        if hashlib.sha256(body).hexdigest() != sha256:
            return self._answer(422, {"type": "artifact-changed", "detail": "Wrong hash.", "status": 422})
        self.artifacts[sha256] = body
        return self._answer(204)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/uploads"):
            named = self.headers["Upload-Metadata"].removeprefix("sha256 ")
            return self._answer(201, {"id": base64.b64decode(named).decode()})
        self.received.append(f"POST {self.path} {self.headers['Authorization']}")
        repository = Repository(self.metadata, online_keys=self.online_keys)
        try:
            now = repository.root().expires.timestamp() - 300 * 86400
            repository.accept_product(base64.b64decode(body["metadata"]), product=body["product"], now=now)
        except OtariaError as error:
            return self._answer(409, {"type": error.kind, "detail": error.text, "status": 409})
        return self._answer(201, {"manifest": body["manifest"]})

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        path = self.metadata / name
        if self.path.startswith("/targets/"):
            data = self.artifacts.get(name.partition(".")[0])
        else:
            data = path.read_bytes() if path.is_file() else None
        self.received.append(f"GET {self.path}")
        self._send(404 if data is None else 200, data or b"")

    def _answer(self, status: int, value: Any = None) -> None:
        self._send(status, b"" if value is None else json.dumps(value).encode())

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if self.command == "PATCH":
            self.send_header("Upload-Offset", self.headers["Content-Length"])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class QuietServer(http.server.ThreadingHTTPServer):
    """A client that hangs up in mid-answer is no news."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Desk:
    """A publisher's directory, a server, and what commands printed."""

    def __init__(self, directory: Path, url: str, shelf: type[Shelf], capsys: pytest.CaptureFixture[str]) -> None:
        self.dir, self.url, self.shelf, self._capsys = directory, url, shelf, capsys
        self.out = self.err = ""
        (directory / "token").write_text(TOKEN + "\n")
        (directory / "pump.img").write_bytes(b"pump" * 1000)

    def run(self, *arguments: object) -> int:
        code = run([str(argument) for argument in arguments])
        self.out, self.err = self._capsys.readouterr()
        return code

    def json(self, *arguments: object) -> Any:
        assert self.run(*arguments, "--json") == 0, self.err
        return json.loads(self.out)

    def build(self, version: str = "1.0", counter: int = 1, *more: object, out: str = "built") -> int:
        fixed = ("--product", "pump", "--hardware", "hw-a", "-o", self.dir / out)
        image = () if "--image" in more else ("--image", self.dir / "pump.img")
        return self.run("release", "build", "--version", version, "--counter", counter, *fixed, *image, *more)

    def publish(self, *more: object) -> int:
        where = ("--server", self.url, "--token-file", self.dir / "token")
        return self.run("release", "publish", self.dir / "built", "--repository", self.dir / "acme", *where, *more)

    def catalogue(self, command: str, *more: object, name: str | None = None) -> int:
        target = ("--target-name", name, "--target-base-url", f"{self.url}/targets", "--target-dir", self.dir / "t")
        where = ("--metadata-dir", self.dir / "md", "--metadata-url", self.url)
        return self.run("catalogue", *where, *(target if name is not None else ()), command, *more)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    acme = tmp_path / "acme"
    facts = {"metadata": acme / "metadata", "online_keys": acme / "keys" / "online", "artifacts": {}, "received": []}
    shelf = type("ThisShelf", (Shelf,), facts)
    server = QuietServer(("127.0.0.1", 0), shelf)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield Desk(tmp_path, f"http://127.0.0.1:{server.server_port}", shelf, capsys)
    server.shutdown()
    server.server_close()


def test_from_keys_to_a_downloaded_release(desk: Desk) -> None:
    made = desk.json("keys", "init", desk.dir / "acme", "--product", "pump")
    assert made["root_sha256"] == hashlib.sha256((desk.dir / "acme/metadata/1.root.json").read_bytes()).hexdigest()
    assert desk.build() == 0
    signed = ("release", "sign", desk.dir / "built", "--repository", desk.dir / "acme")
    assert desk.json(*signed) == desk.json(*signed) == {"product": "pump", "version": "1.0"}

    assert desk.publish() == 0, desk.err
    image = hashlib.sha256(b"pump" * 1000).hexdigest()
    assert desk.shelf.artifacts[image] == b"pump" * 1000
    assert desk.shelf.received[-1] == f"POST /api/v1/releases Bearer {TOKEN}"
    assert desk.publish("--json") == 0
    assert json.loads(desk.out)["uploaded"] == []

    name = "releases/pump/1.0/pump.img"
    assert desk.run("catalogue", "--metadata-dir", desk.dir / "md", "init", desk.dir / "acme/metadata/1.root.json") == 0
    assert desk.catalogue("refresh", "--json") == 0, desk.err
    assert json.loads(desk.out)["versions"] == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 1}
    assert desk.catalogue("download", "--json", name=name) == 0, desk.err
    kept = Path(json.loads(desk.out)["path"])
    assert kept.read_bytes() == b"pump" * 1000
    assert f"GET /targets/releases/pump/1.0/{image}.pump.img" in desk.shelf.received

    desk.shelf.received.clear()
    assert desk.catalogue("download", "--json", name=name) == 0
    assert json.loads(desk.out)["reused"] is True
    assert not [line for line in desk.shelf.received if "targets/" in line]
    kept.write_bytes(b"damaged")
    assert desk.catalogue("download", name=name) == 0
    assert kept.read_bytes() == b"pump" * 1000


def test_a_changed_target_is_not_kept(desk: Desk) -> None:
    publish_one(desk)
    for sha256 in desk.shelf.artifacts:
        desk.shelf.artifacts[sha256] = b"evil" * 1000
    assert desk.catalogue("download", "--json", name="releases/pump/1.0/pump.img") == 1
    assert json.loads(desk.err)["error"] == "artifact-changed"
    for sha256 in desk.shelf.artifacts:
        desk.shelf.artifacts[sha256] = b"evil" * 1001
    assert desk.catalogue("download", "--json", name="releases/pump/1.0/pump.img") == 1
    assert json.loads(desk.err)["error"] == "artifact-too-long"
    assert list((desk.dir / "t").iterdir()) == []


def test_what_the_catalogue_does_not_list_cannot_be_downloaded(desk: Desk) -> None:
    publish_one(desk)
    for name in ("releases/pump/9.9/pump.img", "../acme/keys/offline/root-1.pem", ""):
        assert desk.catalogue("download", "--json", name=name) == 1
        assert json.loads(desk.err)["error"] == "not-found"


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", ".", "...", "a/b", "x" * 999, "a\0b", "", "%2e%2e"]
)
def test_a_targets_name_never_leaves_its_directory(name: str, tmp_path: Path) -> None:
    path = tmp_path / local_name(name)
    path.write_bytes(b"")
    assert path.resolve().parent == tmp_path.resolve()


def test_catalogue_steps_that_fail_exit_with_1(desk: Desk) -> None:
    assert desk.catalogue("refresh") == 1
    assert "no trusted root" in desk.err
    bad = desk.dir / "bad.json"
    bad.write_text("{}")
    assert desk.run("catalogue", "--metadata-dir", desk.dir / "md", "init", bad) == 1
    assert not (desk.dir / "md" / "root.json").exists()


def test_wrong_use_exits_with_2_and_says_what_is_missing(desk: Desk) -> None:
    assert desk.run("catalogue", "refresh") == 2
    assert "--metadata-dir" in desk.err
    assert desk.run("catalogue", "--metadata-dir", desk.dir / "md", "refresh") == 2
    assert "--metadata-url" in desk.err
    assert desk.run("catalogue", "--metadata-dir", "md", "--metadata-url", desk.url, "download") == 2
    assert "--target-name" in desk.err
    assert desk.run("keys", "init", desk.dir / "acme") == 2
    assert desk.run("release", "build") == 2
    assert desk.run("release", "sign", desk.dir / "nowhere", "--repository", desk.dir) == 2
    assert desk.build("1.0", -1) == 2


def test_keys_init_refuses_a_directory_in_use(desk: Desk) -> None:
    assert desk.run("keys", "init", desk.dir, "--product", "pump", "--json") == 1
    assert json.loads(desk.err)["error"] == "directory-not-empty"
    assert desk.run("keys", "init", desk.dir / "x", "--product", "No Product", "--json") == 1
    assert json.loads(desk.err)["error"] == "bad-product"
    assert not (desk.dir / "x").exists()


def test_keys_show_says_which_keys_are_here(desk: Desk) -> None:
    desk.run("keys", "init", desk.dir / "acme", "--product", "pump")
    (desk.dir / "acme/keys/offline/root-3.pem").unlink()
    shown = desk.json("keys", "show", desk.dir / "acme")
    roles = {role["role"]: role for role in shown["roles"]}
    assert [key["here"] for key in roles["root"]["keys"]] == [True, True, False]
    assert roles["root"]["threshold"] == 2
    assert roles["director"]["version"] is None
    assert roles["product-pump"]["version"] == 1
    assert desk.run("keys", "show", desk.dir / "acme") == 0
    assert "product-pump" in desk.out
    assert desk.run("keys", "show", desk.dir) == 1


@pytest.mark.parametrize(
    ("version", "more", "error"),
    [
        ("../1.0", (), "malformed"),
        ("1.0/x", (), "malformed"),
        ("v" * 65, (), "malformed"),
        ("1.0", ("--notes", "n" * 1025), "malformed"),
        ("1.0", ("--health-file", "HEALTH"), "malformed"),
    ],
)
def test_a_release_that_cannot_be_is_not_built(desk: Desk, version: str, more: tuple[str, ...], error: str) -> None:
    (desk.dir / "health.json").write_text('[{"kind": "http", "tries": 0}]')
    given = [str(desk.dir / "health.json") if argument == "HEALTH" else argument for argument in more]
    assert desk.build(version, 1, *given, "--json") == 1
    assert json.loads(desk.err)["error"] == error
    assert not (desk.dir / "built").exists()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"checks": [{"kind": "dance"}]}', "not-understood"),
        ('[{"kind": "http"}]', "malformed"),
        ('[{"kind": "server", "retries": 3}]', "malformed"),
        ('{"checks": [], "soak": 3}', "malformed"),
        ('{"checks": [], "other": {"x": 1}}', "malformed"),
        ('[{"kind": "server", "other": {"x": 1}}]', "malformed"),
        ('{"checks": {}}', "malformed"),
        ("[1]", "malformed"),
        ("{", "malformed"),
        ("\xff", "malformed"),
    ],
)
def test_health_checks_that_cannot_be_are_not_built(desk: Desk, text: str, error: str) -> None:
    (desk.dir / "health.json").write_bytes(text.encode("latin-1"))
    assert desk.build("1.0", 1, "--health-file", desk.dir / "health.json", "--json") == 1
    assert json.loads(desk.err)["error"] == error
    assert not (desk.dir / "built").exists()


def test_how_a_release_is_watched_goes_into_its_manifest_and_must_be_understood(desk: Desk) -> None:
    (desk.dir / "health.json").write_text('{"checks": [{"kind": "server"}], "soak_s": 30, "on_regression": "rollback"}')
    assert desk.build("1.0", 1, "--health-file", desk.dir / "health.json") == 0
    manifest = json.loads(next(desk.dir.glob("**/manifest.json")).read_text())
    assert manifest["watch"] == {"on_regression": "rollback", "soak_s": 30}
    assert [check["kind"] for check in manifest["health"]] == ["server"]
    assert manifest["crit"] == ["watch"]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [("manifest.json", b"x", "malformed"), ("a b.img", b"x", "malformed"), ("empty.img", b"", "image-empty")],
)
def test_an_image_file_that_cannot_be_one(desk: Desk, name: str, content: bytes, error: str) -> None:
    (desk.dir / name).write_bytes(content)
    assert desk.build("1.0", 1, "--image", desk.dir / name, "--json") == 1
    assert json.loads(desk.err)["error"] == error
    assert not (desk.dir / "built").exists()


def test_building_over_a_release_is_refused(desk: Desk) -> None:
    assert desk.build() == 0
    before = (desk.dir / "built" / "manifest.json").read_bytes()
    assert desk.build("2.0", 2, "--json") == 1
    assert json.loads(desk.err)["error"] == "directory-not-empty"
    assert (desk.dir / "built" / "manifest.json").read_bytes() == before


def test_an_image_that_changed_after_the_build_is_not_signed(desk: Desk) -> None:
    desk.run("keys", "init", desk.dir / "acme", "--product", "pump")
    desk.build()
    sign = ("release", "sign", desk.dir / "built", "--repository", desk.dir / "acme", "--json")
    (desk.dir / "built" / "pump.img").write_bytes(b"PUMP" * 1000)
    assert desk.run(*sign) == 1
    assert json.loads(desk.err)["error"] == "image-changed"
    (desk.dir / "built" / "pump.img").unlink()
    assert desk.run(*sign) == 1
    assert json.loads(desk.err)["error"] == "image-missing"


def test_an_unsigned_release_is_not_published(desk: Desk) -> None:
    desk.run("keys", "init", desk.dir / "acme", "--product", "pump")
    desk.build()
    assert desk.publish("--json") == 1
    assert json.loads(desk.err)["error"] == "not-signed"
    assert desk.shelf.received == []


def test_the_bill_of_materials_is_published_with_its_release(desk: Desk) -> None:
    sbom = b'{"bomFormat": "CycloneDX", "specVersion": "1.6"}'
    (desk.dir / "bom.json").write_bytes(sbom)
    desk.run("keys", "init", desk.dir / "acme", "--product", "pump")
    assert desk.build("1.0", 1, "--sbom", desk.dir / "bom.json") == 0
    assert desk.run("release", "sign", desk.dir / "built", "--repository", desk.dir / "acme") == 0
    assert desk.publish() == 0, desk.err
    assert desk.shelf.artifacts[hashlib.sha256(sbom).hexdigest()] == sbom


def test_what_the_server_says_reaches_the_person(desk: Desk) -> None:
    publish_one(desk)
    (desk.dir / "acme/keys/online/timestamp.pem").unlink()
    assert desk.build("2.0", 2, out="two") == 0
    assert desk.run("release", "sign", desk.dir / "two", "--repository", desk.dir / "acme") == 0
    (desk.dir / "built").rename(desk.dir / "one")
    (desk.dir / "two").rename(desk.dir / "built")
    assert desk.publish("--json") == 1
    assert json.loads(desk.err)["error"] == "key-missing"


def test_inspect_shows_a_release_and_its_image(desk: Desk) -> None:
    desk.build("1.0", 1, "--notes", "first", "--floor", 1)
    facts = desk.json("release", "inspect", desk.dir / "built")
    assert (facts["product"], facts["version"], facts["notes"], facts["floor"]) == ("pump", "1.0", "first", 1)
    assert facts["images"][0]["length"] == 4000
    assert facts["images"][0]["windows"] == 1
    assert desk.json("release", "inspect", desk.dir / "built" / "manifest.json") == facts
    assert desk.json("release", "inspect", desk.dir / "pump.img")["kind"] == "unknown"
    assert desk.run("release", "inspect", desk.dir / "built") == 0
    assert desk.run("release", "inspect", desk.dir) == 1


COMMANDS = {
    "keys": ("init", "show"),
    "release": ("pack", "build", "sign", "inspect", "publish"),
    "catalogue": ("init", "refresh", "download"),
}


@pytest.mark.parametrize("command", [f"{group} {name}" for group, names in COMMANDS.items() for name in names])
def test_every_command_has_an_example_and_json(desk: Desk, command: str) -> None:
    group, name = command.split()
    where = ("--metadata-dir", "x") if group == "catalogue" else ()
    assert desk.run(group, *where, name, "--help") == 0
    assert f"Example: otaria {group}" in desk.out
    assert "--json" in desk.out


def publish_one(desk: Desk) -> None:
    """A published release, and a device's store that trusts the catalogue."""
    assert desk.run("keys", "init", desk.dir / "acme", "--product", "pump") == 0
    assert desk.build() == 0
    assert desk.run("release", "sign", desk.dir / "built", "--repository", desk.dir / "acme") == 0
    assert desk.publish() == 0, desk.err
    assert desk.run("catalogue", "--metadata-dir", desk.dir / "md", "init", desk.dir / "acme/metadata/1.root.json") == 0
