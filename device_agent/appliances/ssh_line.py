"""SSH to a box, with asyncssh (extra `appliances`), which only this module imports.

Host keys are strict: a box is known by the key that the settings give, or it is not spoken to. Every wait has an end, every
output a bound. Neither secrets nor what a box prints is ever logged here.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from device_agent.appliances.credentials import Secret
from device_agent.appliances.dialect import Session, compiled
from device_agent.appliances.driver import unexpected
from device_agent.appliances.line import MAX_OUTPUT_BYTES, Reply, Said
from device_agent.appliances.output import LINE, holds, lines_of, shown
from firmware.errors import OtariaError, RefusedError, UnavailableError

logging.getLogger("asyncssh").setLevel(logging.CRITICAL)  # it would log names, addresses and commands of boxes
WINDOW_BYTES = 64 * 1024
"""What a box may send ahead in one channel."""
CHUNK_BYTES = 128 * 1024
SCP_BYTES = 32 * 1024
MAX_REPLIES = 3
_KILLED = "the command was killed"
MORE = re.compile(r"^\s*-+\s*[Mm]ore\s*-+")
_GONE = (asyncssh.Error, OSError, EOFError)


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a box is, who we are there, and its host keys in OpenSSH's form (`ssh-ed25519 AAAA…`)."""

    host: str
    port: int
    user: str
    host_keys: Sequence[str]
    password: Callable[[], Secret] | None = None
    key: Callable[[], Secret] | None = None


class SshLines:
    """`Lines` over SSH."""

    def __init__(self, address: Address, session: Session) -> None:
        self._address, self._session = address, session

    async def open(self) -> "SshLine":
        where, shown_keys = f"{self._address.host}:{self._address.port}", _ShownKeys()
        try:
            async with asyncio.timeout(self._session.login_s):
                return await self._open(shown_keys)
        except TimeoutError as error:
            text = f"{where} did not let us in within {self._session.login_s:g} s."
            raise UnavailableError("box-unreachable", text) from error
        except asyncssh.HostKeyNotVerifiable as error:
            seen = ", ".join(map(_fingerprint, shown_keys.seen)) or "that can't be read"
            raise self._other_key(f"{where} shows the host key {seen}") from error
        except (asyncssh.PermissionDenied, asyncssh.KeyImportError) as error:
            text = f"{where} does not let {self._address.user} in; check the credential and the box's users."
            raise RefusedError("box-login", text) from error
        except asyncssh.KeyExchangeFailed as error:
            if "server host key" in str(error):
                raise self._other_key(f"{where} has host keys of other kinds only") from error
            raise UnavailableError("box-unreachable", f"{where} can't be spoken to: {_why(error)}.") from error
        except _GONE as error:
            raise UnavailableError("box-unreachable", f"{where} can't be reached: {_why(error)}.") from error

    def _other_key(self, seen: str) -> RefusedError:
        expected = ", ".join(_fingerprint(asyncssh.import_public_key(key)) for key in self._address.host_keys)
        text = f"{seen}; the settings give {expected}. Nothing was said to it. Find out why before you change them."
        return RefusedError("box-host-key", text[:1024])

    async def _open(self, shown_keys: "_ShownKeys") -> "SshLine":
        address = self._address
        keys = [asyncssh.import_private_key((await _secret(address.key)).reveal())] if address.key else []
        password = (await _secret(address.password)).reveal() if address.password else None
        connection = await asyncssh.connect(
            address.host,
            address.port,
            client_factory=lambda: shown_keys,
            username=address.user,
            password=password,
            client_keys=keys,
            known_hosts=([asyncssh.import_public_key(key) for key in address.host_keys], [], []),
            config=None,
            agent_path=None,
            preferred_auth="publickey,password,keyboard-interactive",
            encryption_algs="^aes128-gcm@openssh.com",  # the quickest in Python
            compression_algs=["none"],
            connect_timeout=self._session.login_s,
            login_timeout=self._session.login_s,
            keepalive_interval=15,
            keepalive_count_max=3,
        )
        line = SshLine(connection, self._session)
        try:
            await line.begin()
        except BaseException:
            connection.abort()
            raise
        return line


