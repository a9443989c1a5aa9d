"""`[target.drain]` of `agent.toml`: who takes the host out of service, and how. Told apart by `kind`."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

AbsolutePath = Annotated[str, Meta(max_length=512, pattern=r"^(/[^\x00]*)?\Z")]
Argv = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=1024)], ...], Meta(min_length=1, max_length=32)]
Url = Annotated[str, Meta(max_length=2048, pattern=r"^https?://[^\s@]+\Z")]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
Status = Annotated[int, Meta(ge=100, le=599)]
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class CommandDrain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="command"):
    """Two programs. `timeout_s`: for each try of one."""

    drain: Argv
    undrain: Argv
    timeout_s: Seconds = 600.0


class HttpDrain(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="http"):
    """Two requests, and one that says when the host is drained. `expect`: statuses that mean yes. `poll` is asked by GET until it
    answers `poll_status`, with `poll_text` somewhere in its body; empty: who answers the first request has drained. `token_file`:
    a bearer token, read anew for each request. `ca_file`: whom the server's certificate must be of; empty: the system's."""

    drain: Url
    undrain: Url
    method: Literal["POST", "PUT", "PATCH", "DELETE", "GET"] = "POST"
    body: Annotated[str, Meta(max_length=4096)] = ""
    undrain_body: Annotated[str, Meta(max_length=4096)] = ""
    expect: Annotated[tuple[Status, ...], Meta(min_length=1, max_length=16)] = (200, 201, 202, 204)
    poll: Annotated[str, Meta(max_length=2048, pattern=r"^(?:https?://[^\s@]+)?\Z")] = ""
    poll_status: Status = 200
    poll_text: Annotated[str, Meta(max_length=256)] = ""
    token_file: AbsolutePath = ""
    ca_file: AbsolutePath = ""
    timeout_s: Seconds = 600.0
    request_s: Seconds = 10.0
    every_s: Seconds = 5.0


class KubernetesDrain(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="kubernetes"
):
    """The node is cordoned and its pods are evicted. `node`: empty for the host's own name. `unmanaged`, `local_data`: whether
    pods that nothing makes anew, and those that keep data in an `emptyDir`, are evicted too; otherwise they keep the host from
    being drained. `grace_s`: how long pods may take to end; None: what they say themselves."""

    server: Annotated[str, Meta(max_length=2048, pattern=r"^https://[^\s@/]+\Z")] = "https://kubernetes.default.svc"
    node: Annotated[str, Meta(max_length=253, pattern=r"^[a-z0-9.-]*\Z")] = ""
    token_file: AbsolutePath = f"{SERVICE_ACCOUNT}/token"
    ca_file: AbsolutePath = f"{SERVICE_ACCOUNT}/ca.crt"
    unmanaged: bool = False
    local_data: bool = False
    grace_s: Annotated[int, Meta(ge=0, le=86400)] | None = None
    timeout_s: Seconds = 1800.0
    request_s: Seconds = 30.0
    every_s: Seconds = 5.0


DrainSettings = CommandDrain | HttpDrain | KubernetesDrain
