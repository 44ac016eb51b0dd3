"""``python -m kd_core``: versions and hardware, for a report of a problem."""

from __future__ import annotations

import sys

from kd_core.files import json_text
from kd_core.runs.environment import environment

if __name__ == "__main__":
    sys.stdout.write(json_text(environment(), indent=2) + "\n")
