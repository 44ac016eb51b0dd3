"""Makes goldens again, all or those that are named: ``make goldens REPO=DIR [NAME=kd]``.

    python tests/golden/make.py DIR [NAME...]

DIR/OWNER/NAME are git clones; a golden whose repository (or commit) is not there is named and left as it is. NAME is
"kd" or "losses/kd". What a golden is made of stands in the scripts ``make_FAMILY.py``, whose form recipes.py describes.
"""

from __future__ import annotations

import importlib
from typing import Any

from recipes import HERE, Golden, command, goldens

OTHERS = {"make_coco_masks", "make_features", "make_zoo"}
"""Scripts whose goldens need more than repositories: data, an installed package, a checkout to import from."""


def found() -> dict[str, Golden]:
    """All goldens of all families. ValueError where two scripts make the same."""
    made: dict[str, Golden] = {}
    for script in sorted(HERE.glob("make_*.py")):
        if script.stem in OTHERS:
            continue
        family = goldens(vars(importlib.import_module(script.stem)))
        if not family:
            raise ValueError(f"{script.name} has neither CASES nor GOLDENS")
        if twice := made.keys() & family.keys():
            raise ValueError(f"{script.name} makes {', '.join(sorted(twice))}, which another script makes too")
        made |= family
    return made


if __name__ == "__main__":
    everything: dict[str, Any] = {"GOLDENS": found()}
    command(everything)
