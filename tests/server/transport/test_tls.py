"""The socket to the broker against a peer that reads when it likes: all arrives, whole and in order, in few records."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from server.identity.authority import Authorities, TlsFiles
from server.transport.endpoint import BrokerEndpoint
from server.transport.tls import WRITE_BEHIND_BYTES, ThriftySocket, tls_context

DEADLINE_S = 20.0
PACKETS = 200


class Peer:
    """The other end: reads once it may, and keeps each record that it got."""

    def __init__(self, listener: socket.socket, tls: TlsFiles) -> None:
        self.records: list[bytes] = []
        self.may_read = threading.Event()
        self._listener, self._tls = listener, tls
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def all(self) -> bytes:
        """What came until the connection ended."""
        self.may_read.set()
        self._thread.join(DEADLINE_S)
        return b"".join(self.records)

    def _run(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._tls.certificate, self._tls.key)
        context.num_tickets = 0  # whoever closes with something unread resets the connection
        with context.wrap_socket(self._listener.accept()[0], server_side=True) as link:
            self.may_read.wait(DEADLINE_S)
            try:
                while record := link.recv(1 << 20):
                    self.records.append(record)
            except (ssl.SSLError, OSError):
                return


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[ThriftySocket, Peer]]:
    authorities = Authorities.open_or_create(tmp_path / "identity")
    context = tls_context(BrokerEndpoint(host="127.0.0.1", port=0, tls=authorities.mqtt_client))
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = Peer(listener, authorities.mqtt_client)
        link = context.wrap_socket(socket.create_connection(listener.getsockname()))
        assert isinstance(link, ThriftySocket)
        link.setblocking(False)
        try:
            yield link, peer
        finally:
            link.close()
            peer.all()


async def sent(link: ThriftySocket, data: bytes) -> None:
    """As paho does: again later while the socket takes nothing."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while asyncio.get_running_loop().time() < deadline:
        try:
            assert link.send(data) == len(data)
            return
        except ssl.SSLWantWriteError:
            await asyncio.sleep(0)
    pytest.fail("The socket takes nothing any more.")


async def test_what_is_written_in_one_turn_goes_out_in_one_record(pair: tuple[ThriftySocket, Peer]) -> None:
    link, peer = pair
    packets = [b"%03d." % number for number in range(PACKETS)]
    for packet in packets:
        await sent(link, packet)
    await asyncio.sleep(0)
    link.close()
    assert peer.all() == b"".join(packets)
    assert len(peer.records) == 1


async def test_a_peer_that_does_not_read_is_waited_for_and_gets_all_in_order(pair: tuple[ThriftySocket, Peer]) -> None:
    link, peer = pair
    packets = [number.to_bytes(4) * 10_000 for number in range(PACKETS)]
    refused = False
    for packet in packets:
        try:
            link.send(packet)
        except ssl.SSLWantWriteError:
            refused = True
            peer.may_read.set()
            await sent(link, packet)
    assert refused, "whoever writes must be told to wait"
    while len(link._behind) > 0:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.001)
    link.close()
    assert peer.all() == b"".join(packets)


async def test_what_it_holds_back_is_bounded(pair: tuple[ThriftySocket, Peer]) -> None:
    link, _ = pair
    packet = bytes(8192)
    with suppress(ssl.SSLWantWriteError):
        while len(link._behind) < 2 * WRITE_BEHIND_BYTES:
            link.send(packet)
    assert len(link._behind) <= WRITE_BEHIND_BYTES + len(packet)


async def test_the_last_words_go_out_before_it_closes(pair: tuple[ThriftySocket, Peer]) -> None:
    link, peer = pair
    await sent(link, b"good-bye")
    link.close()
    assert peer.all() == b"good-bye"


async def test_whoever_writes_hears_that_the_connection_broke(pair: tuple[ThriftySocket, Peer]) -> None:
    link, _ = pair
    await sent(link, b"lost")
    link.shutdown(socket.SHUT_WR)  # and so TLS is over too
    await asyncio.sleep(0)
    with pytest.raises(OSError):
        link.send(b"more")
