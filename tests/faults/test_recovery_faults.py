"""Recovery when things go wrong: what is asked twice is done once, what fails is rolled back, what exists is said."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dbops.errors import RetryableError
from dbops.postgres import recovery
from dbops.postgres import recovery_dns as names
from dbops.postgres.recovery import NotFollowed, ValidationFailed
from dbops.postgres.recovery_apps import KubernetesRefused, KubernetesUnreachable, RolloutFailed
from dbops.postgres.recovery_dns import RecordRefused
from dbops.postgres.recovery_plan import RecoveryPlan
from dbops.postgres.recovery_restore import RecoveryFailed
from dbops.postgres.recovery_state import STEPS, known
from dbops.postgres.recovery_time import RecoveryRefused
from dbops_lab.supervisor import Supervisor
from dbops_lab.testing import LabKubernetes, LabRds
from recovery_world import API, NAMESPACE, SYNCER, RecoveryWorld

RESTORE = "Action=RestoreDBInstanceToPointInTime"
RRSET = {"method": "POST", "key": "/rrset"}


@pytest.fixture(scope="module")
def made(
    lab_rds_of: Callable[[int], LabRds], lab_supervisor: Supervisor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RecoveryWorld, RecoveryPlan]]:
    """A world with a recovery that waits for an approval; restored once for all tests of this file."""
    rds = lab_rds_of(17)
    rds.clean()
    kubernetes = LabKubernetes(rds, lab_supervisor.state)
    world = RecoveryWorld(rds, kubernetes, tmp_path_factory.mktemp("recovery"))
    plan = world.begin(world.damage())
    world.restored(plan)
    yield world, plan
    kubernetes.api.close()
    rds.clean()


@pytest.fixture
def world(made: tuple[RecoveryWorld, RecoveryPlan]) -> Iterator[RecoveryWorld]:
    world, plan = made
    yield world
    world.rds.s3.faults()
    world.kubernetes.faults()
    world.rds.order(instances=40, silent=False, restores=[])
    world.configure()
    world.rds.point_to(world.rds.name)
    steps = [world.state(plan).key(f"steps/{name}.json") for name in STEPS if name not in ("plan", "restore")]
    world.store.delete(steps)
    for name in (API, SYNCER):
        world.kubernetes.deploy(NAMESPACE, name, replicas=2)


@pytest.fixture
def plan(made: tuple[RecoveryWorld, RecoveryPlan], world: RecoveryWorld) -> RecoveryPlan:
    return made[1]


def source_address(world: RecoveryWorld) -> str:
    return str(world.rds.describe()["Endpoint"]["Address"])


def switched(world: RecoveryWorld, plan: RecoveryPlan) -> None:
    world.approve(plan)
    recovery.switch(world.open(), plan)
    world.wait(recovery.follow, plan)


# --- the moment -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("2026-11-24T05:59:59", "no time zone"),
        pytest.param(
            (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds"), "lies in the future", id="tomorrow"
        ),
        ("2040-01-01T00:00:00Z", "lies in the future"),
        ("2020-01-01T00:00:00Z", "too old"),
        ("2026-11-24T05:59:59.5Z", "fractions"),
        ("yesterday", "is none"),
        ("", "no point in time"),
    ],
)
def test_a_moment_that_cannot_be_reached_is_refused_in_words_and_nothing_is_made(
    world: RecoveryWorld, at: str, words: str
) -> None:
    before = world.instances(), known(world.store)
    with pytest.raises(RecoveryRefused, match=words):
        world.begin(at)
    assert (world.instances(), known(world.store)) == before


def test_a_source_that_the_record_does_not_lead_to_is_refused(world: RecoveryWorld, plan: RecoveryPlan) -> None:
    with pytest.raises(RecoveryRefused, match=f"leads to {source_address(world)}, not to {plan.target}"):
        world.begin("latest", source=plan.target)


def test_missing_rights_in_kubernetes_are_found_before_anything_is_made(world: RecoveryWorld) -> None:
    before = world.instances()
    world.kubernetes.faults({"method": "PATCH", "path": "syncer", "status": 403})
    with pytest.raises(KubernetesRefused, match=r"postgres-recovery-rbac\.yaml") as caught:
        world.begin("latest")
    assert world.kubernetes.token not in str(caught.value)
    assert world.instances() == before


# --- restore ----------------------------------------------------------------------------------------------


def test_a_restore_whose_answer_is_lost_is_adopted_and_not_begun_twice(world: RecoveryWorld) -> None:
    before = world.instances()
    run = secrets.token_hex(4)
    plan = world.begin("latest", run)
    world.rds.s3.faults({"key": RESTORE, "status": 500, "after": True, "times": 1})
    recovery.restore(world.open(), plan)  # botocore asks again by itself, and is told that the name is taken
    again = world.begin("latest", run)
    assert again == plan
    world.restored(again)
    assert world.instances() == sorted([*before, plan.target])


def test_too_little_capacity_is_tried_again(world: RecoveryWorld) -> None:
    plan = world.begin("latest")
    world.rds.s3.faults({"key": RESTORE, "status": 400, "code": "InsufficientDBInstanceCapacity", "times": 1})
    with pytest.raises(RetryableError, match="InsufficientDBInstanceCapacity"):
        recovery.restore(world.open(), plan)


def test_an_instance_of_that_name_that_is_not_ours_is_left_alone(world: RecoveryWorld) -> None:
    plan = world.begin("latest")
    world.rds.order(restores=["failed"])  # what it holds does not matter here
    world.rds.client("rds").restore_db_instance_to_point_in_time(
        SourceDBInstanceIdentifier=world.rds.name,
        TargetDBInstanceIdentifier=plan.target,
        UseLatestRestorableTime=True,
        Tags=[{"Key": "dbops-recovery", "Value": plan.target}, {"Key": "dbops-run", "Value": "somebody else's"}],
    )
    with pytest.raises(RecoveryFailed, match="not this run's; nothing was done"):
        recovery.restore(world.open(), plan)


def test_a_quota_that_is_reached_says_so_and_that_nothing_was_made(world: RecoveryWorld) -> None:
    plan = world.begin("latest")
    world.rds.order(instances=len(world.instances()))
    with pytest.raises(RecoveryFailed, match=r"quota.*Nothing was made"):
        recovery.restore(world.open(), plan)


def test_an_instance_that_does_not_come_up_is_named_with_how_it_is_removed(world: RecoveryWorld) -> None:
    plan = world.begin("latest")
    world.rds.order(restores=["incompatible-restore"])
    with pytest.raises(RecoveryFailed, match=f"incompatible-restore.*delete-db-instance .*{plan.target}") as caught:
        world.restored(plan)
    assert "--no-deletion-protection" in str(caught.value)
    assert world.state(plan).step("restore").outcome == "failed"


# --- validate and approve ---------------------------------------------------------------------------------


def test_when_validation_fails_nothing_is_switched_and_the_instance_is_kept(
    world: RecoveryWorld, plan: RecoveryPlan
) -> None:
    query = f"select count(*) from {world.table}"
    world.configure(
        validations=[
            {"name": "too-few", "database": "exchange", "query": query, "at_least": 2001},
            {"name": "no-table", "database": "exchange", "query": "select count(*) from nowhere.x", "at_least": 0},
        ],
        tables=[{"database": "exchange", "table": "nowhere.x"}],
    )
    with pytest.raises(ValidationFailed) as caught:
        recovery.check(world.open(), plan)
    for words in (
        "too-few",
        "it is 2000, at least 2001 is wanted",
        "no-table",
        "table exchange/nowhere.x",
        plan.target,
    ):
        assert words in str(caught.value)
    assert world.state(plan).step("validate").outcome == "failed"
    assert world.rds.target() == source_address(world)
    assert plan.target in world.instances()
    world.roll_back(plan)
    assert world.rds.target() == source_address(world)
    assert world.kubernetes.sessions() == {API: 2, SYNCER: 2}


def test_without_an_approval_nothing_is_switched(world: RecoveryWorld, plan: RecoveryPlan) -> None:
    with pytest.raises(RecoveryRefused, match="nobody has approved"):
        recovery.switch(world.open(), plan)
    recovery.decided(world.open(), plan, approved=False, who="rejected", asked_at=datetime.now(UTC))
    with pytest.raises(RecoveryRefused, match="nobody has approved"):
        recovery.switch(world.open(), plan)
    assert plan.target in world.state(plan).step("approve").message
    assert world.rds.target() == source_address(world)


# --- the record -------------------------------------------------------------------------------------------


def test_a_record_that_somebody_else_has_changed_is_left_alone(world: RecoveryWorld, plan: RecoveryPlan) -> None:
    world.approve(plan)
    elsewhere = plan.record.model_copy(update={"value": "elsewhere.example.com"})
    names.switch(world.open().route53, plan.zone, plan.record, elsewhere)
    with pytest.raises(RecordRefused, match=r"leads to elsewhere\.example\.com, so somebody else has changed it"):
        recovery.switch(world.open(), plan)
    world.roll_back(plan)
    assert world.rds.target().rstrip(".") == "elsewhere.example.com"


def test_a_switch_whose_answer_is_lost_is_found_again(world: RecoveryWorld, plan: RecoveryPlan) -> None:
    world.approve(plan)
    world.rds.s3.faults({**RRSET, "status": 500, "after": True, "times": 1})
    recovery.switch(world.open(), plan)  # botocore asks again by itself, and is refused what it has done
    world.wait(recovery.follow, plan)
    step = world.state(plan).step("switch")
    assert (step.before["value"], step.after["value"]) == (source_address(world), world.rds.target())


class Killed(BaseException):
    """What ends a process."""


def test_a_switch_after_which_the_process_was_killed_is_rolled_back(world: RecoveryWorld, plan: RecoveryPlan) -> None:
    world.approve(plan)
    new = plan.record.model_copy(update={"value": world.rds.describe(plan.target)["Endpoint"]["Address"]})

    def switch_and_die() -> None:
        with world.state(plan).working(plan.run, "switch"):
            names.switch(world.open().route53, plan.zone, plan.record, new)
            raise Killed

    with pytest.raises(Killed):
        switch_and_die()
    assert world.rds.target() != source_address(world)
    assert "change" not in world.state(plan).step("switch").after
    world.roll_back(plan)
    assert world.rds.target() == source_address(world)


def test_a_nameserver_that_does_not_answer_ends_the_waiting(world: RecoveryWorld, plan: RecoveryPlan) -> None:
    world.configure(record={"name": world.rds.cname, "nameserver": "dbops_nameserver", "timeout": "1s"})
    world.approve(plan)
    recovery.switch(world.open(), plan)
    world.rds.order(silent=True)
    with pytest.raises(NotFollowed, match="does not lead to"):
        world.wait(recovery.follow, plan, 60)
    world.rds.order(silent=False)
    world.configure()
    world.roll_back(plan)
    assert world.rds.target() == source_address(world)


def test_the_ttl_is_waited_for_after_route_53_is_in_sync(world: RecoveryWorld, plan: RecoveryPlan) -> None:
    world.rds.take(route53=0.5)
    began = datetime.now(UTC)
    switched(world, plan)
    assert datetime.now(UTC) - began >= timedelta(seconds=0.5 + world.rds.ttl)


# --- the deployments --------------------------------------------------------------------------------------


def test_a_restart_that_breaks_off_goes_on_and_restarts_nothing_twice(world: RecoveryWorld, plan: RecoveryPlan) -> None:
    switched(world, plan)
    world.kubernetes.faults({"method": "PATCH", "path": SYNCER, "status": 500})
    with pytest.raises(KubernetesUnreachable):
        recovery.restart(world.open(), plan)
    generation = world.kubernetes.deployment(NAMESPACE, API)["metadata"]["generation"]
    assert recovery.restart(world.open(), plan) == [SYNCER]
    assert recovery.restart(world.open(), plan) == []
    assert world.kubernetes.deployment(NAMESPACE, API)["metadata"]["generation"] == generation
    world.wait(recovery.rollout, plan)
    world.wait(recovery.arrived, plan)


def test_when_the_record_is_switched_and_the_rollout_fails_both_are_rolled_back(
    world: RecoveryWorld, plan: RecoveryPlan
) -> None:
    switched(world, plan)
    world.kubernetes.fail(NAMESPACE, API)
    recovery.restart(world.open(), plan)
    with pytest.raises(RolloutFailed, match=f"{NAMESPACE}/{API} does not roll out"):
        world.wait(recovery.rollout, plan)
    world.kubernetes.faults()
    world.roll_back(plan)
    assert world.rds.target() == source_address(world)
    assert world.kubernetes.sessions() == {API: 2, SYNCER: 2}
    assert world.kubernetes.sessions(plan.target) == {}
    assert plan.target in world.instances()
    generation = world.kubernetes.deployment(NAMESPACE, API)["metadata"]["generation"]
    world.roll_back(plan)  # once more changes nothing
    assert world.kubernetes.deployment(NAMESPACE, API)["metadata"]["generation"] == generation
    with pytest.raises(RecoveryRefused, match="nobody has approved"):  # what was rolled back is approved again first
        recovery.switch(world.open(), plan)


def test_a_deployment_that_does_not_follow_the_record_is_named_and_rolled_back(
    world: RecoveryWorld, plan: RecoveryPlan
) -> None:
    world.kubernetes.deploy(NAMESPACE, SYNCER, replicas=2, host=source_address(world))
    world.configure(sessions_timeout="1s")
    switched(world, plan)
    recovery.restart(world.open(), plan)
    world.wait(recovery.rollout, plan)
    words = f"{SYNCER} has 0 of 1. on {world.rds.name} are still: {SYNCER} 2. Do they connect to {world.rds.cname}"
    with pytest.raises(NotFollowed, match=words):
        world.wait(recovery.arrived, plan)
    world.roll_back(plan)
    assert world.kubernetes.sessions() == {API: 2, SYNCER: 2}


def test_every_step_may_be_done_again(world: RecoveryWorld, plan: RecoveryPlan) -> None:
    for _ in range(2):
        recovery.emit_terraform(world.open(), plan)
        recovery.check(world.open(), plan)
        world.approve(plan)
        for _, work in recovery.STEPS:
            world.wait(work, plan)
    before = (
        world.instances(),
        [world.kubernetes.deployment(NAMESPACE, name)["metadata"]["generation"] for name in (API, SYNCER)],
    )
    report: Any = recovery.report(world.open(), plan)
    for _, work in recovery.STEPS:
        world.wait(work, plan)
    after = (
        world.instances(),
        [world.kubernetes.deployment(NAMESPACE, name)["metadata"]["generation"] for name in (API, SYNCER)],
    )
    assert after == before
    assert report.sessions == {API: 2, SYNCER: 2}
