"""Commands: see `benchmarks.moefied`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.moefied.assembling import assembled, check, save
from benchmarks.moefied.perplexity import largest_difference, perplexity
from benchmarks.moefied.splitting import split_layers
from benchmarks.moefied.texts import batch
from pikvpress.default_model import load_model
from pikvpress.support.command_line import ModelOption, told

app = typer.Typer(add_completion=False, help="Cut the MLPs of a dense model into experts.")


@app.command()
def make(
    output: Annotated[Path, typer.Option(help="A new folder for the model.")],
    active: Annotated[int, typer.Option(help="Experts that read a token.")] = 6,
    experts: Annotated[int, typer.Option(help="Experts per layer.")] = 8,
    documents: Annotated[int, typer.Option(help="Texts that are read.")] = 32,
    length: Annotated[int, typer.Option(help="Tokens of each text.")] = 256,
    seed: Annotated[int, typer.Option(help="Random seed of the clusters.")] = 0,
    model: ModelOption = None,
) -> None:
    """Write a mixture of experts with the weights of a dense model."""
    with told():
        if output.exists():
            raise ValueError(f"{output} exists: name a new folder")
        dense, tokenizer = load_model(model)
        check(dense, experts, active)
        ids = batch(tokenizer, documents, length, held_out=False)
        with Progress() as progress:
            task = progress.add_task("splitting layers", total=dense.config.num_hidden_layers)
            splits = split_layers(dense, ids, experts, seed, lambda: progress.advance(task))
        output.parent.mkdir(parents=True, exist_ok=True)
        save(assembled(dense, splits, active), tokenizer, output)
    typer.echo(f"{experts} experts per layer, {active} of them active: {output}")


@app.command(name="perplexity")
def compared(
    folder: Annotated[Path, typer.Argument(help="A folder that `make` has written.")],
    documents: Annotated[int, typer.Option(help="Held-out texts.")] = 16,
    length: Annotated[int, typer.Option(help="Tokens of each text.")] = 512,
    model: ModelOption = None,
) -> None:
    """Print the perplexity of held-out texts, of the dense model and for each number of active experts."""
    with told():
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}: write one with `python -m benchmarks.moefied make`")
        dense, tokenizer = load_model(model)
        ids = batch(tokenizer, documents, length, held_out=True)
    experts = AutoConfig.from_pretrained(folder).num_experts
    table = Table(title=f"perplexity of {documents} held-out texts of {length} tokens")
    for column in ("active experts", "perplexity", "relative to dense"):
        table.add_column(column, justify="right")
    whole = perplexity(dense, ids)
    table.add_row("dense", f"{whole:.2f}", "1.00")
    for active in range(experts, 0, -1):
        mixture = AutoModelForCausalLM.from_pretrained(folder, num_experts_per_tok=active, dtype=dense.dtype).eval()
        found = perplexity(mixture, ids)
        table.add_row(f"{active} of {experts}", f"{found:.2f}", f"{found / whole:.2f}")
        if active == experts:
            apart = largest_difference(dense, mixture, ids[:1])
    Console().print(table)
    typer.echo(f"largest difference between the logits of the dense model and of all experts: {apart:.1e}")


if __name__ == "__main__":
    app()
