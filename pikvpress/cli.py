"""The command-line interface."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import TaskID

from pikvpress import cli_adapt, cli_store
from pikvpress.support.command_line import ModelOption, TextsOption, progress_bar, say, told

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(cli_store.app, name="store")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pikvpress {version('pikvpress')}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Gated routing of KV-cache compression strategies, for kvpress."""


@app.command()
def demo(
    model: ModelOption = None,
    ratio: Annotated[list[float] | None, typer.Option(help="Share of tokens to remove; repeatable.")] = None,
    router: Annotated[str, typer.Option(help="Router of MoERouterPress.")] = "pikv",
    document: Annotated[Path | None, typer.Option(help="Your own text; needs --question.")] = None,
    question: Annotated[list[str] | None, typer.Option(help="A question about the document; repeatable.")] = None,
    picture: Annotated[Path, typer.Option(help="Where to save the routing heat map.")] = Path("routing.png"),
) -> None:
    """Answer questions about a long document with several compressed caches, and compare the results."""
    with told():
        _demo(model, ratio or [0.5, 0.75], router, document, question or [], picture)


@app.command()
def calibrate(
    model: ModelOption = None,
    texts: TextsOption = None,
    minutes: Annotated[float, typer.Option(help="Approximate duration in minutes.")] = 15.0,
    expert: Annotated[
        list[str] | None,
        typer.Option(help="Candidate expert; repeatable. Default: saliency and those of MoERouterPress."),
    ] = None,
    max_experts: Annotated[int, typer.Option(help="Maximum number of experts in the gates.")] = 4,
    router: Annotated[
        list[str] | None,
        typer.Option(help="Router to fit; repeatable, the first one also by --objective. Default: all."),
    ] = None,
    objective: Annotated[str, typer.Option(help="Objective of an end-to-end stage, such as kl, or none.")] = "none",
    worth_of_time: Annotated[
        float, typer.Option(help="Relative divergence accepted per share of a prefill's time saved; 0: no expert less.")
    ] = 0.2,
    length: Annotated[int, typer.Option(help="Tokens per context.")] = 1024,
    setting: Annotated[
        list[str] | None,
        typer.Option(help="Setting of the router, such as dropout=0.1 or balance_mode=gini; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Gates file to write. Default: where presses find the model's gates.")
    ] = None,
    report: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("calibration"),
) -> None:
    """Fit gates and head budgets to a model, and write a report; an interrupted calibration is resumed."""
    with told():
        _calibrate(
            model,
            texts,
            report,
            minutes=minutes,
            experts=expert,
            max_experts=max_experts,
            routers=router,
            objective=None if objective == "none" else objective,
            worth_of_time=worth_of_time,
            length=length,
            settings=setting,
            seed=seed,
            output=output,
        )


