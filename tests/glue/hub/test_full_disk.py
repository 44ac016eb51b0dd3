"""A disk that is full while the student's tokenizer is written, which a library in Rust does."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from kd_core.errors import RunInterrupted
from kd_core.runs.export import write_student
from kd_glue.data.encoding import load_tokenizer

TINY = Path(__file__).parents[3] / "configs" / "glue" / "example" / "tiny"


@pytest.mark.parametrize("limit", [1000, 2500])
def test_it_is_one_error_and_leaves_nothing(limit: int, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(TINY), None)

    def beside(folder: Path) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            tokenizer.save_pretrained(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with pytest.raises(RunInterrupted, match=r"cannot write the student to .*: File too large"):
        write_student(tmp_path / "student", {"weight": torch.zeros(2)}, "arch: x\n", beside)
    assert list(tmp_path.iterdir()) == []
