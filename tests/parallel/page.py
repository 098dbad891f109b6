"""The programs of docs/parallel.md, on a tiny model."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

from tests.evaluation.tiny_tokenizer import make_tokenizer

PAGE = Path(__file__).resolve().parent.parent.parent / "docs/parallel.md"
WORDS = [f"word{number}" for number in range(500)]


def write(folder: Path) -> None:
    """Write what they read beside the model."""
    tokenizer = make_tokenizer(vocabulary=WORDS)
    tokenizer.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder / "model")
    (folder / "context.txt").write_text(" ".join(WORDS[:300]))


def printed(folder: Path, number: int) -> str:
    """Run a program of the page as one of several processes, and return what it prints."""
    program = re.findall(r"```py\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)[number]
    program = program.replace("Qwen/Qwen3-8B", str(folder / "model")).replace("context.txt", f"{folder}/context.txt")
    program = program.replace("dist.init_process_group()", "")  # it is
    with redirect_stdout(io.StringIO()) as output:
        exec(compile(program, str(PAGE), "exec"), {"__name__": "__main__"})
    return output.getvalue()
