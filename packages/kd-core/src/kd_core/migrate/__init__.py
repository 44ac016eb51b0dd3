"""torchdistill's YAML files -> configs of this project, for the command ``migrate``.

The parts, in the order of a file: ``source`` reads it as inert data; ``data``, ``models``, ``wires``, ``criteria``
(with ``terms`` and ``mid_level``) and ``training`` translate what is in it; ``convert`` puts the parts together,
``methods`` names methods, ``write`` writes.
"""

from __future__ import annotations

from kd_core.migrate.convert import convert
from kd_core.migrate.differences import KINDS
from kd_core.migrate.draft import Difference, Draft, Options
from kd_core.migrate.write import COMMANDS, text_of

__all__ = ["COMMANDS", "KINDS", "Difference", "Draft", "Options", "convert", "text_of"]
