"""A node is drained and comes back as `kubectl drain` would have it, against a server with the real one's rules."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.drain.kubernetes import ANNOTATION, KubernetesDrainer
from device_agent.drain.port import Pacing
from device_agent.drain.settings import KubernetesDrain
from firmware.errors import RefusedError
from tests.device_agent.drain.cluster import Budget, Cluster, Pod, served


class Ticks:
    """Time that passes by sleeping alone; each sleep is a tick of the cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.at, self.slept, self._cluster = 0.0, [], cluster
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds
        self._cluster.tick()

    @property
    def pacing(self) -> Pacing:
        return Pacing(now=lambda: self.at, sleep=self.sleep)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with served(Cluster(tmp_path)) as one:
        yield one


@pytest.fixture
def ticks(cluster: Cluster) -> Ticks:
    return Ticks(cluster)


def drainer(cluster: Cluster, ticks: Ticks, **changes: object) -> KubernetesDrainer:
    folder = cluster.folder
    values = {
        "server": cluster.address,
        "token_file": f"{folder}/token",
        "ca_file": f"{folder}/ca.crt",
        "timeout_s": 300,
    }
    return KubernetesDrainer(KubernetesDrain(**{**values, **changes}), "web-1", ticks.pacing)  # type: ignore[arg-type]


def test_a_node_is_cordoned_emptied_and_comes_back_as_it_was(cluster: Cluster, ticks: Ticks) -> None:
    cluster.pods = [
        Pod(name="one"),
        Pod(name="slow", ends_after=4),
        Pod(name="agent", owner="DaemonSet"),
        Pod(name="static", owner="Node", mirror=True),
        Pod(name="done", owner="Job", phase="Succeeded"),
        Pod(name="elsewhere", node="web-2"),
    ]
    one = drainer(cluster, ticks)
    one.drain("trial-1")
    assert cluster.is_cordoned
    assert cluster.annotations == {"other": "kept", ANNOTATION: "trial-1"}
    assert sorted(pod.name for pod in cluster.pods if pod.node == "web-1") == ["agent", "done", "static"]
    assert {name for name, _ in cluster.evictions()} == {"one", "slow"}
    one.undrain("trial-1")
    assert not cluster.is_cordoned
    assert "unschedulable" not in cluster.node["spec"]
    assert cluster.annotations == {"other": "kept"}


def test_a_budget_is_waited_for_as_long_as_the_cluster_says(cluster: Cluster, ticks: Ticks) -> None:
    cluster.pods = [Pod(name=f"web-{n}", label="web") for n in range(3)]
    cluster.budgets = [Budget(label="web", min_available=2)]
    drainer(cluster, ticks).drain("trial-1")
    statuses = [status for _, status in cluster.evictions()]
    assert (statuses.count(201), 429 in statuses) == (3, True)
    assert 10.0 in ticks.slept, "as Retry-After said"
    assert len([pod for pod in cluster.pods if pod.label == "web" and pod.node == "web-2"]) == 3


def test_a_budget_that_never_allows_it_ends_the_attempt_and_says_who(cluster: Cluster, ticks: Ticks) -> None:
    cluster.pods = [Pod(name="web-0", label="web")]
    cluster.budgets = [Budget(label="web", min_available=1)]
    one = drainer(cluster, ticks)
    with pytest.raises(RefusedError, match=r"300 s.*default/web-0 \(a disruption budget keeps it\)") as refused:
        one.drain("trial-1")
    assert refused.value.kind == "drain-failed"
    assert [pod.name for pod in cluster.pods] == ["web-0"]
    one.undrain("trial-1")
    assert not cluster.is_cordoned


def test_a_node_that_a_person_cordoned_stays_so(cluster: Cluster, ticks: Ticks) -> None:
    cluster.node["spec"]["unschedulable"] = True
    cluster.pods = [Pod(name="one")]
    one = drainer(cluster, ticks)
    one.drain("trial-1")
    assert [pod for pod in cluster.pods if pod.node == "web-1"] == []
    one.undrain("trial-1")
    assert cluster.is_cordoned
    assert [method for method, _, _ in cluster.asked if method == "PATCH"] == []


def test_draining_again_after_a_kill_keeps_the_word_of_who_cordoned(cluster: Cluster, ticks: Ticks) -> None:
    drainer(cluster, ticks).drain("trial-1")
    drainer(cluster, ticks).drain("trial-1")
    assert [method for method, _, _ in cluster.asked].count("PATCH") == 1
    drainer(cluster, ticks).undrain("trial-1")
    drainer(cluster, ticks).undrain("trial-1")
    assert not cluster.is_cordoned
    assert [method for method, _, _ in cluster.asked].count("PATCH") == 2


def test_somebody_who_changes_the_node_meanwhile_is_not_overwritten(cluster: Cluster, ticks: Ticks) -> None:
    cluster.rival = True
    drainer(cluster, ticks).drain("trial-1")
    assert cluster.rivalled == 3
    assert [status for method, _, status in cluster.asked if method == "PATCH"] == [409, 409, 409, 200]


