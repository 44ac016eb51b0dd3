"""The command plan."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kd_core.cli.options import config_argument, config_options, json_option
from kd_core.cli.output import bytes_text, echo, quiet_stdout, table
from kd_core.files import json_text

if TYPE_CHECKING:
    from kd_core.estimate import Estimate

MINUTE, HOUR = 60.0, 3600.0


@click.command()
@config_argument
@click.option("--seconds", type=click.FloatRange(min=0), default=5.0, show_default=True, help="Of each stage measured.")
@click.option("--fast/--no-fast", "faster", default=True, help="Measure `runtime: fast` too.  [yes]")
@config_options
@json_option
def plan(config: Path, as_json: bool, **options: Any) -> None:
    """Measure a few steps of CONFIG: time, memory and disk.

    Also what `runtime: fast` chooses on this machine, and what it gains. Nothing is kept of what is trained.
    """
    with quiet_stdout():
        from kd_core.estimate import estimate

        usual, faster = estimate(config, **options)
    if as_json:
        fast = {} if faster is None else {"fast": _facts(faster)}
        echo(json_text({**_facts(usual), **fast}))
        return
    echo("\n".join(_lines(usual)))
    if options["faster"]:
        echo("\n".join(_fast_lines(usual, faster)))


def _facts(estimate: Estimate) -> dict[str, Any]:
    facts = asdict(estimate)
    facts["runtime"] = estimate.runtime.model_dump()
    names = ("seconds", "training_bytes", "finished_bytes")
    return {**facts, **{name: getattr(estimate, name) for name in names}}


def _lines(estimate: Estimate) -> list[str]:
    """The stages in a table, and what they take together."""
    header = ("stage", "step", "waits", "steps", "epoch", "scoring", "in all", "memory")
    rows = [
        (
            stage.name,
            seconds_text(stage.step),
            f"{100 * stage.wait / stage.step:.0f} %",
            f"{stage.steps:,}",
            seconds_text(stage.epoch),
            f"{stage.scorings} x {seconds_text(stage.scoring)}" if stage.scorings else "none",
            seconds_text(stage.seconds),
            bytes_text(stage.memory),
        )
        for stage in estimate.stages
    ]
    few = min(stage.measured for stage in estimate.stages)
    lines = [f"measured on {estimate.device}, {few} steps or more of each stage; waits: for data"]
    lines += ["", table(header, rows), ""]
    final = (
        f"of which {seconds_text(estimate.final)} for the last scoring"
        if estimate.final
        else "nothing is scored at the end"
    )
    lines.append(f"time   {seconds_text(estimate.seconds)}, {final}")
    for cached in estimate.cached:
        saved = f"once all is kept, a step takes {seconds_text(cached.saves)} less"
        size = f"{bytes_text(cached.bytes)} for each view of the training samples"
        lines.append(f"cache  models.{cached.model}: {size}; {saved}")
    kept = f"{estimate.keep_last + 1} checkpoints of {bytes_text(estimate.checkpoint)}"
    finished = f"{bytes_text(estimate.finished_bytes)} at the end"
    lines.append(f"disk   {bytes_text(estimate.training_bytes)} while it trains ({kept}), {finished}")
    return lines


def _fast_lines(usual: Estimate, fast: Estimate | None) -> list[str]:
    """What ``runtime: fast`` chooses and gains."""
    if fast is None:
        return ["fast   runtime: fast chooses nothing else here"]
    before, after = usual.runtime.model_dump(), fast.runtime.model_dump()
    changed = ", ".join(f"{key}: {json_text(value)}" for key, value in after.items() if value != before[key])
    gains = [
        f"       {stage.name}: {seconds_text(stage.step)} a step, {old.step / stage.step:.3g} x as fast"
        for old, stage in zip(usual.stages, fast.stages, strict=True)
    ]
    return [f"fast   {seconds_text(fast.seconds)} with {{{changed}}}", *gains]


def seconds_text(seconds: float) -> str:
    """A time with three digits in the unit that fits: ``12.3 ms``, ``4.5 s``, ``12 min``, ``3.2 h``."""
    for most, unit, size in ((1.0, "ms", 1e-3), (2 * MINUTE, "s", 1.0), (2 * HOUR, "min", MINUTE)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / HOUR:.3g} h"
