"""Command lines for child processes that do not outlive whoever started them, even if that is killed with SIGKILL.

Linux sends the child a SIGKILL when the thread that started it ends (prctl PR_SET_PDEATHSIG). It sets this itself before it
becomes the wanted program, because code between fork and exec is not safe in a process with threads.
"""

import os
import sys
from collections.abc import Sequence

_LEASH = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""


def leashed(argv: Sequence[str]) -> list[str]:
    """`argv` as a command that dies with the calling thread; it exits with 1 and a sentence when it cannot be started."""
    return [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), *argv]
