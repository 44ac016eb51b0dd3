"""Parts of an HTML page that is whole in itself, in which every text stays text."""

from __future__ import annotations

import hashlib
import html
import io
from base64 import b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kd_core.escapes import for_terminal

if TYPE_CHECKING:
    from PIL.Image import Image

STYLE, SCRIPT = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
"""How a page looks, in light, in dark and on paper; and what shows values under the pointer and hides lines."""
_HASH = b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a page may load: nothing but what is in it, and no script at all."""
WITH_SCRIPT = f"{POLICY}; script-src 'sha256-{_HASH}'"
"""The same, with the one script of ours, by its hash."""
QUALITY = 88
"""Of the JPEG files in a page."""


def escape(text: object) -> str:
    """A text without meaning as HTML, in quotes too, and with control characters written out."""
    return html.escape(for_terminal(str(text)))


def page(title: str, parts: Iterable[str], *, script: bool = False) -> str:
    """A page from parts in HTML, with or without the script that shows values in charts."""
    policy = WITH_SCRIPT if script else POLICY
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    body, code = "\n".join(parts), f'<div id="tip" role="status"></div><script>{SCRIPT}</script>\n' if script else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n{code}"
        "</body></html>\n"
    )


def table(header: Sequence[object], rows: Iterable[Sequence[object]], texts: int = 1) -> str:
    """Rows of texts, in the first ``texts`` columns, and of numbers; without a head where all its cells are empty."""
    head = f"<thead><tr>{cells('th', header, texts)}</tr></thead>" if any(header) else ""
    lines = [cells("td", row, texts) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def cells(tag: str, row: Sequence[object], texts: int) -> str:
    """A row of cells, the first ``texts`` of them of the class ``text``."""
    kinds = [' class="text"' if column < texts else "" for column in range(len(row))]
    return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))


def figures(values: Iterable[tuple[str, str]]) -> str:
    """Figures, large, each below its name."""
    boxes = "".join(f"<div>{escape(name)}<b>{escape(value)}</b></div>" for name, value in values)
    return f'<div class="figures">{boxes}</div>'


def picture(content: bytes, kind: str, alt: str, caption: str) -> str:
    """A picture in the page itself, a file of the MIME type ``kind``, with a line of text below."""
    return f"<figure>{image(content, kind, alt)}<figcaption>{escape(caption)}</figcaption></figure>"


def image(content: bytes, kind: str, alt: str, style: str = "") -> str:
    """A picture in the page itself, of the CSS class ``style``."""
    source = f"data:{kind};base64,{b64encode(content).decode('ascii')}"
    named = f' class="{style}"' if style else ""
    return f'<img src="{source}" alt="{escape(alt)}"{named}>'


def mark(colour: tuple[int, int, int], text: str) -> str:
    """A patch of a colour and what it stands for."""
    return f'<div><span class="mark" style="background: rgb{colour}"></span>{escape(text)}</div>'


def details(summary: str, content: str, *, shown: bool = False) -> str:
    """A part of a page under a line that opens it."""
    return f"<details{' open' if shown else ''}><summary>{escape(summary)}</summary>{content}</details>"


def jpeg(image: Image) -> bytes:
    """A picture as a JPEG file: a fourth of the size of a PNG of a photo."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def number(value: float | None) -> str:
    """A figure with four digits, a count with all of them; a dash for what is not known or not a number."""
    if value is None or value != value:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
