"""A TUF repository out of plain JSON, served over HTTP, and a device whose catalogue is driven by the command line.

Nothing here comes from the libraries that the client uses: bodies are dicts, canonical form and signatures are made here, so
that a mistake in a library cannot hide on both sides. Whatever a test wants to be wrong, it can make wrong.
"""

import contextlib
import hashlib
import http.server
import io
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from firmware.catalogue.client import CatalogueClient
from firmware.catalogue.store import FileStore
from firmware.catalogue.web import WebFetch
from server.cli import run

TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")
Json = dict[str, Any]


class Pen:
    """A key pair. Its id is the usual hash unless a test wants another."""

    def __init__(self, kind: str = "ed25519", *, keyid: str | None = None, **more: Any) -> None:
        self.kind = kind
        self._private: Any = _MAKE[kind]()
        public = self._private.public_key()
        if kind == "ed25519":
            value, scheme = public.public_bytes_raw().hex(), "ed25519"
        else:
            value = public.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ).decode()
            scheme = {"ecdsa": "ecdsa-sha2-nistp256", "rsa": "rsassa-pss-sha256"}[kind]
        self.public: Json = {"keytype": kind, "scheme": scheme, "keyval": {"public": value}, **more}
        self.keyid = keyid or hashlib.sha256(canonical(self.public)).hexdigest()

    def sign(self, payload: bytes) -> Json:
        """The signature object."""
        return {"keyid": self.keyid, "sig": self._sign(payload).hex()}

    def _sign(self, payload: bytes) -> bytes:
        if self.kind == "ed25519":
            found: bytes = self._private.sign(payload)
        elif self.kind == "ecdsa":
            found = self._private.sign(payload, ec.ECDSA(hashes.SHA256()))
        else:
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
            found = self._private.sign(payload, pss, hashes.SHA256())
        return found


_MAKE: Mapping[str, Callable[[], object]] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
}


def canonical(value: object) -> bytes:
    """Canonical JSON as the specification means it: sorted, without spaces, only quote and backslash escaped."""
    if isinstance(value, dict):
        inner = b",".join(canonical(key) + b":" + canonical(value[key]) for key in sorted(value))
        return b"{" + inner + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(canonical, value)) + b"]"
    if isinstance(value, str):
        return ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"').encode()
    return json.dumps(value).encode()


def signed(body: Json, pens: Iterable[Pen]) -> bytes:
    """A metadata file."""
    payload = canonical(body)
    return json.dumps({"signatures": [pen.sign(payload) for pen in pens], "signed": body}, indent=1).encode()


def moment(days: float) -> str:
    """A date that many days from now, as metadata writes it."""
    return f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"


class TufRepository:
    """`files` is what the server has, by path; `asked` what was asked for, in order; `bodies` what the next `publish` signs."""

    def __init__(self, *, consistent: bool | None = True) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.status = 404
        self.sizes = self.digests = False
        self.pens: dict[str, list[Pen]] = {role: [Pen()] for role in TOP_LEVEL}
        self.bodies: dict[str, Json] = {role: self._body(role) for role in TOP_LEVEL}
        self.root.update(keys={}, roles={})
        if consistent is not None:
            self.root["consistent_snapshot"] = consistent
        self.bodies["targets"]["targets"] = {}
        self.bodies["snapshot"]["meta"] = {}
        self.bodies["timestamp"]["meta"] = {}
        for role in TOP_LEVEL:
            self.entrust(role, *self.pens[role])
        self.publish("root", "targets", "snapshot", "timestamp")

    @property
    def root(self) -> Json:
        """The body of the next root."""
        return self.bodies["root"]

    def _body(self, role: str) -> Json:
        return {"_type": role, "spec_version": "1.0.31", "version": 0, "expires": moment(30)}

    def entrust(self, role: str, *pens: Pen, threshold: int = 1, keys: bool = True) -> None:
        """Root gives a role these keys, which then sign it; root itself goes on being signed by the old ones, too."""
        before = self.pens[role] if role == "root" and self.root["roles"] else []
        self.pens[role] = [*before, *(pen for pen in pens if pen not in before)]
        self.root["roles"][role] = {"keyids": [pen.keyid for pen in pens], "threshold": threshold}
        if keys:
            self.root["keys"] |= {pen.keyid: pen.public for pen in pens}

    def publish(self, *roles: str, bump: bool = True) -> None:
        """Sign roles in this order, each one version higher, and put them on the server; parents listed later name them."""
        for role in roles:
            body = self.bodies[role]
            body["version"] += int(bump)
            self.put(role, signed(body, self.pens[role]))

    def put(self, role: str, data: bytes, *, version: int | None = None) -> None:
        """Put a metadata file on the server, and into the body that lists it."""
        number = self.bodies[role]["version"] if version is None else version
        self.files[self.place(role, number)] = data
        if role == "snapshot":
            self.bodies["timestamp"]["meta"]["snapshot.json"] = self._entry(number, data)
        elif role not in ("root", "timestamp"):
            self.bodies["snapshot"]["meta"][f"{role}.json"] = self._entry(number, data)

    def place(self, role: str, version: int) -> str:
        """Where the server has a version of a role."""
        plain = f"metadata/{quote(role, safe='')}.json"
        if role == "root" or (role != "timestamp" and self.root.get("consistent_snapshot")):
            return f"metadata/{version}.{quote(role, safe='')}.json"
        return plain

    def _entry(self, version: int, data: bytes) -> Json:
        entry: Json = {"version": version}
        if self.sizes:
            entry["length"] = len(data)
        if self.digests:
            entry["hashes"] = {"sha256": hashlib.sha256(data).hexdigest()}
        return entry

    def delegate(self, parent: str, child: str, *pens: Pen, **terms: Any) -> None:
        """`parent` delegates to `child`, last of all; `terms` are fields of the delegation. The child is begun if it is new."""
        keys = pens or (Pen(),)
        holder = self.bodies[parent].setdefault("delegations", {"keys": {}, "roles": []})
        holder["keys"] |= {pen.keyid: pen.public for pen in keys}
        terms = {"paths": ["*"], "terminating": False, "threshold": 1, **terms}
        if terms["paths"] is None:
            del terms["paths"]
        holder["roles"].append({"name": child, "keyids": [pen.keyid for pen in keys], **terms})
        self.begin(child, *keys)

    def delegate_bins(self, parent: str, prefix: str, bits: int) -> list[str]:
        """`parent` delegates to 2^bits hash bins; their names."""
        pen, count = Pen(), 1 << bits
        names = [f"{prefix}-{number:0{len(f'{count - 1:x}')}x}" for number in range(count)]
        succinct = {"keyids": [pen.keyid], "threshold": 1, "bit_length": bits, "name_prefix": prefix}
        self.bodies[parent]["delegations"] = {"keys": {pen.keyid: pen.public}, "succinct_roles": succinct}
        for name in names:
            self.begin(name, pen)
        return names

    def begin(self, role: str, *pens: Pen) -> None:
        """A targets role that lists nothing yet; another delegator's keys are added to those that sign it."""
        if role not in self.bodies:
            self.bodies[role] = self._body("targets") | {"targets": {}}
            self.pens[role] = []
        self.pens[role] += [pen for pen in pens if pen not in self.pens[role]]

    def release(self, role: str, path: str, data: bytes, *algorithms: str, **more: Any) -> Json:
        """List a file in a role and put it on the server; the entry, to be changed."""
        found = {name: hashlib.new(name, data).hexdigest() for name in algorithms or ("sha256",)}
        self.bodies[role]["targets"][path] = {"length": len(data), "hashes": found, **more}
        directory, slash, name = path.rpartition("/")
        for prefix in [f"{digest}." for digest in found.values()] if self.root.get("consistent_snapshot") else [""]:
            self.files[f"targets/{directory}{slash}{prefix}{name}"] = data
        entry: Json = self.bodies[role]["targets"][path]
        return entry

    def asked_now(self) -> list[str]:
        """What was asked for since the last time, metadata without its directory."""
        found = [path.removeprefix("metadata/") for path in self.asked]
        self.asked.clear()
        return found

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = request.path.removeprefix("/")
        self.asked.append(path)
        data = self.files.get(path)
        if data is None and path.startswith("targets/"):
            data = self.files.get(unquote(path))
        request.send_response(self.status if data is None else 200)
        request.send_header("Content-Length", str(len(data or b"")))
        request.end_headers()
        request.wfile.write(data or b"")


