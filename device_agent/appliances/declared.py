"""The one driver there is: speaks whatever dialect it is given."""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from device_agent.appliances.dialect import Dialect, Exchange, compiled
from device_agent.appliances.dialect_file import filled
from device_agent.appliances.driver import (
    WORD_CHARACTERS,
    BoxIdentity,
    BoxImage,
    Capabilities,
    Facts,
    Sets,
    said_no,
    unexpected,
    went_away,
)
from device_agent.appliances.line import Line, Said
from device_agent.appliances.output import find, find_all, holds, shown
from firmware.errors import RefusedError, UnavailableError

_WORD = re.compile(WORD_CHARACTERS)
KILLED_FROM = 128
"""The exit statuses by which a shell says that a signal ended a command, as a restart does."""
_STATUS = re.compile(r"^(\d{1,3})$")


class DeclaredDriver:
    """`Driver` over a line, by a dialect."""

    def __init__(self, dialect: Dialect, line: Line) -> None:
        self._dialect, self._line = dialect, line

    @property
    def capabilities(self) -> Capabilities:
        return self._dialect.capabilities

    async def identify(self) -> BoxIdentity:
        found, _ = await self._gather("identify", self._dialect.identify, {})
        return BoxIdentity(serial=found["serial"], model=found["model"])

    async def facts(self) -> Facts:
        found, several = await self._gather("facts", self._dialect.facts, {})
        running = _word("the running version", found["running"])
        return Facts(
            running=running,
            permanent=found.get("permanent", running),
            boot=found["boot"],
            installed=several.get("installed", ()),
            standby=next(iter(several.get("standby", ())), None),
        )

    async def precheck(self, image: BoxImage) -> None:
        found, _ = await self._gather("precheck", self._dialect.precheck, _values(image, "", 0, self._dialect))
        free = _free_bytes(found)
        needed = int(image.length * self._dialect.room)
        if free is not None and free < needed:
            raise RefusedError("box-full", f"The box has {free} bytes free, and the image needs {needed}; make room.")

    async def backup(self) -> str:
        said = await self._say("backup", self._dialect.backup, {})
        ignored = [compiled(pattern) for pattern in self._dialect.ignore]
        return "\n".join(line for line in said.lines if line and not any(one.search(line) for one in ignored))

    async def sets(self, names: tuple[str, ...]) -> Sets:
        found: dict[str, tuple[str, ...]] = {}
        for name in names:
            exchange = self._dialect.compare[name]
            said = await self._say(name, exchange, {})
            several = (find_all(said.lines, compiled(pattern)) for pattern in exchange.each.values())
            found[name] = tuple(sorted({one for some in several for one in some}))
        return found

    async def upload(self, image: BoxImage, *, on_bytes: Callable[[int], None], stop: Callable[[], bool]) -> None:
        how = self._dialect.upload
        remote, local = filled(how.to, _values(image, "", 0, self._dialect)), Path(image.path)
        if how.by == "scp":
            await self._line.put_scp(local, remote, stall_s=how.stall_s, on_bytes=on_bytes, stop=stop)
            return
        await self._line.put_sftp(
            local,
            remote,
            resume=self._dialect.capabilities.resumable,
            stall_s=how.stall_s,
            on_bytes=on_bytes,
            stop=stop,
        )

    async def check(self, image: BoxImage) -> None:
        how, values = self._dialect.hashing, _values(image, "", 0, self._dialect)
        said = await self._say("check", Exchange(run=how.run, timeout_s=how.timeout_s), values)
        seen, expected = find(said.lines, compiled(how.pattern)), image.digests[how.algorithm]
        if seen is None:
            raise unexpected("hashing the file on the box", shown(said.lines), f"a {how.algorithm}")
        if seen.lower() == expected:
            return
        await self._do("removing the wrong file", how.remove, values)
        text = f"The box's file has the {how.algorithm} {seen[:16]}…, and the image has {expected[:16]}…"
        raise RefusedError("box-hash", f"{text}; the file was removed from the box.")

    async def install(self, image: BoxImage, old: str) -> None:
        await self._do("install", self._dialect.install, _values(image, old, 0, self._dialect))

    async def verify_staged(self, image: BoxImage, old: str) -> None:
        await self._do("verify_staged", self._dialect.verify_staged, _values(image, old, 0, self._dialect))
        if not self.capabilities.dual_image:
            return
        facts = await self.facts()
        if facts.installed and image.version not in facts.installed:
            raise unexpected(
                "verify_staged", f"{', '.join(facts.installed)} as installed", f"{image.version} among them"
            )
        if facts.permanent != old:
            raise unexpected("verify_staged", f"that it would boot {facts.permanent}", f"{old}, which runs")

    async def arm(self, image: BoxImage, old: str, trial_s: int) -> None:
        await self._do("arm", self._dialect.arm, _values(image, old, trial_s, self._dialect))

    async def disarm(self, image: BoxImage, old: str) -> None:
        await self._do("disarm", self._dialect.disarm, _values(image, old, 0, self._dialect))

    async def standby(self, image: BoxImage, old: str) -> None:
        await self._do("standby", self._dialect.standby, _values(image, old, 0, self._dialect))

    async def standby_back(self, image: BoxImage, old: str) -> None:
        await self._do("standby_back", self._dialect.standby_back, _values(image, old, 0, self._dialect))

    async def activate(self, image: BoxImage, old: str, trial_s: int) -> None:
        await self._do("activate", self._dialect.activate, _values(image, old, trial_s, self._dialect))

    async def commit(self, image: BoxImage, old: str) -> None:
        await self._do("commit", self._dialect.commit, _values(image, old, 0, self._dialect))

    async def rollback(self, image: BoxImage, old: str) -> None:
        await self._do("rollback", self._dialect.rollback, _values(image, old, 0, self._dialect))

    async def close(self) -> None:
        await self._line.close()

    async def _do(self, what: str, exchanges: Iterable[Exchange], values: Mapping[str, str]) -> None:
        for one in exchanges:
            said = await self._say(what, one, values)
            if said.dropped:
                return

    async def _gather(
        self, what: str, exchanges: Iterable[Exchange], values: Mapping[str, str]
    ) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
        """All values that these commands find."""
        found: dict[str, str] = {}
        several: dict[str, tuple[str, ...]] = {}
        for one in exchanges:
            said = await self._say(what, one, values)
            for name, pattern in one.find.items():
                value = find(said.lines, compiled(filled(pattern, dict(values), as_pattern=True)))
                if value is None:
                    raise unexpected(f"{what}, `{one.run}`", shown(said.lines), f"{name} by {pattern!r}")
                found[name] = value
            for name, pattern in one.each.items():
                several[name] = (*several.get(name, ()), *find_all(said.lines, compiled(pattern)))
        return found, several

    async def _say(self, what: str, one: Exchange, values: Mapping[str, str]) -> Said:
        if one.until is None:
            return await (self._detached if one.detached else self._once)(what, one, values)
        wanted = compiled(filled(one.until, dict(values), as_pattern=True))
        said = Said(lines=())
        try:
            async with asyncio.timeout(one.timeout_s):
                while holds(said.lines, wanted) is None:
                    if said.lines:
                        await asyncio.sleep(one.every_s)
                    said = await self._once(what, one, values)
        except TimeoutError as error:
            text = (
                f"{what}: the box still said {shown(said.lines)} after {one.timeout_s:g} s; expected was {one.until!r}."
            )
            raise RefusedError("box-not-ready", text) from error
        return said

    async def _once(self, what: str, one: Exchange, values: Mapping[str, str]) -> Said:
        replies = [(answer.when, answer.say) for answer in one.answers]
        command = filled(one.run, dict(values))
        said = await self._line.run(command, timeout_s=one.timeout_s, replies=replies)
        self._judge(what, one, said, values)
        return said

    def _judge(self, what: str, one: Exchange, said: Said, values: Mapping[str, str]) -> None:
        """Raise if this was not what should have been said."""

        def line(patterns: Iterable[str]) -> str | None:
            fits = (holds(said.lines, compiled(filled(one, dict(values), as_pattern=True))) for one in patterns)
            return next((found for found in fits if found is not None), None)

        if line(one.already) is not None:
            return
        refusal = line((*one.refuse, *self._dialect.session.errors))
        if refusal is not None:
            raise said_no(f"{what}, `{one.run}`", shown([refusal]))
        if one.drops and (said.dropped or (said.status or 0) >= KILLED_FROM):
            return
        if said.dropped:
            raise went_away(f"{what}, `{one.run}`", said.dropped)
        if said.status not in (None, 0) and not one.any_status:
            raise said_no(f"{what}, `{one.run}`, status {said.status}", shown(said.lines))
        for pattern in one.expect:
            if line([pattern]) is None:
                raise unexpected(f"{what}, `{one.run}`", shown(said.lines), repr(pattern))

    async def _detached(self, what: str, one: Exchange, values: Mapping[str, str]) -> Said:
        """Start the command so that it outlives us, unless it was started in this boot of the box, and look until it ended."""
        log = f"/tmp/otaria-{what}-{values['version']}.log"  # noqa: S108 (on the box)
        command = filled(one.run, dict(values))
        start = f"[ -e {log} ] || nohup sh -c '{command} >{log} 2>&1; echo $? >{log}.rc' >/dev/null 2>&1 &"
        await self._line.run(start, timeout_s=30.0)
        try:
            async with asyncio.timeout(one.timeout_s):
                while True:
                    code = await self._line.run(f"cat {log}.rc", timeout_s=30.0)
                    if code.dropped:
                        raise went_away(f"{what}, `{one.run}`", code.dropped)
                    status = find(code.lines, _STATUS)
                    if code.status == 0 and status is not None:
                        break
                    if code.status == 0 and any(code.lines):
                        raise unexpected(f"{what}, `{one.run}`", shown(code.lines), "an exit status")
                    await asyncio.sleep(one.every_s)
        except TimeoutError as error:
            text = f"{what}: `{one.run}` still runs on the box after {one.timeout_s:g} s; it is looked at again."
            raise UnavailableError("box-timeout", text) from error
        printed = await self._line.run(f"cat {log}", timeout_s=30.0)
        await self._line.run(f"rm -f {log} {log}.rc", timeout_s=30.0)
        said = Said(lines=printed.lines, status=int(status))
        self._judge(what, one, said, values)
        return said


def _values(image: BoxImage, old: str, trial_s: int, dialect: Dialect) -> dict[str, str]:
    """What stands in templates; each a plain word."""
    plain = {
        "name": image.name,
        "version": image.version,
        "old": old,
        "length": str(image.length),
        "trial_s": str(trial_s),
        "trial_min": str(max(1, -(-trial_s // 60))),
    }
    for name, value in plain.items():
        if value:
            _word(f"{{{name}}}", value)
    return plain | {"path": filled(dialect.upload.path, plain)}


def _word(what: str, value: str) -> str:
    """Raise `RefusedError` unless the value may stand in a command line as it is."""
    if not _WORD.match(value):
        raise unexpected(what, repr(value[:64]), "letters, digits and . _ + -")
    return value


def _free_bytes(found: Mapping[str, str]) -> int | None:
    for name, factor in (("free_bytes", 1), ("free_kib", 1024)):
        digits = found.get(name, "").replace(",", "")
        if digits.isdecimal() and digits.isascii():
            return int(digits[:18]) * factor
    return None
