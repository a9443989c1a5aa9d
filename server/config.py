"""Settings of the server, in three stages: the file as written, merged with the defaults, validated.

Unknown sections and settings are refused by name. Relative paths are taken from the file's own directory. Port 0 means
"any free port"; `state/run.json` then says which one it became.
"""

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from firmware.errors import RefusedError
from server.config_artifacts import DEFAULTS as ARTIFACTS
from server.config_artifacts import ArtifactSettings, parse_artifacts
from server.config_limits import DEFAULTS as LIMITS
from server.config_limits import LimitSettings, parse_limits

KIND = "config"
MIN_RATE, MAX_RATE = 1024, 1 << 40
MAX_QUERIES, MAX_QUERY = 64, 4096
MIN_LEASE_S, MAX_LEASE_S = 1.0, 600.0
MAX_CHECK_S = 60
MAX_NETWORKS = 64
_SOURCE = re.compile(r"^[A-Za-z0-9/:._~-]{1,200}\Z")
MIN_CHECKPOINT_S, MAX_CHECKPOINT_S = 10.0, 86400.0
MAX_KEEP_DAYS = 36525
_CHECK = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}\Z")
_LABEL = re.compile(r"^[a-z][a-z0-9_-]{0,62}\Z")
_MONITOR_URL = re.compile(r"^https?://[A-Za-z0-9.\[\]:/_-]{1,300}\Z")
_URL = re.compile(r"^https://[A-Za-z0-9.\[\]:_-]{1,300}\Z")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
ForwardedHeader = Literal["X-Forwarded-For", "Forwarded"]
FACTORY_SOURCES = ("common_name", "serial_number", "organization", "organizational_unit", "certificate_serial")
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "server": {"state": "state"},
    "http": {
        "people": "127.0.0.1:8080",
        "people_certificate": None,
        "people_key": None,
        "devices": "127.0.0.1:8443",
        "devices_url": None,
        "names": [],
        "max_artifact_bytes": 8 << 30,
        "trusted_proxies": [],
        "forwarded_header": "X-Forwarded-For",
    },
    "limits": LIMITS,
    "broker": {
        "kind": "auto",
        "listen": "127.0.0.1",
        "agents_port": 0,
        "services_port": 0,
        "agents_host": None,
        "services_host": None,
    },
    "artifacts": ARTIFACTS,
    "blocks": {"site_bytes_per_s": 1 << 20, "bytes_per_s": 16 << 20},
    "storage": {"url": None, "lease_s": 30.0},
    "sli": {"url": None, "queries": {}},
    "checks": {"urls": {}, "secret_file": None, "timeout_s": 10},
    "webhooks": {"source": "/otaria", "private": [], "ca_file": None, "timeout_s": 10},
    "audit": {"key": None, "checkpoint_s": 3600.0, "keep_days": None},
    "enrolment": {"factory_cas": [], "factory_labels": {}, "factory_unlisted": False},
    "identity": {"fleet_key": None},
    "catalogue": {"repository": "repository", "online_keys": "keys/online"},
}


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to listen: a host name or IP address without brackets, and a port (0: any free one)."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def authority(self) -> str:
        """`host:port` as it stands in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """The two listeners. `devices_url` is what devices are told (None: made from the address). `names` are the further
    host names and addresses in the server's own certificates. `people_certificate`, `people_key`: PEM files for TLS.
    `trusted_proxies`: the networks whose word is taken for who asks the people's listener, in `forwarded_header`."""

    people: Address
    people_certificate: Path | None
    people_key: Path | None
    devices: Address
    devices_url: str | None
    names: tuple[str, ...]
    max_artifact_bytes: int
    trusted_proxies: tuple[Network, ...] = ()
    forwarded_header: ForwardedHeader = "X-Forwarded-For"


BrokerKind = Literal["auto", "mosquitto", "embedded", "external"]


@dataclass(frozen=True, kw_only=True)
class BrokerSettings:
    """`auto` starts Mosquitto when it is installed, else the embedded broker; `external` is one that runs elsewhere, reached
    by the server at (`services_host`, `services_port`). Agents are told `agents_host` (None: where our own one listens)."""

    kind: BrokerKind
    listen: str
    agents_port: int
    services_port: int
    agents_host: str | None
    services_host: str | None


@dataclass(frozen=True, kw_only=True)
class BlockRates:
    """Bytes per second that blocks over the broker take: of all devices with one `site` label together, and of all devices."""

    site_bytes_per_s: int = 1 << 20
    bytes_per_s: int = 16 << 20


