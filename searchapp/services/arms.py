"""One arm: a version, how it sees the gallery and what its similarities mean; loaded, tried, kept up with the rows."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ml.protocol import Calibration, Encoder
from ml.retrieval.two_stage import QueryVectors, search
from ml.retrieval.view import GalleryView
from ml.text_encoder import TextWeights
from searchapp.models import Deployment, ModelVersion
from searchapp.services import snapshots, versions
from searchapp.services.arm_choice import Portion, portion_followed, portion_of
from searchapp.services.corrected_views import view_corrected
from searchapp.services.gallery_views import engine_for, view_followed, view_rebuilt

# A view folds its delta into its base when the delta has grown to this share of it (and this many rows).
COMPACT_SHARE = 0.1
COMPACT_FROM_ROWS = 5000
UNDEPLOYED = 0  # the deployment of an arm that is only tried

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer. words: what puts a text into its code space; None while it has learned none.

    corrector_digest: through which corrector its view sees entries of other trunks; "" for none. portion: the queries
    of a candidate; None for the champion.
    """

    name: str
    deployment_id: int
    version: ModelVersion
    encoder: Encoder
    view: GalleryView
    calibrations: Mapping[str, Calibration]
    words: TextWeights | None = None
    corrector_digest: str = ""
    portion: Portion | None = None


def arm_loaded(deployment: Deployment, until: int, beside: Iterable[Arm] = ()) -> Arm:
    """The arm of a live deployment at change `until`, tried with one query.

    beside: arms of this process at `until`; one that sees the same gallery lends all it has.
    """
    version, corrector_digest = deployment.version, deployment.view.corrector_digest
    portion = portion_of(deployment)
    for other in beside:
        if (other.version, other.corrector_digest) == (version, corrector_digest):
            return replace(other, name=deployment.arm, deployment_id=deployment.pk, portion=portion)
    started = time.monotonic()
    arm, sequence = arm_opened(version, corrector_digest)
    arm = arm_followed(arm, sequence, until)
    seconds = time.monotonic() - started
    logger.info("%s %s loaded: %d entries, %.2f s", deployment.arm, version, len(arm.view), seconds)
    snapshots.snapshot_job_ensure_if_due(version, entries=len(arm.view))
    return replace(arm, name=deployment.arm, deployment_id=deployment.pk, portion=portion)


def arm_tried(version: ModelVersion, corrector_digest: str = "") -> Arm:
    """`version` as it would serve now, after one query. Raises what would go wrong then.

    A view that is long to build is left as a snapshot, from which every process has it at once.
    """
    has_snapshot = bool(snapshots.snapshots_of(version))
    arm, _ = arm_opened(version, corrector_digest)
    if not has_snapshot and len(arm.view) >= snapshots.WORTHWHILE_FROM:
        snapshots.snapshot_write(version)
    return arm


def arm_followed(arm: Arm, since: int, until: int) -> Arm:
    """`arm` at `until`; rebuilt from rows when the changes in between are not all there any more."""
    if since >= until:
        return arm
    view = view_followed(
        arm.view, arm.version, since=since, until=until, corrector_digest=arm.corrector_digest
    )
    if view is None:
        view, _ = view_rebuilt(
            arm.version, engine=engine_for(arm.version), corrector_digest=arm.corrector_digest
        )
    elif view.changed_rows > max(COMPACT_FROM_ROWS, COMPACT_SHARE * len(view)):
        view = view.compacted()
        snapshots.snapshot_job_ensure_if_due(arm.version, entries=len(view))
    arm = replace(arm, view=view, portion=portion_followed(arm.portion))
    if view.pools.keys() <= arm.calibrations.keys():
        return arm
    return replace(arm, calibrations=_calibrations(arm.version, arm.corrector_digest))


def _prewarm(arm: Arm) -> None:
    """One whole query, so that the first shopper does not pay for it and a broken arm fails before it serves."""
    grey = np.full((1, arm.encoder.input_size, arm.encoder.input_size, 3), 127, np.uint8)
    encoded = arm.encoder.encode(grey)
    vectors = QueryVectors(encoded.packed_codes[0], encoded.embeddings[0])
    search(arm.view, vectors, k=1, calibrations=arm.calibrations)
    if arm.words is not None:
        arm.words.encode(["grey"])


def arm_opened(version: ModelVersion, corrector_digest: str) -> tuple[Arm, int]:
    """From the newest good snapshot, else from rows, after one query; and the number of the last change it holds."""
    bundle = versions.bundle_of(version)
    loaded = snapshots.view_loaded(version)
    if loaded is None:
        view, sequence = view_rebuilt(version, engine=engine_for(version), corrector_digest=corrector_digest)
    else:
        view, sequence = view_corrected(loaded[0], version, corrector_digest), loaded[1]
    arm = Arm(
        name=Deployment.Arm.CANDIDATE,
        deployment_id=UNDEPLOYED,
        version=version,
        encoder=versions.encoder_of(version),
        view=view,
        calibrations=versions.calibrations_of(version, bundle, corrector_digest=corrector_digest),
        words=bundle.text_encoder(),
        corrector_digest=corrector_digest,
    )
    _prewarm(arm)
    return arm, sequence


def _calibrations(version: ModelVersion, corrector_digest: str) -> Mapping[str, Calibration]:
    bundle = versions.bundle_of(version)
    return versions.calibrations_of(version, bundle, corrector_digest=corrector_digest)
