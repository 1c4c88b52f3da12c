"""`manage.py search IMAGE | --text WORDS | --item SKU`: the HTTP answer on the command line."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from searchapp.exceptions import SearchAppError
from searchapp.services import intake, search, serving
from searchapp.services.search_answers import SearchAnswer
from searchapp.services.search_options import SearchOptions


class Command(BaseCommand):
    requires_system_checks: list[str] = []
    help = "Search by a picture (--text refines it), by words, or by an item of the catalogue."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("image", nargs="?", help="a JPEG, PNG or WebP file")
        parser.add_argument("--text", default="", help="words to look for, or to refine a picture with")
        parser.add_argument("--item", default="", metavar="SKU", help="more like this item")
        parser.add_argument(
            "--crop", default="", metavar="X,Y,W,H", help="the part of the picture to look at, in 0-1"
        )
        parser.add_argument(
            "--explain",
            nargs="?",
            const=search.EXPLAIN_BEST,
            metavar="SKU",
            help="also say what in the picture matched the best result, or the one named",
        )
        parser.add_argument("-k", default="24", help="how many results, 1 to 50")
        parser.add_argument("--category", default="", help="slug or path; everything beneath it counts")
        parser.add_argument("--vertical", default="", help="product or landmark")
        parser.add_argument("--price-min", default="")
        parser.add_argument("--price-max", default="")
        parser.add_argument("--tag", action="append", default=[], help="required tag; may be given again")
        parser.add_argument("--json", action="store_true", help="print the answer as one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        if bool(options["item"]) == bool(options["image"] or options["text"]):
            raise CommandError(
                "give an image file, --text or --item (--text may go with an image)", returncode=2
            )
        if options["explain"] is not None and not options["image"]:
            raise CommandError("only a search by picture can be explained; give an image file", returncode=2)
        try:
            serving.follow_once()
            answer = _answer(options, SearchOptions.parse(options))
        except SearchAppError as error:
            raise CommandError(error.message) from error
        except OSError as error:
            raise CommandError(f"{options['image']} cannot be read: {error.strerror or error}") from error
        if options["json"]:
            self.stdout.write(json.dumps(answer.as_dict(role_is_anonymous=False), ensure_ascii=False))
        else:
            self.stdout.write(_table(answer))


def _answer(options: dict[str, Any], parsed: SearchOptions) -> SearchAnswer:
    if options["item"]:
        return search.search_by_item(sku=options["item"], options=parsed)
    if not options["image"]:
        return search.search_by_text(text=options["text"], options=parsed)
    crop = intake.Crop.parse(options["crop"]) if options["crop"] else None
    path = Path(options["image"])
    return search.search_by_image(
        data=path.read_bytes(),
        filename=path.name,
        crop=crop,
        options=parsed,
        text=options["text"],
        explain=options["explain"],
    )


def _table(answer: SearchAnswer) -> str:
    lines = [
        f"{rank:>3}  {result.score:.3f} {result.strength:<6}  {result.sku:<40.40}  {result.category}"
        for rank, result in enumerate(answer.results, start=1)
    ]
    if answer.explanation is not None:
        lines.append(f"{answer.explanation.sku}: {answer.explanation.summary}")
    found = f"{len(answer.results)} of {answer.entries} entries, version {answer.model_version}"
    return "\n".join([*lines, f"{found}, {answer.took_ms['total']:.1f} ms"])