@dataclass(frozen=True, kw_only=True)
class SliSettings:
    """Where indicators are read, and by which queries. `url` None: nowhere."""

    url: str | None
    queries: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """Where checks elsewhere are asked, by name; what signs the questions; and how long an answer may take."""

    urls: Mapping[str, str]
    secret_file: Path | None
    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class WebhookSettings:
    """Who events say they are from; the networks that they may be sent to although they aren't public; authorities trusted there
    beside the system's; and how long an answer may take."""

    source: str
    private: tuple[Network, ...]
    ca_file: Path | None
    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """The URI of the key that signs checkpoints (None: a file among the online keys), how often that happens, and how old records
    may become (None: for ever)."""

    key: str | None = None
    checkpoint_s: float = 3600.0
    keep_days: float | None = None


@dataclass(frozen=True, kw_only=True)
class EnrolmentSettings:
    """`factory_cas`: PEM files of the CAs whose certificates enrol devices. `factory_labels`: by label, what of such a
    certificate gives it. `factory_unlisted`: a certificate is enough; otherwise its serial must be known as well."""

    factory_cas: tuple[Path, ...] = ()
    factory_labels: Mapping[str, str] = field(default_factory=dict)
    factory_unlisted: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything the composition root needs to know. `storage_url` None: SQLite in the state directory. `lease_s`: how long a
    leader may be silent before a server that stands by takes over. `fleet_key`: `pkcs11:` URI of the token in which fleet CAs are
    made (None: in files)."""

    state: Path
    http: HttpSettings
    limits: LimitSettings
    broker: BrokerSettings
    blocks: BlockRates
    sli: SliSettings
    checks: CheckSettings
    webhooks: WebhookSettings
    audit: AuditSettings
    enrolment: EnrolmentSettings
    storage_url: str | None
    lease_s: float
    repository: Path
    online_keys: Path
    fleet_key: str | None = None
    artifacts: ArtifactSettings = field(default_factory=ArtifactSettings)


class _Http(Struct, forbid_unknown_fields=True):
    people: str
    people_certificate: str | None
    people_key: str | None
    devices: str
    devices_url: str | None
    names: list[str]
    max_artifact_bytes: int
    trusted_proxies: list[str]
    forwarded_header: ForwardedHeader


class _Broker(Struct, forbid_unknown_fields=True):
    kind: BrokerKind
    listen: str
    agents_port: int
    services_port: int
    agents_host: str | None
    services_host: str | None


def load_settings(path: Path) -> Settings:
    """Read, merge and validate one `otaria.toml`; raises `RefusedError` (`config`) naming the setting that is wrong."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RefusedError(KIND, f"There is no config file {path}; `docs/howto/operate.md` has an example.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RefusedError(KIND, f"The config file {path} cannot be read: {error}.") from error
    return validated(merged(raw), base=path.resolve().parent)


