"""A job run or followed by a command, with a bar on standard error."""

from django.core.management.base import OutputWrapper
from tqdm import tqdm

from searchapp.models import Job
from searchapp.services.jobs import job_run_here


def job_followed(job: Job, words: str, stderr: OutputWrapper) -> Job:
    """The job, finished. `words` stand before the bar."""
    with tqdm(desc=words, unit="‰", leave=False, file=stderr._out) as bar:  # noqa: SLF001

        def show(done: int, total: int, message: str) -> None:
            bar.total = total
            bar.set_postfix_str(message, refresh=False)
            bar.update(done - bar.n)

        return job_run_here(job, show)
