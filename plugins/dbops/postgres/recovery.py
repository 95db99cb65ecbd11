"""Recovery of an instance to a moment, step by step. Each step may be repeated: it looks at what is, and does the rest.

plan -> restore -> terraform -> validate -> approve -> switch -> dns -> restart -> rollout -> sessions -> report; when
one from `switch` on fails, roll_back_dns -> roll_back_deployments. No instance is ever deleted or changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dbops.aws import tags_of as own_tags
from dbops.backups.manifest import Document, Utc
from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError, DbopsError, FinalError
from dbops.platform import Platform, Postgres, PostgresRecovery, duration_text
from dbops.postgres import recovery_dns as names
from dbops.postgres import recovery_restore as instances
from dbops.postgres.rds import rds_client
from dbops.postgres.recovery_apps import Cluster
from dbops.postgres.recovery_compare import Open, TableComparison, Validation, compare, sessions_of, validate
from dbops.postgres.recovery_dns import NamesUnreachable, Record, RecordRefused, read_record, same_name
from dbops.postgres.recovery_plan import RecoveryPlan, plan_recovery, target_name
from dbops.postgres.recovery_restore import RecoveryFailed, left_behind
from dbops.postgres.recovery_state import Recovery, RecoveryUnknown, Step, Work, phases
from dbops.postgres.recovery_terraform import terraform
from dbops.postgres.recovery_time import RecoveryRefused, parse_moment
from dbops.postgres.session import Session

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from dbops.backups.store import Store

RTO = "postgres_rto"
TERRAFORM, FINDINGS, REPORT = "recovery.tf", "findings.json", "report.json"
TTL_SLACK = timedelta(seconds=1)
"""A TTL is of whole seconds, and so is a resolver's clock."""


class ValidationFailed(FinalError):
    """The new instance does not hold, or is not, what it should. Nothing was switched."""


class NotFollowed(FinalError):
    """Nameservers, deployments or sessions did not follow in time."""


@dataclass(frozen=True)
class World:
    """What a recovery reaches. Secrets are in `login` and `cluster` only, which never show them."""

    platform: Platform
    postgres: Postgres
    recovery: PostgresRecovery
    rds: Any
    route53: Any
    cluster: Cluster | None
    login: ConnectionInfo
    nameserver: str | None
    """host:port; None: what the machine asks."""
    store: Store
    ledger: Engine | None

    def state(self, plan: RecoveryPlan) -> Recovery:
        return Recovery(self.store, plan.target, self.ledger)

    def open(self, address: str, port: int) -> Open:
        """Opens read-only sessions with one instance, whatever host the connection names."""
        extra = dict(self.login.extra)

        def session(database: str) -> Session:
            found = extra | ({"hostaddr": names.address_of(address, self.nameserver)} if self.nameserver else {})
            info = replace(self.login, host=address, port=port, extra=found)
            return Session(info, database=database, read_only=True, statement_timeout=self.recovery.query_timeout)

        return session


def open_world(
    platform: Platform, connection: Callable[[str], ConnectionInfo], store: Store, ledger: Engine | None
) -> World:
    """Connects to nothing yet.

    :raises ConfigurationError: the platform has no section `postgres.recovery`, or a connection is missing.
    """
    postgres = platform.postgres
    if postgres is None or postgres.recovery is None:
        raise ConfigurationError(f"platform {platform.name} has no section `postgres.recovery`: add it to its file")
    recovery, aws = postgres.recovery, connection(postgres.aws_connection)
    kubernetes, nameserver = recovery.kubernetes, recovery.record.nameserver
    return World(
        platform=platform,
        postgres=postgres,
        recovery=recovery,
        rds=rds_client(aws, postgres.region),
        route53=names.route53_client(aws, postgres.region),
        cluster=Cluster(connection(kubernetes.connection), kubernetes) if kubernetes else None,
        login=connection(recovery.connection),
        nameserver=names.nameserver_of(connection(nameserver)) if nameserver else None,
        store=store,
        ledger=ledger,
    )


