"""How Python itself is set for a server: it handles thousands of messages per second in a few threads that share one lock.

- The collector looks for garbage in cycles. By default it does so every 700 objects, and sooner or later goes through all that
  the program consists of; a tenth of the server's time went there. What is there when it starts is never garbage.
- A thread that computes keeps the lock for as long as it may before another gets it that only has to write to a socket. By
  default that is 5 ms, and the connection to the broker waited so long for each of its packets.
"""

import gc
import sys

YOUNG_OBJECTS = 50_000
SWITCH_S = 0.0005


def prepare_interpreter() -> None:
    """Call it once, when the process has imported what it needs and before it works."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    sys.setswitchinterval(SWITCH_S)
