"""Who asks, when a reverse proxy stands before the server.

A proxy appends the address that it was asked from to a header, so the header is read from the right: whoever is trusted named
the one on its left, and the first that isn't trusted is who asks. What stands further left anybody may have written. Only the
one header that is configured is read, since a proxy that writes one hands through what strangers say in the other."""

import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from server.config import Network
from server.http.problems import Handler

MAX_HOPS = 32
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s"]+)\s*(?=;|$)', re.IGNORECASE)
_PROTO = re.compile(r'(?:^|;)\s*proto\s*=\s*"?(https?)"?\s*(?=;|$)', re.IGNORECASE)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, kw_only=True)
class Proxies:
    """Those that are believed. `header`: where they say who asked them."""

    networks: Sequence[Network] = ()
    header: str = "X-Forwarded-For"

    def trusts(self, address: str | None) -> bool:
        """Whether a peer with this address is one of them."""
        parsed = _parsed(address or "")
        return parsed is not None and any(parsed in network for network in self.networks)

    def caller(self, peer: str | None, headers: Mapping[str, Sequence[str]]) -> str | None:
        """The address that asks. `headers`: by name in lower case, the values of each in their order."""
        seen, hops = peer, _hops(headers.get(self.header.lower(), ()), self.header)
        for hop in reversed(hops[-MAX_HOPS:]):
            if not self.trusts(seen):
                break
            parsed = _parsed(hop)
            if parsed is None:  # such as `unknown`, or nonsense: nobody can be named beyond the proxy that wrote it
                break
            seen = str(parsed)
        return seen

    def scheme(self, peer: str | None, headers: Mapping[str, Sequence[str]]) -> str | None:
        """What the nearest proxy was asked by (`http` or `https`); None when none is trusted, or it doesn't say."""
        if not self.trusts(peer):
            return None
        if self.header == "Forwarded":
            last = ",".join(headers.get("forwarded", ())).rpartition(",")[2]
            found = _PROTO.search(last)
            return found[1].lower() if found else None
        told = ",".join(headers.get("x-forwarded-proto", ())).rpartition(",")[2].strip().lower()
        return told if told in ("http", "https") else None


def named_by(proxies: Proxies) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that gives a request its caller's `remote` and `scheme`."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not proxies.trusts(request.remote):
            return await handler(request)
        headers = {name: request.headers.getall(name, []) for name in _READ}
        remote = proxies.caller(request.remote, headers)
        scheme = proxies.scheme(request.remote, headers) or request.scheme
        return await handler(request.clone(remote=remote or "", scheme=scheme))

    return middleware


_READ = ("forwarded", "x-forwarded-for", "x-forwarded-proto")


def _hops(values: Sequence[str], header: str) -> list[str]:
    """What a header names, from the left. Commas in quotes are nobody's address, so they may part as well."""
    parts = [part.strip() for value in values for part in value.split(",")]
    if header != "Forwarded":
        return parts
    found = [_FOR.search(part) for part in parts]
    return [one[1].strip('"') if one else "" for one in found]


def _parsed(text: str) -> Address | None:
    """An address, with or without its port; an IPv4 address that IPv6 wraps is that address."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
