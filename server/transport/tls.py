"""TLS to the broker, over a socket that saves system calls for a client that makes one for each packet, and more."""

import asyncio
import ssl
from contextlib import suppress
from typing import Any

from server.transport.endpoint import BrokerEndpoint

READ_AHEAD_BYTES = 1 << 14
"""A TLS record at most."""
WRITE_BEHIND_BYTES = 1 << 16
"""Beyond, whoever writes waits for the socket."""
WRITE_AGAIN_S = 0.005


def tls_context(endpoint: BrokerEndpoint) -> ssl.SSLContext:
    """TLS of a client with the endpoint's files."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=endpoint.tls.ca)
    context.sslsocket_class = ThriftySocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(endpoint.tls.certificate, endpoint.tls.key)
    return context


class ThriftySocket(ssl.SSLSocket):
    """Reads ahead, since paho asks for the head of each packet byte by byte, and each time costs as much as a whole record does;
    and writes what was given to it in one turn of the event loop at once, since each write is a record and a system call of its
    own and lets another thread take the interpreter's lock.

    Closes itself when its handshake fails; paho forgets it open, and a broker that comes and goes would cost a descriptor each
    time until the next collection.
    """

    _ahead = b""
    _place = 0
    _behind = b""
    _broken: OSError | None = None

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        if self._place == len(self._ahead):
            self._ahead, self._place = super().recv(max(buflen, READ_AHEAD_BYTES), flags), 0
        start = self._place
        self._place = min(len(self._ahead), start + buflen)
        return self._ahead[start : self._place]

    def pending(self) -> int:
        """What can be had without waiting; who reads goes on until there is nothing."""
        return len(self._ahead) - self._place + super().pending()

    def send(self, data: Any, flags: int = 0) -> int:
        """Takes all of it, to be written soon; or raises as writing does. Only from the event loop's thread."""
        if self._broken is not None:
            raise self._broken
        if len(self._behind) >= WRITE_BEHIND_BYTES:
            self._write()
        if not self._behind:
            asyncio.get_running_loop().call_soon(self._write_on)
        self._behind += data
        return len(data)

    def close(self) -> None:
        with suppress(OSError, ValueError):  # the last words of a connection that ends, if it takes them
            self._write()
        self._behind = b""
        super().close()

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise

    def _write_on(self) -> None:
        """Write what there is, and what the socket does not take now, later."""
        try:
            self._write()
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            asyncio.get_running_loop().call_later(WRITE_AGAIN_S, self._write_on)
        except OSError as error:
            self._broken = error

    def _write(self) -> None:
        while self._behind:
            self._behind = self._behind[super().send(self._behind[:WRITE_BEHIND_BYTES]) :]
