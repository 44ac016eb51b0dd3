"""An extension of griffe: docstrings as Markdown for the pages of the API.

Roles such as ``:func:`name``` become code. Links to pages of docs/, where some docstrings stand too, lead out of api/.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?([^`]+)`")
LINK = re.compile(r"\]\((?=[\w-]+\.md\b)")


class Roles(griffe.Extension):
    """Rewrites every docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Of one module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = LINK.sub("](../", ROLE.sub(r"`\1`", obj.docstring.value))
