"""The environment of processes that work on what came from outside: what they need, and none of the server's secrets."""

import os
from collections.abc import Mapping

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
"""By name: the server's environment may hold passphrases, PINs and tokens, under names that this list can't know."""


def surroundings(environment: Mapping[str, str] = os.environ, /, **more: str) -> dict[str, str]:
    """What of `environment` a worker gets, with `more` over it."""
    return {name: environment[name] for name in KEPT if name in environment} | more
