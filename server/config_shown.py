"""Settings as pages show them: facts in words, and no secret."""

from urllib.parse import urlsplit

from server.config import Settings
from server.config_artifacts import ArtifactSettings

Section = tuple[str, tuple[tuple[str, str], ...]]


def shown(settings: Settings) -> tuple[Section, ...]:
    """The settings by section. Of files with keys only whether there is one is told, of a database's address no password."""
    http, limits, broker = settings.http, settings.limits, settings.broker
    return (
        (
            "Listeners",
            (
                ("people", f"{http.people.authority}, {'TLS' if http.people_certificate else 'without TLS'}"),
                ("devices", http.devices.authority),
                ("devices are told", http.devices_url or "the same"),
                ("largest artifact", f"{http.max_artifact_bytes / (1 << 30):g} GiB"),
                ("trusted proxies", ", ".join(map(str, http.trusted_proxies)) or "none"),
            ),
        ),
        (
            "Limits",
            (
                ("each address", f"{limits.address_per_s:g} requests/s, {limits.address_burst:,} at once"),
                ("each token", f"{limits.token_per_s:g} requests/s, {limits.token_burst:,} at once"),
                ("largest JSON", f"{limits.json_bytes / (1 << 20):g} MiB, within {limits.body_s:g} s"),
                ("a pause, and without a request", f"{limits.pause_s:g} s, {limits.idle_s:g} s"),
                ("followers", f"{limits.streams}, {limits.streams_per_caller} of each token"),
            ),
        ),
        (
            "Broker",
            (
                ("kind", broker.kind),
                ("listens on", broker.listen if broker.kind != "external" else "elsewhere"),
                ("agents", f"{broker.agents_host or broker.listen}:{broker.agents_port or 'any port'}"),
            ),
        ),
        (
            "Storage",
            (
                ("database", without_password(settings.storage_url) if settings.storage_url else "SQLite in the state"),
                ("state", str(settings.state)),
                ("another server takes over after", f"{settings.lease_s:g} s"),
            ),
        ),
        ("Artifacts", _artifacts(settings.artifacts)),
        (
            "Blocks over the broker",
            (
                ("each site", f"{settings.blocks.site_bytes_per_s:,} bytes/s"),
                ("together", f"{settings.blocks.bytes_per_s:,} bytes/s"),
            ),
        ),
        (
            "Elsewhere",
            (
                ("indicators", without_password(settings.sli.url) if settings.sli.url else "none"),
                ("queries", ", ".join(settings.sli.queries) or "none"),
                ("checks", ", ".join(settings.checks.urls) or "none"),
            ),
        ),
        ("Catalogue", (("metadata", str(settings.repository)), ("online keys", str(settings.online_keys)))),
    )


def _artifacts(wanted: ArtifactSettings) -> tuple[tuple[str, str], ...]:
    """Where they rest. Of the store's keys nothing is told."""
    if wanted.store == "files":
        return (("kept", "as files in the state"),)
    return (
        (
            "kept",
            f"in the bucket {wanted.bucket} of {wanted.endpoint or 'Amazon S3'}, below {wanted.prefix or 'no prefix'}",
        ),
        ("asked at once", f"{wanted.connections}, for {wanted.timeout_s:g} s"),
        ("passed through at once", str(wanted.downloads)),
        ("copies on this machine", f"{wanted.spool_bytes / (1 << 30):g} GiB"),
    )


def without_password(url: str) -> str:
    """An address without user, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
