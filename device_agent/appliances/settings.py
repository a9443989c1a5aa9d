"""`[[appliances]]` of `agent.toml`: the boxes that a site agent updates. Paths are of the agent's directory.

Each box is a target with an agent directory of its own, `boxes/NAME`, which is enrolled like any other."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from device_agent.appliances.credentials import CredentialFrom, require_one
from firmware.errors import RefusedError
from firmware.protocol.words import Id

BOXES = "boxes"
Short = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x20\x7f]+\Z")]
HostKey = Annotated[str, Meta(max_length=4096, pattern=r"^[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\n]*)?\Z")]


class Appliance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One box. `host_keys`: its keys in OpenSSH's form; no other is spoken to. `dialect`: one that comes with the agent, or a
    YAML file. `serial`, `model`: what the box must say of itself. `password`, `key`: where one of them is. `compare`: what must
    be the same after an update, of what the dialect can compare; `settle_s`: how long that may take. `config_may_change`:
    whether an update may change the running configuration. `max_image`: bytes of an image."""

    name: Id
    address: Short
    port: Annotated[int, Meta(ge=1, le=65535)] = 22
    user: Short
    host_keys: Annotated[tuple[HostKey, ...], Meta(min_length=1, max_length=8)]
    dialect: Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"^[^\x00]*\Z")]
    serial: Short
    model: Short
    password: CredentialFrom | None = None
    key: CredentialFrom | None = None
    single_image: Literal["refuse", "one-way"] = "refuse"
    compare: Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=16)] = ()
    config_may_change: bool = False
    settle_s: Annotated[float, Meta(ge=0, le=3600)] = 120.0
    max_image: Annotated[int, Meta(ge=1, le=1 << 40)] = 8 << 30


def require_usable(appliances: list[Appliance]) -> None:
    """Raise `RefusedError` (`bad-config`) for what types can't say."""
    names = [one.name for one in appliances]
    for box in appliances:
        if names.count(box.name) > 1:
            raise RefusedError("bad-config", f"There are two appliances named {box.name}.")
        if (box.password is None) == (box.key is None):
            raise RefusedError("bad-config", f"The appliance {box.name} needs either a password or a key.")
        require_one(f"The credential of {box.name}", box.password or box.key or CredentialFrom())
