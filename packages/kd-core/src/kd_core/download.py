"""Files from the web: whole, verified, in a known place, or one clear error."""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

from kd_core.errors import KDError
from kd_core.files import write_text, write_whole

CHUNK = 1 << 20
LARGEST = 32 << 30
"""Bytes of a file at most: a server may send without an end."""
MEMBERS = 1_000_000
"""Files in an archive at most."""
TIMEOUT = 30
"""Seconds without an answer or a byte before a download is given up."""


def hub_folder() -> Path:
    """Where PyTorch keeps downloaded weights: ``$TORCH_HOME/hub/checkpoints``, in ``~/.cache/torch`` by default."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def folder_of(url: str) -> Path:
    """The folder of one URL that a config names: what it holds bears no name that other programs look for.

    It is below ``$TORCH_HOME/kd``, and never PyTorch's hub cache, from which others load what has an official name.
    """
    import torch

    return Path(torch.hub.get_dir()).parent / "kd" / hashlib.sha256(url.encode()).hexdigest()[:16]


def discard(path: Path) -> None:
    """Remove a downloaded file that is refused, and its record."""
    for file in (path, _record_of(path)):
        file.unlink(missing_ok=True)


def place(url: str, folder: Path | None = None, name: str = "") -> Path:
    """Where :func:`fetch` keeps the file of ``url``: as ``name``, or its own name, in ``folder`` or the hub's."""
    parts = urlsplit(url)
    own = unquote(PurePosixPath(parts.path).name)
    if parts.scheme not in ("http", "https") or not own or own == ".." or set(own) & {"/", "\\", "\0"}:
        raise KDError(f"{url!r} is not an http or https URL of a file")
    return (folder or hub_folder()) / (name or own)


def fetch(url: str, *, sha256: str | None = None, folder: Path | None = None, name: str = "") -> Path:
    """The file at ``url`` as a local one, downloaded where it is not there yet.

    ``sha256`` may be its beginning only. Where it is not known, the checksum of the first sight is kept beside the file
    and holds from then on. KDError without network, for a file that does not match, or for another URL's of that name.
    """
    path = place(url, folder, name)
    if not path.is_file():
        _download(url, path, sha256)
    _verify(path, url, sha256)
    return path


def unpack(archive: Path, folder: str, root: Path) -> Path:
    """The ``folder`` of a tar archive, unpacked into ``root``, all of it or nothing; returns its path.

    KDError for a member that is a link or leads out, and where the members are more or larger than :data:`MEMBERS`
    and :data:`LARGEST` allow.
    """
    try:
        with tempfile.TemporaryDirectory(dir=root, prefix=".tmp-") as temporary, tarfile.open(archive) as tar:
            filtered: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(temporary, list(_members(tar)), **filtered)  # before Python 3.11.4 there is no filter
            shutil.move(Path(temporary) / folder, root / folder)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise KDError(f"cannot unpack {archive}: {error}") from error
    return root / folder


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of an archive, read no further than the first that is not to be unpacked."""
    size = 0
    for number, member in enumerate(tar):
        size += member.size
        if not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"its member {member.name!r} is neither a file nor a folder")
        if PurePosixPath(member.name).is_absolute() or ".." in re.split(r"[/\\]", member.name):
            raise tarfile.TarError(f"its member {member.name!r} leads out of the folder")
        member.mode = 0o755 if member.isdir() else 0o644
        if number >= MEMBERS or size > LARGEST:
            raise tarfile.TarError(f"it holds more than {MEMBERS:,} files or {LARGEST >> 30} GiB")
        yield member


def _download(url: str, path: Path, sha256: str | None) -> None:
    def receive(file: BinaryIO) -> None:
        with urlopen(url, timeout=TIMEOUT) as response:  # place() lets http and https through only
            digest = _copy(response, file, path.name)
        if not digest.startswith(sha256 or ""):
            raise KDError(f"{url}: the file's sha256 is {digest}, not {sha256}; it was not kept")

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path.parent, receive, lambda temporary: path.name)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(error, HTTPError):
            reason = f"the server answers {error.code} {error.reason}"
            error.close()  # it is the open response, too
        raise KDError(f"cannot download {url}: {reason}", hint=f"put the file at {path} by hand") from error


def _copy(response: Any, file: BinaryIO, name: str) -> str:
    """Copy a response to a file with a progress bar on a terminal; returns the sha256."""
    from tqdm import tqdm

    length = int(response.headers.get("Content-Length") or 0)
    state, received = hashlib.sha256(), 0
    too_large = OSError(f"the file is larger than {LARGEST >> 30} GiB")
    if length > LARGEST:
        raise too_large
    with tqdm(total=length or None, desc=name, unit="B", unit_scale=True, disable=None) as bar:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            state.update(chunk)
            received += len(chunk)
            if received > LARGEST:
                raise too_large
            bar.update(len(chunk))
    if length and received < length:
        raise OSError(f"the connection broke after {received:,} of {length:,} bytes")
    return state.hexdigest()


def recorded(path: Path) -> str | None:
    """The sha256 that was kept beside a file when it was first seen."""
    record = _record_of(path)
    return record.read_text(encoding="utf-8", errors="replace").partition(" ")[0] if record.is_file() else None


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _verify(path: Path, url: str, sha256: str | None) -> None:
    """Compare a file with what is known of it, and keep its checksum where nothing is."""
    record = _record_of(path)
    digest = _sha256(path)
    if record.is_file():
        recorded, _, origin = record.read_text(encoding="utf-8", errors="replace").strip().partition("  ")
        if "://" in origin and origin != url:
            raise KDError(f"{path} was downloaded from {origin}, not from {url}", hint="move it away, or give the path")
        sha256 = sha256 or recorded
    if not digest.startswith(sha256 or ""):
        raise KDError(f"{path} is damaged: its sha256 is {digest}, not {sha256}", hint="remove it to download it again")
    if not record.is_file():
        try:
            write_text(record, f"{digest}  {url}\n")
        except OSError:
            return  # a cache that others keep may be read-only


def _sha256(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()