class Device:
    """What a person drives with `otaria catalogue`, and what is then on the disk."""

    def __init__(self, directory: Path, repository: TufRepository, url: str) -> None:
        self.directory, self.repository, self.url = directory, repository, url
        self.metadata, self.targets = directory / "metadata", directory / "targets"
        self.text = ""

    def init(self, root: bytes | None = None) -> int:
        """Exit code of `init` with the first root, or this one."""
        file = self.directory / "given.json"
        file.write_bytes(self.repository.files["metadata/1.root.json"] if root is None else root)
        return self._run("init", str(file))

    def refresh(self) -> int:
        """Exit code of `refresh`."""
        return self._run("--metadata-url", f"{self.url}/metadata", "refresh")

    def refresh_at(self, days: float) -> None:
        """The same client so many days from now; raises its error. (The command line takes no other time than the true one.)"""
        client = CatalogueClient(FileStore(self.metadata), WebFetch(f"{self.url}/metadata"), prefetch=())
        client.refresh((datetime.now(UTC) + timedelta(days=days)).timestamp())

    def download(self, name: str) -> int:
        """Exit code of `download`."""
        address = ("--metadata-url", f"{self.url}/metadata", "--target-base-url", f"{self.url}/targets")
        return self._run(*address, "--target-name", name, "--target-dir", str(self.targets), "download")

    def _run(self, *arguments: str) -> int:
        heard = io.StringIO()
        with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            code = run(["catalogue", *self.command(*arguments)])
        self.text = heard.getvalue()
        return code

    def command(self, *arguments: str) -> list[str]:
        """Arguments of `otaria catalogue`."""
        return ["--metadata-dir", str(self.metadata), *arguments]

    def versions(self) -> dict[str, int]:
        """The versions of what is stored, by role."""
        files = sorted(self.metadata.glob("*.json"))
        return {unquote(file.stem): json.loads(file.read_bytes())["signed"]["version"] for file in files}

    def stored(self, role: str) -> bytes | None:
        """The stored bytes of a role."""
        file = self.metadata / f"{role}.json"
        return file.read_bytes() if file.exists() else None

    def downloaded(self) -> list[bytes]:
        """All that lies in the target directory, and below it."""
        return [file.read_bytes() for file in sorted(self.targets.rglob("*")) if file.is_file()]


@contextlib.contextmanager
def serving(repository: TufRepository) -> Iterator[str]:
    """Serve a repository on the loopback interface; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            repository.answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def repository() -> TufRepository:
    """A repository with one version of each top-level role."""
    return TufRepository()


@pytest.fixture
def device(repository: TufRepository, tmp_path: Path) -> Iterator[Device]:
    """A device that trusts the repository's first root and has asked for nothing yet."""
    with serving(repository) as url:
        found = Device(tmp_path, repository, url)
        assert found.init() == 0
        yield found
