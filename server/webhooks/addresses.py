"""Where events may be sent: an administrator names the address, but only the server's configuration opens its own network.

Rules
- `https` to addresses of the public Internet. What is private, local or reserved, and `http`, only within the networks that
  `webhooks.private` names.
- A name is resolved for each connection, and the connection goes to an address that was looked at: what a name means a moment
  later opens nothing. IPv4 addresses inside of IPv6 ones count as what they are.
- Redirects are not followed, and no proxy is asked.
"""

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from firmware.errors import RefusedError

MAX_URL_CHARS = 500
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Addresses:
    """Which addresses may be sent to. `private`: networks that are open although they are not public."""

    def __init__(self, private: Sequence[Network] = ()) -> None:
        self._private = tuple(private)

    def allows(self, address: str, *, encrypted: bool) -> bool:
        """Whether there may be a connection to an IP address."""
        found = _meant(ipaddress.ip_address(address.partition("%")[0]))
        if any(found.version == network.version and found in network for network in self._private):
            return True
        return encrypted and found.is_global and not found.is_multicast

    def check(self, url: str) -> str:
        """A URL that events may be sent to, as far as it can be told without asking for its name.

        Raises `RefusedError` (`bad-url`, `private-address`).
        """
        parts = _split(url)
        host, encrypted = parts.hostname or "", parts.scheme == "https"
        if not encrypted and not self._private:
            text = "Events are sent over https; http only to networks that `webhooks.private` in the settings names."
            raise RefusedError("bad-url", text)
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return url
        if not self.allows(host, encrypted=encrypted):
            raise RefusedError("private-address", _refusal(host))
        return url


class GuardedResolver(AbstractResolver):
    """Resolves names to those of their addresses that are allowed."""

    def __init__(self, addresses: Addresses, *, encrypted: bool) -> None:
        self._addresses, self._encrypted = addresses, encrypted
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The allowed addresses of a name; raises `OSError` when there is none."""
        found = await self._inner.resolve(host, port, family)
        allowed = [one for one in found if self._addresses.allows(one["host"], encrypted=self._encrypted)]
        if not allowed:
            raise OSError(None, _refusal(host))
        return allowed

    async def close(self) -> None:
        """Nothing is held."""
        await self._inner.close()


def host_of(url: str) -> str:
    """What may be said of a URL where others read it: the rest of it may be a secret."""
    return urlsplit(url).netloc


def _split(url: str) -> SplitResult:
    bad = RefusedError("bad-url", "The address must be a URL such as https://hooks.example.org/otaria, without a user.")
    if not (len(url) <= MAX_URL_CHARS and url.isascii() and url.isprintable() and " " not in url):
        raise bad
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise bad from error
    good = parts.scheme in ("http", "https") and parts.hostname and port != 0
    if not good or parts.username is not None or parts.fragment or "\\" in url:
        raise bad
    return parts


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)


def _refusal(host: str) -> str:
    return f"{host} has no address that events may be sent to; `webhooks.private` in the settings opens networks"
