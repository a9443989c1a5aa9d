"""`python -m server.transport.leash PARENT PROGRAM ARGUMENT…`: run a program that dies with the process that started it.

A broker that outlived a killed server would keep its ports and serve nobody. Linux's parent-death signal survives exec,
so this sets it and becomes the program; no process is left in between.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Become `arguments[1:]`, to be killed when process `arguments[0]` ends; returns only when that has happened already."""
    parent, program = int(arguments[0]), arguments[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() == parent:
        os.execv(program[0], program)  # noqa: S606 - an argument list, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
