"""The table of what can be tapped."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from kd_core.taps.table import TapRow, module_table, table_text
from kd_core.taps.wires import Tap
from kd_core.taps.wrappers import ForwardWrapper


def plain(model: nn.Module, inputs: Any) -> Any:
    return model(inputs)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> dict[str, Any]:
        out, state = self.lstm(x)
        return {"out": out, "state": state, "mask": mask}


class Outer(nn.Module):
    """Keywords, nested outputs, a shared module, one that runs twice and one that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.again = self.inner
        self.act = nn.ReLU(inplace=True)
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 2)})
        self.spare = nn.Linear(1, 1)
        self.drop = nn.Dropout(0.5)
        self.missing: nn.Module | None
        self.register_module("missing", None)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        hidden = self.inner(batch["x"], mask=batch["mask"])["out"]
        return self.heads["a"](self.act(self.drop(self.act(hidden[:, 0])))), [hidden]


BATCH = {"x": torch.ones(2, 3, 4), "mask": torch.ones(2, 3, dtype=torch.bool)}


def test_rows() -> None:
    rows = {row.path: row for row in module_table(Outer(), BATCH, plain)}
    assert list(rows)[:5] == ["", "inner", "inner.lstm", "again", "again.lstm"]
    assert rows["inner"] == TapRow(
        "inner",
        "Inner",
        inputs="(2, 3, 4), mask=(2, 3)",
        outputs="{out: (2, 3, 4), state: [(1, 2, 4), (1, 2, 4)], mask: (2, 3)}",
        dtype="float32, bool",
        params=160,
        calls=1,
    )
    assert rows["again"].calls == 1
    assert rows["act"].calls == 2
    assert rows["act"].inputs == "(2, 4)"
    assert (rows["spare"].calls, rows["spare"].outputs, rows["spare"].params) == (0, "", 2)
    assert rows["heads"].calls == 0
    assert rows[""].inputs == "{x: (2, 3, 4), mask: (2, 3)}"
    assert rows[""].outputs == "[(2, 2), [(2, 3, 4)]]"
    assert "missing" not in rows


def test_calls_that_differ_are_all_shown() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.pool(x))

    row = module_table(Twice(), torch.ones(1, 1, 8, 8), plain)[1]
    assert (row.inputs, row.outputs, row.calls) == ("(1, 1, 8, 8) | (1, 1, 4, 4)", "(1, 1, 4, 4) | (1, 1, 2, 2)", 2)


def test_the_model_is_left_as_it_was() -> None:
    model = resnet18(num_classes=5).train()
    model.layer1.eval()
    twin = copy.deepcopy(model)
    grad = []
    model.layer1.register_forward_pre_hook(lambda *_: grad.append((torch.is_grad_enabled(), model.training)))
    hooks = len(model.layer1._forward_pre_hooks)
    module_table(model, torch.randn(2, 3, 32, 32), plain)
    assert grad == [(False, False)]
    assert len(model.layer1._forward_pre_hooks) == hooks
    assert not any(module._forward_hooks for module in model.modules())
    assert [each.training for each in model.modules()] == [each.training for each in twin.modules()]
    assert all(map(torch.equal, model.state_dict().values(), twin.state_dict().values()))


def test_an_error_leaves_no_hooks() -> None:
    model = resnet18(num_classes=5)
    with pytest.raises(RuntimeError):
        module_table(model, torch.randn(2, 4, 32, 32), plain)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        rows = module_table(resnet18(num_classes=5), torch.randn(2, 3, 32, 32), plain)
    assert {row.path: row.outputs for row in rows}["layer3"] == "(2, 256, 2, 2)"


def test_every_called_row_can_be_tapped() -> None:
    model = Outer().eval()
    for row in module_table(model, BATCH, plain):
        if row.calls:
            wrapper = ForwardWrapper(model, [Tap(row.path, side, row.calls - 1) for side in ("in", "out")])  # type: ignore[arg-type]
            assert len(wrapper(BATCH).at) == 2
            wrapper.release()


def test_text() -> None:
    rows = [
        TapRow("", "Net", "(2, 3)", "(2, 1)", "float32", 1234, 1),
        TapRow("layer1.0", "Linear", "(2, 3) | (2, 4)", "(2, 1)", "bool", 4, 2),
        TapRow("spare", "Linear", "", "", "", 4, 0),
    ]
    assert table_text(rows).splitlines() == [
        "path      module  in               out          params  calls",
        "output    Net     (2, 3)           (2, 1)        1,234      1",
        "layer1.0  Linear  (2, 3) | (2, 4)  (2, 1) bool       4      2",
        "spare     Linear  not called                         4      0",
    ]
    assert table_text(rows[:1]).splitlines()[0].split() == ["path", "module", "in", "out", "params"]


def test_a_wide_table_fits_the_terminal() -> None:
    path = "backbone.body.layer4.2.downsample.projection.convolution.0"
    inputs = "mask=None, {images: (2, 3, 800, 1066), boxes: [(7, 4), (1, 4)]}"
    rows = [
        TapRow("", "DetectorWithAnUnusuallyLongName", inputs, "[(2, 91, 100, 134)]", "float32", 41_755_286, 1),
        TapRow(path, "Conv2d", "(2, 1024, 50, 67)", "(2, 2048, 25, 34)", "float32", 2_097_152, 1),
    ]
    lines = table_text(rows).splitlines()
    assert max(map(len, lines)) <= 100
    assert path in lines  # whole, to be copied
    assert lines[-1].split("  ")[-1] == "2,097,152"
    assert any("(2, 3, 800, 1066)" in line for line in lines)
    assert len(table_text(rows, 250).splitlines()) == 3
    assert "None" not in table_text(rows)


def test_a_table_fits_80_columns() -> None:
    inputs, outputs = "input_ids=(2, 16), attention_mask=(2, 16)", "{last_hidden_state: (2, 16, 16), pooler: (2, 16)}"
    row = TapRow("bert.encoder.layer.0", "BertForSequenceClassification", inputs, outputs, "float32", 109_483_778, 2)
    lines = table_text([row, row], 80).splitlines()
    assert max(map(len, lines)) <= 80
