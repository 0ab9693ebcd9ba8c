"""A certificate as a PDF: Pango lays the text out (any script, both directions, fonts that complete one another), cairo
writes it.

The same certificate is always the same bytes. `python3 -m omegaup_services.worker.pdf` reads certificates as JSON, one
a line, and writes each to a file of its own, for who wants to look at them.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cairo
import gi

gi.require_version("Pango", "1.0")
gi.require_version("PangoCairo", "1.0")
from gi.repository import Pango, PangoCairo  # noqa: E402 - after their versions

from ..logs import fields  # noqa: E402

log = logging.getLogger(__name__)

WIDTH, HEIGHT, MARGIN = 842.0, 595.0, 36.0
"""A4 across, in points."""
FONT = "Noto Sans"
"""One weight of one font: a second one in each file would double what the database keeps."""
NAME_SIZES = (44, 36, 30, 24, 18, 13, 9)
NAME_HEIGHT = 120.0
INK, GREY, ACCENT = (0.13, 0.13, 0.15), (0.42, 0.42, 0.45), (0.18, 0.36, 0.62)


@dataclass(frozen=True)
class Certificate:
    """`place` None: it was taken part. `timestamp`: Unix seconds, of which the day is shown."""

    contest_id: int
    username: str
    place: int | None
    code: str
    timestamp: int


def render(certificate: Certificate) -> bytes:
    """One page. The document's title is the name, its subject the rest, for who searches among many."""
    file = io.BytesIO()
    surface = cairo.PDFSurface(file, WIDTH, HEIGHT)
    date = datetime.fromtimestamp(certificate.timestamp, UTC)
    place = str(certificate.place) if certificate.place is not None else "none"
    surface.set_metadata(cairo.PDF_METADATA_TITLE, certificate.username)
    surface.set_metadata(
        cairo.PDF_METADATA_SUBJECT, f"contest {certificate.contest_id}, place {place}, code {certificate.code}"
    )
    surface.set_metadata(cairo.PDF_METADATA_AUTHOR, "omegaUp")
    # Else it is the time of the drawing, and the bytes would differ from one time to the next.
    surface.set_metadata(cairo.PDF_METADATA_CREATE_DATE, date.strftime("%Y-%m-%dT%H:%M:%SZ"))
    context = cairo.Context(surface)
    _frame(context)
    _line(context, 92, "omegaUp", 30, ACCENT)
    what = "Certificate of participation" if certificate.place is None else f"Certificate: place {certificate.place}"
    _line(context, 158, what, 24, INK)
    _line(context, 222, "is awarded to", 14, GREY)
    _name(context, 252, certificate.username)
    _line(context, 408, f"in contest {certificate.contest_id}, {date:%Y-%m-%d}", 16, INK)
    _line(context, 500, f"Verification code {certificate.code}", 12, GREY)
    surface.finish()
    return file.getvalue()


def _frame(context: Any) -> None:
    context.set_source_rgb(*ACCENT)
    for inset, width in ((MARGIN - 10, 3.0), (MARGIN, 0.8)):
        context.set_line_width(width)
        context.rectangle(inset, inset, WIDTH - 2 * inset, HEIGHT - 2 * inset)
        context.stroke()


def _layout(context: Any, text: str, size: int) -> Any:
    layout = PangoCairo.create_layout(context)
    font = Pango.FontDescription()
    font.set_family(FONT)
    font.set_absolute_size(size * Pango.SCALE)
    layout.set_font_description(font)
    layout.set_width(int((WIDTH - 4 * MARGIN) * Pango.SCALE))
    layout.set_wrap(Pango.WrapMode.WORD_CHAR)
    layout.set_alignment(Pango.Alignment.CENTER)
    # One name, however it is written: what looks like several paragraphs is none of the name's business.
    layout.set_single_paragraph_mode(True)
    layout.set_text(text, -1)
    return layout


def _show(context: Any, top: float, layout: Any, colour: tuple[float, float, float]) -> None:
    context.set_source_rgb(*colour)
    context.move_to(2 * MARGIN, top)
    PangoCairo.show_layout(context, layout)


def _line(context: Any, top: float, text: str, size: int, colour: tuple[float, float, float]) -> None:
    _show(context, top, _layout(context, text, size), colour)


def _name(context: Any, top: float, name: str) -> None:
    """As large as fits, in the middle of its space."""
    layout, height = None, 0.0
    for size in NAME_SIZES:
        layout = _layout(context, name, size)
        height = layout.get_pixel_size()[1]
        if height <= NAME_HEIGHT and (layout.get_line_count() == 1 or size <= 18):
            break
    assert layout is not None
    if missing := layout.get_unknown_glyphs_count():
        log.warning("no font has all of a name", extra=fields(name=name, glyphs=missing))
    _show(context, top + max(0.0, (NAME_HEIGHT - height) / 2), layout, INK)


def _main() -> None:
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        certificate = Certificate(**json.loads(line))
        (folder / f"{certificate.code}.pdf").write_bytes(render(certificate))


if __name__ == "__main__":
    _main()
