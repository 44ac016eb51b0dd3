"""Build the five packages and prove that they are fit to be published; nothing is uploaded.

Versions are in step, wheels and source distributions hold what is committed and nothing else, each source distribution
builds the same wheel, and each wheel works alone: in an environment of its own, far from the repository, it is
installed from the built files and runs its command.

PyTorch takes gigabytes. So the dependencies that a package declares, theirs as well, and no others, are linked into its
environment from the one that runs this script. With ``--whole`` pip installs them from the package index instead.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("kd-core", "kd-zoo", "kd-vision", "kd-glue", "kd-seg")
TOOLS = ("build>=1.2", "hatchling>=1.27", "twine>=6")
METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
BESIDE = {"PKG-INFO", "pyproject.toml", "README.md", "LICENSE", ".gitignore"}
TRIALS: dict[str, list[str]] = {
    "kd-core": [
        "python -m kd_core",
        "python -c 'from kd_core.losses import LOSSES; print(len(LOSSES.names()))'",
    ],
    "kd-zoo": ["kd-zoo list", "kd-zoo info resnet20"],
    "kd-vision": [
        "kd-vision list losses",
        "kd-vision list configs",
        "kd-vision check cifar10_kd_resnet20_resnet56",
        "kd-vision check coco2017_fasterrcnn_resnet50",
        "kd-vision train digits_teacher --set stages.train.epochs=1 --set runtime.device=cpu --out runs/teacher",
        "kd-vision train digits_kd --set stages.distill.steps=1 --set runtime.device=cpu --out run",
        "kd-vision eval run",
    ],
    "kd-glue": [
        "kd-glue list models",
        "kd-glue check example_kd",
        "kd-glue train example_alone --set data.limit=9 --set stages.train.epochs=1 --set runtime.device=cpu --out run",
        "kd-glue eval run",
    ],
    "kd-seg": [
        "kd-seg list models",
        "kd-seg check voc2012_small",
        "kd-seg train scenes_alone --set data.limit=16 --set stages.train.epochs=1 --set runtime.device=cpu --out run",
        "kd-seg eval run",
    ],
}
"""What each package must be able to do alone, in an empty folder."""


def main() -> None:
    """Check, build and try; exit with a message at the first thing that is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the built files go (default: dist)")
    parser.add_argument("--tag", help="a tag such as v1.2.3, whose version everything must have")
    parser.add_argument("--notes", type=Path, help="write this version's part of CHANGELOG.md to a file")
    parser.add_argument("--whole", action="store_true", help="install every dependency anew from the package index")
    options = parser.parse_args()
    version = version_in_step(ROOT)
    notes = release_notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version, tagged=bool(options.tag))
    if options.tag and options.tag != f"v{version}":
        sys.exit(f"the tag {options.tag} is not the packages' version: v{version} is")
    if options.notes:
        options.notes.write_text(notes, encoding="utf-8")
    options.out.mkdir(parents=True, exist_ok=True)
    for file in (*options.out.glob("*.whl"), *options.out.glob("*.tar.gz")):
        file.unlink()
    with tempfile.TemporaryDirectory(prefix="kd-release-") as folder:
        scratch = Path(folder)
        python = environment(scratch / "tools")
        pip(python, "install", *TOOLS)
        for package in PACKAGES:
            build(python, package, options.out, scratch)
        run([python, "-m", "twine", "check", "--strict", *map(str, sorted(options.out.iterdir()))])
        for package in PACKAGES:
            try_alone(package, options.out, scratch / package, whole=options.whole)
    print(f"version {version} is fit to be published: {options.out}")


# -- versions and notes


def version_in_step(root: Path) -> str:
    """The version that all packages have and ask of each other; exit where one differs."""
    texts = {name: (root / "packages" / name / "pyproject.toml").read_text(encoding="utf-8") for name in PACKAGES}
    versions = {name: re.findall(r'^version = "(.+)"$', text, re.MULTILINE) for name, text in texts.items()}
    (version,) = versions["kd-core"]
    for name, text in texts.items():
        if versions[name] != [version]:
            sys.exit(f"{name} has the version {', '.join(versions[name])}, and kd-core {version}")
        for other, asked in re.findall(r'"(kd-\w+)(?:\[\w+\])?([^"]*)"', text.partition("dependencies = [")[2]):
            if other in PACKAGES and asked != f"=={version}":
                sys.exit(f"{name} asks for {other}{asked}, and not for {other}=={version}")
    return version


def release_notes(changelog: str, version: str, *, tagged: bool) -> str:
    """The changelog's part on a version; that on what is not released yet where there is no tag."""
    parts = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    notes = {part.partition("]")[0].lstrip("["): part.partition("\n")[2].strip() + "\n" for part in parts}
    if version in notes:
        return notes[version]
    if tagged or "Unreleased" not in notes:
        sys.exit(f"CHANGELOG.md has no section [{version}]")
    return notes["Unreleased"]


# -- building