# --- plan and restore ---------------------------------------------------------------------------------------


def begin(
    world: World, *, run: str, reason: str, at: str | None, asked_at: datetime, source: str | None = None
) -> RecoveryPlan:
    """Decide what is done and write it down; the plan of an earlier try of the same run is taken as it is.

    What would only fail after an hour is asked first: the record, the deployments, the right to restart them.

    :param at: a point in time with its time zone, or `latest`.
    :raises RecoveryRefused, RecordRefused, KubernetesRefused: and nothing was made.
    """
    moment = parse_moment(at)
    state = Recovery(world.store, target_name(source or world.postgres.name, moment, run), world.ledger)
    try:
        return state.plan()
    except RecoveryUnknown:
        pass
    plan = look(world, run=run, reason=reason, moment=moment, asked_at=asked_at, source=source)
    plan = state.keep_plan(plan)
    with state.working(plan.run, "plan") as work:
        work.done(plan.describe(), moment=f"{plan.moment:%FT%TZ}", target=plan.target)
    return plan


def look(
    world: World, *, run: str, reason: str, moment: datetime | None, asked_at: datetime, source: str | None = None
) -> RecoveryPlan:
    """What `begin` would decide; nothing is written or made."""
    record = world.recovery.record
    zone = record.zone or names.zone_of(world.route53, record.name)
    seen = read_record(world.route53, zone, record.name)
    if world.cluster is not None:
        world.cluster.deployments()
        world.cluster.may_restart()
    return plan_recovery(
        world.rds,
        world.postgres,
        world.recovery,
        seen,
        zone,
        platform=world.platform.name,
        run=run,
        reason=reason,
        moment=moment,
        asked_at=asked_at,
        now=datetime.now(UTC),
        source=source,
    )


def restore(world: World, plan: RecoveryPlan) -> bool:
    """Make the new instance, or look how far it is; True when it is available.

    :raises RecoveryFailed: it does not come. What exists is said.
    """
    with world.state(plan).working(plan.run, "restore") as work:
        made = instances.advance(world.rds, plan, world.recovery.restore_timeout, datetime.now(UTC))
        if work.step.after.get("status") != made.status:
            work.after(status=made.status)
        if made.done:
            work.done(
                f"{plan.target} is available at {made.address}",
                address=made.address,
                port=made.port,
                problems=list(made.problems),
                notes=list(made.notes),
            )
        return made.done


def emit_terraform(world: World, plan: RecoveryPlan) -> str:
    """Write the Terraform beside the plan; its URL."""
    state = world.state(plan)
    with state.working(plan.run, "terraform") as work:
        text = terraform(plan, own_tags(plan.platform, plan.run, plan.reason))
        world.store.put(state.key(TERRAFORM), text.encode())
        work.done(state.url(TERRAFORM), url=state.url(TERRAFORM))
    return state.url(TERRAFORM)


# --- validate -----------------------------------------------------------------------------------------------


class Findings(Document):
    """What was found in the new instance, for the person who decides."""

    target: str
    moment: Utc
    validations: tuple[Validation, ...]
    tables: tuple[TableComparison, ...]
    settings: tuple[str, ...] = ()
    """Where the new instance is not set up as the source."""
    sessions: dict[str, int] = Field(default_factory=dict)
    """Sessions that the deployments have with the damaged instance, which can still write."""
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> list[str]:
        """Why nothing must be switched."""
        return [
            *(f"{self.target}: {text}" for text in self.settings),
            *(
                f"validation {one.name} on {one.database}: "
                + (one.message or f"it is {one.value:g}, {one.wanted} is wanted")
                for one in self.validations
                if not one.ok
            ),
            *(f"table {one.table}: {one.problem}" for one in self.tables if one.problem),
        ]

    def describe(self) -> str:
        lines = [f"Validations: {sum(one.ok for one in self.validations)} of {len(self.validations)} hold"]
        lines += [
            f"- {one.name}: {one.message or f'{one.value:g}'} ({one.wanted}){'' if one.ok else ' FAILED'}"
            for one in self.validations
        ]
        lines += ["Tables as of " + f"{self.moment:%FT%TZ} beside the damaged instance as it is now:"]
        lines += [f"- {one.describe()}" for one in self.tables] or ["- none is configured"]
        if self.sessions:
            told = ", ".join(f"{name} {count}" for name, count in self.sessions.items())
            lines.append(f"Sessions with the damaged instance: {told}. What they write until the switch is lost")
        lines += [f"Settings: {text}" for text in self.settings]
        lines += [f"Note: {text}" for text in self.notes]
        return "\n".join(lines)


