"""A Kubernetes API server as far as draining goes, over real HTTPS: nodes with resource versions, pods that take time to end,
evictions and disruption budgets. It refuses what the real one refuses.

Time is the test's: `tick` lets it pass. `refuse` answers the next requests with these statuses instead.
"""

import http.server
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOKEN = "service-account-token"
EVICTION_FIELDS = {"apiVersion", "kind", "metadata", "deleteOptions"}


@dataclass
class Budget:
    """A PodDisruptionBudget: pods with this label, of which so many must be ready."""

    label: str
    min_available: int


@dataclass
class Pod:
    """`owner`: the kind of its controller; `ends_after`: ticks that it takes to end; `ready_in`: until it is ready."""

    name: str
    node: str = "web-1"
    namespace: str = "default"
    owner: str | None = "ReplicaSet"
    label: str = ""
    uid: str = ""
    phase: str = "Running"
    mirror: bool = False
    empty_dir: bool = False
    ends_after: int = 1
    ready_in: int = 0
    ending: int | None = None

    @property
    def is_ready(self) -> bool:
        return self.ending is None and self.ready_in == 0 and self.phase == "Running"

    @property
    def body(self) -> dict[str, Any]:
        about: dict[str, Any] = {"name": self.name, "namespace": self.namespace, "uid": self.uid or f"uid-{self.name}"}
        if self.owner:
            about["ownerReferences"] = [{"kind": self.owner, "name": "its", "controller": True}]
        if self.mirror:
            about["annotations"] = {"kubernetes.io/config.mirror": "x"}
        if self.ending is not None:
            about["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        volumes = [{"name": "data", "emptyDir": {}}] if self.empty_dir else [{"name": "c", "configMap": {"name": "c"}}]
        return {
            "metadata": about,
            "spec": {"nodeName": self.node, "volumes": volumes},
            "status": {"phase": self.phase},
        }


@dataclass
class Cluster:
    """What the cluster holds, and what it was asked."""

    folder: Path
    pods: list[Pod] = field(default_factory=list)
    budgets: list[Budget] = field(default_factory=list)
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    refuse: list[int] = field(default_factory=list)
    reborn: bool = True
    rival: bool = False
    """Somebody else changes the node between every look and change, three times."""
    rivalled: int = 0
    node: dict[str, Any] = field(
        default_factory=lambda: {
            "metadata": {"name": "web-1", "resourceVersion": "1", "annotations": {"other": "kept"}},
            "spec": {"podCIDR": "10.0.0.0/24"},
        }
    )
    address: str = ""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def is_cordoned(self) -> bool:
        return self.node["spec"].get("unschedulable") is True

    @property
    def annotations(self) -> dict[str, str]:
        found: dict[str, str] = self.node["metadata"]["annotations"]
        return found

    def evictions(self) -> list[tuple[str, int]]:
        return [(path.split("/")[-2], status) for method, path, status in self.asked if path.endswith("/eviction")]

    def tick(self) -> None:
        """Pods that end come nearer to it; those that were started become ready."""
        with self._lock:
            for pod in list(self.pods):
                pod.ready_in = max(0, pod.ready_in - 1)
                if pod.ending is None:
                    continue
                pod.ending -= 1
                if pod.ending <= 0:
                    self.pods.remove(pod)
                    if self.reborn and pod.owner == "ReplicaSet":
                        name = f"{pod.name}-again"
                        self.pods.append(Pod(name=name, node="web-2", label=pod.label, ready_in=2))

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any], dict[str, str]]:
        with self._lock:
            if self.refuse:
                return self.refuse.pop(0), _status("as the test wants it"), {}
            if headers.get("Authorization") != f"Bearer {TOKEN}":
                return 401, _status("Unauthorized"), {}
            parts = urlsplit(path)
            words = parts.path.strip("/").split("/")
            if words[:3] == ["api", "v1", "nodes"] and len(words) == 4:
                return self._of_node(method, words[3], headers, body)
            if words == ["api", "v1", "pods"] and method == "GET":
                return self._list(parse_qs(parts.query))
            if words[-1] == "eviction" and words[4] == "pods" and method == "POST":
                return self._evict(words[3], words[5], json.loads(body))
            return 404, _status("the server could not find the requested resource"), {}

    def _of_node(self, method: str, name: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any], dict[str, str]]:
        about = self.node["metadata"]
        if name != about["name"]:
            return 404, _status(f'nodes "{name}" not found'), {}
        if method == "GET":
            seen = json.loads(json.dumps(self.node))
            if self.rival and self.rivalled < 3:
                self.rivalled += 1
                about["resourceVersion"] = str(int(about["resourceVersion"]) + 1)
            return 200, seen, {}
        if method != "PATCH":
            return 405, _status("method not allowed"), {}
        if headers.get("Content-Type") != "application/merge-patch+json":
            return 415, _status("the body of the request was in an unknown format"), {}
        patch = json.loads(body)
        version = patch["metadata"].get("resourceVersion")
        if version not in (None, about["resourceVersion"]):
            return 409, _status("the object has been modified"), {}
        self.node = _merged(self.node, patch)
        self.node["metadata"]["resourceVersion"] = str(int(about["resourceVersion"]) + 1)
        return 200, self.node, {}

    def _list(self, query: dict[str, list[str]]) -> tuple[int, dict[str, Any], dict[str, str]]:
        field_name, _, node = query["fieldSelector"][0].partition("=")
        assert field_name == "spec.nodeName"
        limit, begin = int(query["limit"][0]), int(query.get("continue", ["0"])[0])
        fitting = [pod.body for pod in self.pods if pod.node == node]
        more = {"continue": str(begin + limit)} if begin + limit < len(fitting) else {}
        return 200, {"kind": "PodList", "metadata": more, "items": fitting[begin : begin + limit]}, {}

    def _evict(self, namespace: str, name: str, body: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
        if body["kind"] != "Eviction" or body["apiVersion"] != "policy/v1" or set(body) - EVICTION_FIELDS:
            return 400, _status("no eviction"), {}
        pod = next((one for one in self.pods if (one.namespace, one.name) == (namespace, name)), None)
        if pod is None or body["metadata"] != {"name": name, "namespace": namespace}:
            return 404, _status("not found"), {}
        wanted = body["deleteOptions"].get("preconditions", {}).get("uid")
        if wanted not in (None, pod.body["metadata"]["uid"]):
            return 409, _status("the UID in the precondition does not match"), {}
        for budget in self.budgets:
            ready = [one for one in self.pods if one.label == budget.label and one.is_ready]
            if pod.label == budget.label and pod.is_ready and len(ready) - 1 < budget.min_available:
                return (
                    429,
                    _status("Cannot evict pod as it would violate the pod's disruption budget."),
                    {"Retry-After": "10"},
                )
        if pod.ending is None:
            pod.ending = pod.ends_after
        return 201, {"kind": "Status", "status": "Success"}, {}


@contextmanager
def served(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster on a port of its own; `folder` gets `ca.crt` and `token`."""
    write_certificates(cluster.folder)
    (cluster.folder / "token").write_text(f"{TOKEN}\n")

    class Handler(http.server.BaseHTTPRequestHandler):
        def _all(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, value, headers = cluster.answer(self.command, self.path, self.headers, body)
            cluster.asked.append((self.command, urlsplit(self.path).path, status))
            data = json.dumps(value).encode()
            self.send_response(status)
            for name, text in {**headers, "Content-Length": str(len(data)), "Content-Type": "application/json"}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _all  # noqa: N815 (the names that http.server looks for)

        def log_message(self, *said: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cluster.folder / "server.crt", cluster.folder / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        cluster.address = f"https://127.0.0.1:{server.server_port}"
        try:
            yield cluster
        finally:
            server.shutdown()
            thread.join()


def write_certificates(folder: Path) -> None:
    """`ca.crt`, and `server.crt` with `server.key` for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "ca.crt").write_bytes(pem)
    (folder / "server.crt").write_bytes(pem)
    (folder / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _merged(held: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    out = dict(held) if isinstance(held, dict) else {}
    for name, value in patch.items():
        if value is None:
            out.pop(name, None)
        else:
            out[name] = _merged(out.get(name), value)
    return out


def _status(text: str) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "message": text}