@app.command()
def bases(
    output: Annotated[Path, typer.Argument(help="File to write, for pikvpress.cache.load_bases.")],
    model: ModelOption = None,
    texts: TextsOption = None,
    rank: Annotated[int, typer.Option(help="Directions per head, fewer than its channels.")] = 32,
    contexts: Annotated[int, typer.Option(help="Number of contexts to fit on.")] = 12,
    length: Annotated[int, typer.Option(help="Tokens per context.")] = 1024,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Find directions of keys and values for a low-rank PiKVCache."""
    with told():
        from pikvpress.cache import save_bases
        from pikvpress.calibration import calibrate_bases
        from pikvpress.calibration.data.texts import read_texts
        from pikvpress.default_model import load_model

        if not output.parent.is_dir():
            raise ValueError(f"{output.parent} is not a folder: create it, or write elsewhere")
        read = read_texts(texts) if texts else None
        loaded, tokenizer = load_model(model)
        found = calibrate_bases(loaded, tokenizer, read, rank=rank, contexts=contexts, length=length, seed=seed)
        save_bases(output, found)
    for side, left in found.about["unexplained"].items():
        shares = ", ".join(f"{share:.1%} with {what}" for what, share in left.items())
        typer.echo(f"{side}: variance left on held-out text {shares}".replace(" with directions", ""))
    typer.echo(f"bases: {output} ({found.nbytes / 1024:,.0f} KiB)")


@app.command()
def adapt(
    output: Annotated[Path, typer.Argument(help="Folder for the adapter; must not exist yet.")],
    model: ModelOption = None,
    texts: TextsOption = None,
    ratio: Annotated[
        list[float] | None,
        typer.Option(help="Share of the bytes that PiKVPress removes; repeatable. Default: 0.9375 and 0.96875."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Approximate duration in minutes.")] = 15.0,
    rank: Annotated[int, typer.Option(help="Rank of the adapter's matrices.")] = 8,
    rate_ratio: Annotated[float, typer.Option(help="Above 1: LoRA+, with this ratio of learning rates.")] = 1.0,
    objective: Annotated[str, typer.Option(help="Objective of training, such as kl.")] = "kl",
    length: Annotated[int, typer.Option(help="Tokens per context.")] = 1024,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Train a LoRA adapter that makes up for what a compressed cache has lost."""
    with told():
        cli_adapt.train_and_tell(
            model,
            texts,
            output,
            ratio,
            minutes=minutes,
            rank=rank,
            rate_ratio=rate_ratio,
            objective=objective,
            length=length,
            seed=seed,
        )


def _calibrate(
    model_name: str | None, paths: list[Path] | None, report: Path, settings: list[str] | None, **choices: Any
) -> None:
    # Imported here: loading torch and transformers takes seconds, and `--help` should not.
    from pikvpress.calibration import calibrate as fit
    from pikvpress.calibration import write_report
    from pikvpress.calibration.data.texts import read_texts
    from pikvpress.calibration.report import check_folder
    from pikvpress.default_model import load_model
    from pikvpress.routers.settings import read_settings

    check_folder(report)
    texts, told = read_texts(paths) if paths else None, read_settings(settings or [])
    console = Console()
    model, tokenizer = load_model(model_name)
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}
        said: set[str] = set()

        def progress(what: str, done: int, total: int) -> None:
            phase = "collecting" if what == "collecting" else "fitting"
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase)
            bar.update(tasks[phase], description=what, completed=done, total=total)
            if what not in said:
                said.add(what)
                say(bar, what)

        found = fit(model, tokenizer, texts, settings=told, progress=progress, **choices)
    page, _ = write_report(found, report)
    shares = found.findings.expert_shares()
    console.print("experts: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    console.print(f"gates: {found.path}", soft_wrap=True)
    console.print(f"report: {page}", soft_wrap=True)


def _demo(
    model_name: str | None,
    ratios: list[float],
    router: str,
    document: Path | None,
    asked: list[str],
    picture: Path,
) -> None:
    # Imported here: loading torch and transformers takes seconds, and `--help` should not.
    from pikvpress.default_model import load_model
    from pikvpress.demo import DemoQuestion, answers_table, contestants, demo_document, results_table, run
    from pikvpress.presses import MoERouterPress

    if (document is None) != (not asked):
        raise ValueError("--document and --question go together: pass both for your own text, or neither")
    if not picture.resolve().parent.is_dir():
        raise ValueError(f"the folder of --picture {picture} does not exist: create it, or choose another")
    if document is None:
        text, questions = demo_document()
    else:
        text, questions = document.read_text(encoding="utf-8"), [DemoQuestion(item) for item in asked]
        if not text.strip():
            raise ValueError(f"{document} is empty: use a text of at least a few hundred words")
    runs = contestants(ratios, router)
    console = Console()
    model, tokenizer = load_model(model_name)
    tokens = len(tokenizer(text).input_ids)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and tokens + 256 > limit:
        raise ValueError(f"the document has {tokens} tokens, but the model has {limit} positions: shorten the document")
    with progress_bar() as bar:
        task = bar.add_task("", total=len(runs))
        begun = 0

        def progress(name: str) -> None:
            nonlocal begun
            bar.update(task, description=name or "done", completed=begun)
            begun += 1
            if name:
                say(bar, f"[{begun}/{len(runs)}] {name}")

        results = run(model, tokenizer, text, questions, runs, progress)
    console.print(results_table(results, questions, tokens))
    if document is not None:
        console.print(answers_table(results, questions))
    routed = next(press for _, press, _ in runs if type(press) is MoERouterPress)
    routed.plan.plot(picture)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in routed.plan.expert_shares().items())
    console.print(f"MoERouterPress ({router} router) at {routed.compression_ratio:.0%} used: {shares}")
    console.print(f"Its gate weights per layer and head: {picture}")
