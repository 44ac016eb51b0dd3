"""A report in a real browser: it shows values under the pointer, hides lines, and is refused nothing.

``KD_BROWSER_PYTHON`` names a Python that has PySide6 or playwright; without it the tests' own is asked.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kd_core.files import json_text
from kd_core.report.report import report

BROWSER = os.environ.get("KD_BROWSER_PYTHON", sys.executable)
CONFIG = "task: image_classification\ndata: {name: digits}\nmodels: {student: {arch: cnn}}\nseed: "
CODE = """(() => {
  const svg = document.querySelector("svg[data-x0]"), box = svg.getBoundingClientRect();
  svg.dispatchEvent(new MouseEvent("mousemove", {clientX: box.left + box.width * 0.6, clientY: box.top + 20}));
  const tip = document.getElementById("tip");
  const shown = [tip.textContent, getComputedStyle(tip).display];
  const button = document.querySelector(".legend button");
  const group = svg.querySelector("g[data-key]");
  const display = () => getComputedStyle(group).display;
  const before = display();
  button.click();
  const hidden = [display(), button.getAttribute("aria-pressed")];
  button.click();
  const bottoms = [...document.querySelectorAll("figure")].map(figure => figure.scrollWidth - figure.clientWidth);
  const wide = document.documentElement.scrollWidth, room = innerWidth;
  return JSON.stringify({shown, before, hidden, after: display(), wide, room,
    overflow: Math.max(...bottoms), stroke: getComputedStyle(svg.querySelector(".line")).stroke});
})()"""


def made_run(folder: Path, seed: int) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(f"{CONFIG}{seed}\n")
    rows = [
        {"stage": "s", "epoch": epoch, "step": 10 * epoch, "val": {"top1": 90 - 40 * math.exp(-epoch / 3) + seed}}
        for epoch in range(1, 11)
    ]
    (folder / "metrics.jsonl").write_text("".join(json_text(row) + "\n" for row in rows))
    return folder


@pytest.mark.slow
def test_a_report_in_a_browser(tmp_path: Path) -> None:
    page = report([made_run(tmp_path / f"kd{seed}", seed) for seed in range(2)], tmp_path / "report.html", worst=0)
    flags = {"QT_QPA_PLATFORM": "offscreen", "QTWEBENGINE_CHROMIUM_FLAGS": "--no-sandbox --disable-gpu"}
    command = [BROWSER, str(Path(__file__).with_name("browser.py")), str(page), CODE]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | flags
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)
    if done.returncode and ("ModuleNotFoundError" in done.stderr or "ImportError" in done.stderr):
        pytest.skip("there is no browser: install PySide6 or playwright, or name a Python in KD_BROWSER_PYTHON")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["console"] == []
    answer = json.loads(told["answer"])
    assert answer["shown"][1] == "block"
    assert answer["shown"][0].startswith("step ")
    assert "kd, mean of 2" in answer["shown"][0]
    assert (answer["before"], answer["hidden"], answer["after"]) == ("inline", ["none", "false"], "inline")
    assert answer["wide"] <= answer["room"]
    assert answer["overflow"] <= 0
    assert answer["stroke"] != "none"
