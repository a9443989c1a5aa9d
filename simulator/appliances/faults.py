"""What can go wrong with an emulated box."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Faults:
    """All off by default; those with `once` in their words switch themselves off.

    `deny`: nobody is let in. `banner_bytes`: printed before the login; `chatter_bytes`: after it. `noise`: put before every
    answer. `flood`, `hang`, `garble`, `drop`: commands that begin so print without end, never end, print nonsense, or end the
    connection (`drop` once). `slow_s`: seconds before every answer. `strange_prompt`: another one than documented. `cut_at`,
    `stall_at`: bytes of an upload after which the connection ends, or nothing more is taken (once). `flip_at`: a byte of an
    upload that is stored wrongly (once; `flip_always`).
    `full`: no room. `install_fails`, `arm_fails`, `restart_refused`, `commit_refused`: the box says no. `half_install`: it says
    yes to an image of which half was unpacked. `commit_forgotten`, `restart_forgotten`: it says yes, and does nothing.
    `default_forgotten`: it says yes to its running image as default, and would boot the other (once).
    `wont_boot`: the version that does not come up on this box. `stays_down`: it does not come back by itself. `standby_fails`:
    the second supervisor stays with the old image."""

    deny: bool = False
    banner_bytes: int = 0
    chatter_bytes: int = 0
    noise: bytes = b""
    flood: str = ""
    hang: str = ""
    garble: str = ""
    drop: str = ""
    slow_s: float = 0.0
    strange_prompt: bool = False
    cut_at: int | None = None
    stall_at: int | None = None
    flip_at: int | None = None
    flip_always: bool = False
    full: bool = False
    install_fails: bool = False
    half_install: bool = False
    arm_fails: bool = False
    restart_refused: bool = False
    restart_forgotten: bool = False
    commit_refused: bool = False
    commit_forgotten: bool = False
    default_forgotten: bool = False
    stays_down: bool = False
    wont_boot: str = ""
    standby_fails: bool = False
    said: list[str] = field(default_factory=list)
    """Every command that was given, in their order: what the tests look at."""
