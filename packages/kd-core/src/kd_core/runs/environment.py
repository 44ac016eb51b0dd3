"""What a run ran on: versions, the commit of the tree it was started in, and the hardware."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent


def environment() -> dict[str, Any]:
    """Plain values for ``manifest.json``. ``git`` is the tree of the working folder, ``source`` that of this code."""
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
        "git": git_state(Path.cwd()),
        "source": None if "site-packages" in SOURCE.parts else git_state(SOURCE),
        "hardware": hardware(),
    }


def versions() -> dict[str, str]:
    """The installed ``kd-*`` packages and what they depend on."""
    ours = {dist.name for dist in distributions() if dist.name.startswith("kd-")}
    names = ours | {"torch"}
    for package in ours:
        names.update(re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requires(package) or ())
    versions = {}
    for name in sorted(names):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed
    return versions


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the git tree that ``folder`` is in and whether tracked files differ from it; None without one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """CPU model and count, and, where torch is loaded, its threads and CUDA devices."""
    facts: dict[str, Any] = {"cpu": _cpu_model(), "cpus": os.cpu_count()}
    if "torch" in sys.modules:
        import torch

        facts["threads"] = torch.get_num_threads()
        facts["cuda"] = [torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())]
    return facts


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
