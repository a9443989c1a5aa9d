"""One TCP connection: something listens."""

import socket

from device_agent.health.probe import Deadline, Seen
from firmware.checks import HealthCheck, address_of


def connect(check: HealthCheck, deadline: Deadline) -> Seen:
    """Connect to the check's address and hang up: passed when somebody takes the connection."""
    address = address_of(check)
    if address is None:
        return Seen(passed=False, text="its address is not host:port")
    try:
        with socket.create_connection(address, timeout=max(deadline.left_s(), 0.05)):
            return Seen(passed=True, text="something listens there")
    except ConnectionRefusedError:
        return Seen(passed=False, text="nothing listens there", answered=False)
    except TimeoutError:
        return Seen(passed=False, text="there was no answer in time", answered=False)
    except (OSError, UnicodeError) as error:
        return Seen(passed=False, text=f"it can't be reached ({error})"[:300], answered=False)
