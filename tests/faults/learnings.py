"""A small shop of real photos to which categories come, and what must be true however learning them went."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from ml.data.reserved import load_reserved
from tests.searchapp.trainings import class_photos
from tests.system import Mode, System
from tests.system_checks import system_in

STOCK, EACH, CLASSES = 3, 12, 69  # categories known from the start, photos of each class, classes at hand
UNSEEN = 57  # from this number on, no shipped weights have seen the class
# A learning takes seconds and dies often here, so each death may be noticed sooner than the default would.
QUICK = {"JOB_LEASE_SECONDS": "2"}
LEARNINGS = "FROM searchapp_job WHERE kind = 'learn_categories'"
ENDED = "state IN ('done', 'failed', 'cancelled')"
IMPORT_AND_ASK = """
import sys
from django.core.management import call_command
from searchapp.models import Category
from searchapp.services import learning
call_command("import_catalogue", {folder!r}, "--wait", stdout=sys.stderr)
slugs = list(Category.objects.filter(name__in={names!r}).values_list("slug", flat=True))
if {is_asked!r}:
    learning.learn_start(user=None, categories=slugs)
"""
# What is asked of a shop, in one process: the gallery, the audit's verdict, the statistics against the oracle.
LOOK = """
import io, json
import numpy as np
from django.core.management import CommandError, call_command
from searchapp.models import AuditEvent, CodeTally, ModelVersion
from searchapp.services import code_statistics as counted, gallery_dump, versions
from searchapp.services.category_labels import label_sets
version = versions.default_version_ensure()
sets = label_sets(sorted(CodeTally.objects.values_list("category", flat=True)), [])[2]
kept = counted.statistics_of(version.lineage, sets, version.code_bits)
told = counted.recounted(version.lineage, sets, version.code_bits)
out, problem = io.StringIO(), ""
try:
    call_command("index_audit", "--json", stdout=out)
except CommandError as error:
    problem = f"{error}: {out.getvalue()}"
print(json.dumps({
    "entries": [" ".join(row) for row in gallery_dump.rows()],
    "audit": problem,
    "is_as_recounted": kept.items_of_sets() == told.items_of_sets() and np.array_equal(kept.gram, told.gram)
    and all(np.array_equal(kept.tallies[key].code_sum, told.tallies[key].code_sum) for key in told.tallies),
    "changed": len(counted.codes_check(version.lineage).changed),
    "in_use": version.name,
    "registries": {v.name: v.label_registry for v in ModelVersion.objects.order_by("major", "minor")},
    "events": AuditEvent.objects.filter(action="categories.learn").count(),
}))
"""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a shop found. entries: a line each of photo, SKU, version, provenance and code."""

    entries: frozenset[str]
    audit: str
    is_as_recounted: bool
    changed: int
    in_use: str
    registries: dict[str, list[str]]
    events: int


def shop(mode: Mode, packs: Path, *, data: Path | None = None, **environment: str) -> System:
    """A system that is prepared and stocked, and not started. `data`: where its DATA_DIR is to be."""
    system = system_in(mode, **{**QUICK, **environment})
    if data is not None:
        system.data, system.env["DATA_DIR"] = data, str(data)
    try:
        system.prepare()
        come(system, packs, range(STOCK), is_asked=False)
    except BaseException:
        system.close()
        raise
    return system


def photos_by_class(packs: Path) -> dict[str, list[bytes]]:
    """EACH photos of every class, those last that no shipped weights have seen."""
    found, reserved = class_photos(packs, CLASSES, EACH), load_reserved()
    return {
        name: found[name] for name in sorted(found, key=lambda name: reserved.is_reserved("grocery", name))
    }


def come(system: System, packs: Path, numbers: Sequence[int], *, is_asked: bool = True) -> list[str]:
    """Import classes of the pack, encoded by the import itself; `is_asked`: and a job that learns these alone.

    Returns their slugs.
    """
    photos = photos_by_class(packs)
    names = [list(photos)[number] for number in numbers]
    folder = system.folder / f"classes-{min(numbers)}-{max(numbers)}"
    for name in names:
        (folder / name).mkdir(parents=True)
        for number, photo in enumerate(photos[name]):
            (folder / name / f"{number}.jpg").write_bytes(photo)
    system.python(IMPORT_AND_ASK.format(folder=str(folder), names=names, is_asked=is_asked))
    return [name.lower() for name in names]


def looked(system: System) -> Look:
    found = json.loads(system.python(LOOK))
    return Look(**{**found, "entries": frozenset(found["entries"])})


def learnings(system: System) -> list[tuple[Any, ...]]:
    """(state, error, fence) of each learning job, in their order."""
    return system.rows(f"SELECT state, error, fence {LEARNINGS} ORDER BY created_at")


def learning_address(system: System) -> str:
    """Where the API has the only learning job."""
    return f"/api/v1/jobs/{UUID(system.value(f'SELECT CAST(id AS text) {LEARNINGS}'))}"


