"""Kubernetes of the lab: a rollout goes as a real one, and only a restart moves a program to another database."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import Any

import pytest
from dbops_lab.kubernetes.patch import MERGE, STRATEGIC, patched
from dbops_lab.testing import LabKubernetes

NAMESPACE, NAME = "production", "exchange-api"
PATH = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}"


def ask(
    kubernetes: LabKubernetes, path: str = PATH, patch: Any = None, kind: str = STRATEGIC, token: str | None = None
) -> tuple[int, dict[str, Any]]:
    """Status and answer of a request with the right token, or another one."""
    headers = {"Authorization": f"Bearer {kubernetes.token if token is None else token}", "Content-Type": kind}
    body = None if patch is None else json.dumps(patch).encode()
    request = urllib.request.Request(  # noqa: S310 - our own address
        f"{kubernetes.url}{path}", data=body, headers=headers, method="GET" if patch is None else "PATCH"
    )
    tls = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(kubernetes.ca_file)))
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({}), tls).open(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as problem:
        return problem.code, json.load(problem)


def restart() -> dict[str, Any]:
    """The patch of `kubectl rollout restart`."""
    at = datetime.now(UTC).isoformat()
    return {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": at}}}}}


@pytest.fixture
def kubernetes(lab_kubernetes: LabKubernetes) -> LabKubernetes:
    """With one deployment of two replicas, which are ready."""
    lab_kubernetes.deploy(NAMESPACE, NAME)
    return lab_kubernetes


def test_a_restart_moves_the_sessions_and_the_name_alone_does_not(kubernetes: LabKubernetes) -> None:
    rds = kubernetes.rds
    rds.client("rds").restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier=rds.name, TargetDBInstanceIdentifier="restored", UseLatestRestorableTime=True
    )
    rds.wait("restored")
    assert kubernetes.sessions() == {NAME: 2}
    rds.point_to("restored")
    time.sleep(0.5)
    assert kubernetes.sessions() == {NAME: 2}
    assert kubernetes.sessions("restored") == {}
    before = kubernetes.pods(NAMESPACE, NAME)
    assert ask(kubernetes, patch=restart())[0] == 200
    kubernetes.settle(NAMESPACE, NAME)
    assert kubernetes.sessions() == {}
    assert kubernetes.sessions("restored") == {NAME: 2}
    assert not set(before) & set(kubernetes.pods(NAMESPACE, NAME))


def test_a_rollout_is_seen_late_and_never_leaves_too_few_pods(kubernetes: LabKubernetes) -> None:
    kubernetes.step(0.3)
    answer = ask(kubernetes, patch=restart())[1]
    assert answer["metadata"]["generation"] == 2
    assert answer["status"]["observedGeneration"] == 1
    assert answer["status"]["readyReplicas"] == 2
    kubernetes.step(0.05)
    seen = []
    while not seen or seen[-1]["status"].get("observedGeneration") != 2 or reason(seen[-1]) == "ReplicaSetUpdated":
        seen.append(ask(kubernetes)[1])
    assert min(item["status"]["availableReplicas"] for item in seen) == 2
    assert max(item["status"]["replicas"] for item in seen) == 3
    assert any("updatedReplicas" not in item["status"] or item["status"]["updatedReplicas"] == 1 for item in seen)
    last = seen[-1]["status"]
    assert reason(seen[-1]) == "NewReplicaSetAvailable"
    assert (last["replicas"], last["updatedReplicas"], last["readyReplicas"]) == (2, 2, 2)
    assert "unavailableReplicas" not in last


def reason(deployment: dict[str, Any], kind: str = "Progressing") -> str:
    return str(next(item["reason"] for item in deployment["status"]["conditions"] if item["type"] == kind))


def test_pods_that_crash_stop_the_rollout_at_its_deadline_and_the_old_ones_serve_on(kubernetes: LabKubernetes) -> None:
    kubernetes.deploy(NAMESPACE, NAME, deadline=1)
    before = kubernetes.pods(NAMESPACE, NAME)
    kubernetes.fail(NAMESPACE, NAME)
    ask(kubernetes, patch=restart())
    kubernetes.settle(NAMESPACE, NAME, "ProgressDeadlineExceeded")
    found = ask(kubernetes)[1]
    progressing = next(item for item in found["status"]["conditions"] if item["type"] == "Progressing")
    assert progressing["status"] == "False"
    assert reason(found, "Available") == "MinimumReplicasAvailable"
    assert found["status"]["readyReplicas"] == 2
    assert found["status"]["unavailableReplicas"] == 1
    assert set(before) < set(kubernetes.pods(NAMESPACE, NAME))
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    pods = ask(kubernetes, f"{path}?labelSelector=app%3D{NAME}")[1]["items"]
    waiting = [pod for pod in pods if "waiting" in pod["status"]["containerStatuses"][0]["state"]]
    assert [pod["metadata"]["name"] in before for pod in waiting] == [False]
    assert ask(kubernetes, f"{path}?labelSelector=app%3Dother")[1]["items"] == []
    assert ask(kubernetes, f"{path}/{before[0]}")[1]["metadata"]["labels"]["app"] == NAME
    kubernetes.faults()
    kubernetes.settle(NAMESPACE, NAME)
    assert kubernetes.sessions() == {NAME: 2}


def test_pods_of_a_database_that_goes_are_not_ready_and_come_back_with_it(kubernetes: LabKubernetes) -> None:
    rds = kubernetes.rds
    with rds.connect(role="postgres", database="postgres") as connection, connection.cursor() as cursor:
        cursor.execute("alter database exchange with allow_connections false")
        connection.commit()
        cursor.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%/%'")
    connection.close()
    until(lambda: "readyReplicas" not in ask(kubernetes)[1]["status"])
    assert reason(ask(kubernetes)[1], "Available") == "MinimumReplicasUnavailable"
    with rds.connect(role="postgres", database="postgres") as connection, connection.cursor() as cursor:
        cursor.execute("alter database exchange with allow_connections true")
    connection.close()
    until(lambda: ask(kubernetes)[1]["status"].get("readyReplicas") == 2)


def until(done: Any) -> None:
    end = time.monotonic() + 10
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_who_may_not_and_what_is_wrong_gets_a_status(kubernetes: LabKubernetes) -> None:
    def status(*words: Any, **more: Any) -> tuple[int, str, str]:
        code, answer = ask(kubernetes, *words, **more)
        assert answer["kind"] == "Status"
        assert answer["code"] == code
        return code, answer["reason"], answer["message"]

    assert status(token="guess")[:2] == (401, "Unauthorized")
    assert status(token="")[:2] == (401, "Unauthorized")
    assert status(f"{PATH}-other") == (404, "NotFound", f'deployments.apps "{NAME}-other" not found')
    assert status("/apis/apps/v1/namespaces/production/daemonsets")[0] == 404
    assert status(patch={}, kind="application/json")[:2] == (415, "UnsupportedMediaType")
    assert status(patch=[1])[:2] == (400, "BadRequest")
    assert status(patch={"spec": {"replicas": -1}})[:2] == (422, "Invalid")
    assert status(patch={"spec": {"selector": {"matchLabels": {"app": "x"}}}})[:2] == (422, "Invalid")
    assert status(patch={"metadata": {"resourceVersion": "0"}, **restart()})[:2] == (409, "Conflict")
    kubernetes.faults({"method": "PATCH", "path": NAME, "status": 403, "times": 1})
    assert ask(kubernetes)[0] == 200
    assert status(patch=restart())[:2] == (403, "Forbidden")
    assert ask(kubernetes)[1]["metadata"]["generation"] == 1
    assert ask(kubernetes, patch=restart())[0] == 200


def test_only_a_change_of_the_specification_is_a_new_generation(kubernetes: LabKubernetes) -> None:
    about = {"metadata": {"annotations": {"example.com/note": "by hand"}}}
    found = ask(kubernetes, patch=about, kind=MERGE)[1]
    assert (found["metadata"]["generation"], found["metadata"]["annotations"]["example.com/note"]) == (1, "by hand")
    assert ask(kubernetes, f"{PATH}?dryRun=All", patch=restart())[1]["metadata"]["generation"] == 1
    assert ask(kubernetes, patch={"spec": {"replicas": 3}})[1]["metadata"]["generation"] == 2
    kubernetes.settle(NAMESPACE, NAME)
    assert kubernetes.sessions() == {NAME: 3}
    assert ask(kubernetes)[1]["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"
    ask(kubernetes, patch=restart())
    kubernetes.settle(NAMESPACE, NAME)
    found = ask(kubernetes)[1]
    assert found["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
    assert ask(kubernetes, PATH.rpartition("/")[0])[1]["items"] == [found]


def test_a_strategic_merge_finds_containers_by_name_and_a_merge_replaces_the_list() -> None:
    found = {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}
    patch = {"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}], "gone": None}
    strategic = patched({**found, "gone": 1}, patch, strategic=True)
    assert strategic == {
        "containers": [
            {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b"},
        ]
    }
    assert patched(found, patch, strategic=False)["containers"] == patch["containers"]
    gone = patched(found, {"containers": [{"$patch": "delete", "name": "b"}]}, strategic=True)
    assert [item["name"] for item in gone["containers"]] == ["a"]


def test_the_sessions_end_with_the_deployment(kubernetes: LabKubernetes) -> None:
    kubernetes.api.controller.remove(NAMESPACE, NAME)
    assert kubernetes.sessions() == {}
    assert ask(kubernetes)[0] == 404
