"""People on the wire, each with an API token of their own: nobody may agree to what they asked for, nor agree twice."""

from collections import Counter
from collections.abc import Callable

from server.planner.words import CampaignState, Verb
from server.ports import Role
from simulator.rest import RestClient

MOST_ASKED = 8
"""No strategy asks for the approval of more people."""
EXPIRES_S = 30 * 86400


class People:
    """An admin, who asks, and those who agree. `rest`: the admin's client, of where the server is by now. All of it raises
    `RestError` or `UnavailableError`."""

    def __init__(self, rest: Callable[[], RestClient]) -> None:
        self._rest = rest
        self._tokens: list[str] = []
        self._agreed: Counter[str] = Counter()

    def act(self, campaign: str, verb: Verb) -> None:
        """Tell a campaign something; who agrees to it is somebody else each time."""
        rest = self._rest() if verb is not Verb.APPROVE else self._approver(self._agreed[campaign])
        rest.post(f"/campaigns/{campaign}/{verb}", {"reason": "as the world says"})
        self._agreed[campaign] += verb is Verb.APPROVE

    def agree_at_once(self, campaign: str) -> None:
        """As many agree as the campaign waits for."""
        for _ in range(MOST_ASKED):
            if self._rest().get(f"/campaigns/{campaign}")["state"] != CampaignState.AWAITING_APPROVAL:
                return
            self.act(campaign, Verb.APPROVE)

    def _approver(self, number: int) -> RestClient:
        rest = self._rest()
        while len(self._tokens) <= number:
            name = f"sim-{len(self._tokens) + 1}"
            made = rest.post("/people", {"name": name, "role": Role.APPROVER, "expires_s": EXPIRES_S})
            self._tokens.append(made["token"])
        return rest.by(self._tokens[number])
