"""Registers a bundle from outside as a candidate: the handler of "import_version".

Its weights must fit the architecture, and its graph must be the very program that this release makes of them. One that
was trained to find what a version of ours stored joins that version's lineage; any other begins a lineage of its own.
Whether it is good enough is for the gates to say, before it is put in use.
"""

from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.db import IntegrityError, transaction

from ml.artifacts import Bundle, BundleError, Manifest
from ml.base_version.candidate import NOTE, moved_degrees
from ml.base_version.increment import PARENT
from ml.models.agreement import check_graph, check_weights
from searchapp.exceptions import Conflict, InvalidInput, LeaseLost
from searchapp.models import Category, ModelVersion
from searchapp.services import versions
from searchapp.services.audit import event_record
from searchapp.services.import_uploads import import_source_path, import_upload_remove
from searchapp.services.jobs import JobRun
from searchapp.services.version_intake import bundle_opened, check_new, refused

IMPORTED = "imported"  # the origin in a version's manifest
STEPS = 3
PROBES, SEED = 4, 0


def version_import_run(run: JobRun) -> dict[str, Any]:
    """Check, store, register. What is refused leaves no file, and nothing that serves is touched in any case."""
    if "version" in run.checkpoint:  # killed between the registration and the last word
        return dict(run.checkpoint)
    source = str(run.payload["source"])
    try:
        run.progress(0, STEPS, "checking the files")
        workspace = Path(settings.IMPORT_DIR) / f"{run.job.pk}.{run.job.fence}"
        with bundle_opened(import_source_path(source), workspace) as bundle:
            check_new(bundle)
            run.progress(1, STEPS, "comparing the graph with the weights")
            encoder_check(bundle)
            run.progress(2, STEPS, "registering it")
            result = _registered(run, bundle)
    except (InvalidInput, Conflict):
        if run.held().exists():  # an attempt that lost its claim finds its files gone; the new one needs them
            import_upload_remove(source)
        raise
    import_upload_remove(source)
    return result


def encoder_check(bundle: Bundle) -> None:
    """Raise InvalidInput unless weights and graph are one encoder of the architecture the manifest names, which gives
    finite numbers."""
    config = bundle.manifest.encoder_config
    try:
        moved_degrees(bundle)
        check_weights(config, bundle.weights)
        check_graph(bundle.graph, config, bundle.weights)
        bundle.feature_encoder()
        outputs = bundle.encoder().outputs(_probes(config.input_size))
    except (BundleError, ValueError) as error:
        raise refused(str(error).replace(f"{bundle.path}/", "")) from error
    if not all(np.isfinite(values).all() for values in outputs):
        raise refused("its encoder gives values that are no numbers")


def _probes(side: int) -> Any:
    """Black, white, and noise: what an encoder must have a finite answer to."""
    noise = np.random.default_rng(SEED).integers(0, 256, (PROBES - 2, side, side, 3), dtype=np.uint8)
    black = np.zeros((1, side, side, 3), np.uint8)
    return np.concatenate([black, ~black, noise])


def _registered(run: JobRun, bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    versions.bundle_store(bundle.path)
    try:
        with transaction.atomic():
            run.guard()
            version = _row(run, manifest)
            result = {
                "version": version.name,
                "digest": version.digest,
                "parent": version.parent.name if version.parent else None,
                "words": words_of(version),
            }
            run.save(result)
    except IntegrityError as error:
        versions.bundle_drop(manifest.digest)
        raise Conflict("Another version was registered at the same moment; import this one again.") from error
    except LeaseLost:  # whoever has the job now may be about to register these very files
        raise
    except BaseException:
        versions.bundle_drop(manifest.digest)
        raise
    return result


def _row(run: JobRun, manifest: Manifest) -> ModelVersion:
    parent = parent_of(manifest)
    version = versions.base_version_register(
        manifest, parent=parent, labels=_labels_of(manifest, parent), user=run.job.created_by
    )
    version.manifest["origin"] = IMPORTED
    version.save(update_fields=["manifest"])
    event_record(
        action="version.import",
        actor=run.job.created_by,
        subject=f"version {version.name}",
        after={
            "version": version.name,
            "digest": version.digest,
            "parent": parent.name if parent else None,
            "parent_digest": parent.digest if parent else None,
            "method": version.method,
            "architecture": version.architecture,
        },
    )
    return version


def parent_of(manifest: Manifest) -> ModelVersion | None:
    """The version here that the bundle says it was held to, or calibrated for, if their codes and embeddings are of
    one size; None for one that begins a lineage."""
    note = manifest.training.get(NOTE)
    named = [note.get("parent") if isinstance(note, dict) else None, manifest.training.get(PARENT)]
    same_size = ModelVersion.objects.filter(code_bits=manifest.code_bits, dimension=manifest.dimension)
    known = {
        version.digest: version
        for version in same_size.filter(
            digest__in=[name for name in (*named, *manifest.calibration) if isinstance(name, str)]
        )
    }
    for digest in named:
        if isinstance(digest, str) and digest in known:
            return known[digest]
    return max(known.values(), key=lambda version: (version.major, version.minor), default=None)


def words_of(version: ModelVersion) -> str:
    """What may be done with a version that has just come in."""
    if version.parent is not None:
        return (
            f"{version.name} was made to find what {version.parent.name} stored. It is a candidate: "
            "measure it, then decide."
        )
    return (
        f"{version.name} cannot search what other versions stored. Before it can be put in use, every photo must be "
        f"encoded by it: manage.py encode_missing --model-version {version.name}."
    )


def _labels_of(manifest: Manifest, parent: ModelVersion | None) -> list[str]:
    """Categories here that it has learned: those its parent knew in the parent's order, then others it names."""
    here = set(Category.objects.values_list("slug", flat=True)) & set(manifest.labels)
    first = [slug for slug in (parent.label_registry if parent else []) if slug in here]
    return [*first, *sorted(here - set(first))]