def merged(raw: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Lay what the file says over the defaults; refuses sections and settings that do not exist."""
    _refuse_unknown(raw, DEFAULTS, "section")
    out: dict[str, dict[str, Any]] = {}
    for section, defaults in DEFAULTS.items():
        given = raw.get(section, {})
        if not isinstance(given, dict):
            raise RefusedError(KIND, f"`{section}` must be a section: write [{section}] above its settings.")
        _refuse_unknown(given, defaults, f"setting in [{section}]")
        out[section] = {**defaults, **given}
    return out


def validated(settings: Mapping[str, Mapping[str, Any]], *, base: Path) -> Settings:
    """Check merged settings and resolve their paths against `base`; raises `RefusedError` (`config`)."""
    server, storage, catalogue = settings["server"], settings["storage"], settings["catalogue"]
    return Settings(
        state=_path(server["state"], "server.state", base),
        http=_http(settings["http"], base),
        limits=parse_limits(settings["limits"]),
        broker=_broker(settings["broker"]),
        blocks=_blocks(settings["blocks"]),
        sli=_sli(settings["sli"]),
        checks=_checks(settings["checks"], base),
        webhooks=_webhooks(settings["webhooks"], base),
        audit=_audit(settings["audit"]),
        enrolment=_enrolment(settings["enrolment"], base),
        storage_url=_typed(storage["url"], str | None, "storage.url"),
        lease_s=_lease_s(storage["lease_s"]),
        repository=_path(catalogue["repository"], "catalogue.repository", base),
        online_keys=_path(catalogue["online_keys"], "catalogue.online_keys", base),
        fleet_key=_typed(settings["identity"]["fleet_key"], str | None, "identity.fleet_key"),
        artifacts=parse_artifacts(settings["artifacts"], base),
    )


def _enrolment(section: Mapping[str, Any], base: Path) -> EnrolmentSettings:
    files = _typed(section["factory_cas"], list[str], "enrolment.factory_cas")
    labels = _typed(section["factory_labels"], dict[str, str], "enrolment.factory_labels")
    if len(labels) > MAX_QUERIES or not all(
        _LABEL.match(name) and source in FACTORY_SOURCES for name, source in labels.items()
    ):
        known = ", ".join(FACTORY_SOURCES)
        text = f'`enrolment.factory_labels` must map labels to {known}, such as {{model = "organizational_unit"}}.'
        raise RefusedError(KIND, text)
    return EnrolmentSettings(
        factory_cas=tuple(_path(one, "enrolment.factory_cas", base) for one in files),
        factory_labels=labels,
        factory_unlisted=_typed(section["factory_unlisted"], bool, "enrolment.factory_unlisted"),
    )


def _lease_s(value: object) -> float:
    seconds: float = _typed(value, float, "storage.lease_s")
    if not MIN_LEASE_S <= seconds <= MAX_LEASE_S:
        raise RefusedError(KIND, f"`storage.lease_s` must be {MIN_LEASE_S:g} to {MAX_LEASE_S:g} seconds.")
    return seconds


def _sli(section: Mapping[str, Any]) -> SliSettings:
    url = _typed(section["url"], str | None, "sli.url")
    if url is not None and not _MONITOR_URL.match(url):
        raise RefusedError(
            KIND, "`sli.url` must be the address of a Prometheus, such as https://prometheus.example.org."
        )
    queries = _typed(section["queries"], dict[str, str], "sli.queries")
    if len(queries) > MAX_QUERIES or any(not query or len(query) > MAX_QUERY for query in queries.values()):
        text = f"`sli.queries` must have at most {MAX_QUERIES} queries of at most {MAX_QUERY} characters."
        raise RefusedError(KIND, text)
    return SliSettings(url=url, queries=queries)


def _checks(section: Mapping[str, Any], base: Path) -> CheckSettings:
    urls = _typed(section["urls"], dict[str, str], "checks.urls")
    if len(urls) > MAX_QUERIES or not all(_CHECK.match(name) and _MONITOR_URL.match(url) for name, url in urls.items()):
        text = f'`checks.urls` must have at most {MAX_QUERIES} addresses, such as {{backup = "https://backup.example.org/ask"}}.'
        raise RefusedError(KIND, text)
    timeout_s = _typed(section["timeout_s"], float, "checks.timeout_s")
    if not 1 <= timeout_s <= MAX_CHECK_S:
        raise RefusedError(KIND, f"`checks.timeout_s` must be 1 to {MAX_CHECK_S} seconds.")
    secret = _path(section["secret_file"], "checks.secret_file", base) if section["secret_file"] else None
    if urls and secret is None:
        text = "`checks.secret_file` must name a file of 16 bytes or more, known to the checks too: it signs what they are asked."
        raise RefusedError(KIND, text)
    return CheckSettings(urls=urls, secret_file=secret, timeout_s=timeout_s)


def _webhooks(section: Mapping[str, Any], base: Path) -> WebhookSettings:
    source = _typed(section["source"], str, "webhooks.source")
    if not _SOURCE.match(source):
        text = "`webhooks.source` must be a URI, or the path of one, such as https://otaria.example.org."
        raise RefusedError(KIND, text)
    private = _networks(_typed(section["private"], list[str], "webhooks.private"), "webhooks.private")
    timeout_s = _typed(section["timeout_s"], float, "webhooks.timeout_s")
    if not 1 <= timeout_s <= MAX_CHECK_S:
        raise RefusedError(KIND, f"`webhooks.timeout_s` must be 1 to {MAX_CHECK_S} seconds.")
    ca_file = _path(section["ca_file"], "webhooks.ca_file", base) if section["ca_file"] else None
    return WebhookSettings(source=source, private=private, ca_file=ca_file, timeout_s=timeout_s)


def _networks(given: Sequence[str], name: str) -> tuple[Network, ...]:
    if len(given) > MAX_NETWORKS:
        raise RefusedError(KIND, f"`{name}` may have at most {MAX_NETWORKS} networks.")
    try:
        return tuple(ipaddress.ip_network(network) for network in given)
    except ValueError as error:
        raise RefusedError(KIND, f"`{name}` must have networks such as 10.1.0.0/16: {error}.") from error


def _audit(section: Mapping[str, Any]) -> AuditSettings:
    key = _typed(section["key"], str | None, "audit.key")
    checkpoint_s = _typed(section["checkpoint_s"], float, "audit.checkpoint_s")
    keep_days = _typed(section["keep_days"], float | None, "audit.keep_days")
    if not MIN_CHECKPOINT_S <= checkpoint_s <= MAX_CHECKPOINT_S:
        raise RefusedError(KIND, f"`audit.checkpoint_s` must be {MIN_CHECKPOINT_S:g} to {MAX_CHECKPOINT_S:g} seconds.")
    if keep_days is not None and not 1 <= keep_days <= MAX_KEEP_DAYS:
        raise RefusedError(KIND, f"`audit.keep_days` must be 1 to {MAX_KEEP_DAYS} days; without it nothing is removed.")
    return AuditSettings(key=key, checkpoint_s=checkpoint_s, keep_days=keep_days)


def parse_address(text: str, name: str) -> Address:
    """Parse `host:port` or `[v6]:port`; raises `RefusedError` (`config`)."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise RefusedError(KIND, f"`{name}` must put an IPv6 address in brackets, such as [::1]:8080.")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise RefusedError(KIND, f"`{name}` must be host:port with a port from 0 to 65535, not {text!r}.")
    return Address(host=host, port=int(port))


def _http(section: Mapping[str, Any], base: Path) -> HttpSettings:
    raw = _typed(dict(section), _Http, "http")
    people = parse_address(raw.people, "http.people")
    certificate = _path(raw.people_certificate, "http.people_certificate", base) if raw.people_certificate else None
    key = _path(raw.people_key, "http.people_key", base) if raw.people_key else None
    if (certificate is None) != (key is None):
        raise RefusedError(KIND, "`http.people_certificate` and `http.people_key` go together; set both or neither.")
    if certificate is None and not people.is_loopback:
        raise RefusedError(
            KIND,
            f"`http.people` is {raw.people}, which others can reach, and has no TLS: set http.people_certificate and "
            "http.people_key, or listen on 127.0.0.1.",
        )
    if raw.devices_url is not None and not _URL.match(raw.devices_url):
        raise RefusedError(KIND, "`http.devices_url` must be https://HOST:PORT, without a path.")
    devices = parse_address(raw.devices, "http.devices")
    if devices.host in ("0.0.0.0", "::") and raw.devices_url is None:  # noqa: S104 - compared, not bound
        raise RefusedError(
            KIND, "`http.devices` listens everywhere; set `http.devices_url` to what devices should call."
        )
    if raw.max_artifact_bytes < 1:
        raise RefusedError(KIND, "`http.max_artifact_bytes` must be at least 1.")
    return HttpSettings(
        people=people,
        people_certificate=certificate,
        people_key=key,
        devices=devices,
        devices_url=raw.devices_url,
        names=tuple(raw.names),
        max_artifact_bytes=raw.max_artifact_bytes,
        trusted_proxies=_networks(raw.trusted_proxies, "http.trusted_proxies"),
        forwarded_header=raw.forwarded_header,
    )


def _broker(section: Mapping[str, Any]) -> BrokerSettings:
    raw = _typed(dict(section), _Broker, "broker")
    for name, port in (("agents_port", raw.agents_port), ("services_port", raw.services_port)):
        if not 0 <= port < 65536:
            raise RefusedError(KIND, f"`broker.{name}` must be a port from 0 to 65535.")
    external = raw.kind == "external"
    if external and not (raw.agents_host and raw.services_host and raw.agents_port and raw.services_port):
        raise RefusedError(
            KIND, "An external broker needs agents_host, agents_port, services_host and services_port in [broker]."
        )
    if not external and (raw.agents_host or raw.services_host):
        raise RefusedError(
            KIND, 'agents_host and services_host are for `kind = "external"`; remove them from [broker].'
        )
    return BrokerSettings(**msgspec.structs.asdict(raw))


def _blocks(section: Mapping[str, Any]) -> BlockRates:
    for name, value in section.items():
        if not isinstance(value, int) or isinstance(value, bool) or not MIN_RATE <= value <= MAX_RATE:
            raise RefusedError(KIND, f"`blocks.{name}` must be bytes per second, {MIN_RATE} to {MAX_RATE}.")
    return BlockRates(**section)


def _refuse_unknown(given: Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known)}."
            raise RefusedError(KIND, f"There is no {what} called `{name}`; {hint}")


def _typed(value: object, kind: Any, name: str) -> Any:
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise RefusedError(KIND, f"`{name}` is wrong: {error}.") from error


def _path(value: object, name: str, base: Path) -> Path:
    text: str = _typed(value, str, name)
    if not text or "\0" in text:
        raise RefusedError(KIND, f"`{name}` must be a path.")
    return (base / Path(text).expanduser()).resolve()
