"""What can be said of a stored photo: its place among the others, and words for who cannot see it."""

from searchapp.models import ChangeKind, ItemImage
from searchapp.services.gallery import gallery_transaction
from searchapp.services.item_fields import fields_error, has_control_characters

ALT_LENGTH = 300


def image_describe(*, image: ItemImage, alt: str, position: int) -> None:
    """Set both; the picture and its entries stay as they are. A photo that is gone is passed over."""
    if len(alt) > ALT_LENGTH or has_control_characters(alt):
        raise fields_error({"alt": f"{len(alt)} characters, allowed: {ALT_LENGTH} printable ones"})
    if position < 0:
        raise fields_error({"position": f"it is {position}, allowed: 0 or more"})
    with gallery_transaction() as changes:
        if ItemImage.objects.filter(pk=image.pk).update(alt=alt, position=position):
            changes.record(ChangeKind.ITEM_CHANGED, [image.item_id])
