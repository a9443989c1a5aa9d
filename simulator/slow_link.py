"""A TCP link with a speed limit that can be counted and cut: what stands between a device and its server in the field."""

import contextlib
import socket
import threading
import time

CHUNK_BYTES = 1 << 14


class SlowLink:
    """Forwards a loopback port to another. `bytes_per_s` limits what the device receives; None is no limit."""

    def __init__(self, to_port: int, *, bytes_per_s: float | None = None) -> None:
        self.bytes_per_s = bytes_per_s
        self.downloads: list[int] = []
        """Bytes that the device has received, TLS included, by connection in the order they were opened."""
        self._to_port = to_port
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def received(self) -> int:
        """Bytes that the device has received over all connections."""
        return sum(self.downloads)

    def lead_to(self, port: int) -> None:
        """Forward new connections to another port, and break those there are."""
        self._to_port = port
        self.cut()

    def cut(self) -> None:
        """Break all connections; new ones are served."""
        for each in tuple(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Break all connections and stop listening."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._to_port)) as far:
            self._open |= {near, far}
            number = len(self.downloads)
            self.downloads.append(0)
            up = threading.Thread(target=self._pump, args=(near, far), daemon=True)
            up.start()
            self._pump(far, near, number)
            up.join()
            self._open -= {near, far}

    def _pump(self, source: socket.socket, sink: socket.socket, number: int | None = None) -> None:
        """Forward until either side is done, then end both."""
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                sink.sendall(data)
                if number is not None:
                    self.downloads[number] += len(data)
                    if self.bytes_per_s:
                        time.sleep(len(data) / self.bytes_per_s)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