def check(world: World, plan: RecoveryPlan) -> Findings:
    """Validate the new instance and compare it with the damaged one; the findings stand in the bucket.

    :raises ValidationFailed: nothing must be switched to it. It is kept.
    """
    state = world.state(plan)
    with state.working(plan.run, "validate") as work:
        address, port = _new_place(state)
        restored = state.step("restore")
        assert restored is not None
        new, damaged = world.open(address, port), world.open(plan.source_address, plan.source_port)
        with new(world.postgres.databases[0]):  # one that cannot be reached is asked again, all else is a finding
            pass
        sessions: dict[str, int] = {}
        notes = [str(text) for text in restored.after.get("notes", ())]
        if world.recovery.kubernetes:
            try:
                with damaged(world.postgres.databases[0]) as session:
                    sessions = sessions_of(session, world.recovery.kubernetes.deployments)
            except DbopsError as problem:
                notes.append(f"sessions with {plan.source} are unknown: {problem}")
        findings = Findings(
            target=plan.target,
            moment=plan.moment,
            validations=tuple(validate(new, world.recovery.validations)),
            tables=tuple(compare(new, damaged, table) for table in world.recovery.tables),
            settings=tuple(str(text) for text in restored.after.get("problems", ())),
            sessions=sessions,
            notes=tuple(notes),
        )
        world.store.put(state.key(FINDINGS), findings.to_json())
        work.after(findings=state.url(FINDINGS))
        if findings.problems:
            raise ValidationFailed(
                f"{'; '.join(findings.problems)}. Nothing was switched. {left_behind(world.rds, plan)}"
            )
        work.done(f"{len(findings.validations)} validations hold, {len(findings.tables)} tables were compared")
    return findings


def _new_place(state: Recovery) -> tuple[str, int]:
    step = state.step("restore")
    if step is None or step.outcome != "done":
        raise RecoveryRefused(f"{state.target} is not restored yet: clear the step before")
    return str(step.after["address"]), int(step.after["port"])


def decided(world: World, plan: RecoveryPlan, *, approved: bool, who: str, asked_at: datetime) -> None:
    """Write down that somebody has approved the switch, or that nobody has."""
    now = datetime.now(UTC)
    message = f"approved by {who}" if approved else f"{who}. Nothing was switched. {left_behind(world.rds, plan)}"
    world.state(plan).note(
        plan.run,
        Step(
            name="approve",
            started_at=asked_at,
            finished_at=now,
            outcome="done" if approved else "failed",
            message=message,
        ),
    )


# --- switch -------------------------------------------------------------------------------------------------


def switch(world: World, plan: RecoveryPlan) -> None:
    """Let the CNAME lead to the new instance, only if it leads where the plan saw it lead.

    :raises RecoveryRefused: nobody has approved it.
    :raises RecordRefused, RecoveryFailed: the record has changed meanwhile, or the instance is not available any more.
    """
    state = world.state(plan)
    approval = state.step("approve")
    if approval is None or approval.outcome != "done":
        raise RecoveryRefused(f"switch to {plan.target}: nobody has approved it")
    address, _ = _new_place(state)
    new = plan.record.model_copy(update={"value": address})
    with state.working(plan.run, "switch", before=plan.record.model_dump()) as work:
        found = instances.find(world.rds, plan.target)
        status = str((found or {}).get("DBInstanceStatus", "gone")).lower()
        if status not in ("available", "backing-up", "modifying"):
            raise RecoveryFailed(f"switch to {plan.target}: it is {status}. Nothing was switched")
        change = names.switch(world.route53, plan.zone, plan.record, new)
        work.done(f"{new.name} leads to {address}", **new.model_dump(), change=change)


