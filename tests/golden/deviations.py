"""Prints the last three columns of the table of parity in docs/losses.md, for all losses or those that are named.

    python tests/golden/deviations.py [LOSS...]

The deviations are the largest of a loss's goldens: of the value relative to the value, of the gradients relative to the
largest element of each, in float64. Gradients are kept to 12 digits.
"""

from __future__ import annotations

import sys

from ours import deviations, goldens_of
from recipes import HERE


def row(name: str) -> str:
    """``| `kd` | repository `file` | 0 | 4e-12 |``."""
    found = goldens_of(name)
    files = dict.fromkeys(f"{golden['repository']} `{golden['file']}`" for golden in found)
    columns = zip(*(deviations(name, golden) for golden in found), strict=True)
    most = [f"{max(each):.0e}" if any(each) else "0" for each in columns]
    return f"| `{name}` | {'; '.join(files)} | {' | '.join(most)} |"


def main(*names: str) -> None:
    """Print a row for each loss."""
    for name in names or sorted(file.stem for file in (HERE / "losses").glob("*.json")):
        print(row(name))


if __name__ == "__main__":
    main(*sys.argv[1:])
