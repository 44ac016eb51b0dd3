"""Data sets of the Hugging Face hub by name, and folders in their formats: read by the datasets library.

Folders are what ``save_to_disk`` writes, or parquet, Arrow, CSV or JSON files whose names or folders say which split
they are of. The library is imported when a config names such data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kd_core.errors import KDError
from kd_core.files import user_path
from kd_core.repository import COMMIT, first_line

SPLIT_NAMES = {"train": ("train", "training"), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}
"""What a data set's own splits are called, by ours."""
SAVED = ("dataset_dict.json", "state.json")
"""Files of folders that ``save_to_disk`` wrote."""


def load_parts(name: str, subset: str | None, revision: str | None, *, extra: str) -> dict[str, Any]:
    """The splits ``train``, ``val`` and ``test`` of a data set, as far as it has them.

    ``name`` is an id on the hub or a folder, ``subset`` one of the data set's configurations, and ``extra`` what
    installs the library. KDError where there is no such data set, it has no training split, or the hub cannot be
    reached and the cache holds no copy.
    """
    _need_datasets(extra)
    folder = user_path(name)
    parts = _of_folder(folder, subset) if folder.is_dir() else load_hub(name, subset, revision, hint=HINT, path="hub")
    return _by_role(name, parts)


def _need_datasets(extra: str) -> None:
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise KDError("`hub:` data need the package datasets", hint=f"pip install '{extra}'", path="hub") from error


def _by_role(name: str, parts: Mapping[Any, Any]) -> dict[str, Any]:
    """The splits by our names for them."""
    names = {ours: next((each for each in theirs if each in parts), None) for ours, theirs in SPLIT_NAMES.items()}
    if names["train"] is None:
        raise KDError(f"{name} has no training split; it has {', '.join(map(str, parts))}", path="hub")
    return {ours: parts[theirs] for ours, theirs in names.items() if theirs is not None}


HINT = "`hub:` also takes a folder: one that `save_to_disk` wrote, or one of parquet files"


def _of_folder(folder: Path, subset: str | None) -> Mapping[str, Any]:
    from datasets import DatasetDict, load_dataset, load_from_disk

    try:
        if any((folder / file).is_file() for file in SAVED):
            saved = load_from_disk(str(folder))
            return saved if isinstance(saved, DatasetDict) else {"train": saved}
        return load_dataset(str(folder), subset)
    except Exception as error:  # what is missing or broken in such a folder can raise nearly anything
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise KDError(f"{folder} is not a folder of data that datasets reads ({reason})", path="hub") from error


class ParquetParts(NamedTuple):
    """The Parquet files of a data set: nothing of them has been read."""

    files: dict[str, list[str]]
    """The paths for ``train``, ``val`` and ``test``, as far as there are any; ``hf://`` ones of the hub."""
    splits: dict[str, str]
    """What the data set calls them."""
    features: Any
    """What the columns are; None where only the files say so."""


def parquet_parts(name: str, subset: str | None, revision: str | None, *, download: bool, extra: str) -> ParquetParts:
    """Where the rows of a data set lie that is not to be downloaded; arguments as of :func:`load_parts`.

    KDError where it has no Parquet files, there is no such data set, the hub does not answer, or ``download`` is false
    and it is no folder.
    """
    _need_datasets(extra)
    from datasets import load_dataset_builder

    folder = user_path(name)
    local = folder.is_dir()
    if local and any((folder / file).is_file() for file in SAVED):
        hint = "its Arrow files are read without copies: leave `streaming` out"
        raise KDError(f"{folder} is no folder of Parquet files", hint=hint, path="streaming")
    if not local and not download:
        raise KDError(f"{name} would be read over the network, and data.download is false", path="hub")
    if not local and resolve_revision(name, revision, hint=HINT) is None:
        raise KDError(f"the hub does not answer, and no copy of streamed data is kept: {name}", hint=HINT, path="hub")
    try:
        builder = load_dataset_builder(str(folder) if local else name, subset, revision=None if local else revision)
    except Exception as error:  # of the network, and of what is missing or broken in the files
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise KDError(f"cannot find the files of {name} ({reason})", hint=HINT, path="hub") from error
    files = {str(split): [str(path) for path in paths] for split, paths in (builder.config.data_files or {}).items()}
    if not files or not all(path.endswith(".parquet") for paths in files.values() for path in paths):
        hint = "`revision: refs/convert/parquet` reads the hub's own conversion, where it has made one"
        raise KDError(f"reads Parquet files, and {name} has others", hint=hint, path="streaming")
    parts = _by_role(name, {split: (split, paths) for split, paths in files.items()})
    splits = {ours: split for ours, (split, _) in parts.items()}
    return ParquetParts({ours: paths for ours, (_, paths) in parts.items()}, splits, builder.info.features)