class _ShownKeys(asyncssh.SSHClient):
    """Remembers the host key that is not among the trusted ones, and trusts it no more for that."""

    def __init__(self) -> None:
        self.seen: list[asyncssh.SSHKey] = []

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.seen.append(key)
        return False


class SshLine:
    """`Line` over one SSH connection."""

    def __init__(self, connection: asyncssh.SSHClientConnection, session: Session) -> None:
        self._connection, self._session = connection, session
        self._terminal: asyncssh.SSHClientProcess[bytes] | None = None
        self._seen = bytearray()

    async def begin(self) -> None:
        """In a terminal, wait for the first prompt and set it up."""
        if self._session.kind != "prompt":
            return
        self._terminal = await self._process(None)
        try:
            async with asyncio.timeout(self._session.login_s / 2):
                await self._read(self._terminal, "", (), None)
        except TimeoutError as error:
            raise unexpected("waiting for the first prompt", self._saw, repr(self._session.prompt)) from error
        if self._terminal.stdout.at_eof():
            raise UnavailableError("box-unreachable", "The box ended the session before its first prompt.")
        for command in self._session.setup:
            await self.run(command, timeout_s=self._session.login_s)

    async def run(self, command: str, *, timeout_s: float, replies: Sequence[Reply] = ()) -> Said:
        try:
            async with asyncio.timeout(timeout_s):
                if self._terminal is not None:
                    return await self._type(self._terminal, command, replies)
                return await self._execute(command, replies)
        except TimeoutError as error:
            self._connection.abort()
            raise UnavailableError(
                "box-timeout", f"`{command}` had no end after {timeout_s:g} s; last came {self._saw}."
            ) from error
        except OtariaError:
            self._connection.abort()
            raise
        except _GONE as error:
            return Said(lines=(), dropped=_why(error))

    @property
    def _saw(self) -> str:
        return shown(lines_of(bytes(self._seen[-4 * LINE :])))

    async def _process(self, command: str | None) -> "asyncssh.SSHClientProcess[bytes]":
        terminal = {} if command is not None else {"term_type": "vt100", "term_size": (511, 0)}
        return await self._connection.create_process(
            command, encoding=None, window=WINDOW_BYTES, stderr=asyncssh.STDOUT, **terminal
        )

    async def _execute(self, command: str, replies: Sequence[Reply]) -> Said:
        process = await self._process(command)
        data = await self._read(process, command, replies, None, ends=True)
        await process.wait_closed()
        dropped = "it closed" if process.exit_status is None else _KILLED if process.exit_status < 0 else ""
        return Said(lines=lines_of(data), status=process.exit_status, dropped=dropped)

    async def _type(self, terminal: "asyncssh.SSHClientProcess[bytes]", command: str, replies: Sequence[Reply]) -> Said:
        terminal.stdin.write(command.encode() + b"\n")
        data = await self._read(terminal, command, replies, command)
        lines = lines_of(data)
        ended = terminal.stdout.at_eof()
        echo = next((number for number, line in enumerate(lines) if line.endswith(command)), -1)
        return Said(lines=lines[echo + 1 :] if ended else lines[echo + 1 : -1], dropped="it closed" if ended else "")

    async def _read(
        self,
        process: "asyncssh.SSHClientProcess[bytes]",
        command: str,
        replies: Sequence[Reply],
        typed: str | None,
        *,
        ends: bool = False,
    ) -> bytes:
        """All output up to the end, or (unless it `ends`) up to the next prompt; questions on the way are answered."""
        data, asked, left = bytearray(), 0, {when: MAX_REPLIES for when, _ in replies}
        self._seen = data
        async for chunk in _chunks(process):
            data += chunk
            if len(data) > MAX_OUTPUT_BYTES:
                text = f"`{command}` printed more than {MAX_OUTPUT_BYTES >> 20} MiB; the connection was ended."
                raise RefusedError("box-flood", text)
            last = _last_line(data, asked)
            if typed is not None and last.endswith(typed):
                continue  # the echo of what was typed is no prompt
            if MORE.search(last):
                asked = len(data)
                process.stdin.write(b" ")
            elif (reply := _reply_to(last, replies)) is not None:
                asked = len(data)
                left[reply[0]] -= 1
                if left[reply[0]] < 0:
                    raise RefusedError("box-output", f"`{command}` asks again and again: {shown([last])}.")
                process.stdin.write(reply[1].encode() + b"\n")
            elif not ends and last and compiled(self._session.prompt).search(last):
                break
        return bytes(data)

    async def put_sftp(
        self,
        local: Path,
        remote: str,
        *,
        resume: bool,
        stall_s: float,
        on_bytes: Callable[[int], None],
        stop: Callable[[], bool],
    ) -> None:
        with _transfer(self._connection, remote, stall_s, stop) as went_on:
            async with self._connection.start_sftp_client() as sftp:
                done = await _size(sftp, remote) if resume else 0
                done = done if done <= await asyncio.to_thread(_length, local) else 0
                async with sftp.open(remote, "r+b" if done else "wb") as there:
                    with local.open("rb") as here:
                        here.seek(done)
                        while chunk := await asyncio.to_thread(here.read, CHUNK_BYTES):
                            went_on()
                            await there.write(chunk, done)
                            done += len(chunk)
                            on_bytes(done)

    async def put_scp(
        self, local: Path, remote: str, *, stall_s: float, on_bytes: Callable[[int], None], stop: Callable[[], bool]
    ) -> None:
        with _transfer(self._connection, remote, stall_s, stop) as went_on:

            def tell(_here: bytes, _there: bytes, done: int, _total: int) -> None:
                went_on()
                on_bytes(done)

            await asyncssh.scp(local, (self._connection, remote), block_size=SCP_BYTES, progress_handler=tell)

    async def close(self) -> None:
        self._connection.close()
        with contextlib.suppress(TimeoutError, *_GONE):
            async with asyncio.timeout(5.0):
                await self._connection.wait_closed()


