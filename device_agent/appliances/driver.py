"""What a site agent asks of a box, and what is known of it. Everything a box prints is hostile until a pattern took a bounded
word out of it.

A driver lives as long as one connection. Its verbs may be said again after a kill at any point: what was already done is seen in
the box's own words, and not done twice.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Protocol

from msgspec import Meta, Struct

from firmware.errors import RefusedError, UnavailableError

Word = Annotated[str, Meta(min_length=1, max_length=256)]
"""A word out of a box's output."""
WORD_CHARACTERS = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}\Z"
"""What may stand in a command line without being quoted: all that is put into commands must be of this."""


class Capabilities(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a kind of box can do. `dual_image`: it keeps the old image beside the new one. `trial_boot`: the new one is booted
    once, and the old one after that unless it is kept. `auto_revert`: the box goes back by its own timer. `standby`: there may
    be a second supervisor, which is brought to the new image first. `resumable`: an upload goes on where it broke off.
    `no_return`: the verb after which the old image is gone."""

    dual_image: bool
    trial_boot: bool = False
    auto_revert: bool = False
    standby: bool = False
    resumable: bool = False
    no_return: Literal["activate", "never"] = "never"


class BoxIdentity(Struct, frozen=True, kw_only=True):
    """Which box this is, by its own words."""

    serial: Word
    model: Word


class Facts(Struct, frozen=True, kw_only=True):
    """What a box says of itself now. `running`: the version that runs; `permanent`: the one it would boot if it were restarted
    now (the running one where there is just one); `boot`: what changes at each boot and at nothing else; `installed`: versions
    that it holds; `standby`: what the second supervisor runs, None where there is none."""

    running: Word
    permanent: Word
    boot: Word
    installed: tuple[Word, ...] = ()
    standby: Word | None = None


class BoxImage(Struct, frozen=True, kw_only=True):
    """A verified image at the site: its file, the name it gets on the box, its version, bytes, and hashes by algorithm (hex)."""

    path: str
    name: Annotated[str, Meta(pattern=WORD_CHARACTERS)]
    version: Annotated[str, Meta(pattern=WORD_CHARACTERS)]
    length: int
    digests: Mapping[str, str]


Sets = Mapping[str, tuple[str, ...]]
"""What was read for each comparison: neighbours, routes, interfaces, by the names that the dialect gives them."""


class Driver(Protocol):
    """One connection to one box. Each verb raises `RefusedError` when the box said no, or said what nobody expects, and
    `UnavailableError` when it could not be asked to the end; both tell what was seen and what was expected."""

    @property
    def capabilities(self) -> Capabilities: ...
    async def identify(self) -> BoxIdentity: ...
    async def facts(self) -> Facts: ...
    async def precheck(self, image: BoxImage) -> None:
        """Whether the box could take this image: room, state, nobody else's update under way."""
        ...

    async def backup(self) -> str:
        """The running configuration."""
        ...

    async def sets(self, names: tuple[str, ...]) -> Sets:
        """What is to be the same before and after."""
        ...

    async def upload(self, image: BoxImage, *, on_bytes: Callable[[int], None], stop: Callable[[], bool]) -> None:
        """Bring the file to the box, going on where an earlier try broke off if the box can. Raises `UnavailableError`
        (`interrupted`) when `stop()`."""
        ...

    async def check(self, image: BoxImage) -> None:
        """Let the box hash its file. Raises `RefusedError` (`box-hash`), after which the file is gone from the box."""
        ...

    async def install(self, image: BoxImage, old: str) -> None:
        """Unpack the file beside the running image, so that a restart would still boot `old`."""
        ...

    async def verify_staged(self, image: BoxImage, old: str) -> None:
        """Whether the box itself holds the image for whole, and would still boot `old`."""
        ...

    async def arm(self, image: BoxImage, old: str, trial_s: int) -> None:
        """Durably ask for one boot of the new image, where that is asked for apart from the restart."""
        ...

    async def disarm(self, image: BoxImage, old: str) -> None:
        """Take that back."""
        ...

    async def standby(self, image: BoxImage, old: str) -> None:
        """Bring the second supervisor to the new image, and wait until it is ready."""
        ...

    async def standby_back(self, image: BoxImage, old: str) -> None:
        """Bring it back to the old one, and wait until it is ready."""
        ...

    async def activate(self, image: BoxImage, old: str, trial_s: int) -> None:
        """Restart into the new image. The connection ends by it."""
        ...

    async def commit(self, image: BoxImage, old: str) -> None:
        """Keep the running image."""
        ...

    async def rollback(self, image: BoxImage, old: str) -> None:
        """Restart into the old image. The connection ends by it."""
        ...

    async def close(self) -> None: ...


def unexpected(what: str, seen: str, expected: str) -> RefusedError:
    """The box answered what nobody expects there."""
    return RefusedError("box-output", f"{what}: the box answered {seen}; expected was {expected}."[:1024])


def said_no(what: str, seen: str) -> RefusedError:
    """The box refused a command."""
    return RefusedError("box-refused", f"{what}: the box refused, saying {seen}. Look at the box."[:1024])


def went_away(what: str, why: str) -> UnavailableError:
    """The connection ended where it should not have."""
    return UnavailableError(
        "box-dropped", f"{what}: the connection to the box ended ({why}); it is tried again."[:1024]
    )