def build(python: str, package: str, out: Path, scratch: Path) -> None:
    """A package's wheel and source distribution in ``out``, whose contents are right."""
    source, name = ROOT / "packages" / package, package.replace("-", "_")
    direct = scratch / f"direct-{package}"
    command = [python, "-m", "build", "--no-isolation"]
    run([*command, "--wheel", "--outdir", str(direct), str(source)])
    run([*command, "--outdir", str(out), str(source)])  # the wheel is built from the source distribution
    (wheel,) = out.glob(f"{name}-*.whl")
    (archive,) = out.glob(f"{name}-*.tar.gz")
    (other,) = direct.glob("*.whl")
    files = contents(wheel)
    if files != contents(other):
        sys.exit(f"{archive.name} does not build the wheel that its folder builds")
    committed = committed_files(source / "src")
    compare(
        wheel.name, set(files), committed | {f"{wheel_metadata(wheel)}/{file}" for file in expected_metadata(source)}
    )
    with tarfile.open(archive) as packed:
        names = {member.name.partition("/")[2] for member in packed if not member.isdir()}
    compare(archive.name, names, {f"src/{file}" for file in committed} | BESIDE)
    print(f"built {wheel.name} and {archive.name}: {len(committed)} files")


def contents(wheel: Path) -> dict[str, str]:
    """The files of a wheel with their checksums; RECORD lists the others, in an order of its own."""
    with zipfile.ZipFile(wheel) as packed:
        return {
            name: "" if name.endswith("/RECORD") else hashlib.sha256(packed.read(name)).hexdigest()
            for name in packed.namelist()
        }


def wheel_metadata(wheel: Path) -> str:
    """The folder of a wheel that describes it."""
    return "-".join(wheel.name.split("-")[:2]) + ".dist-info"


def expected_metadata(source: Path) -> set[str]:
    """What describes a wheel. A package without commands and plug-ins has no entry points."""
    plugs_in = re.search(r"^\[project\.(scripts|entry-points)", (source / "pyproject.toml").read_text("utf-8"), re.M)
    return METADATA if plugs_in else METADATA - {"entry_points.txt"}


def committed_files(folder: Path) -> set[str]:
    """The files below a folder that git knows, those behind links to folders of the repository as well."""
    files = set()
    for name in tracked(folder):
        path = folder / name
        if path.is_dir():
            files |= {f"{name}/{inner}" for inner in tracked(path.resolve())}
        else:
            files.add(name)
    return files


def tracked(folder: Path) -> list[str]:
    """The files below a folder that git knows, relative to it."""
    return run(["git", "-C", str(folder), "ls-files", "-z"]).split("\0")[:-1]


def compare(name: str, files: set[str], expected: set[str]) -> None:
    """Exit where a distribution's files are not those that are expected."""
    if lacking := sorted(expected - files):
        sys.exit(f"{name} lacks {', '.join(lacking[:9])}")
    if more := sorted(files - expected):
        sys.exit(f"{name} has what is not committed, or does not belong there: {', '.join(more[:9])}")


# -- trying


def try_alone(package: str, built: Path, folder: Path, *, whole: bool) -> None:
    """Install a built package into an environment of its own, and run its commands in an empty folder."""
    python = environment(folder / "environment")
    if not whole:
        link_dependencies(package, built, Path(python).parents[1])
    index = [] if whole else ["--no-index"]
    pip(python, "install", *index, "--find-links", str(built), f"{package}=={version_in_step(ROOT)}")
    work = folder / "work"
    work.mkdir()
    for line in TRIALS[package]:
        print(f"{package} alone: {line}", flush=True)
        command, *arguments = shlex.split(line)
        run([str(Path(python).with_name(command)), *arguments], cwd=work)
    shutil.rmtree(folder)  # with --whole it has gigabytes


def environment(folder: Path) -> str:
    """A new virtual environment's Python."""
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    return str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")


def pip(python: str, *arguments: str) -> None:
    """Run pip, the one beside this script's Python, for another environment."""
    run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python, *arguments])


def link_dependencies(package: str, built: Path, environment: Path) -> None:
    """Make what a package declares, and nothing else, importable in an environment, from this one."""
    links = environment / "dependencies"
    links.mkdir()
    for name in declared(package, built):
        for file in distribution(name).files or ():
            top = file.parts[0]
            place = links / top
            if top not in ("..", "__pycache__") and not place.exists():
                place.symlink_to(Path(str(distribution(name).locate_file(top))))
    (site,) = environment.glob("**/site-packages")
    (site / "dependencies.pth").write_text(f"{links}\n", encoding="utf-8")


def declared(package: str, built: Path) -> set[str]:
    """The distributions that a built package needs, theirs as well, without the packages of this repository."""
    found: set[str] = set()
    left = [(Requirement(package), "")]
    while left:
        requirement, asker = left.pop()
        name = canonicalize_name(requirement.name)
        key = f"{name}[{','.join(sorted(requirement.extras))}]"
        if key in found:
            continue
        found.add(key)
        for line in requirements(name, built, asker):
            inner = Requirement(line)
            extras = requirement.extras or {""}
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                left.append((inner, name))
    return {key.partition("[")[0] for key in found} - set(PACKAGES)


def requirements(name: str, built: Path, asker: str) -> list[str]:
    """What a distribution asks for: of a built wheel, or of one that is installed here."""
    if name in PACKAGES:
        (wheel,) = built.glob(f"{name.replace('-', '_')}-*.whl")
        with zipfile.ZipFile(wheel) as packed:
            text = packed.read(f"{wheel_metadata(wheel)}/METADATA").decode()
        return re.findall(r"^Requires-Dist: (.+)$", text, re.MULTILINE)
    try:
        return distribution(name).requires or []
    except PackageNotFoundError:
        sys.exit(f"{name}, which {asker} needs, is not installed here; with --whole it would be downloaded")


def run(command: list[str], *, cwd: Path | None = None) -> str:
    """What a command prints; exit with all of it where the command fails. It sees no package of the repository."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"$ {shlex.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
