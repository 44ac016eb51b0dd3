"""Parts of files, on this machine or on the Hugging Face hub, where a part is one request over the network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from kd_core.errors import KDError, RunInterrupted
from kd_core.repository import first_line

T = TypeVar("T")
HUB = re.compile(r"hf://datasets/(?P<repository>[^@]+)@(?P<revision>[^/]+)/(?P<path>.+)")
"""How the datasets library names a file of a data set on the hub."""
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt, where a request fails."""
TIMEOUT = 30.0
"""Seconds without an answer or a byte before an attempt has failed."""
PARTIAL = 206
"""The status of an answer that is a part of a file."""
ASKED = 100
"""Files that one request asks about."""


class StoredFile(NamedTuple):
    """A file by its path, ``hf://datasets/NAME@COMMIT/...`` on the hub."""

    path: str
    size: int
    content: str
    """What tells it from another content of the same path: the hub's hash, or when it was changed."""

    @property
    def name(self) -> str:
        """Its name without folders."""
        return self.path.rpartition("/")[2]

    def read(self, start: int, end: int) -> bytes:
        """The bytes from ``start`` to before ``end``.

        A request that fails is tried again after each of :data:`PAUSES`; then RunInterrupted. KDError where the file is
        missing, not to be read by everyone, or cut off.
        """
        if (match := HUB.fullmatch(self.path)) is not None:
            content = persistently(self.path, lambda: _requested(_url_of(match), start, end))
        else:
            try:
                with Path(self.path).open("rb") as file:
                    file.seek(start)
                    content = file.read(end - start)
            except OSError as error:
                raise KDError(f"{self.path}: cannot be read ({error.strerror})") from error
        if len(content) != end - start:
            raise KDError(f"{self.path}: is cut off: it has no bytes {start:,} to {end:,}")
        return content


def stored_files(paths: Iterable[str]) -> list[StoredFile]:
    """Files with their sizes, in the order of their paths; KDError where one is missing, as :meth:`StoredFile.read`."""
    remote: dict[tuple[str, str], list[str]] = {}
    found: dict[str, StoredFile] = {}
    for path in (paths := list(paths)):
        if (match := HUB.fullmatch(path)) is not None:
            remote.setdefault((match["repository"], match["revision"]), []).append(match["path"])
            continue
        try:
            status = Path(path).stat()
        except OSError as error:
            raise KDError(f"{path}: cannot be read ({error.strerror})") from error
        found[path] = StoredFile(path, status.st_size, str(status.st_mtime_ns))
    for (repository, revision), names in remote.items():
        for start in range(0, len(names), ASKED):
            for file in _described(repository, revision, names[start : start + ASKED]):
                found[file.path] = file
    if missing := [path for path in paths if path not in found]:
        raise KDError(f"{missing[0]}: there is no such file")
    return [found[path] for path in paths]


def _described(repository: str, revision: str, names: list[str]) -> list[StoredFile]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    head = f"hf://datasets/{repository}@{revision}/"
    facts = persistently(
        head, lambda: HfApi().get_paths_info(repository, names, revision=revision, repo_type="dataset")
    )
    return [StoredFile(head + fact.path, fact.size, fact.blob_id) for fact in facts if isinstance(fact, RepoFile)]


def persistently(path: str, attempt: Callable[[], T]) -> T:
    """What ``attempt`` gives, which asks the hub for ``path``, tried again after each of :data:`PAUSES`.

    RunInterrupted where the last attempt fails too; KDError at once where the hub refuses.
    """
    for pause in (*PAUSES, None):
        try:
            return attempt()
        except KDError:
            raise
        except Exception as error:  # without a connection, each version of the library raises something else
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status is not None and 400 <= status < 500 and status not in (408, 429):
                hint = "data that are not public need `hf auth login` or HF_TOKEN"
                raise KDError(f"{path}: the hub refuses it ({first_line(error)})", hint=hint) from error
            if pause is None:
                tried = f"{len(PAUSES) + 1} attempts"
                message = (
                    f"{path}: cannot be read over the network in {tried} ({type(error).__name__}: {first_line(error)})"
                )
                raise RunInterrupted(message, hint="the network may be down, or the hub busy") from error
            sleep(pause)
    raise AssertionError


def _url_of(match: re.Match[str]) -> str:
    from huggingface_hub import constants

    revision = quote(match["revision"], safe="%")
    return f"{constants.ENDPOINT}/datasets/{match['repository']}/resolve/{revision}/{quote(match['path'])}"


def _requested(url: str, start: int, end: int) -> bytes:
    """A part of what lies at ``url``; any error of the network's libraries, and ConnectionError for a short answer."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

    headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    response: Any = get_session().get(url, headers=headers, timeout=TIMEOUT)
    hf_raise_for_status(response)
    content: bytes = response.content
    if response.status_code != PARTIAL or len(content) != end - start:
        raise ConnectionError(f"the answer has {len(content):,} bytes instead of {end - start:,}")
    return content
