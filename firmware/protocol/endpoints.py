"""Where a fleet's server is, in the owner's words: a field of the catalogue's `targets` role.

The offline keys of `targets` sign it, because who owns the server, its broker or its CA must not be able to move the fleet:
not to an address of theirs, and not away from the one that the owner moves it to. TUF keeps it from going back: a device
that has seen a version of `targets` takes no older one, and a stolen online key changes nothing in it.
"""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from firmware.errors import RefusedError
from firmware.protocol.codec import convert
from firmware.protocol.enrol import Url
from firmware.protocol.renew import Pem
from firmware.protocol.words import ReasonKind

FIELD = "x-otaria-endpoints"
"""Its name in `targets`. Left out: devices keep to what they were told at enrolment."""
BROKER_PATTERN = r"^(?:[A-Za-z0-9.-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}\Z"


class Endpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One server: the base of its devices' listener, and `host:port` of its broker."""

    server: Url
    broker: Annotated[str, Meta(pattern=BROKER_PATTERN, max_length=262)]

    @property
    def mqtt_host(self) -> str:
        return self.broker.rpartition(":")[0].strip("[]")

    @property
    def mqtt_port(self) -> int:
        return int(self.broker.rpartition(":")[2])


class Endpoints(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`endpoints`: the first that answers is used. `services_ca`: the CAs that devices trust from now on, instead of the
    one that was pinned at enrolment."""

    endpoints: Annotated[list[Endpoint], Meta(min_length=1, max_length=4)]
    services_ca: Annotated[list[Pem], Meta(min_length=1, max_length=4)]


def endpoints_in(fields: Mapping[str, Any]) -> Endpoints | None:
    """What the fields of `targets` say, or None when they say nothing; raises `RefusedError` (`malformed`)."""
    value = fields.get(FIELD)
    return None if value is None else checked(convert(value, Endpoints))


def checked(endpoints: Endpoints) -> Endpoints:
    """The same; raises `RefusedError` (`malformed`) for an address without a host, or with a port that none can have."""
    for endpoint in endpoints.endpoints:
        if not 0 < endpoint.mqtt_port < 65536:
            raise RefusedError(ReasonKind.MALFORMED, f"{endpoint.broker} has no port from 1 to 65535.")
        if not _is_reachable(endpoint.server):
            raise RefusedError(ReasonKind.MALFORMED, f"{endpoint.server} has no host, or no port from 1 to 65535.")
    return endpoints


def _is_reachable(server: str) -> bool:
    try:
        parts = urlsplit(server)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