def wait_until_ended(system: System, *, jobs: int = 1, seconds: float = 240) -> float:
    ended = f"SELECT count(*) {LEARNINGS} AND {ENDED}"
    return system.wait_until(lambda: system.value(ended) == jobs, f"{jobs} learnings to end", seconds=seconds)


def live_deployments(system: System) -> int:
    found: int = system.value("SELECT count(*) FROM searchapp_deployment WHERE ended_at IS NULL")
    return found


def check_learned(system: System, before: Look, slugs: Sequence[str], *, photos: int | None = None) -> Look:
    """Learned exactly once since `before`: one version more, which is in use and knows `slugs`; one entry more for each
    new photo and no other touched; all clean. Returns what is there now."""
    now = looked(system)
    gone = before.entries - now.entries
    assert not gone, f"{len(gone)} of {len(before.entries)} entries are gone or changed: {min(gone)}"
    added = len(now.entries) - len(before.entries)
    assert added == (len(slugs) * EACH if photos is None else photos)
    newest = list(now.registries)[-1]
    assert len(now.registries) == len(before.registries) + 1
    assert (now.in_use, live_deployments(system)) == (newest, 1)
    assert all(line.split()[2] == newest for line in now.entries - before.entries)
    parent, registry = before.registries[before.in_use], now.registries[newest]
    assert registry[: len(parent)] == parent
    assert set(slugs) <= set(registry) - set(parent)
    assert {name: now.registries[name] for name in before.registries} == before.registries
    assert now.events == before.events + 1
    check_clean(system, now)
    return now


def check_unchanged(system: System, before: Look) -> None:
    """Nothing was learned and nothing touched. Counting codes that were there is no change."""
    now = looked(system)
    assert (now.entries, now.registries, now.in_use, now.events) == (
        before.entries,
        before.registries,
        before.in_use,
        before.events,
    )
    check_clean(system, now)


def check_clean(system: System, look: Look) -> None:
    assert (look.audit, look.is_as_recounted, look.changed) == ("", True, 0)
    assert leftovers(system) == []


def leftovers(system: System) -> list[str]:
    """Folders of trainings that are over, bundles that belong to no version, and dead writers' temporary names."""
    known = {digest for (digest,) in system.rows("SELECT digest FROM searchapp_modelversion")}
    found = [*(system.data / "training").glob("*")]
    found += [path for path in (system.data / "models").glob("*") if path.name not in known]
    return sorted(str(path.relative_to(system.data)) for path in found)


def wait_for_stage(system: System, *stages: str) -> None:
    def is_there() -> bool:
        rows = system.rows(f"SELECT checkpoint {LEARNINGS} AND state = 'running'")
        found = [json.loads(row[0]) if isinstance(row[0], str) else row[0] for row in rows]
        return any(checkpoint.get("stage") in stages for checkpoint in found)

    system.wait_until(is_there, f"a learning at {stages}", seconds=120)


def learning_part(system: System) -> str:
    """The part whose death takes the learning worker with it."""
    return "serve" if system.mode == "embedded" else "trainer"


def learning_part_kill(system: System) -> None:
    """kill -9 of the whole server, or of the whole learning worker."""
    if system.mode == "embedded":
        system.kill()
    else:
        system.kill_part("trainer")


verdict = functools.partial(json.dumps, separators=(", ", ": "))


STAFF = """
import json
from django.contrib.auth.models import User
from django.test import Client
from searchapp.services import api_keys
found = []
for number in range({count}):
    user = User.objects.create_superuser(f"staff-{{number}}")
    client = Client()
    client.force_login(user)
    found.append([client.cookies["sessionid"].value, api_keys.key_create(user=user, name="fault test")[1]])
print(json.dumps(found))
"""
CSRF = "t" * 32


def staff(system: System, count: int = 1) -> list[httpx.Client]:
    """So many people signed in to the admin pages, each with a key for the API as well."""
    signed_in = json.loads(system.python(STAFF.format(count=count)))
    return [
        httpx.Client(
            base_url=system.base_url,
            timeout=120,
            headers={"Cookie": f"sessionid={session}; csrftoken={CSRF}", "X-CSRFToken": CSRF},
            event_hooks={"request": [functools.partial(_with_key, key)]},
        )
        for session, key in signed_in
    ]


def _with_key(key: str, request: httpx.Request) -> None:
    if request.url.path.startswith("/api/"):
        request.headers["Authorization"] = f"Key {key}"


def category_sent(client: httpx.Client, packs: Path, number: int, *, photos: int) -> tuple[str, str]:
    """A class of the pack sent with photos through the form for new categories: its slug, and its page's address."""
    found = photos_by_class(packs)
    name = list(found)[number]
    files = [("photos", (f"{n}.jpg", photo, "image/jpeg")) for n, photo in enumerate(found[name][:photos])]
    fields = {"name": name, "parent": "", "vertical": "product", "tag_names": "", "products": "each"}
    answer = client.post("/admin/searchapp/category/add/", data=fields, files=files)
    assert answer.status_code == 302, answer.text[:3000]
    return name.lower(), answer.headers["Location"]


def photo_of(packs: Path, number: int, which: int = 0) -> bytes:
    return list(photos_by_class(packs).values())[number][which]
