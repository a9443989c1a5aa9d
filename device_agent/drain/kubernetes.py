"""Draining a Kubernetes node as `kubectl drain` does, by the API alone: cordon, then evict, honouring disruption budgets.

Who cordoned the node stands on the node: the annotation goes on in the same patch as `unschedulable`, and only who finds the own
one uncordons. So a kill at any point leaves nothing that the next start can't tell, and a node that a person cordoned stays so.
Pods of DaemonSets and mirror pods stay, as they would come back; an eviction that a budget forbids (429) is asked for again.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from device_agent.drain.client import Answer, Client
from device_agent.drain.port import Pacing, Patience, failed
from device_agent.drain.settings import KubernetesDrain
from firmware.errors import UnavailableError

ANNOTATION = "otaria.dev/cordoned-for"
PAGE = 100
MAX_PODS = 5000
MAX_BYTES = 16 << 20
NAMED = 6
_MERGE = {"Content-Type": "application/merge-patch+json"}
_JSON = {"Content-Type": "application/json"}
Pod = Mapping[str, Any]


class KubernetesDrainer:
    """`Drainer` of one node."""

    def __init__(self, settings: KubernetesDrain, node: str, pacing: Pacing | None = None) -> None:
        self._settings, self._pacing = settings, pacing or Pacing()
        self._node = f"/api/v1/nodes/{quote(settings.node or node)}"
        self._name = settings.node or node
        self._client = Client(
            ca_file=settings.ca_file,
            token_file=settings.token_file,
            request_s=settings.request_s,
            max_bytes=MAX_BYTES,
        )

    def drain(self, trial_id: str) -> None:
        patience = self._patience()
        self._cordon(trial_id, patience)
        while True:
            staying, wait_s = [], 0.0
            pods = list(self._pods(patience))
            for pod in pods:
                self._require_evictable(pod)
            for pod in pods:
                seen, after_s = self._evict(pod)
                staying.append(f"{_name(pod)} ({seen})")
                wait_s = max(wait_s, after_s)
            if not staying:
                return
            more = f" and {len(staying) - NAMED} more" if len(staying) > NAMED else ""
            patience.wait(f"pods stay on {self._name}: {', '.join(staying[:NAMED])}{more}", wait_s)

    def undrain(self, trial_id: str) -> None:
        patience = self._patience()
        while True:
            node = self._get(self._node, patience)
            if node is None or _annotations(node).get(ANNOTATION) is None:
                return
            patch = {"metadata": {"annotations": {ANNOTATION: None}}, "spec": {"unschedulable": None}}
            if self._patch(node, patch, patience):
                return

    def _cordon(self, trial_id: str, patience: Patience) -> None:
        while True:
            node = self._get(self._node, patience)
            if node is None:
                raise failed(
                    f"The cluster has no node {self._name}; say with target.drain.node what this host is called."
                )
            if _part(node, "spec").get("unschedulable") is True:
                return  # by us, as its annotation says, or by somebody else, who uncordons it
            patch = {"metadata": {"annotations": {ANNOTATION: trial_id}}, "spec": {"unschedulable": True}}
            if self._patch(node, patch, patience):
                return

    def _patch(self, node: Pod, patch: dict[str, Any], patience: Patience) -> bool:
        """Whether it was changed as it was seen; False when somebody else was faster."""
        seen = _part(node, "metadata").get("resourceVersion")
        patch["metadata"]["resourceVersion"] = seen
        answer = self._ask("PATCH", self._node, json.dumps(patch).encode(), _MERGE)
        if isinstance(answer, Answer) and answer.status == 200:
            return True
        self._require_passing(answer, "change the node")
        patience.wait(f"the node can't be changed: {_said(answer)}")
        return False

    def _pods(self, patience: Patience) -> Iterator[Pod]:
        """The pods on the node that have to go."""
        found = 0
        following: str | None = ""
        while following is not None:
            query = {"fieldSelector": f"spec.nodeName={self._name}", "limit": str(PAGE)}
            page = self._get(
                f"/api/v1/pods?{urlencode(query | ({'continue': following} if following else {}))}", patience
            )
            items = page.get("items") if page is not None else None
            if page is None or not isinstance(items, list):
                raise failed("The cluster doesn't list pods as it should.")
            found += len(items)
            if found > MAX_PODS:
                raise failed(f"{self._name} has more than {MAX_PODS} pods.")
            yield from (pod for pod in items if isinstance(pod, dict) and _has_to_go(pod))
            following = _part(page, "metadata").get("continue") or None

    def _require_evictable(self, pod: Pod) -> None:
        if _part(pod, "metadata").get("deletionTimestamp"):
            return
        if _controller(pod) is None and not self._settings.unmanaged:
            raise failed(f"Nothing would make {_name(pod)} anew; move it, or set target.drain.unmanaged.")
        volumes = _list(_part(pod, "spec").get("volumes"))
        if not self._settings.local_data and any("emptyDir" in one for one in volumes):
            raise failed(f"{_name(pod)} keeps data in an emptyDir; move it, or set target.drain.local_data.")

    def _evict(self, pod: Pod) -> tuple[str, float]:
        """Ask for one eviction: what became of it, and how long the cluster wants to be left alone."""
        about = _part(pod, "metadata")
        if about.get("deletionTimestamp"):
            return "it ends", 0.0
        names = {"name": about.get("name"), "namespace": about.get("namespace")}
        options: dict[str, Any] = {"preconditions": {"uid": about.get("uid")}}
        if self._settings.grace_s is not None:
            options["gracePeriodSeconds"] = self._settings.grace_s
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": names, "deleteOptions": options}
        place = (
            f"/api/v1/namespaces/{quote(str(names['namespace']), safe='')}/pods/{quote(str(names['name']), safe='')}"
        )
        answer = self._ask("POST", f"{place}/eviction", json.dumps(body).encode(), _JSON)
        if isinstance(answer, Answer) and answer.status in (200, 201, 202, 404):
            return "evicted", 0.0
        if isinstance(answer, Answer) and answer.status == 429:
            return "a disruption budget keeps it", answer.retry_after_s
        self._require_passing(answer, f"evict {_name(pod)}")
        return _said(answer), 0.0

    def _get(self, path: str, patience: Patience) -> dict[str, Any] | None:
        """What is there; None when it isn't. Waits for a cluster that doesn't answer."""
        while True:
            answer = self._ask("GET", path)
            if isinstance(answer, Answer) and answer.status == 404:
                return None
            if isinstance(answer, Answer) and answer.status == 200:
                return _object(answer)
            self._require_passing(answer, "read the cluster")
            patience.wait(f"the cluster can't be read: {_said(answer)}")

    def _require_passing(self, answer: Answer | str, what: str) -> None:
        """Raise for an answer that trying again doesn't change."""
        if isinstance(answer, Answer) and answer.status in (400, 401, 403, 405, 415, 422):
            raise failed(f"The cluster doesn't let this host {what}: {answer.said}")

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer | str:
        try:
            accepted = {"Accept": "application/json", **(headers or {})}
            return self._client.ask(method, f"{self._settings.server}{path}", body, accepted)
        except UnavailableError as error:
            return error.text

    def _patience(self) -> Patience:
        return Patience(self._settings.timeout_s, self._settings.every_s, self._pacing)


