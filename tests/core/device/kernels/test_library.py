"""Building the kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd_core.device.kernels.library import can_build, library
from kd_core.errors import KDError


@pytest.mark.parametrize("name", ["norm", "conv3x3"])
def test_a_compiler_that_fails_is_one_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.codecache import CppCodeCache

    def load(*code: str, **options: object) -> None:
        raise RuntimeError("C++ compile error\n\nCommand:\ng++ -O3\n\nOutput:\nfatal error: omp.h: No such file")

    monkeypatch.setattr(CppCodeCache, "load", load)
    library.cache_clear()
    with pytest.raises(KDError, match=f"{name}.cpp cannot be compiled here: C\\+\\+ compile error") as caught:
        library(name)
    assert "runtime.cpu_kernels" in str(caught.value)


def test_what_can_be_built_is_looked_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "missing"))
    assert not can_build()
