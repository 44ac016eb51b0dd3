"""Files that are whole or absent, and JSON that every reader accepts."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from kd_core.errors import KDError, RunInterrupted

TEMPORARY = ".tmp-"
"""How the name of a file that is still being written begins."""


def user_path(text: str | Path) -> Path:
    """A path whose ``~`` stands for a home folder; that of a user who is not known here stays as it is."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (Path.expanduser raises then)


def write_whole(folder: Path, write: Callable[[BinaryIO], object], name: Callable[[Path], str]) -> Path:
    """Write a file in ``folder`` that is there whole or, where anything fails, not at all; returns its path.

    ``name`` is given the written file under its temporary name, so the name may depend on the content. The
    content is on the disk before the name is: a machine that loses power has the old file or the new one.
    """
    temporary = folder / f"{TEMPORARY}{os.getpid()}"
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        path = temporary.replace(folder / name(temporary))
        sync_folder(folder)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def write_errors(subject: object) -> Iterator[None]:
    """RunInterrupted, ``cannot write <subject>: <reason>``, where the disk does not take what the block writes."""
    try:
        yield
    except Exception as error:
        reason = disk_error(error)
        if reason is None:
            raise
        raise RunInterrupted(f"cannot write {subject}: {reason}") from error


def disk_error(error: BaseException) -> str | None:
    """The system's reason where a file could not be written, None for an error of another kind.

    An error of :func:`write_errors` has it too. Libraries hide it: torch.save raises a RuntimeError about the archive
    that it could not close, and those written in Rust (tokenizers, safetensors) write the system's number into the text
    of an error of their own.
    """
    if isinstance(error, (RuntimeError, RunInterrupted)) and isinstance(error.__context__, OSError):
        error = error.__context__
    if isinstance(error, OSError):
        return error.strerror or str(error)
    match = re.search(r"\(os error (\d+)\)", str(error))
    return os.strerror(int(match[1])) if match else None


def is_leftover(path: Path) -> bool:
    """Whether a process that was killed while writing left ``path``."""
    return path.name.startswith(TEMPORARY)


def refuse_links(folder: Path) -> None:
    """KDError where a symbolic link in ``folder``, at any depth, leads out of it: what is written there would, too."""
    inside = os.path.realpath(folder)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            if path.is_symlink() and os.path.commonpath([inside, os.path.realpath(path)]) != inside:
                message = f"{path} is a link that leads out of {folder}, to {os.path.realpath(path)}"
                raise KDError(message, hint="put the file itself there")


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while writing left in ``folder``."""
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content``, all of it or nothing; RunInterrupted where the disk does not take it."""
    with write_errors(path):
        write_whole(path.parent, lambda file: file.write(content), lambda temporary: path.name)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, all of it or nothing.

    Bytes of a file name that are not UTF-8 are escaped, as Python writes them: ``\\udcff``.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def append(path: Path, text: str) -> None:
    """Add ``text`` at the end, encoded as by :func:`write_text`; RunInterrupted where the disk does not take it."""
    with write_errors(path), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


def sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk, on systems where a folder can be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def json_text(value: Any, indent: int | None = None) -> str:
    """``value`` as standard JSON: NaN and the infinities become null, paths and numbers of numpy or torch plain."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "tolist"):  # numpy's and torch's numbers and arrays
        return _plain(value.tolist())
    number = float(value)
    return number if math.isfinite(number) else None
