"""What a server sets of Python, in a process of its own: these settings are the whole process's."""

import subprocess
import sys

WORK = """
import gc, sys
from server.interpreter import SWITCH_S, YOUNG_OBJECTS, prepare_interpreter
prepare_interpreter()
assert gc.isenabled() and gc.get_threshold()[0] == YOUNG_OBJECTS
assert gc.get_freeze_count() > 1000
assert sys.getswitchinterval() == SWITCH_S
"""


def test_the_collector_leaves_alone_what_was_there_and_threads_take_turns_sooner() -> None:
    subprocess.run([sys.executable, "-c", WORK], check=True, timeout=60)
