"""The text of a file that a user wrote: a config, one of its bases or a preset. No file is too large, or never ends."""

from __future__ import annotations

from pathlib import Path

from kd_core.errors import ConfigError, ConfigProblem, Mark, nearest

MAX_BYTES = 256 * 1024


def read(file: str, asked: Mark | None = None, key: str = "") -> str:
    """The text of a config file; ConfigError where it is none. ``asked`` is where another file names it, by ``key``."""
    where, path = asked or Mark(file), key if asked else ""
    about = f"{file}: " if asked else ""
    try:
        if not Path(file).is_file() and Path(file).stat():
            reason, hint = _not_a_file(Path(file))
            raise ConfigError(ConfigProblem(f"{about}this is {reason}", path, where, hint))
        with Path(file).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(ConfigProblem(f"{about}{_reason(error)}", path, where, _neighbour(file))) from None
    if len(data) > MAX_BYTES:
        raise ConfigError(
            ConfigProblem(f"{about}larger than {MAX_BYTES // 1024} KiB", path, where, "keep data in files of their own")
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise ConfigError(
            ConfigProblem("not UTF-8 text", mark=Mark(file, line, column), hint="save it as UTF-8")
        ) from None


def _not_a_file(path: Path) -> tuple[str, str | None]:
    """What a path that is no regular file is, and a hint."""
    if not path.is_dir():
        return "not a regular file", None
    if (path / "config.yaml").is_file():
        return "a run folder, not a config", f"`resume {path}` continues the run; {path / 'config.yaml'} is its config"
    configs = sorted(entry.name for entry in path.iterdir() if entry.suffix in (".yaml", ".yml"))
    return "a directory, not a config", f"name a config in it, such as {path / configs[0]}" if configs else None


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return (error.strerror or "not readable").lower() if isinstance(error, OSError) else "not a file name"


def _neighbour(file: str) -> str | None:
    path = Path(file)
    try:
        near = nearest(path.name, [other.name for other in path.parent.iterdir() if other.name != path.name])
    except (OSError, ValueError):
        return None
    return f"did you mean {path.with_name(near)}?" if near else None
