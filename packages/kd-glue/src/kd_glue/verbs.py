"""The verbs that ``kd-glue`` has beside those of every ``kd-*``. What they need is imported when they run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from kd_core.cli.options import config_options, json_option
from kd_core.cli.output import echo, quiet_stdout, table
from kd_core.errors import KDError
from kd_core.files import json_text

root_option = click.option("--root", type=click.Path(path_type=Path), help="The folder the data lies in.")


@click.command()
@click.argument("target", metavar="RUN")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("--text", "columns", multiple=True, metavar="COLUMN", help="Of tables; two make pairs.  [text]")
@click.option("--split", metavar="NAME", help="train, val, test or, of MNLI, test_matched, test_mismatched.  [test]")
@click.option("--out", type=click.Path(path_type=Path), help="A .tsv, .csv or .jsonl file.  [tsv on standard output]")
@root_option
@config_options
@json_option
def predict(
    target: str,
    files: tuple[Path, ...],
    columns: tuple[str, ...],
    split: str | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Predict new texts, or those of a split, with a run's student.

    A FILE has a text a line, - is standard input; of csv, tsv, jsonl, json and parquet the column --text is read. A row
    of the answer has the text's index, the new text, the prediction, and the probability of each class; of several
    files, the file. A file that cannot be read is told of and passed over.
    """
    if files and (split is not None or options["root"] is not None or options["overrides"]):
        raise click.UsageError("--split, --root and --set are about the data of the run, and files are named")
    if (columns and not files) or len(columns) > 2:
        raise click.UsageError("--text names the column of a FILE, or two")
    failed: dict[Path, KDError] = {}
    with quiet_stdout():
        if files:
            from kd_glue.results.texts import predict_texts

            columns = columns or ("text",)
            predictions, failed = predict_texts(target, files, columns=columns, out=out, trust=options["trust"])
        else:
            from kd_glue.results.predict import predict

            predictions = predict(target, split=split, out=out, **options)
    if as_json:
        facts = {"split": predictions.split, "samples": len(predictions)}
        facts |= {"failed": {str(file): str(error) for file, error in failed.items()}} if failed else {}
        echo(json_text({**facts, **({"predictions": list(predictions.rows())} if out is None else {"out": out})}))
    elif out is None:
        echo(predictions.tsv(), nl=False)
    else:
        echo(f"{'samples':<12} {len(predictions)} ({predictions.split})\n{out}")
    if failed:
        echo("".join(f"error: {error}\n" for error in failed.values()), err=True, nl=False)
        names = ", ".join(map(str, failed))
        raise KDError(f"{len(failed)} of {len(files)} files could not be read; the others are done: {names}")


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--out", type=click.Path(path_type=Path), default="submission.zip", show_default=True)
@click.option("--fill", is_flag=True, help="Fill the files of tasks without a run with their most frequent class.")
@click.option("--verify", type=click.Path(path_type=Path), metavar="FILE", help="Only check an archive that is there.")
@root_option
@config_options
@json_option
def leaderboard(
    runs: tuple[Path, ...], out: Path, fill: bool, verify: Path | None, as_json: bool, **options: Any
) -> None:
    """Write the archive for GLUE's leaderboard.

    The predictions are those of the students of finished runs, one a task. A run of MNLI predicts both of its test
    sets and the diagnostic set AX.
    """
    if bool(runs) == (verify is not None):
        raise click.UsageError("name runs, or an archive with --verify")
    with quiet_stdout():
        from kd_glue.results.submission import submit, verify_submission

        if verify is not None:
            files: dict[str, dict[str, Any]] = {
                name: {"rows": rows} for name, rows in verify_submission(verify).items()
            }
        else:
            submission = submit(runs, out=out, fill=fill, **options)
            files = {name: {"rows": rows, "run": submission.runs[name]} for name, rows in submission.rows.items()}
    archive = verify or out
    if as_json:
        echo(json_text({"out": archive, "files": files}))
        return
    filled = "" if verify else "filled"
    rows = [[name, str(facts["rows"]), str(facts.get("run") or filled)] for name, facts in files.items()]
    echo(table(("file", "rows", "from"), rows) + f"\n{archive}")


def with_upload(train: click.Command) -> click.Command:
    """The verb ``train`` with an option that uploads the student at the end; the run stays whatever the hub answers."""

    @click.pass_context
    def trained(ctx: click.Context, /, push_to_hub: str | None, **arguments: Any) -> None:
        result = ctx.invoke(train, **arguments)
        if push_to_hub is not None and os.environ.get("RANK", "0") == "0":
            with quiet_stdout():
                from kd_core.deploy.push import push

                uploaded = push(result.run, push_to_hub)
            echo(f"uploaded to {uploaded.address}", err=True)

    option = click.Option(["--push-to-hub"], metavar="NAME", help="Upload the student as this model of the hub.")
    return click.Command(train.name, params=[*train.params, option], callback=trained, help=train.help)
