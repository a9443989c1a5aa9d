"""A broker that goes away in the middle of a handshake costs nothing that stays."""

import contextlib
import gc
import socket
import threading
import warnings
from pathlib import Path

import aiomqtt
import pytest

from server.identity.authority import Authorities
from server.transport.endpoint import BrokerEndpoint
from server.transport.tls import tls_context

TIMES = 3


def hang_up(listener: socket.socket) -> None:
    for _ in range(TIMES):
        with contextlib.suppress(OSError), listener.accept()[0] as connection:
            connection.recv(5)


async def test_a_handshake_that_breaks_leaves_no_socket_open(tmp_path: Path) -> None:
    authorities = Authorities.open_or_create(tmp_path / "identity")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=hang_up, args=(listener,))
        thread.start()
        port = listener.getsockname()[1]
        context = tls_context(BrokerEndpoint(host="127.0.0.1", port=port, tls=authorities.mqtt_client))
        with warnings.catch_warnings(record=True) as unclosed:
            warnings.simplefilter("always", ResourceWarning)
            for _ in range(TIMES):
                with pytest.raises(aiomqtt.MqttError):
                    async with aiomqtt.Client("127.0.0.1", port, tls_context=context, timeout=5):
                        pass
            gc.collect()
        thread.join()
    assert [str(warning.message) for warning in unclosed] == []