def _has_to_go(pod: Pod) -> bool:
    if _part(pod, "status").get("phase") in ("Succeeded", "Failed"):
        return False
    return "kubernetes.io/config.mirror" not in _annotations(pod) and _controller(pod) != "DaemonSet"


def _controller(pod: Pod) -> str | None:
    """The kind of what makes the pod anew."""
    owners = _list(_part(pod, "metadata").get("ownerReferences"))
    return next((str(one.get("kind")) for one in owners if one.get("controller")), None)


def _annotations(what: Pod) -> Mapping[str, Any]:
    found = _part(what, "metadata").get("annotations")
    return found if isinstance(found, dict) else {}


def _part(what: Pod, name: str) -> Mapping[str, Any]:
    found = what.get(name)
    return found if isinstance(found, dict) else {}


def _list(found: object) -> list[Mapping[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _name(pod: Pod) -> str:
    about = _part(pod, "metadata")
    return f"{about.get('namespace')}/{about.get('name')}"


def _said(answer: Answer | str) -> str:
    return answer.said if isinstance(answer, Answer) else answer


def _object(answer: Answer) -> dict[str, Any]:
    try:
        value = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise failed("The cluster's answer is no JSON.") from error
    if not isinstance(value, dict):
        raise failed("The cluster's answer is no object.")
    return value
