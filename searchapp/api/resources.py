"""Rows as the JSON that callers see. Plain functions: a list of fifty items needs no machinery."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.conf import settings

from searchapp.models import Category, Item, ItemImage, Job, ModelVersion
from searchapp.services.jobs import eta_seconds


def item_resource(item: Item, *, is_staff: bool) -> dict[str, Any]:
    """Staff also see whether an item can be found, and why not."""
    resource = {
        "sku": item.sku,
        "title": item.title,
        "description": item.description,
        "category": item.category.path,
        "category_slug": item.category.slug,
        "vertical": item.category.vertical,
        "tags": [tag.name for tag in item.tags.all()],
        "price": None if item.price is None else str(item.price),
        "currency": item.currency,
        "url": item.url,
        "address": item.address,
        "latitude": item.latitude,
        "longitude": item.longitude,
        "images": [image_resource(image, is_staff=is_staff) for image in item.images.all()],
        "created_at": _time(item.created_at),
        "updated_at": _time(item.updated_at),
    }
    if is_staff:
        resource["state"] = getattr(item, "state", None)
    return resource


def image_resource(image: ItemImage, *, is_staff: bool) -> dict[str, Any]:
    resource = {
        "id": image.pk,
        "image": settings.MEDIA_URL + image.path,
        "thumbnail": settings.MEDIA_URL + image.thumbnail,
        "width": image.width,
        "height": image.height,
        "colour": image.colour,
        "alt": image.alt,
    }
    if is_staff:
        resource |= {"state": getattr(image, "state", None), "failure": image.failure}
    return resource


def category_resource(category: Category, learned: Collection[str]) -> dict[str, Any]:
    """`learned`: slugs that the version in use has learned."""
    return {
        "slug": category.slug,
        "name": category.name,
        "path": category.path,
        "parent": category.parent.slug if category.parent else None,
        "vertical": category.vertical,
        "items": getattr(category, "item_count", 0),
        "waits": category.learn_asked_at is not None and category.slug not in learned,
    }


def job_resource(job: Job) -> dict[str, Any]:
    return {
        "id": str(job.pk),
        "kind": job.kind,
        "subject": job.subject,
        "state": job.state,
        "progress": round(job.progress, 4),
        "eta_seconds": eta_seconds(job),
        "message": job.message,
        "result": job.result,
        "error": job.error,
        "attempts": job.attempts,
        "cancel_requested": job.cancel_requested,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at),
        "finished_at": _time(job.finished_at),
    }


def version_resource(version: ModelVersion) -> dict[str, Any]:
    live = [deployment for deployment in version.deployments.all() if deployment.ended_at is None]
    return {
        "version": version.name,
        "digest": version.digest,
        "parent": version.parent.name if version.parent else None,
        "lineage": str(version.lineage),
        "method": version.method,
        "architecture": version.architecture,
        "code_bits": version.code_bits,
        "dimension": version.dimension,
        "size_bytes": version.size_bytes,
        "categories_learned": len(version.label_registry),
        "serving": [
            {
                "arm": deployment.arm,
                "share": deployment.share,
                "scope": deployment.scope,
                "shadow": deployment.is_shadow,
                "deployment": deployment.pk,
            }
            for deployment in live
        ],
        "created_at": _time(version.created_at),
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