def follow(world: World, plan: RecoveryPlan) -> bool:
    """Whether every resolver has forgotten the old address: Route 53 is in sync, and the TTL has passed since.

    :raises NotFollowed: it took longer than `record.timeout`.
    """
    state = world.state(plan)
    switched = state.step("switch")
    if switched is None or "change" not in switched.after:
        raise RecoveryRefused(f"{plan.record.name} is not switched yet: clear the step before")
    with state.working(plan.run, "dns") as work:
        return _followed(world, plan, work, str(switched.after["change"]), str(switched.after["value"]))


def _followed(world: World, plan: RecoveryPlan, work: Work, change: str, value: str) -> bool:
    now, ttl = datetime.now(UTC), timedelta(seconds=plan.record.ttl)
    why = f"change {change} of Route 53 is pending"
    if work.step.after.get("change") != change:
        work.begin_again(change=change)
    if "insync_at" not in work.step.after and names.is_in_sync(world.route53, change):
        work.after(insync_at=now.isoformat())
    if "insync_at" in work.step.after:
        since = now - datetime.fromisoformat(str(work.step.after["insync_at"]))
        why = f"resolvers may remember the old address for {plan.record.ttl} s"
        if since >= ttl + TTL_SLACK:
            try:
                seen = names.lookup(plan.record.name, world.nameserver)
                if same_name(seen, value):
                    work.done(f"{plan.record.name} leads to {value} everywhere")
                    return True
                why = f"{plan.record.name} still leads to {seen}"
            except NamesUnreachable as problem:
                why = str(problem)
    limit = world.recovery.record.timeout + ttl
    if now - work.step.started_at > limit:
        raise NotFollowed(f"{plan.record.name} does not lead to {value} after {duration_text(limit)}: {why}")
    return False


# --- applications -------------------------------------------------------------------------------------------


def restart(world: World, plan: RecoveryPlan) -> list[str]:
    """Restart every configured deployment, once for this recovery; those restarted now."""
    with world.state(plan).working(plan.run, "restart") as work:
        cluster = world.cluster
        if cluster is None:
            work.done("no deployments are configured: restart what connects by hand")
            return []
        if "generations" not in work.step.before:
            found = cluster.deployments()
            work.before(generations={item["metadata"]["name"]: item["metadata"]["generation"] for item in found})
        now, wanted = datetime.now(UTC), [one.name for one in cluster.kubernetes.deployments]
        restarted = [name for name in wanted if cluster.restart(name, plan.target, now)]
        work.done(f"{', '.join(wanted)} restarted", restarted=wanted)
    return restarted


def rollout(world: World, plan: RecoveryPlan) -> bool:
    """Whether all restarted deployments have only new pods, all available.

    :raises RolloutFailed, NotFollowed: one has not, and will not in time.
    """
    with world.state(plan).working(plan.run, "rollout") as work:
        return _rolled_out(world, work, None)


def _rolled_out(world: World, work: Work, wanted: list[str] | None) -> bool:
    cluster = world.cluster
    if cluster is None:
        work.done("no deployments are configured")
        return True
    found = cluster.rollouts(wanted)
    if all(one.done for one in found):
        work.done("; ".join(f"{one.name}: {one.message}" for one in found))
        return True
    limit = cluster.kubernetes.timeout
    if datetime.now(UTC) - work.step.started_at > limit:
        waiting = "; ".join(f"{one.name}: {one.message}" for one in found if not one.done)
        raise NotFollowed(f"the rollout is not done after {duration_text(limit)}: {waiting}")
    return False


