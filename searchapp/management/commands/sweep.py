"""`manage.py sweep`: publishes what the outbox holds and what was lost, ends trials that break their rule, removes
leftovers, and starts what is due."""

import logging
import signal
import threading
import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection

from searchapp.services import (
    alerting,
    canary_watch,
    drift_watch,
    leftovers,
    outbox,
    quality_watch,
    savings,
    sweeping,
    versions,
)

RELAY_SECONDS = 0.25
LEFTOVER_SECONDS = 600.0
WATCH_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Relay the outbox and sweep for lost jobs, until stopped."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="one pass of everything, then exit")
        parser.add_argument("--check", action="store_true", help="exit 0 when database and broker answer")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["check"]:
            self._check()
        elif options["once"]:
            sweeping.sweep_once()
            canary_watch.canaries_check()
            outbox.relay_all()
            leftovers.leftovers_remove()
        else:
            self._loop()

    def _check(self) -> None:
        problem = outbox.problem()
        if problem:
            raise CommandError(problem)

    def _loop(self) -> None:
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        next_sweep = next_leftovers = 0.0
        next_watch = time.monotonic() + WATCH_SECONDS
        is_shipped_known = False
        while not stop.wait(RELAY_SECONDS):
            now = time.monotonic()
            try:
                if not is_shipped_known:
                    versions.shipped_candidate_ensure()
                    is_shipped_known = True
                if now >= next_sweep:
                    next_sweep = now + settings.SWEEP_SECONDS
                    sweeping.sweep_once()
                    canary_watch.canaries_check()
                outbox.relay_all()
                if now >= next_leftovers:
                    next_leftovers = now + LEFTOVER_SECONDS
                    leftovers.leftovers_remove()
                if now >= next_watch:
                    next_watch = now + WATCH_SECONDS
                    drift_watch.watch_if_due()
                    savings.pace_if_due()
                    quality_watch.watch_if_due()
                    alerting.alerts_retry()
            except DatabaseError as error:
                logger.warning("the database does not answer (%s), trying again", error)
                connection.close()
                stop.wait(1.0)
