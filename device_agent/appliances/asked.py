"""Asks the boxes of a site agent what they are, for people: before there is a campaign, and beside one."""

import asyncio
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from device_agent.appliances.declared import DeclaredDriver
from device_agent.appliances.dialect_file import load_dialect
from device_agent.appliances.driver import BoxIdentity
from device_agent.appliances.settings import Appliance
from device_agent.appliances.site import address_of
from device_agent.appliances.ssh_line import SshLines
from device_agent.config import load_config
from firmware.errors import OtariaError, RefusedError

AT_ONCE = 20


def ask_boxes(directory: Path, names: list[str]) -> list[dict[str, Any]]:
    """What each box says of itself, or why it can't be asked (`error`, `text`). `names` empty: all. Nothing is changed on any.
    Raises `RefusedError` (`bad-config`)."""
    boxes = load_config(directory).appliances
    strange = sorted(set(names) - {box.name for box in boxes})
    if strange or not boxes:
        known = ", ".join(box.name for box in boxes)[:300] or "no [[appliances]]"
        raise RefusedError("bad-config", f"agent.toml has {known}{f', and not {strange[0]}' if strange else ''}.")
    return asyncio.run(_ask_all(directory, [box for box in boxes if not names or box.name in names]))


async def _ask_all(directory: Path, boxes: list[Appliance]) -> list[dict[str, Any]]:
    places = asyncio.Semaphore(AT_ONCE)

    async def ask(box: Appliance) -> dict[str, Any]:
        async with places:
            return {"name": box.name, **await _asked(directory, box)}

    return list(await asyncio.gather(*map(ask, boxes)))


async def _asked(directory: Path, box: Appliance) -> dict[str, Any]:
    try:
        dialect = load_dialect(directory, box.dialect)
        driver = DeclaredDriver(dialect, await SshLines(address_of(directory, box), dialect.session).open())
        try:
            identity, facts = await driver.identify(), await driver.facts()
        finally:
            await driver.close()
    except OtariaError as error:
        return {"error": error.kind, "text": error.text}
    said = {"serial": identity.serial, "model": identity.model, **to_builtins(facts)}
    if identity != BoxIdentity(serial=box.serial, model=box.model):
        text = f"The settings say {box.model} with serial {box.serial}; it would not be updated."
        return {**said, "error": "box-not-it", "text": text}
    return said


def as_lines(said: list[dict[str, Any]]) -> str:
    """For people: a line for each box."""
    return "\n".join(_line(one) for one in said)


def _line(one: dict[str, Any]) -> str:
    known = f"{one['model']} {one['serial']} runs {one['running']}" if "running" in one else ""
    return f"{one['name']}: " + " - ".join(part for part in (known, one.get("text", "")) if part)
