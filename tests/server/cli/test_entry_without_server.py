"""`otaria` on a device that has only the agent's dependencies."""

import subprocess
import sys

WITHOUT_CLICK = """
import sys
sys.modules["click"] = None
from server.entry import main
main()
"""


def test_it_says_what_to_install_instead_of_a_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_CLICK], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "otaria[server]" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_everything_here_it_is_the_command() -> None:
    code = "import sys; sys.argv = ['otaria', '--help']; from server.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "campaign" in done.stdout
