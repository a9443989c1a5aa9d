"""Standard output whose reader may leave early, as `head` and `grep -q` do."""

import os
import select
import sys


def reader_left() -> bool:
    """Whether nobody reads standard output any more. Then what is left of it goes nowhere, and in silence."""
    try:
        number = sys.stdout.fileno()
    except OSError:
        return False
    poll = select.poll()
    poll.register(number, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
    return True