def arrived(world: World, plan: RecoveryPlan) -> bool:
    """Whether the deployments' sessions are on the new instance. Those left on the damaged one are told.

    :raises NotFollowed: they are not, after `sessions_timeout`.
    """
    state = world.state(plan)
    with state.working(plan.run, "sessions") as work:
        kubernetes = world.recovery.kubernetes
        if kubernetes is None:
            work.done("no deployments are configured: look who connects with `dbops postgres report activity`")
            return True
        database = world.postgres.databases[0]
        with world.open(*_new_place(state))(database) as session:
            here = sessions_of(session, kubernetes.deployments)
        missing = [one for one in kubernetes.deployments if here[one.name] < one.sessions]
        if not missing:
            left, told = _left(world, plan)
            work.done(
                "; ".join([f"{name}: {count} sessions" for name, count in here.items()] + told),
                sessions=here,
                left_on_the_damaged_one=left,
            )
            return True
        limit = world.recovery.sessions_timeout
        if datetime.now(UTC) - work.step.started_at > limit:
            words = ", ".join(f"{one.name} has {here[one.name]} of {one.sessions}" for one in missing)
            _, told = _left(world, plan)
            raise NotFollowed(
                f"after {duration_text(limit)} sessions are missing on {plan.target}: {words}. "
                f"{'; '.join(told) or f'none of them is on {plan.source} either'}. Do they connect to "
                f"{plan.record.name}?"
            )
        return False


def _left(world: World, plan: RecoveryPlan) -> tuple[dict[str, int], list[str]]:
    """Sessions of the deployments that the damaged instance still has: they connect to its own address."""
    assert world.recovery.kubernetes is not None
    try:
        with world.open(plan.source_address, plan.source_port)(world.postgres.databases[0]) as session:
            found = sessions_of(session, world.recovery.kubernetes.deployments)
    except DbopsError as problem:
        return {}, [f"whether {plan.source} has sessions is unknown ({problem})"]
    left = {name: count for name, count in found.items() if count}
    told = ", ".join(f"{name} {count}" for name, count in left.items())
    return left, [f"on {plan.source} are still: {told}"] if left else []


# --- report -------------------------------------------------------------------------------------------------


class Report(Document):
    """A recovery that has come to its end, step by step."""

    source: str
    target: str
    moment: Utc
    reason: str
    address: str
    record: Record
    switched_from: str
    terraform: str
    findings: str
    plan: str
    sessions: dict[str, int] = Field(default_factory=dict)
    phases: dict[str, float]
    """Seconds of each, from when somebody asked."""
    seconds: float
    rto_seconds: float
    in_time: bool
    finished_at: Utc

    def describe(self) -> str:
        steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.phases.items())
        return (
            f"{self.source} as of {self.moment:%FT%TZ} is {self.target}; {self.record.name} leads to it. Time to "
            f"recovery {duration_text(timedelta(seconds=round(self.seconds)))} "
            f"({'within' if self.in_time else 'MORE THAN'} the RTO of "
            f"{duration_text(timedelta(seconds=self.rto_seconds))}): {steps}. Terraform: {self.terraform}. "
            f"{self.source} is kept."
        )


def report(world: World, plan: RecoveryPlan) -> Report:
    """Put the time beside the RTO; the report stands in the bucket, a check in the ledger."""
    state = world.state(plan)
    steps = state.steps()
    sessions = steps.get("sessions")
    if sessions is None or sessions.outcome != "done" or sessions.finished_at is None:
        raise RecoveryRefused(f"recovery to {plan.target} is not at its end: clear the step before")
    address, _ = _new_place(state)
    rto = world.platform.objectives.postgres.rto
    seconds = (sessions.finished_at - plan.asked_at).total_seconds()
    done = Report(
        source=plan.source,
        target=plan.target,
        moment=plan.moment,
        reason=plan.reason,
        address=address,
        record=plan.record.model_copy(update={"value": address}),
        switched_from=plan.record.value,
        terraform=state.url(TERRAFORM),
        findings=state.url(FINDINGS),
        plan=state.url("plan.json"),
        sessions=sessions.after.get("sessions", {}),
        phases={name: round(took.total_seconds(), 3) for name, took in phases(plan.asked_at, steps).items()},
        seconds=round(seconds, 3),
        rto_seconds=rto.total_seconds(),
        in_time=seconds <= rto.total_seconds(),
        finished_at=sessions.finished_at,
    )
    with state.working(plan.run, "report") as work:
        world.store.put(state.key(REPORT), done.to_json())
        if world.ledger is not None:
            from dbops.ledger import record_check

            record_check(
                world.ledger,
                name=RTO,
                target=world.postgres.name,
                run=plan.run,
                at=done.finished_at,
                ok=done.in_time,
                value=done.seconds,
                limit=done.rto_seconds,
                unit="s",
                message=f"recovery to {plan.target}",
                details=dict(done.phases),
            )
        work.done(done.describe(), report=state.url(REPORT))
    return done


