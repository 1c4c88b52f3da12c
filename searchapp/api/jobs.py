"""Background work as its starter, or staff, see it."""

from uuid import UUID

from django.core.exceptions import PermissionDenied

from searchapp.api import documents
from searchapp.api.base import ApiView, Request, Response
from searchapp.api.resources import job_resource
from searchapp.api.schema import operation
from searchapp.exceptions import NotFound
from searchapp.job_kinds import may_steer
from searchapp.models import Job
from searchapp.services import jobs


class JobAccess(ApiView):
    """Staff see every job, others the ones they started. Somebody else's is 404, as if it did not exist."""

    def job(self, job_id: UUID) -> Job:
        mine = Job.objects.all() if self.is_staff else Job.objects.filter(created_by=self.request.user.pk)
        found = mine.filter(pk=job_id).first()
        if found is None:
            raise NotFound(f"There is no job {job_id}.")
        return found

    def job_to_steer(self, job_id: UUID) -> Job:
        """The job, for a caller who may cancel and retry its kind; others are told that they may not."""
        found = self.job(job_id)
        if not may_steer(self.role, found.kind):
            raise PermissionDenied("Only operators may do this with jobs that concern model versions.")
        return found


class JobView(JobAccess):
    @operation("job_read", "A job's state and progress", answers={200: documents.Job}, errors=(404,))
    def get(self, request: Request, job_id: UUID) -> Response:  # noqa: ARG002
        return Response(job_resource(self.job(job_id)))


class JobCancelView(JobAccess):
    """A waiting job ends at once, a running one at its next step. Cancelling twice changes nothing."""

    parser_classes = ()

    @operation("job_cancel", "Cancel a job", answers={200: documents.Job}, errors=(404, 409))
    def post(self, request: Request, job_id: UUID) -> Response:  # noqa: ARG002
        return Response(job_resource(jobs.job_cancel(self.job_to_steer(job_id), self.person)))


class JobRetryView(JobAccess):
    """A new job that goes on where a failed or cancelled one stopped. Asked twice, it is the same one."""

    parser_classes = ()

    @operation("job_retry", "Retry a job", answers={202: documents.Job}, errors=(404, 409))
    def post(self, request: Request, job_id: UUID) -> Response:  # noqa: ARG002
        return accepted(jobs.job_retry(self.job_to_steer(job_id), self.person))


def accepted(job: Job) -> Response:
    """202 for work that goes on in the background, and where to ask how far it is."""
    return Response(job_resource(job), status=202, headers={"Location": f"/api/v1/jobs/{job.pk}"})
