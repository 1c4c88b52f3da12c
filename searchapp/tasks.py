"""The Celery side of jobs: a message carries an id, the service does the rest."""

from celery import shared_task
from celery.signals import worker_shutting_down

from searchapp.enqueue import TASK_NAME
from searchapp.services import jobs


@shared_task(name=TASK_NAME)
def run_job(*, job_id: str) -> None:
    jobs.job_run(job_id, jobs.owner_name())


@worker_shutting_down.connect
def stop_jobs(**_: object) -> None:
    jobs.stop_running()