# --- back ---------------------------------------------------------------------------------------------------


def roll_back_dns(world: World, plan: RecoveryPlan) -> bool:
    """Let the CNAME lead to the source again and wait until everybody sees it; True when that is so.

    Nothing happens when this recovery has switched nothing.

    :raises RecordRefused: somebody else has changed the record since.
    """
    state = world.state(plan)
    switched = state.step("switch")
    with state.working(plan.run, "roll_back_dns") as work:
        if switched is None:
            work.done("nothing was switched", switched=False)
            return True
        new = plan.record.model_copy(update={"value": _new_place(state)[0]})
        now = read_record(world.route53, plan.zone, plan.record.name)
        if "change" not in work.step.after or same_name(now.value, new.value):
            work.before(value=now.value)
            # A switch whose answer was lost has no change written down, but the record leads to the new one.
            if not same_name(now.value, new.value) and "change" not in switched.after:
                work.done("nothing was switched", switched=False)
                return True
            try:
                change = names.switch(world.route53, plan.zone, new, plan.record)
            except RecordRefused as problem:
                raise RecordRefused(f"roll back: {problem}. Look who changed it, and why") from None
            work.after(change=change, switched=True, **plan.record.model_dump())
        is_back = _followed(world, plan, work, str(work.step.after["change"]), plan.record.value)
    approval = state.step("approve")
    if is_back and approval is not None and approval.outcome == "done":
        void = {"outcome": "skipped", "message": f"{approval.message}; it was rolled back and has to be approved again"}
        state.note(plan.run, approval.model_copy(update=void))
    return is_back


def roll_back_deployments(world: World, plan: RecoveryPlan) -> bool:
    """Restart those deployments again that this recovery has restarted; True when they are rolled out.

    :raises RolloutFailed, NotFollowed: one does not roll out. The CNAME leads to the source.
    """
    state = world.state(plan)
    with state.working(plan.run, "roll_back_deployments") as work:
        cluster, back = world.cluster, f"{plan.target}.back"
        if cluster is None:
            work.done("no deployments are configured: restart what connects by hand")
            return True
        marks = {one.name: cluster.mark_of(one.name) for one in cluster.kubernetes.deployments}
        wanted = [name for name, mark in marks.items() if mark in (plan.target, back)]
        if not wanted:
            work.done("none was restarted", restarted=[])
            return True
        for name in wanted:
            cluster.restart(name, back, datetime.now(UTC))
        work.after(restarted=wanted)
        return _rolled_out(world, work, wanted)


def kept(world: World, plan: RecoveryPlan) -> str:
    """What there is after a recovery that did not come to its end, in words."""
    now = read_record(world.route53, plan.zone, plan.record.name)
    return f"{plan.record.name} leads to {now.value}. {plan.source} is as it was. {left_behind(world.rds, plan)}"


STEPS: tuple[tuple[str, Callable[[World, RecoveryPlan], Any]], ...] = (
    ("switch", switch), ("dns", follow), ("restart", restart), ("rollout", rollout), ("sessions", arrived),
)  # fmt: skip
"""What comes after the approval; one that answers False is asked again."""
BACK: tuple[tuple[str, Callable[[World, RecoveryPlan], Any]], ...] = (
    ("roll_back_dns", roll_back_dns), ("roll_back_deployments", roll_back_deployments),
)  # fmt: skip
