"""The command-line interface of the harness."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

ModelOption = Annotated[
    str | None, typer.Option(help="A folder, a GGUF file or a hub name. Default: SmolLM2-135M-Instruct, included.")
]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@contextmanager
def _told() -> Iterator[None]:
    """End with status 2 and one line for an error of the user's, and pass on all others."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


@app.callback()
def main() -> None:
    """Evaluate KV-cache compression on long contexts."""


@app.command()
def run(
    study: Annotated[Path | None, typer.Argument(help="A YAML file with a study; options override it.")] = None,
    benchmark: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    length: Annotated[list[int] | None, typer.Option(help="Tokens, for generated benchmarks; repeatable.")] = None,
    press: Annotated[list[str] | None, typer.Option(help="Name or name@option=value; repeatable.")] = None,
    ratio: Annotated[list[float] | None, typer.Option(help="Share to remove, in (0, 1); repeatable.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; repeatable.")] = None,
    samples: Annotated[int | None, typer.Option(help="Rows per task, for generated benchmarks. Default 25.")] = None,
    fraction: Annotated[float | None, typer.Option(help="Share of each task's rows to run. Default 1.")] = None,
    data: Annotated[Path | None, typer.Option(help="A local folder with the benchmark's data.")] = None,
    model: ModelOption = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the results; an existing study is continued.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed of samples and presses. Default 0.")] = None,
    query_aware: Annotated[bool | None, typer.Option(help="Show presses the question, after the context.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Overrides the benchmark's value.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Number of compressed contexts per batch.")] = None,
    share_prefill: Annotated[bool | None, typer.Option(help="One prefill for all presses that allow it.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: a GPU if there is one.")] = None,
) -> None:
    """Run benchmarks with presses, and write the results."""
    given: dict[str, Any] = {
        "benchmarks": benchmark,
        "lengths": length,
        "presses": press,
        "ratios": ratio,
        "tasks": task,
        "samples": samples,
        "fraction": fraction,
        "data": data,
        "model": model,
        "output": output,
        "seed": seed,
        "query_aware": query_aware,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "share_prefill": share_prefill,
        "dtype": dtype,
        "device": device,
    }
    with _told():
        from evaluation.evaluate import evaluate
        from evaluation.study import make_study, read_study, with_options

        logging.getLogger("kvpress").setLevel(logging.ERROR)  # some presses warn about their cost when created
        options = {name: value for name, value in given.items() if value not in (None, [])}
        evaluate(make_study(with_options(read_study(study) if study else {}, options)))


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `run` wrote.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the report. Default: the first folder.")] = None,
    press: Annotated[list[str] | None, typer.Option(help="Only this press; repeatable.")] = None,
) -> None:
    """Write a report: Markdown, CSV, figures and one HTML page."""
    with _told():
        from evaluation.report import report as write_report

        for path in write_report(folders, output or folders[0], press or ()):
            typer.echo(path)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `run` wrote.")],
    press: Annotated[list[str], typer.Option(help="Press to compare; repeatable.")],
    against: Annotated[list[str], typer.Option(help="Compare with the best of these at each ratio; repeatable.")],
) -> None:
    """Print a press's results as a share of those of the best other press, with 95 % intervals and the worst task."""
    with _told():
        from evaluation.report.load import load
        from evaluation.report.relative import shares

        study = load(folders)
        for name in press:
            typer.echo(f"{name}, as a share of the best of {', '.join(against)}")
            for found in shares(study, name, against):
                interval = f"({found.low:.3f} to {found.high:.3f})"
                typer.echo(
                    f"  {found.group.title}, ratio {found.ratio:g}: {found.mean:.3f} {interval} of {found.rival}, "
                    f"{found.group.samples} samples; worst {found.worst:.3f} in {found.task}"
                )


@app.command()
def pack(folders: Annotated[list[Path], typer.Argument(help="Folders that `run` wrote.")]) -> None:
    """Compress the samples of each finished study into one file, to keep them in a repository."""
    with _told():
        from evaluation.journal import pack as pack_samples

        for folder in folders:
            typer.echo(pack_samples(folder))


@app.command()
def presses() -> None:
    """List the presses by name."""
    from evaluation.presses import PRESSES

    for name, entry in sorted(PRESSES.items()):
        facts = [f"ratio of {entry.ratio_of.name}"] if entry.ratio_of else []
        facts += [f"needs @{option}" for option in entry.required]
        facts += ["masks only"] if entry.strategy.masks else []
        typer.echo(f"{name:40} {type(entry.strategy).__name__:15} {', '.join(facts)}".rstrip())


@app.command()
def ablate(
    model: ModelOption = None,
) -> None:
    """Create variants of the model's gates for the presses named ablation_*."""
    with _told():
        from evaluation.ablations import write_ablations
        from pikvpress import models
        from pikvpress.default_model import load_model
        from pikvpress.gates import find_gates

        loaded, tokenizer = load_model(model)
        gates = find_gates(models.fingerprint(models.attention_layers(loaded)[0]))
        if gates is None:
            raise ValueError("no gates are fitted for this model: run `pikvpress calibrate`")
        for path in write_ablations(loaded, tokenizer, gates):
            typer.echo(path)
