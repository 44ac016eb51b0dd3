"""Where the samples of tar files lie: read once from the headers, kept in the user's cache, and then read by seeking.

The layout is WebDataset's: the members of a sample follow one another and have one name up to the first dot of its last
part, ``n01440764/0017.jpg`` and ``n01440764/0017.cls``.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_core.data.images import AVIF, SUFFIXES
from kd_core.errors import KDError
from kd_core.files import user_path, write_whole

VERSION = 2
"""Of the index, raised with every change of what it holds."""
BLOCK = 512
"""Bytes of a header."""


class TarIndex(NamedTuple):
    """The samples of a tar file, in its order."""

    offsets: NDArray[np.int64]
    """(N,) where the bytes of the images begin."""
    sizes: NDArray[np.int64]
    """(N,) how many there are."""
    labels: NDArray[np.str_]
    """The labels that occur, as text; the empty one stands for none."""
    codes: NDArray[np.int64]
    """(N,) which of them each sample has."""

    def __len__(self) -> int:
        return len(self.offsets)


class Member(NamedTuple):
    """A file in a tar file."""

    key: str
    """The name of its sample."""
    kind: str
    """What follows the first dot: ``jpg``, ``cls``, ``seg.png``."""
    offset: int
    size: int


def tar_index(path: Path, *, image: str | None, label: str) -> TarIndex:
    """The samples of a tar file, from the cache where the file is as it was when they were found.

    ``image`` and ``label`` are the kinds of members, as of :func:`read_index`.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise KDError(f"{path}: cannot be read ({error.strerror})") from error
    facts = (VERSION, str(path.resolve()), status.st_size, status.st_mtime_ns, image, label)
    kept = index_folder() / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.npz"
    with suppress(Exception), np.load(kept, allow_pickle=False) as arrays:  # not there, or not whole: made anew
        return TarIndex(*(arrays[name] for name in TarIndex._fields))
    index = read_index(path, image=image, label=label)
    with suppress(KDError, OSError):  # a full or read-only disk costs time only
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept.parent, lambda file: np.savez(file, **index._asdict()), lambda _: kept.name)
    return index


def index_folder() -> Path:
    """``shards`` in ``$KD_CACHE``, by default in ``~/.cache/kd``."""
    return user_path(os.environ.get("KD_CACHE", "~/.cache/kd")) / "shards"


def read_index(path: Path, *, image: str | None, label: str) -> TarIndex:
    """The samples of a tar file, from its headers and its labels.

    ``image`` is the kind of the images, None: whichever is an image's; ``label`` that of the labels, text or, as
    ``json.KEY``, an entry of a mapping. KDError where the file is damaged, or a sample has no image, or several.
    """
    offsets, sizes, labels = [], [], []
    with path.open("rb") as file:
        for key, group in groupby(members(path, file), lambda member: member.key):
            sample = list(group)
            found = [member for member in sample if (is_image(member.kind) if image is None else member.kind == image)]
            if len(found) != 1:
                kinds = ", ".join(member.kind for member in sample)
                hint = "`image: KIND` says which one it is" if found else None
                raise KDError(f"{path}: the sample {key} has {len(found)} images among {kinds}", hint=hint)
            offsets.append(found[0].offset)
            sizes.append(found[0].size)
            labels.append(label_of(path, file, sample, label))
    values, codes = np.unique(np.array(labels, dtype=np.str_), return_inverse=True)
    return TarIndex(np.array(offsets, np.int64), np.array(sizes, np.int64), values, codes.astype(np.int64))


def is_image(kind: str) -> bool:
    """Whether members of a kind are images."""
    return f".{kind.lower()}" in {*SUFFIXES, AVIF}


def members(path: Path, file: BinaryIO) -> Iterator[Member]:
    """The files in a tar file, hidden ones left out; KDError where it is no tar file, or is damaged or cut off."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for entry in archive:
                folder, _, name = entry.name.rpartition("/")
                stem, _, kind = name.partition(".")
                if entry.isfile() and stem and kind:
                    yield Member(f"{folder}/{stem}" if folder else stem, kind, entry.offset_data, entry.size)
                archive.members = []  # type: ignore[attr-defined]  # which tarfile keeps, all of them
            end = archive.offset
    except (tarfile.TarError, EOFError, OSError) as error:
        hint = "a compressed tar file has no random access: unpack it (gunzip)" if is_compressed(file) else None
        raise KDError(f"{path}: is not a whole tar file ({error})", hint=hint) from error
    if not ends(file, end):
        raise KDError(f"{path}: is not a whole tar file (it is damaged or cut off at byte {end:,})")


def ends(file: BinaryIO, end: int) -> bool:
    """Whether a tar file ends at a byte: something is behind it, and nothing but zeros."""
    file.seek(end)
    blocks = iter(partial(file.read, 128 * BLOCK), b"")
    first = next(blocks, None)
    return first is not None and not first.strip(b"\0") and not any(block.strip(b"\0") for block in blocks)


def is_compressed(file: BinaryIO) -> bool:
    """Whether a file begins as those of gzip, bzip2, xz or zstandard do."""
    file.seek(0)
    return file.read(4).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd"))


def label_of(path: Path, file: BinaryIO, sample: list[Member], label: str) -> str:
    """The label of a sample as text; empty where it has none. KDError where it cannot be read."""
    kind, _, entry = label.partition(".") if label.startswith("json.") else (label, "", "")
    member = next((member for member in sample if member.kind == kind), None)
    if member is None:
        return ""
    file.seek(member.offset)
    try:
        text = file.read(member.size).decode("utf-8")
        value = json.loads(text).get(entry) if entry else text
    except (ValueError, AttributeError) as error:
        raise KDError(f"{path}: {member.key}.{kind} is not readable ({error})") from error
    if not isinstance(value, (str, int, type(None))) or isinstance(value, bool):
        message = f"{path}: {member.key}.{kind} has {value!r} at {entry!r}, and a label is a whole number or a name"
        raise KDError(message)
    return "" if value is None else str(value).strip()


def member_name(path: Path, offset: int) -> str:
    """The name of the member whose bytes begin at ``offset``, from the header before them."""
    try:
        with path.open("rb") as file:
            file.seek(offset - BLOCK)
            return tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape").name
    except (tarfile.TarError, OSError, ValueError):
        return f"the member at byte {offset:,}"
