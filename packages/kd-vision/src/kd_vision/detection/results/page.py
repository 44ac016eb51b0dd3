"""Parts of an HTML page, in which every text stays text."""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Iterable, Sequence

from kd_core.escapes import for_terminal

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: nothing but what is in it, and no script at all."""
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1340px; padding: 0 1em; color: #1a1a1a; }
h1 { font-size: 1.5em; overflow-wrap: anywhere; } h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; }
th, td { padding: 0.2em 0.8em; border-bottom: 1px solid #ddd; text-align: right; }
th.text, td.text { text-align: left; overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid #888; }
tbody tr:hover { background: #f4f4f4; } svg text { font: 13px system-ui, sans-serif; }
figure { margin: 1.5em 0; } figcaption { overflow-wrap: anywhere; } img { max-width: 100%; }
.mark { display: inline-block; width: 0.9em; height: 0.9em; margin-right: 0.5em; vertical-align: -0.1em; }
"""


def escape(text: object) -> str:
    """A text without meaning as HTML, in quotes too, and with control characters written out."""
    return html.escape(for_terminal(str(text)))


def page(title: str, parts: Iterable[str]) -> str:
    """A page that is whole in itself, from parts in HTML."""
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def table(header: Sequence[object], rows: Iterable[Sequence[object]], texts: int = 1) -> str:
    """Rows of texts, in the first ``texts`` columns, and of numbers."""
    head = cells("th", header, texts)
    lines = [cells("td", row, texts) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def cells(tag: str, row: Sequence[object], texts: int) -> str:
    """A row of cells, the first ``texts`` of them of the class ``text``."""
    kinds = [' class="text"' if column < texts else "" for column in range(len(row))]
    return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))


def picture(content: bytes, kind: str, alt: str, caption: str) -> str:
    """A picture in the page itself, a file of the MIME type ``kind``, with a line of text below."""
    source = f"data:{kind};base64,{b64encode(content).decode('ascii')}"
    return f'<figure><img src="{source}" alt="{escape(alt)}"><figcaption>{escape(caption)}</figcaption></figure>'


def mark(colour: tuple[int, int, int], text: str) -> str:
    """A patch of a colour and what it stands for."""
    return f'<div><span class="mark" style="background: rgb{colour}"></span>{escape(text)}</div>'
