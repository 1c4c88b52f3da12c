"""The Celery application. A message carries a job id and nothing else; the Job row is the work."""

import ml.threads  # noqa: F401  isort: skip

import os

from celery import Celery
from kombu import Queue

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "searchapp.settings.dev")

app = Celery("searchapp")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.task_queues = [Queue("default"), Queue("training")]
app.autodiscover_tasks(["searchapp"])
