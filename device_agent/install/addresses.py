"""Addresses of caches and stores, as `agent.toml` has them. They come from the operator or from nowhere: no message names one."""

from urllib.parse import urlsplit

from firmware.errors import RefusedError

AT_A_SERVER = "/v1/artifacts/sha256/{sha256}"


def store_address(template: str) -> str:
    """A URL with `{sha256}` where the file's hash goes, and `{prefix}` for its first two digits; without it, files are where a
    server has them. Raises `RefusedError` (`bad-config`) for what is no plain http or https URL."""
    try:
        parts = urlsplit(template)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or parts.fragment or not template.isascii() or not template.isprintable() or " " in template:
        raise RefusedError("bad-config", f"{template!r} is no source; write https://HOST/PATH/{{sha256}}.")
    if parts.username is not None or parts.password is not None:
        raise RefusedError("bad-config", "A source's address must not hold a password; files are fetched without one.")
    if "{" in parts.netloc:
        raise RefusedError("bad-config", f"The host in {template!r} must not depend on the file.")
    return template if "{sha256}" in template else template.rstrip("/") + AT_A_SERVER


def artifact_path(address: str, sha256: str) -> str:
    """Path and query of a file at an address that `store_address` returned."""
    parts = urlsplit(address.replace("{sha256}", sha256).replace("{prefix}", sha256[:2]))
    path = parts.path or "/"
    return f"{path}?{parts.query}" if parts.query else path
