"""What a release is checked for: versions in step, notes, contents, and dependencies that are declared."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = spec_from_file_location("release", ROOT / "scripts" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_packages_have_one_version(release: ModuleType) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", release.version_in_step(ROOT))


@pytest.mark.parametrize(
    ("package", "old", "new", "message"),
    [
        ("kd-seg", 'version = "0.1.0"', 'version = "0.2.0"', "kd-seg has the version 0.2.0, and kd-core 0.1.0"),
        ("kd-zoo", '"kd-core==0.1.0"', '"kd-core>=0.1"', "kd-zoo asks for kd-core>=0.1, and not for kd-core==0.1.0"),
    ],
)
def test_versions_out_of_step_stop_it(
    release: ModuleType, tmp_path: Path, package: str, old: str, new: str, message: str
) -> None:
    for name in release.PACKAGES:
        text = (ROOT / "packages" / name / "pyproject.toml").read_text(encoding="utf-8")
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        text = re.sub(r"\b\d+\.\d+\.\d+(?=\")", "0.1.0", text)
        (folder / "pyproject.toml").write_text(text.replace(old, new) if name == package else text, encoding="utf-8")
    with pytest.raises(SystemExit, match=re.escape(message)):
        release.version_in_step(tmp_path)


def test_release_notes_are_the_changelogs_part_on_a_version(release: ModuleType) -> None:
    changelog = "# Changelog\n\n## [Unreleased]\n\n- New.\n\n## [1.2.3] - 2026-01-01\n\n### Added\n\n- Old.\n"
    assert release.release_notes(changelog, "1.2.3", tagged=True) == "### Added\n\n- Old.\n"
    assert release.release_notes(changelog, "1.3.0", tagged=False) == "- New.\n"
    with pytest.raises(SystemExit, match=r"has no section \[1\.3\.0\]"):
        release.release_notes(changelog, "1.3.0", tagged=True)


def test_what_git_knows_of_a_package_includes_the_configs_behind_links(release: ModuleType) -> None:
    files = release.committed_files(ROOT / "packages" / "kd-glue" / "src")
    assert {"kd_glue/py.typed", "kd_glue/configs/glue/example/train.tsv", "kd_glue/configs/glue/_kd.yaml"} <= files


def test_a_file_too_many_or_too_few_stops_it(release: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"a\.whl lacks b"):
        release.compare("a.whl", {"a"}, {"a", "b"})
    with pytest.raises(SystemExit, match=r"a\.whl has what is not committed, or does not belong there: c"):
        release.compare("a.whl", {"a", "c"}, {"a"})


def test_only_what_is_declared_is_linked(release: ModuleType, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "kd_zoo-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("kd_zoo-0.1.0.dist-info/METADATA", "Requires-Dist: pydantic>=2\nRequires-Dist: kd-core==0.1.0\n")
    with zipfile.ZipFile(tmp_path / "kd_core-0.1.0-py3-none-any.whl", "w") as wheel:
        text = "Requires-Dist: click>=8\nRequires-Dist: onnx>=1 ; extra == 'export'\n"
        wheel.writestr("kd_core-0.1.0.dist-info/METADATA", text)
    names = release.declared("kd-zoo", tmp_path)
    assert {"pydantic", "pydantic-core", "click"} <= names
    assert not {"kd-core", "onnx", "torch", "numpy"} & names


@pytest.mark.parametrize("package", ["kd-core", "kd-zoo", "kd-vision", "kd-glue", "kd-seg"])
def test_a_readme_has_no_link_that_breaks_on_an_index(package: str) -> None:
    text = (ROOT / "packages" / package / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [link for link in links if not link.startswith("https://")] == []


def test_every_dependency_is_on_the_page_of_licences() -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    for project in ROOT.glob("packages/*/pyproject.toml"):
        for name in re.findall(r'"([a-z][\w-]+)(?:\[\w+\])?>=', project.read_text(encoding="utf-8")):
            assert name == "hatchling" or f"\n| `{name}` | " in page, (
                f"{name} is not in docs/licences.md: make licences"
            )


@pytest.mark.slow
def test_the_page_of_licences_is_current() -> None:
    script = ROOT / "scripts" / "make_licences.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
