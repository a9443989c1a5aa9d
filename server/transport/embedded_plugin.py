"""Who a client of the embedded broker is, and whether it may connect: amqtt asks this plugin at every CONNECT.

amqtt makes client certificates optional, lets a client choose its id, and never looks at the topic of a last will. Here the
name comes from the verified certificate, the client id must equal it, and the last will must be one that may be published.
"""

import ssl
from dataclasses import dataclass

from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session
from cryptography import x509
from cryptography.x509.oid import NameOID

from server.identity.authority import MQTT_IDENTITY
from server.transport.access import is_agent, may_publish

MAX_WILL_BYTES = 1024


class CertificateAuth(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is not typed
    """Admits exactly those sessions that `refusal` has nothing against."""

    async def authenticate(self, *, session: Session) -> bool | None:
        """True or False, never None: amqtt ignores None."""
        return refusal(session) is None

    @dataclass
    class Config:
        """No settings: the certificate decides."""


def refusal(session: Session) -> str | None:
    """Why this session may not be, or None when it may."""
    name = common_name(session.ssl_object)
    if name is None or not (is_agent(name) or name == MQTT_IDENTITY):
        return "it has no client certificate that names an agent or the server"
    if session.client_id != name:
        return f"its client id is not the name in its certificate, {name}"
    if session.will_flag and not may_publish(name, session.will_topic or ""):
        return f"{name} may not publish on the topic of its last will"
    if len(session.will_message or b"") > MAX_WILL_BYTES:
        return f"the last will of {name} is too large"
    return None


def serial_number(tls: ssl.SSLObject | None) -> int | None:
    """The serial of the verified certificate of the other end, or None."""
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    return x509.load_der_x509_certificate(der).serial_number if der else None


def common_name(tls: ssl.SSLObject | None) -> str | None:
    """The one common name in the verified certificate of the other end, or None."""
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    if not der:
        return None
    names = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else None
