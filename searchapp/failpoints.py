"""Named places where a fault test may kill the process. Inert unless the settings of a test run allow them.

PERENNIAL_FAILPOINT="import.after_chunk_commit:3" kills the process with SIGKILL the third time it passes that
point. With PERENNIAL_FAILPOINT_MARKER=FILE it happens once only, however often the process is started again.
"""

import os
import signal
from collections import Counter

from django.conf import settings

_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    wanted = os.environ.get("PERENNIAL_FAILPOINT", "")
    if not wanted or not getattr(settings, "FAILPOINTS", False):
        return
    wanted_name, _, count = wanted.partition(":")
    if name != wanted_name:
        return
    _passed[name] += 1
    if _passed[name] == int(count or 1) and _is_first_time():
        os.kill(os.getpid(), signal.SIGKILL)


def _is_first_time() -> bool:
    marker = os.environ.get("PERENNIAL_FAILPOINT_MARKER", "")
    if not marker:
        return True
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
