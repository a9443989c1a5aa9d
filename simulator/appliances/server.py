"""The SSH server of an emulated box: sessions, uploads, and connections that end when the box goes down."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncssh

from simulator.appliances.box import Box
from simulator.appliances.dialogue import Dialogue, HungUpError
from simulator.appliances.iosxe import iosxe
from simulator.appliances.linux import openwrt, sonic
from simulator.appliances.vendor import vendor

USER, PASSWORD = "otaria", "correct horse"
DIALOGUES: dict[str, tuple[Dialogue, str | None]] = {
    "sonic": (sonic, None),
    "openwrt": (openwrt, None),
    "iosxe": (iosxe, "Switch#"),
    "dual-image": (vendor, "box> "),
}
"""By kind: how it answers, and its prompt where commands are typed."""


class BoxServer:
    """Serves one box at one port of the loopback, which stays the same over its boots."""

    def __init__(self, box: Box, key: asyncssh.SSHKey, *, port: int = 0) -> None:
        self.box, self.port = box, port
        self.key = key
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self.connections: set[asyncssh.SSHServerConnection] = set()
        box.on_up, box.on_down = self._listen, self._hang_up

    @property
    def host_key(self) -> str:
        """As settings name it."""
        return self.key.export_public_key("openssh").decode().strip()

    async def start(self) -> None:
        """Power on."""
        await self.box.power_on()

    async def stop(self) -> None:
        """Power off."""
        await self.box.power_off()

    async def _listen(self) -> None:
        self._acceptor = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_host_keys=[self.key],
            server_factory=lambda: _Login(self),
            process_factory=self._session,
            sftp_factory=lambda channel: _Files(channel, self),
            allow_scp=True,
            encoding=None,
            line_editor=False,
            reuse_address=True,
            backlog=16,
            window=1 << 18,
        )
        self.port = self._acceptor.get_port()

    async def _hang_up(self) -> None:
        """The box is down: nobody listens, and nobody says goodbye."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        for connection in tuple(self.connections):
            connection.abort()

    async def _session(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        dialogue, prompt = DIALOGUES[self.box.flash.kind]
        terminal = _Terminal(process, self.box)
        with contextlib.suppress(asyncssh.Error, OSError, EOFError, asyncio.CancelledError):
            try:
                if prompt is None:
                    status = await self._command(dialogue, process.command or "", terminal)
                    process.exit(status)
                else:
                    await self._typed(dialogue, prompt, terminal)
                    process.exit(0)
            except HungUpError:
                process.channel.get_connection().abort()

    async def _typed(self, dialogue: Dialogue, prompt: str, terminal: "_Terminal") -> None:
        if self.box.faults.chatter_bytes:
            terminal.say("Welcome! " * (self.box.faults.chatter_bytes // 9) + "\n")
        prompt = "login? maybe:" if self.box.faults.strange_prompt else prompt
        while True:
            command = await terminal.ask(prompt)
            if command in ("exit", ""):
                return
            await self._command(dialogue, command, terminal)

    async def _command(self, dialogue: Dialogue, command: str, terminal: "_Terminal") -> int:
        faults = self.box.faults
        faults.said.append(command)
        if faults.slow_s:
            await asyncio.sleep(faults.slow_s)
        if faults.noise:
            terminal.raw(faults.noise)
        if faults.flood and command.startswith(faults.flood):
            while True:
                terminal.raw(b"flood " * 4096)
                await terminal.drain()
        if faults.hang and command.startswith(faults.hang):
            await asyncio.sleep(3600)
        if faults.drop and command.startswith(faults.drop):
            faults.drop = ""
            raise HungUpError
        if faults.garble and command.startswith(faults.garble):
            terminal.raw(b"\x00\xff\xfe\x1b[2J\x1b]0;x\x07" + bytes(range(256)) + b"\n")
            return 0
        return await dialogue(self.box, command, terminal)


class _Login(asyncssh.SSHServer):
    def __init__(self, server: BoxServer) -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.connections.add(conn)
        if self._server.box.faults.banner_bytes:
            conn.send_auth_banner("x" * self._server.box.faults.banner_bytes)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._server.connections.discard(self._connection)

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return not self._server.box.faults.deny and (username, password) == (USER, PASSWORD)


class _Terminal:
    """One session. In a terminal what is typed is echoed, as a real one does."""

    def __init__(self, process: "asyncssh.SSHServerProcess[bytes]", box: Box) -> None:
        self._process, self._box = process, box

    def raw(self, data: bytes) -> None:
        self._process.stdout.write(data)

    async def drain(self) -> None:
        await self._process.stdout.drain()

    def say(self, text: str) -> None:
        self.raw(text.replace("\n", "\r\n").encode())

    async def ask(self, question: str) -> str:
        self.say(question)
        typed = (await self._process.stdin.readline()).decode(errors="replace").rstrip("\r\n")
        self.say(typed + "\n")
        return typed


class _Files(asyncssh.SFTPServer):
    """Uploads to the box's flash, with the box's faults."""

    def __init__(self, channel: Any, server: BoxServer) -> None:
        super().__init__(channel, chroot=str(server.box.files).encode())
        self._box, self._connection = server.box, channel.get_connection()

    def map_path(self, path: bytes) -> bytes:
        return super().map_path(path.replace(b"flash:", b"/flash/"))

    async def write(self, file_obj: Any, offset: int, data: bytes) -> int:
        faults = self._box.faults
        if faults.cut_at is not None and offset + len(data) > faults.cut_at:
            faults.cut_at = None
            self._connection.abort()
            return 0
        if faults.stall_at is not None and offset + len(data) > faults.stall_at:
            faults.stall_at = None
            await self._connection.wait_closed()
            return 0
        if faults.flip_at is not None and offset <= faults.flip_at < offset + len(data):
            at = faults.flip_at - offset
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            faults.flip_at = faults.flip_at if faults.flip_always else None
        written: int = super().write(file_obj, offset, data)  # type: ignore[assignment]
        return written


@contextlib.asynccontextmanager
async def served(boxes: Sequence[Box], key: asyncssh.SSHKey | None = None) -> AsyncIterator[list[BoxServer]]:
    """These boxes, up."""
    key = key or asyncssh.generate_private_key("ssh-ed25519")
    servers = [BoxServer(box, key) for box in boxes]
    try:
        for server in servers:
            await server.start()
        yield servers
    finally:
        for server in servers:
            await server.stop()