async def _chunks(process: "asyncssh.SSHClientProcess[bytes]") -> AsyncIterator[bytes]:
    while chunk := await process.stdout.read(WINDOW_BYTES):
        yield chunk


@contextlib.contextmanager
def _transfer(
    connection: asyncssh.SSHClientConnection, remote: str, stall_s: float, stop: Callable[[], bool]
) -> Iterator[Callable[[], None]]:
    """A transfer that ends when nothing comes through for so long: the connection is cut then, because a box that stands still
    does not say goodbye either. What is yielded is called whenever something came through."""
    loop, stood_still = asyncio.get_running_loop(), False

    def cut() -> None:
        nonlocal stood_still
        stood_still = True
        connection.abort()

    timer = loop.call_later(stall_s, cut)

    def went_on() -> None:
        nonlocal timer
        if stop():
            raise UnavailableError("interrupted", "The upload was interrupted; it goes on later.")
        timer.cancel()
        timer = loop.call_later(stall_s, cut)

    try:
        yield went_on
    except _GONE as error:
        why = f"stood still for {stall_s:g} s" if stood_still else f"broke off: {_why(error)}"
        raise UnavailableError("box-transfer", f"The upload of {remote} {why}; it goes on later.") from error
    finally:
        timer.cancel()


def _fingerprint(key: asyncssh.SSHKey) -> str:
    """As OpenSSH shows it."""
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def _length(local: Path) -> int:
    return local.stat().st_size


async def _size(sftp: asyncssh.SFTPClient, remote: str) -> int:
    try:
        return (await sftp.stat(remote)).size or 0
    except asyncssh.SFTPNoSuchFile:
        return 0


def _last_line(data: bytearray, start: int) -> str:
    """The unfinished line at the end of what came since `start`."""
    tail = bytes(data[max(start, len(data) - 4 * LINE) :])
    return lines_of(tail)[-1]


def _reply_to(line: str, replies: Sequence[Reply]) -> Reply | None:
    return next((one for one in replies if holds([line], compiled(one[0])) is not None), None)


async def _secret(read: Callable[[], Secret]) -> Secret:
    """On a thread of its own: a vault's command may take a while, and the threads that all boxes share are not to wait for it."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="credential")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, read)
    finally:
        thread.shutdown(wait=False)


def _why(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:200]
