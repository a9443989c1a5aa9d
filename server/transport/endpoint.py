"""Where a broker is reached, and with which files."""

from dataclasses import dataclass

from server.identity.authority import TlsFiles


@dataclass(frozen=True, kw_only=True)
class BrokerEndpoint:
    """Host, port and the TLS files of the client that connects there."""

    host: str
    port: int
    tls: TlsFiles
