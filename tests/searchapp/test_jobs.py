"""Jobs: created once, claimed once, fenced, capped, cancelled, retried; on both databases."""

import errno
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, transaction
from django.db.models import F
from django.utils.module_loading import import_string
from safetensors import SafetensorError

from searchapp.exceptions import Conflict, InvalidInput, JobCancelled, LeaseLost, NoSpace
from searchapp.job_kinds import JOB_KINDS, JobKind
from searchapp.models import Category, Job, JobState, OutboxMessage
from searchapp.services import jobs, leases
from searchapp.services.database_clock import DatabaseNow, database_now

pytestmark = [pytest.mark.django_db, pytest.mark.database]

Handler = Callable[[jobs.JobRun], dict[str, Any] | None]
_handlers: dict[str, Handler] = {}


def run_named(run: jobs.JobRun) -> dict[str, Any] | None:
    return _handlers[run.job.kind](run)


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Register a handler under a kind of its own for one test."""

    def register(kind: str, handler: Handler, queue: Job.Queue = Job.Queue.DEFAULT) -> None:
        monkeypatch.setitem(JOB_KINDS, kind, JobKind(kind, f"{__name__}.run_named", queue))
        monkeypatch.setitem(_handlers, kind, handler)

    yield register
    leases._stopping.clear()


def state_of(job: Job) -> JobState:
    return JobState(Job.objects.values_list("state", flat=True).get(pk=job.pk))


def let_lease_expire(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(lease_until=DatabaseNow(-1))


def nothing(run: jobs.JobRun) -> None:
    return None


# --- creating -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(JOB_KINDS))
def test_every_registered_kind_names_a_handler_that_can_be_imported(kind: str) -> None:
    assert callable(import_string(JOB_KINDS[kind].handler))


def test_a_job_and_its_message_are_made_together_and_a_rollback_leaves_neither(handles: Any) -> None:
    handles("probe", nothing)

    def create_and_fail() -> None:
        with transaction.atomic():
            jobs.job_create(kind="probe", payload={"n": 1})
            assert OutboxMessage.objects.count() == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        create_and_fail()
    assert (Job.objects.count(), OutboxMessage.objects.count()) == (0, 0)


def test_an_unknown_kind_is_refused_with_the_allowed_ones(handles: Any) -> None:
    with pytest.raises(InvalidInput, match=r"'fly'.*encode_images.*, import_catalogue"):
        jobs.job_create(kind="fly", payload={})
    assert Job.objects.count() == 0


def test_the_same_idempotency_key_gives_the_same_job_and_one_message(handles: Any) -> None:
    handles("probe", nothing)
    first = jobs.job_create(kind="probe", payload={"n": 1}, idempotency_key="k")
    second = jobs.job_create(kind="probe", payload={"n": 2}, idempotency_key="k")
    assert first.pk == second.pk
    assert second.payload == {"n": 1}
    assert OutboxMessage.objects.count() == 1


def test_an_idempotency_key_of_another_kind_is_a_conflict(handles: Any) -> None:
    handles("probe", nothing)
    handles("other", nothing)
    jobs.job_create(kind="probe", payload={}, idempotency_key="k")
    with pytest.raises(Conflict, match="belongs to a job of kind probe"):
        jobs.job_create(kind="other", payload={}, idempotency_key="k")
    assert Job.objects.count() == 1


def test_coalescing_joins_a_waiting_job_of_the_same_kind_and_payload_but_never_a_running_one(
    handles: Any,
) -> None:
    handles("probe", nothing)
    first = jobs.job_create(kind="probe", payload={}, coalesce=True)
    assert jobs.job_create(kind="probe", payload={}, coalesce=True).pk == first.pk
    assert jobs.job_create(kind="probe", payload={"n": 1}, coalesce=True).pk != first.pk
    leases.lease_claim(first.pk, owner="w1")
    assert jobs.job_create(kind="probe", payload={}, coalesce=True).pk != first.pk
    assert OutboxMessage.objects.count() == 3


# --- running ------------------------------------------------------------------------------------------------


def test_a_job_runs_once_and_keeps_a_json_safe_result(handles: Any) -> None:
    seen = []

    def work(run: jobs.JobRun) -> dict[str, Any]:
        seen.append(run.payload)
        run.progress(2, 4, "half way")
        return {"price": Decimal("1.50"), "count": 4}

    handles("probe", work)
    job = jobs.job_create(kind="probe", payload={"n": 1})

    assert jobs.job_run(job.pk, "w1") is True
    assert jobs.job_run(job.pk, "w2") is False

    job.refresh_from_db()
    assert seen == [{"n": 1}]
    assert (job.state, job.result, job.error) == (JobState.DONE, {"price": "1.50", "count": 4}, "")
    assert (job.done_count, job.total_count, job.message) == (4, 4, "half way")
    assert (job.attempts, job.fence, job.lease_owner, job.lease_until) == (1, 1, "", None)
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.started_at <= job.finished_at


def test_running_a_job_that_vanished_is_a_normal_end() -> None:
    assert jobs.job_run("00000000-0000-0000-0000-000000000000", "w1") is False


def test_a_live_lease_is_not_taken_and_an_expired_one_is_with_a_higher_fence(handles: Any) -> None:
    handles("probe", nothing)
    job = jobs.job_create(kind="probe", payload={})
    first = leases.lease_claim(job.pk, owner="w1")
    assert first is not None
    assert leases.lease_claim(job.pk, owner="w2") is None

    let_lease_expire(job)
    second = leases.lease_claim(job.pk, owner="w2")

    assert second is not None
    assert (first.fence, second.fence, second.attempts, second.lease_owner) == (1, 2, 2, "w2")


def test_a_workers_own_clock_does_not_decide_about_a_lease(
    handles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles("probe", nothing)
    job = jobs.job_create(kind="probe", payload={})
    leases.lease_claim(job.pk, owner="w1")
    now = database_now()
    monkeypatch.setattr("django.utils.timezone.now", lambda: now + timedelta(hours=2))
    monkeypatch.setattr("time.time", (now + timedelta(hours=2)).timestamp)
    assert leases.lease_claim(job.pk, owner="w2") is None


@pytest.mark.parametrize("write", ["save", "guard", "progress"])
def test_a_zombies_writes_are_refused_and_its_whole_transaction_rolls_back(handles: Any, write: str) -> None:
    handles("probe", nothing)
    job = jobs.job_create(kind="probe", payload={})
    claimed = leases.lease_claim(job.pk, owner="w1")
    assert claimed is not None
    zombie = jobs.JobRun(claimed)
    let_lease_expire(job)
    leases.lease_claim(job.pk, owner="w2")

    writes: dict[str, Callable[[], None]] = {
        "save": lambda: zombie.save({"row": 9}),
        "guard": zombie.guard,
        "progress": lambda: zombie.progress(9, 10),
    }

    @transaction.atomic
    def publish() -> None:
        Category.objects.create(name="Fruit", slug="fruit", path="Fruit")
        writes[write]()

    with pytest.raises(LeaseLost):
        publish()

    job.refresh_from_db()
    assert not Category.objects.exists()
    assert (job.checkpoint, job.done_count, job.lease_owner, job.state) == ({}, 0, "w2", JobState.RUNNING)


def test_a_zombie_that_finishes_late_leaves_the_other_workers_job_alone(handles: Any) -> None:
    def work(run: jobs.JobRun) -> dict[str, Any]:
        let_lease_expire(run.job)
        assert leases.lease_claim(run.job.pk, owner="w2") is not None
        return {"by": "zombie"}

    handles("probe", work)
    job = jobs.job_create(kind="probe", payload={})
    jobs.job_run(job.pk, "w1")
    job.refresh_from_db()
    assert (job.state, job.lease_owner, job.result) == (JobState.RUNNING, "w2", None)


def test_guard_outside_a_transaction_protects_nothing_and_says_so(
    handles: Any, transactional_db: None
) -> None:
    handles("probe", nothing)
    job = leases.lease_claim(jobs.job_create(kind="probe", payload={}).pk, owner="w1")
    assert job is not None
    with pytest.raises(RuntimeError, match="there is none"):
        jobs.JobRun(job).guard()


def test_the_heartbeat_keeps_the_lease_of_a_silent_handler_but_not_of_a_stalled_one(handles: Any) -> None:
    handles("probe", nothing)
    job = leases.lease_claim(jobs.job_create(kind="probe", payload={}).pk, owner="w1")
    assert job is not None
    run = jobs.JobRun(job)
    let_lease_expire(job)
    assert run.renew() is True
    job.refresh_from_db()
    assert job.lease_until is not None
    assert job.lease_until > database_now()

    let_lease_expire(job)
    run._last_heard -= leases.STALL_SECONDS + 1
    assert run.renew() is False
    assert leases.lease_claim(job.pk, owner="w2") is not None


def test_a_handler_learns_from_the_heartbeat_that_it_lost_the_lease(handles: Any) -> None:
    handles("probe", nothing)
    job = leases.lease_claim(jobs.job_create(kind="probe", payload={}).pk, owner="w1")
    assert job is not None
    run = jobs.JobRun(job)
    run.progress(1, 100)
    Job.objects.filter(pk=job.pk).update(fence=F("fence") + 1)
    run.renew()
    with pytest.raises(LeaseLost):
        run.progress(2, 100)


def test_a_retaken_job_goes_on_from_its_checkpoint(handles: Any) -> None:
    seen = []

    def work(run: jobs.JobRun) -> dict[str, Any]:
        start = run.checkpoint.get("row", 0)
        seen.append(start)
        if start == 0:
            with transaction.atomic():
                run.save({"row": 5})
            let_lease_expire(run.job)
            raise LeaseLost("as if the process had died here")
        return {"rows": start}

    handles("probe", work)
    job = jobs.job_create(kind="probe", payload={})
    jobs.job_run(job.pk, "w1")
    jobs.job_run(job.pk, "w2")
    job.refresh_from_db()
    assert seen == [0, 5]
    assert (job.state, job.result, job.fence) == (JobState.DONE, {"rows": 5}, 2)


# --- attempts -----------------------------------------------------------------------------------------------


def test_a_job_that_always_kills_its_worker_fails_after_the_allowed_attempts(
    handles: Any, settings: Any
) -> None:
    settings.JOB_MAX_ATTEMPTS = 3
    handles("probe", nothing)
    job = jobs.job_create(kind="probe", payload={})
    for _ in range(3):
        assert leases.lease_claim(job.pk, owner="w") is not None
        let_lease_expire(job)
    assert leases.lease_claim(job.pk, owner="w") is None

    assert leases.leases_settle() == 1

    job.refresh_from_db()
    assert (job.state, job.attempts) == (JobState.FAILED, 3)
    assert job.error == "given up after 3 attempts: each time the worker died or fell silent (WorkerLost)"


def test_a_step_forward_makes_the_attempts_count_anew_and_saving_the_same_again_does_not(
    handles: Any, settings: Any
) -> None:
    settings.JOB_MAX_ATTEMPTS = 2
    handles("probe", nothing)
    job = jobs.job_create(kind="probe", payload={})
    for row in range(5):  # five deaths, each after a step
        claimed = leases.lease_claim(job.pk, owner="w")
        assert claimed is not None
        jobs.JobRun(claimed).save({"row": row})
        let_lease_expire(job)
    claimed = leases.lease_claim(job.pk, owner="w")
    assert claimed is not None
    jobs.JobRun(claimed).save({"row": 4})
    let_lease_expire(job)
    assert leases.lease_claim(job.pk, owner="w") is None
    leases.leases_settle()
    assert state_of(job) == JobState.FAILED


def test_settling_leaves_live_waiting_and_retryable_jobs_alone(handles: Any) -> None:
    handles("probe", nothing)
    live, waiting, dead = (jobs.job_create(kind="probe", payload={}) for _ in range(3))
    leases.lease_claim(live.pk, owner="w")
    Job.objects.filter(pk=live.pk).update(attempts=3)
    leases.lease_claim(dead.pk, owner="w")
    let_lease_expire(dead)
    assert leases.leases_settle() == 0
    assert [state_of(job) for job in (live, waiting, dead)] == ["running", "queued", "running"]


# --- failing ------------------------------------------------------------------------------------------------


def failing_with(error: Exception) -> Handler:
    def work(run: jobs.JobRun) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InvalidInput("row 3 has no sku"), "row 3 has no sku (InvalidInput)"),
        (KeyError("sku"), "'sku' (KeyError)"),
        (ValueError("x" * 900), "x" * 500 + " (ValueError)"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "no space: free some on the disk, then retry (OSError)",
        ),
        (NoSpace("0 bytes left"), "no space: free some on the disk, then retry (NoSpace)"),
        (
            OperationalError("database or disk is full"),
            "no space: free some on the disk, then retry (OperationalError)",
        ),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "no space: free some on the disk, then retry (SafetensorError)",
        ),
    ],
)
def test_a_failing_handler_fails_the_job_at_once_with_a_short_reason(
    handles: Any, error: Exception, text: str
) -> None:
    handles("probe", failing_with(error))
    job = jobs.job_create(kind="probe", payload={})
    assert jobs.job_run(job.pk, "w1") is True
    job.refresh_from_db()
    assert (job.state, job.error, job.result, job.attempts) == (JobState.FAILED, text, None, 1)
    assert jobs.job_run(job.pk, "w1") is False


@pytest.mark.parametrize("result", [{"x": float("nan")}, {"x": object()}])
def test_a_result_that_is_not_json_fails_the_job_instead_of_being_stored(
    handles: Any, result: dict[str, Any]
) -> None:
    handles("probe", lambda _: result)
    job = jobs.job_create(kind="probe", payload={})
    jobs.job_run(job.pk, "w1")
    job.refresh_from_db()
    assert (job.state, job.result) == (JobState.FAILED, None)
    assert "JSON" in job.error


def test_a_passing_trouble_waits_for_another_attempt_and_fails_after_the_last(
    handles: Any, settings: Any
) -> None:
    settings.JOB_MAX_ATTEMPTS = 2
    handles("probe", failing_with(OperationalError("server closed the connection unexpectedly")))
    job = jobs.job_create(kind="probe", payload={})
    jobs.job_run(job.pk, "w1")
    assert state_of(job) == JobState.QUEUED
    assert OutboxMessage.objects.filter(job=job).count() == 2
    jobs.job_run(job.pk, "w1")
    job.refresh_from_db()
    assert (job.state, job.attempts) == (JobState.FAILED, 2)
    assert job.error == "server closed the connection unexpectedly (OperationalError)"


def test_a_stopping_worker_gives_the_job_back_with_its_checkpoint_and_no_attempt_spent(handles: Any) -> None:
    def work(run: jobs.JobRun) -> None:
        run.save({"row": 2})
        jobs.stop_running()
        run.progress(3, 4)
        raise AssertionError("a stopping worker must not go on")

    handles("probe", work)
    job = jobs.job_create(kind="probe", payload={})
    jobs.job_run(job.pk, "w1")
    job.refresh_from_db()
    assert (job.state, job.attempts, job.checkpoint, job.lease_owner) == (JobState.QUEUED, 0, {"row": 2}, "")
    assert OutboxMessage.objects.filter(job=job).count() == 2


def test_ctrl_c_in_a_command_gives_the_job_back_and_ends_the_command(handles: Any) -> None:
    def work(run: jobs.JobRun) -> None:
        raise KeyboardInterrupt

    handles("probe", work)
    job = jobs.job_create(kind="probe", payload={})
    with pytest.raises(KeyboardInterrupt):
        jobs.job_run_here(job)
    assert state_of(job) == JobState.QUEUED


# --- cancel and retry ---------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once_and_never_runs(handles: Any) -> None:
    handles("probe", failing_with(AssertionError("must not run")))
    job = jobs.job_create(kind="probe", payload={})
    assert jobs.job_cancel(job).state == JobState.CANCELLED
    assert jobs.job_cancel(job).state == JobState.CANCELLED
    assert jobs.job_run(job.pk, "w1") is False
    job.refresh_from_db()
    assert (job.attempts, job.error) == (0, "")
    assert job.finished_at is not None


def test_a_running_job_is_cancelled_at_its_next_progress(handles: Any) -> None:
    def work(run: jobs.JobRun) -> None:
        run.progress(1, 2)
        assert jobs.job_cancel(run.job).state == JobState.RUNNING
        with pytest.raises(JobCancelled):
            run.progress(2, 2)
        run.progress(2, 2)

    handles("probe", work)
    job = jobs.job_create(kind="probe", payload={})
    jobs.job_run(job.pk, "w1")
    job.refresh_from_db()
    assert (job.state, job.done_count, job.result) == (JobState.CANCELLED, 1, None)


def test_a_job_cancelled_while_its_worker_was_dead_is_settled_and_not_run_again(handles: Any) -> None:
    handles("probe", failing_with(AssertionError("must not run")))
    job = jobs.job_create(kind="probe", payload={})
    leases.lease_claim(job.pk, owner="w1")
    jobs.job_cancel(job)
    let_lease_expire(job)
    assert jobs.job_run(job.pk, "w2") is False
    assert leases.leases_settle() == 1
    assert state_of(job) == JobState.CANCELLED


def test_a_finished_job_cannot_be_cancelled(handles: Any) -> None:
    handles("probe", nothing)
    job = jobs.job_create(kind="probe", payload={})
    jobs.job_run(job.pk, "w1")
    with pytest.raises(Conflict, match="is done"):
        jobs.job_cancel(job)
    job.refresh_from_db()
    assert (job.state, job.cancel_requested) == (JobState.DONE, False)


def test_a_retry_is_a_new_job_with_the_checkpoint_and_asking_twice_makes_one(handles: Any) -> None:
    user = User.objects.create_user("operator")

    def work(run: jobs.JobRun) -> dict[str, Any]:
        if not run.checkpoint:
            run.save({"row": 7})
            raise InvalidInput("no more")
        return {"from": run.checkpoint["row"]}

    handles("probe", work)
    job = jobs.job_create(kind="probe", payload={"n": 1}, subject="a folder", idempotency_key="k")
    jobs.job_run(job.pk, "w1")

    again = jobs.job_retry(job, user)
    assert jobs.job_retry(job, user).pk == again.pk
    jobs.job_run(again.pk, "w1")

    again.refresh_from_db()
    assert (again.state, again.result, again.retry_of_id) == (JobState.DONE, {"from": 7}, job.pk)
    assert (again.payload, again.subject, again.created_by) == ({"n": 1}, "a folder", user)
    assert state_of(job) == JobState.FAILED
    assert Job.objects.count() == 2


def test_a_job_that_is_not_over_cannot_be_retried(handles: Any) -> None:
    handles("probe", nothing)
    job = jobs.job_create(kind="probe", payload={})
    with pytest.raises(Conflict, match="is queued"):
        jobs.job_retry(job, None)
    assert Job.objects.count() == 1


# --- single flight ------------------------------------------------------------------------------------------


def test_a_second_training_waits_and_is_woken_when_the_first_ends(handles: Any) -> None:
    handles("train", nothing, Job.Queue.TRAINING)
    first = jobs.job_create(kind="train", payload={"n": 1})
    second = jobs.job_create(kind="train", payload={"n": 2})
    claimed = leases.lease_claim(first.pk, owner="w1")
    assert claimed is not None

    assert jobs.job_run(second.pk, "w2") is False
    second.refresh_from_db()
    assert (second.state, second.attempts, second.fence) == (JobState.QUEUED, 0, 0)

    jobs._finish(jobs.JobRun(claimed), JobState.DONE)
    assert OutboxMessage.objects.filter(job=second).count() == 2
    assert jobs.job_run(second.pk, "w2") is True
    assert state_of(second) == JobState.DONE


# --- for people ---------------------------------------------------------------------------------------------


def test_eta_is_the_pace_so_far_times_what_is_left(handles: Any) -> None:
    handles("probe", nothing)
    job = jobs.job_create(kind="probe", payload={}, total=100)
    assert jobs.eta_seconds(job) is None
    claimed = leases.lease_claim(job.pk, owner="w1")
    assert claimed is not None
    assert claimed.started_at is not None
    claimed.done_count = 25
    assert jobs.eta_seconds(claimed, claimed.started_at + timedelta(seconds=10)) == pytest.approx(30.0)
    claimed.state = JobState.DONE
    assert jobs.eta_seconds(claimed) is None


def test_a_command_runs_the_job_itself_and_sees_every_step(handles: Any) -> None:
    def work(run: jobs.JobRun) -> dict[str, Any]:
        for done in (1, 2, 3):
            run.progress(done, 3, f"row {done}")
        return {"rows": 3}

    handles("probe", work)
    steps: list[tuple[int, int, str]] = []
    job = jobs.job_create(kind="probe", payload={})
    finished = jobs.job_run_here(job, lambda *step: steps.append(step))
    assert steps == [(1, 3, "row 1"), (2, 3, "row 2"), (3, 3, "row 3")]
    assert (finished.state, finished.result) == (JobState.DONE, {"rows": 3})
