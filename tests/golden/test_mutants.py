"""Each loss's goldens notice when it is scaled, a temperature is dropped, an axis is another or a sign is turned."""

from __future__ import annotations

from typing import Any

import pytest
from mutants import Mutant, mutants
from ours import deviations, goldens_of
from recipes import HERE

from kd_core.losses import LOSSES

NOTICED = 1e-8
"""A deviation that no rounding explains."""
SYMMETRIC = "of a symmetric matrix: both axes are one"
NO_REFERENCE = "the reference has no such branch; tests/core/losses looks at it"
ROUNDED = "it keeps a division from 0 and is far below what the goldens tell apart"
TEACHER = "it is of the teacher's gradient, which the reference does not give; tests/contracts looks at it"
EQUIVALENT: dict[str, dict[str, str]] = {
    "attention_mse": {
        "return torch.where(pairs": NO_REFERENCE,
        "(mask != 0).sum(1)": NO_REFERENCE,
        "transpose(1, 2)": NO_REFERENCE,
    },
    "cirkd_minibatch": {".sum(-1).mean(0)": "a mean of means over equal numbers"},
    "dkd": {"sign turned: t - s": TEACHER, "sign turned: -t": TEACHER},
    "factor_transfer": {"student - teacher": NO_REFERENCE},
    "fsp": {"ours - theirs": "torchdistill's lengths of columns: compared in tests/golden/test_boxes.py and by hand"},
    "hidden_mse": {"reduction='none').mean(-1)": NO_REFERENCE},
    "ifvd": {"+ COUNT_EPSILON": ROUNDED},
    "kd": {"kernels.divergence": "kernels are off: tests/core/device/kernels/test_logits.py compares them"},
    "kdsvd": {"k + MORE": "less than none takes all but a few, the nearest among them"},
    "multilabel_kd": {"* temperatur": NO_REFERENCE, "tensor / temperature": NO_REFERENCE},
    "ofa": {"argmax(1)": NO_REFERENCE},
    "pkt": {"similarity.sum(1, keepdim=True)": SYMMETRIC},
    "rkd_angle": {"sign turned: -gradient": TEACHER},
    "skd_pairwise": {
        "return torch.stack(parts)": "the goldens' maps are too small for parts",
        "start + step": "the goldens' maps are too small for parts",
    },
    "srd": {"student - teacher": "of one sample it is 0"},
    "streamlined_direction": {"difference.mean(0)": SYMMETRIC},
    "uskd": {"+ EPSILON": ROUNDED},
}
"""Mutants that live, by a part of their text, and why."""
NAMES = sorted(file.stem for file in (HERE / "losses").glob("*.json"))


def notices(golden: Any, mutant: Mutant) -> bool:
    """Whether a mutant fails, or gives another value or gradient than the record."""
    try:
        found = deviations(mutant.loss, golden)
    except Exception:
        return True
    return not all(each <= NOTICED for each in found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_no_mutant_of_a_loss_passes_its_goldens(name: str) -> None:
    found = goldens_of(name)
    made = list(mutants(LOSSES.get(name)))
    assert any(mutant.what.partition(": ")[2].startswith("scaled") for mutant in made)
    living = [mutant.what for mutant in made if not any(notices(golden, mutant) for golden in found)]
    equivalent = EQUIVALENT.get(name, {})
    unnoticed = [what for what in living if not any(part in what for part in equivalent)]
    assert not unnoticed, f"give {name} cases that notice these, or say in EQUIVALENT why none can: {unnoticed}"
    assert all(any(part in what for what in living) for part in equivalent), "these are no mutants that live"
