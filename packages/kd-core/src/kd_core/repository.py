"""Files of a model on the Hugging Face hub, or in a folder: found, downloaded where missing, or one clear error.

Every file is looked for in the cache first, and the hub is asked once whether it answers: its library would ask
again and again, for each file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from kd_core.errors import KDError, Unverified
from kd_core.files import user_path

Kind = Literal["structure", "weights", "tokenizer"]
"""Files that are read of a model: ``structure`` is its config alone."""
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
"""What a model of images says of its inputs, read beside its config where it is there."""
COMMIT = re.compile("[0-9a-f]{40}")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""In the order of preference; an index lists the files that it is cut into."""
TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.jinja",
)
TIMEOUT = 10.0
"""Seconds that the hub has to answer."""


def model_folder(
    name: str, revision: str | None = None, kind: Kind = "structure", *, offline: bool = False, key: str = "hub"
) -> Path:
    """The folder with the files of a model, a local one or one in the hub's cache; a config names it by ``key``.

    ``offline`` reads this machine only and raises Unverified where the files are not here. KDError where there is no
    such model, it is not to be read by everyone, or the hub does not answer.
    """
    if (folder := local_folder(name)) is not None:
        return folder
    here = cached_folder(name, revision, kind)
    if offline:
        if here is None:
            raise Unverified(f"the hub's model {name} is not on this machine")
        return here
    if here is not None and COMMIT.fullmatch(revision or ""):
        return here
    try:
        files = _listed(name, revision)
    except ConnectionError as error:
        if here is None:
            raise _unreachable(name, error, key) from error
        return here
    return _downloaded(name, revision, files, kind)


def local_folder(name: str) -> Path | None:
    """The folder that ``name`` is, None for an id on the hub; KDError for a folder without a model, and for neither."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = user_path(name)
    if folder.is_dir():
        if not (folder / CONFIG).is_file():
            raise KDError(f"{name} is not a model folder: it has no {CONFIG}")
        return folder
    try:
        try_to_load_from_cache(name, CONFIG)
    except HFValidationError:
        reason = "is a file, not a model's folder" if folder.exists() else "is neither a folder nor a name on the hub"
        raise KDError(f"{name!r} {reason}") from None
    return None


def resolved(name: str, revision: str | None) -> str | None:
    """The commit that ``revision`` (None: the newest) of a model is today; without network, in the cache.

    None where neither tells, or where there is nothing of that name.
    """
    here = cached_folder(name, revision, "structure")
    try:
        return _downloaded(name, revision, _listed(name, revision), "structure").name
    except (ConnectionError, KDError):
        return None if here is None else here.name


def commit_of(name: Any, revision: Any) -> str | None:
    """The commit to pin a model at; None for a folder, for one that is pinned, and where it cannot be found out."""
    if not isinstance(name, str) or COMMIT.fullmatch(revision or "") or user_path(name).is_dir():
        return None
    try:
        return None if local_folder(name) is not None else resolved(name, revision)
    except KDError:  # no name at all
        return None


def cached_folder(name: str, revision: str | None, kind: Kind) -> Path | None:
    """The snapshot in the cache of the hub that has all files of a kind, None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, CONFIG, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    names = [path.name for path in folder.iterdir()]
    if kind == "tokenizer":
        return folder if any(fnmatch(file, pattern) for file in names for pattern in TOKENIZER) else None
    if kind == "weights":
        first = weight_file(names)
        if first is None or not {first, *shards(folder / first)} <= set(names):
            return None
    return folder


def weight_file(names: Collection[str]) -> str | None:
    """The file of weights, or the index of them, among a model's files."""
    return next((file for file in WEIGHTS if file in names), None)


def shards(path: Path) -> list[str]:
    """The files that an index of weights names; none for the weights themselves."""
    if not path.name.endswith(".index.json"):
        return []
    try:
        return sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KDError(f"{path} is not a weight index: {error}") from error


def _listed(name: str, revision: str | None) -> list[str]:
    """A model's files on the hub; ConnectionError where the hub does not answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    url = url_of(name)
    try:
        info = HfApi().model_info(name, revision=revision, timeout=TIMEOUT)
    except GatedRepoError as error:
        hint = f"ask for access at {url}, then `hf auth login` or HF_TOKEN"
        raise KDError(f"{name} is a gated model", hint=hint) from error
    except RevisionNotFoundError as error:
        raise KDError(f"{name} has no revision {revision!r}", hint=f"{url}/commits/main lists them") from error
    except RepositoryNotFoundError as error:
        raise KDError(
            f"there is no model {name!r}, on the hub ({url}) or as a folder",
            hint="a private one needs `hf auth login` or HF_TOKEN",
        ) from error
    except Exception as error:  # without a connection, each version of the library raises something else
        raise ConnectionError(first_line(error)) from error
    return [file.rfilename for file in info.siblings or ()]


def _downloaded(name: str, revision: str | None, files: list[str], kind: Kind) -> Path:
    """The snapshot in the cache, with all files of a kind."""
    if CONFIG not in files:
        raise KDError(f"{url_of(name)} does not hold a model: there is no {CONFIG}")
    folder = Path(_download(name, CONFIG, revision)).parent  # by its name, so that the cache knows what that is
    if kind == "tokenizer":
        needed = [file for file in files if any(fnmatch(file, pattern) for pattern in TOKENIZER)]
    elif kind == "weights":
        if (first := weight_file(files)) is None:
            raise KDError(f"{url_of(name)} has no PyTorch weights: none of {', '.join(WEIGHTS)}")
        needed = [first, *shards(Path(_download(name, first, folder.name)))]
    else:
        needed = []
    for file in (*needed, *([PREPROCESSOR] if PREPROCESSOR in files else [])):
        _download(name, file, folder.name)
    return folder


def _download(name: str, file: str, revision: str | None) -> str:
    from huggingface_hub import hf_hub_download

    try:
        return str(hf_hub_download(name, file, revision=revision))
    except Exception as error:  # of the network, of the disk, and of several libraries
        raise KDError(f"cannot download {url_of(name)}/{file}: {first_line(error)}") from error


def url_of(name: str) -> str:
    """The address of a model."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}"


def _unreachable(name: str, error: Exception, key: str) -> KDError:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    return KDError(
        f"{name} is not on this machine (as a folder or in the hub's cache), and {url_of(name)} cannot be reached"
        f" ({error})",
        hint=f"put its files into a folder and write `{key}: FOLDER`, or copy {cache} from a machine that has it",
    )


def first_line(error: BaseException | Any) -> str:
    """The first line of a library's error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