def load_hub(name: str, subset: str | None, revision: str | None, *, hint: str, path: str) -> Any:
    """The library's mapping of splits of a data set on the hub, downloaded where the cache does not hold it.

    KDError, at ``path``, where the hub does not answer and the cache holds no copy, or one of another commit than
    ``revision``.
    """
    from datasets import config, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    cached = Path(config.HF_DATASETS_CACHE) / name.replace("/", "___") / (subset or "")
    if resolve_revision(name, revision, hint=hint, path=path) is None and not cached.is_dir():
        # the library would ask again and again
        raise KDError(f"the hub does not answer, and no copy of {name} is here", hint=hint, path=path)
    try:
        parts = load_dataset(name, subset, revision=revision)
    except DatasetNotFoundError as error:
        raise KDError(f"{first_line(error)}", hint=hint, path=path) from error
    except Exception as error:  # without a connection, each version of the libraries raises something else
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise KDError(f"cannot load {name} from the hub ({reason})", hint=hint, path=path) from error
    commit = cached_commit(parts)
    if revision is not None and COMMIT.fullmatch(revision) and commit not in (None, revision):
        reason = f"the hub does not answer, and the cache holds {name} at {commit}, not at {revision}"
        raise KDError(f"{reason}", path="revision" if path == "hub" else "data.revision")
    return parts


def cached_commit(parts: Any) -> str | None:
    """The commit that a data set in the library's cache is of: it is the name of the folder of its files."""
    for part in parts.values():
        for file in part.cache_files:
            name = Path(file["filename"]).parent.name
            return name if COMMIT.fullmatch(name) else None
    return None


def resolve_revision(name: str, revision: str | None, *, hint: str = HINT, path: str = "data.hub") -> str | None:
    """The commit that ``revision`` (None: the newest) of the hub's data is today; without network, in the cache.

    None where neither tells. KDError where the hub answers that there is no such revision.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    try:
        return HfApi().dataset_info(name, revision=revision, timeout=10.0).sha
    except HFValidationError:
        raise KDError(f"{name!r} is neither a folder nor a name on the hub", path=path) from None
    except RevisionNotFoundError as error:
        where = "revision" if path == "hub" else "data.revision"
        raise KDError(f"{name} has no revision {revision!r}", path=where) from error
    except RepositoryNotFoundError as error:
        raise KDError(f"the hub has no data set {name}", hint=hint, path=path) from error
    except Exception:  # without a connection, each version of the library raises something else
        card = try_to_load_from_cache(name, "README.md", repo_type="dataset", revision=revision)
        return Path(card).parent.name if isinstance(card, str) else None


def data_pins(data: Any) -> list[str]:
    """The override that pins data of ``hub:`` at their commit of today; none for a folder and for other data."""
    options = getattr(data, "options", {})
    name, revision = options.get("hub"), options.get("revision")
    if not isinstance(name, str) or user_path(name).is_dir() or COMMIT.fullmatch(revision or ""):
        return []
    try:
        commit = resolve_revision(name, revision)
    except KDError:  # told when it is read
        return []
    return [] if commit is None else [f"data.revision={commit}"]


def column_of(
    what: str, named: str | None, columns: Sequence[str], fits: Callable[[str], bool], usual: Sequence[str]
) -> str:
    """The column that a config names, or else the one that fits, or of several the first of the ``usual`` names.

    KDError, at the key ``what``, where there is none of that name, none fits, or several do.
    """
    listed = ", ".join(columns)
    if named is not None:
        if named not in columns:
            raise KDError(f"there is no column {named!r}; there are {listed}", path=what)
        return named
    found = [column for column in columns if fits(column)]
    chosen = found if len(found) == 1 else [column for column in usual if column in found][:1]
    if not chosen:
        reason = f"{' and '.join(found)} may be it" if found else "no column is of such a kind"
        raise KDError(f"the column is not known: {reason}; there are {listed}", hint=f"`{what}: COLUMN`", path=what)
    return chosen[0]
