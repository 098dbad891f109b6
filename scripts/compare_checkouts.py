"""Say whether two checkouts of this project decide alike: kept entries, plans, bytes, and figures of the studies.

    python scripts/compare_checkouts.py BEFORE AFTER --study bytes-fidelity --contexts 3

Both run in this environment, each on its own code, one after the other. What is compared to the last bit: for every
press of `PROBED` on the included model, the keys and values that it leaves and its plan; and of every study named, each
row of its first contexts but for the seconds. The exit status is 0 if all is alike.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STUDIES = ("gates-fidelity", "bytes-fidelity", "gates-transfer", "gates-ruler", "smollm2-135m")
TASKS = {  # of benchmarks that a study runs whole
    "fidelity": ["needle", "prose", "code"],
    "ruler": ["niah_multikey_1", "vt", "cwe"],
}
LENGTH = 900  # tokens of the probe's context
PROBED = {
    "MoERouterPress(0.5)": "DynamicCache()",
    "MoERouterPress(0.5, budgets='fitted')": "DynamicCache()",
    "MoERouterPress(0.75)": "PiKVCache()",
    "MoERouterPress(0.5, gates=None)": "DynamicCache()",
    "MoERouterPress(0.5, gates=None, router_type='eplb')": "DynamicCache()",
    "MoERouterPress(0.5, gates=None, budgets='pyramid')": "PiKVCache()",
    "MoERouterPress(0.75, budgets='adakv')": "PiKVCache()",
    "MoERouterPress(0.75, budgets='global')": "PiKVCache()",
    "AdaKVPress(MoERouterPress(0.5))": "PiKVCache('int8', 'int4', window=64)",
    "PiKVPress(0.75)": "PiKVCache()",
    "PiKVPress(0.9375)": "PiKVCache()",
    "PiKVPress(0.875, budgets='equal')": "PiKVCache()",
    "SaliencyPress(0.5)": "DynamicCache()",
    "FastVPress(0.5)": "PiKVCache()",
    "PerLayerPress({0: MoERouterPress(0.25)}, default=KnormPress(0.5))": "DynamicCache()",
}


def probe() -> dict[str, Any]:
    """Return what each press of `PROBED` leaves and decides, by the code that is imported."""
    import kvpress
    import torch
    import transformers

    import pikvpress
    from pikvpress.default_model import load_model
    from pikvpress.demo import demo_document

    model, tokenizer = load_model()
    ids = tokenizer(demo_document()[0], return_tensors="pt").input_ids[:, :LENGTH]
    names = {**vars(kvpress), **vars(transformers), **vars(pikvpress)}
    found = {}
    for made, held in PROBED.items():
        press, cache = eval(made, names), eval(held, names)
        with torch.no_grad(), press(model):
            model.model(input_ids=ids, past_key_values=cache)
            states = [  # masks of a DynamicCache show in what is read after it, and so do packed entries
                model.model(ids[:, at : at + 1], past_key_values=cache, position_ids=torch.tensor([[LENGTH + at]]))
                for at in range(4)
            ]
        found[made] = {
            "states": _digest([state.last_hidden_state for state in states]),
            "nbytes": getattr(cache, "nbytes", None),
            "plan": _plan(press),
        }
        for layer in model.model.layers:
            layer.self_attn.masked_key_indices = None
    return found


def _plan(press: Any) -> Any:
    if not hasattr(press, "plan"):
        return None
    plan = press.plan.to_dict()
    plan.pop("press_seconds"), plan.pop("prefill_seconds")
    return plan


def _digest(tensors: list[Any]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy(force=True).tobytes())
    return digest.hexdigest()


def run(checkout: Path, *arguments: str) -> str:
    """Return what a Python command prints in a checkout, on its code."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: python {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def rows(checkout: Path, study: str, contexts: int, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a study's first contexts, without the seconds."""
    import yaml

    whole = yaml.safe_load((checkout / "evaluation" / "studies" / f"{study}.yaml").read_text())
    folder.mkdir(parents=True)
    file, output = folder / "study.yaml", folder / "results"
    file.write_text(yaml.safe_dump(shortened(whole, contexts) | {"output": str(output)}))
    run(checkout, "-m", "evaluation", "run", str(file))
    lines = [line for path in sorted(output.glob("samples-*.jsonl*")) for line in _lines(path)]
    found = [
        {name: value for name, value in json.loads(line).items() if not name.endswith("_seconds")} for line in lines
    ]
    return sorted(found, key=lambda row: json.dumps(row, sort_keys=True))


def shortened(study: dict[str, Any], contexts: int) -> dict[str, Any]:
    """Return a study of the same presses with one context of each of a few tasks, of the shortest length.

    What names contexts in reports stays out: the earlier of two checkouts may not know it.
    """
    first = study["benchmarks"][0]
    tasks = (first.get("tasks") or TASKS[first["name"]])[:contexts]
    short = {**first, "lengths": first["lengths"][:1], "samples": 1, "tasks": tasks}
    return {name: value for name, value in study.items() if name != "labels"} | {"benchmarks": [short]}


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of samples, which may be compressed."""
    stored = path.read_bytes()
    return (gzip.decompress(stored) if path.suffix == ".gz" else stored).decode().splitlines()


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Yield where two values of plain data differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            if name not in before or name not in after:
                yield f"{where}/{name}: only in one of them"
            else:
                yield from differences(before[name], after[name], f"{where}/{name}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{where}[{index}]")
    elif before != after:
        yield f"{where}: {str(before)[:80]} before, {str(after)[:80]} after"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, metavar="CHECKOUT", help="before and after")
    parser.add_argument("--study", action="append", choices=STUDIES, help="repeatable; by default none, probes alone")
    parser.add_argument("--contexts", type=int, default=3, help="of each study, one a task; by default 3")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        print(json.dumps(probe()))
        return
    if len(options.checkouts) != 2:
        parser.error("name two checkouts: before and after")
    checkouts = [checkout.resolve() for checkout in options.checkouts]
    probes = [json.loads(run(checkout, str(Path(__file__).resolve()), "--probe")) for checkout in checkouts]
    found = list(differences(*probes, "probe"))
    with tempfile.TemporaryDirectory() as folder:
        for study in options.study or ():
            pair = [
                rows(checkout, study, options.contexts, Path(folder) / str(n) / study)
                for n, checkout in enumerate(checkouts)
            ]
            found += differences(*pair, study)
            print(f"{study}: {len(pair[0])} and {len(pair[1])} rows")
    print("\n".join(found[:200]) if found else f"alike: {len(PROBED)} presses, {len(options.study or ())} studies")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
