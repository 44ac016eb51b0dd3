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
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
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


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Rows of texts and numbers."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def picture(content: bytes, kind: str, alt: str, caption: str) -> str:
    """A picture in the page itself, a file of the MIME type ``kind``, with a line of text below."""
    source = f"data:{kind};base64,{b64encode(content).decode('ascii')}"
    return f'<figure><img src="{source}" alt="{escape(alt)}"><figcaption>{escape(caption)}</figcaption></figure>'


def mark(colour: tuple[int, int, int], text: str) -> str:
    """A patch of a colour and what it stands for."""
    return f'<div><span class="mark" style="background: rgb{colour}"></span>{escape(text)}</div>'
