"""How a kind of box is spoken to, as data: commands, patterns, timeouts. `dialect_file` reads it from YAML.

In commands `{name}`, `{path}`, `{version}`, `{old}` (the version that ran before), `{length}`, `{trial_s}` and `{trial_min}`
stand for values; all of them are plain words. A pattern is a regular expression that is looked for in each line, whose trailing
blanks are gone; where a value is wanted, its first group is it.
"""

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct

from device_agent.appliances.driver import Capabilities
from firmware.protocol.words import Id

Seconds = Annotated[float, Meta(gt=0, le=86400)]
Template = Annotated[str, Meta(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
Regex = Annotated[str, Meta(min_length=1, max_length=512)]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]
Patterns = Annotated[tuple[Regex, ...], Meta(max_length=32)]
Named = Annotated[dict[Name, Regex], Meta(max_length=32)]
PLACES = ("name", "path", "version", "old", "length", "trial_s", "trial_min")


class Answer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to say to a question that a command asks."""

    when: Regex
    say: Annotated[str, Meta(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*\Z")]


class Exchange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One command. `expect`: each must be found; `refuse`: none may be; `already`: if found, the box is where the command would
    lead, whatever else it says. `find`: values that must be found; `each`: values of which there may be several. `answers`: to
    questions, each at most three times. `drops`: the connection may end by it. `any_status`: its exit status says nothing.
    `until`: say it again every `every_s` until this is found. `detached`: it takes long, so let it run on without us."""

    run: Template
    timeout_s: Seconds = 30.0
    expect: Patterns = ()
    refuse: Patterns = ()
    already: Patterns = ()
    find: Named = {}
    each: Named = {}
    answers: Annotated[tuple[Answer, ...], Meta(max_length=8)] = ()
    drops: bool = False
    any_status: bool = False
    until: Regex | None = None
    every_s: Seconds = 2.0
    detached: bool = False


Exchanges = Annotated[tuple[Exchange, ...], Meta(max_length=32)]


class Session(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`commands`: each command is one of SSH's, with an exit status. `prompt`: all are typed into one terminal, which shows
    `prompt` when it is ready; `setup` is typed first. `errors`: lines by which the box refuses any command."""

    kind: Literal["commands", "prompt"] = "commands"
    prompt: Regex = ""
    setup: Annotated[tuple[Template, ...], Meta(max_length=8)] = ()
    errors: Patterns = ()
    login_s: Seconds = 30.0


class Upload(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the file comes to the box: by `sftp`, or by the older `scp`, which begins anew each time. `to`: where it is put, as the
    transfer names it; `path`: as commands do. `stall_s`: without a byte, the transfer is given up."""

    by: Literal["sftp", "scp"]
    to: Template
    path: Template
    stall_s: Seconds = 60.0


class Hashing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the box hashes its file; `pattern` takes out the hex digits. `remove`: how a wrong file is removed."""

    algorithm: Literal["sha256", "sha512", "md5"] = "sha256"
    run: Template
    pattern: Regex
    timeout_s: Seconds = 600.0
    remove: Exchanges = ()


class Dialect(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of box. `facts` finds `running`, `boot` and, where there is more than one image, `permanent`; each of `installed`
    and of `standby` may be found by it; `identify` finds `serial` and `model`; `precheck` may find `free_kib` or `free_bytes`,
    of which an image needs `room` times its length. `backup` prints the running configuration, of which lines that fit `ignore`
    may differ. `standby` brings the second supervisor to `{version}`, `standby_back` to `{old}`. `compare`: what may be looked
    at before and after, by name. A box that was told to restart does so within `leave_s`, and is back within `return_s`."""

    dialect: Id
    about: Annotated[str, Meta(max_length=1024)] = ""
    capabilities: Capabilities
    session: Session = Session()
    identify: Exchanges
    facts: Exchanges
    precheck: Exchanges = ()
    room: Annotated[float, Meta(ge=0, le=16)] = 1.2
    backup: Exchange
    ignore: Patterns = ()
    upload: Upload
    hashing: Hashing
    install: Exchanges = ()
    verify_staged: Exchanges = ()
    arm: Exchanges = ()
    disarm: Exchanges = ()
    standby: Exchanges = ()
    standby_back: Exchanges = ()
    activate: Exchanges
    commit: Exchanges = ()
    rollback: Exchanges = ()
    compare: Annotated[dict[Name, Exchange], Meta(max_length=16)] = {}
    leave_s: Seconds = 120.0
    return_s: Seconds = 1800.0


def compiled(pattern: str) -> re.Pattern[str]:
    """`re` keeps compiled patterns."""
    return re.compile(pattern)
