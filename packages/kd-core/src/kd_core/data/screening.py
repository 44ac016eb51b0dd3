"""Files that cannot be read, found before a run begins: all are tried, and told of at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from kd_core.data.images import check_ends
from kd_core.data.workers import available_cores
from kd_core.errors import KDError
from kd_core.notes import Note

WHOLE = 1 << 28
"""Bytes: files that are no more than this together are read whole before a run begins."""
MANY = 100_000
"""Of larger collections so many files are opened and looked at, at both ends, before a run begins; of more, none."""
BLOCK = 4
"""Samples for each core that are held at once."""
SHOWN = 20
"""Files that an error or a line names."""
SKIP = "`data.on_error: skip` leaves them out"


@dataclass(frozen=True)
class Readable:
    """Samples that are read from files: ``read`` reads one, KDError where it is broken; ``paths`` are its files."""

    read: Callable[[int], Any]
    paths: Callable[[int], Sequence[Path]]
    positions: Sequence[int]

    def errors(self, *, whole: bool, look: Callable[[int, Any], None] | None = None) -> dict[int, KDError]:
        """The positions that cannot be read, with their errors: after reading them ``whole``, or both ends of files.

        ``look`` gets each position that was read whole, and its sample, in the order of the positions.
        """

        def attempt(position: int) -> Any:
            try:
                if whole:
                    sample = self.read(position)
                    return sample if look is not None else None
                for path in self.paths(position):
                    check_ends(path)
            except KDError as error:
                return error
            return None

        errors: dict[int, KDError] = {}
        with ThreadPoolExecutor(cores := available_cores()) as pool:
            for start in range(0, len(self.positions), BLOCK * cores):
                block = self.positions[start : start + BLOCK * cores]
                for position, outcome in zip(block, pool.map(attempt, block), strict=True):
                    if isinstance(outcome, KDError):
                        errors[position] = outcome
                    elif whole and look is not None:
                        look(position, outcome)
        return errors


def size_of(path: Path) -> int:
    """Bytes of a file, 0 for one that is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def few_bytes(readable: Iterable[Readable]) -> bool:
    """Whether all files together are no more than :data:`WHOLE`; of larger collections few are asked for their size."""
    sizes = (size_of(path) for files in readable for position in files.positions for path in files.paths(position))
    return all(total <= WHOLE for total in accumulate(sizes))


def refuse(errors: Iterable[KDError]) -> None:
    """KDError that names all files which cannot be read; nothing where there are none."""
    messages = list(dict.fromkeys(error.problems[0].message for error in errors))
    if not messages:
        return
    if len(messages) == 1:
        raise KDError(messages[0], hint=SKIP.replace("them", "it"))
    raise KDError(f"{len(messages):,} files cannot be read:{listed(messages)}", hint=SKIP)


def skipped(errors: Iterable[KDError], total: int) -> list[Note]:
    """The warning of samples that are left out because they cannot be read; none where there are none."""
    messages = [error.problems[0].message for error in errors]
    if not messages:
        return []
    text = f"{len(messages):,} of {total:,} samples cannot be read and are left out:{listed(messages)}"
    return [Note.warning(text)]


def listed(messages: Sequence[str]) -> str:
    """Messages, each on a line of its own, the first :data:`SHOWN` of many."""
    lines = [f"\n    {message}" for message in messages[:SHOWN]]
    lines += [f"\n    and {len(messages) - SHOWN:,} more"] if len(messages) > SHOWN else []
    return "".join(lines)