@pytest.mark.parametrize(
    ("pod", "allowed"),
    [(Pod(name="lone", owner=None), "unmanaged"), (Pod(name="lone", empty_dir=True), "local_data")],
)
def test_pods_that_would_lose_something_are_not_evicted_unless_that_is_allowed(
    cluster: Cluster, ticks: Ticks, pod: Pod, allowed: str
) -> None:
    cluster.pods = [Pod(name="other"), pod]
    with pytest.raises(RefusedError, match=f"default/lone.*target.drain.{allowed}"):
        drainer(cluster, ticks).drain("trial-1")
    assert cluster.evictions() == [], "nor is any other"
    drainer(cluster, ticks, **{allowed: True}).drain("trial-1")
    assert {name for name, _ in cluster.evictions()} == {"lone", "other"}


def test_many_pods_come_in_pages_and_each_is_evicted_once(cluster: Cluster, ticks: Ticks) -> None:
    cluster.pods = [Pod(name=f"p{n}") for n in range(250)]
    drainer(cluster, ticks).drain("trial-1")
    assert len(cluster.evictions()) == 250


def test_a_pod_of_the_same_name_that_came_meanwhile_is_another(cluster: Cluster, ticks: Ticks) -> None:
    cluster.pods = [Pod(name="db-0", owner="StatefulSet")]
    listed = cluster.answer

    def swap(method: str, path: str, *rest: object) -> object:
        answer = listed(method, path, *rest)  # type: ignore[arg-type]
        if "/pods?" in path and cluster.pods and cluster.pods[0].uid != "uid-new":
            cluster.pods = [Pod(name="db-0", owner="StatefulSet", uid="uid-new")]
        return answer

    cluster.answer = swap  # type: ignore[assignment,method-assign]
    drainer(cluster, ticks).drain("trial-1")
    assert cluster.evictions() == [("db-0", 409), ("db-0", 201)]


def test_a_cluster_that_is_ill_for_a_while_is_waited_for(cluster: Cluster, ticks: Ticks) -> None:
    cluster.pods = [Pod(name="one")]
    cluster.refuse = [503, 500, 429]
    drainer(cluster, ticks).drain("trial-1")
    assert cluster.is_cordoned
    assert [pod for pod in cluster.pods if pod.node == "web-1"] == []


@pytest.mark.parametrize("status", [401, 403])
def test_who_may_not_is_told_at_once(cluster: Cluster, ticks: Ticks, status: int) -> None:
    cluster.refuse = [status]
    with pytest.raises(RefusedError, match=f"doesn't let this host.*{status}"):
        drainer(cluster, ticks).drain("trial-1")
    assert ticks.slept == []


def test_another_certificate_a_missing_token_and_an_unknown_node_are_refused(
    cluster: Cluster, ticks: Ticks, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with served(Cluster(other)) as stranger, pytest.raises(RefusedError, match="certificate that isn't trusted"):
        drainer(cluster, ticks, server=stranger.address).drain("trial-1")
    assert stranger.asked == []
    with pytest.raises(RefusedError, match="token"):
        drainer(cluster, ticks, token_file=f"{tmp_path}/none").drain("trial-1")
    with pytest.raises(RefusedError, match="no node web-9"):
        drainer(cluster, ticks, node="web-9").drain("trial-1")


@pytest.mark.parametrize(
    "body",
    [
        {"items": None},
        {"items": [{"metadata": {"ownerReferences": 3}, "spec": {"volumes": 7}}]},
        {"items": [{"metadata": [], "spec": None, "status": "x"}]},
        {"items": {}},
    ],
)
def test_a_cluster_that_answers_nonsense_is_refused(cluster: Cluster, ticks: Ticks, body: dict[str, object]) -> None:
    genuine = cluster.answer

    def nonsense(method: str, path: str, *rest: object) -> object:
        return (200, body, {}) if "/pods?" in path else genuine(method, path, *rest)  # type: ignore[arg-type]

    cluster.answer = nonsense  # type: ignore[assignment,method-assign]
    with pytest.raises(RefusedError) as refused:
        drainer(cluster, ticks).drain("trial-1")
    assert refused.value.kind == "drain-failed"


def test_no_error_tells_the_token(cluster: Cluster, ticks: Ticks) -> None:
    (cluster.folder / "token").write_text("secret-but-wrong")
    with pytest.raises(RefusedError) as refused:
        drainer(cluster, ticks).drain("trial-1")
    assert "secret-but-wrong" not in refused.value.text


def test_a_server_that_is_away_is_waited_for_and_then_given_up(cluster: Cluster, ticks: Ticks) -> None:
    with pytest.raises(RefusedError, match=r"within 300 s.*can't be reached"):
        drainer(cluster, ticks, server="https://127.0.0.1:9").drain("trial-1")
    assert ticks.at == 300.0
