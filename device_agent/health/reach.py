"""Whether this agent reaches its server: told by who keeps the connection, asked by the `server` check on another thread."""

from device_agent.health.probe import Seen


class Reach:
    """`connected`: the broker has this agent now. `heard`: since the agent started, the server answered with something that
    was verified: a signed ack, or fresh metadata of the catalogue."""

    def __init__(self) -> None:
        self.connected = False
        self.heard = False

    def seen(self) -> Seen:
        """What a check may say of it. `answered` is False throughout: it may still come."""
        if not self.connected:
            return Seen(passed=False, text="there is no connection to the broker", answered=False)
        if not self.heard:
            return Seen(passed=False, text="the server has not answered since the agent started", answered=False)
        return Seen(passed=True, text="the server answers")
