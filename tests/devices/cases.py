"""What is read by a model on one device and by the same model on several, with the same results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import dispatch_model
from torch.utils._pytree import tree_map
from transformers import AutoTokenizer, PreTrainedModel, pipeline

from pikvpress import FolderStore, MoERouterPress, PiKVCache, PiKVPress
from tests.parallel import cases
from tests.parallel.cases import Run, context

# Its own arithmetic is not on the layer's device: kvpress rotates keys with the table of the first device.
OF_KVPRESS = ("rerotated",)
LEFT_OUT = (*OF_KVPRESS, "split by PyTorch", "all experts by the prior")


def spread(model: PreTrainedModel, devices: Sequence[str]) -> PreTrainedModel:
    """Put the layers of a model on two devices in turn; what comes before is on the first, what follows on the last."""
    first, last = devices
    places = {"model.embed_tokens": first, "model.rotary_emb": first, "model.norm": last, "lm_head": last}
    places |= {f"model.layers.{index}": devices[index % 2] for index in range(len(model.model.layers))}
    return dispatch_model(model, places, main_device=first, skip_keys="past_key_values", force_hooks=True)


class SpreadRun(Run):
    """A run of models that are on two devices."""

    def __init__(self, model: PreTrainedModel, folder: Path, devices: Sequence[str]):
        super().__init__(spread(model, devices), folder)
        self.devices = devices

    def of(self, name: str) -> Run:
        """Return a run of another model on the same devices."""
        return SpreadRun(super().of(name).model, self.folder, self.devices)

    def in_float64(self) -> Run:
        """Return a run of the same model on the same devices, in which sums cannot round to another code."""
        return SpreadRun(cases.load(self.folder / "model", None).double(), self.folder, self.devices)


def all_experts(run: Run) -> dict[str, Any]:
    """Route to every expert that has no arithmetic of kvpress on another device."""
    experts = [name for name in cases.available_experts() if name != "non_causal"]
    return run(MoERouterPress(0.5, gates=None, experts=experts, top_k=6))


def saved(run: Run) -> dict[str, Any]:
    """Save a cache with unequal heads, load it, and read on."""
    cache, path = PiKVCache(window=16), run.folder / "saved.safetensors"
    run(PiKVPress(0.8, gates=run.gates), cache)
    cache.save(path, run.model)
    return read_on(run, PiKVCache.load(path, run.model))


def saved_schedule(run: Run) -> dict[str, Any]:
    """Save a cache that undoes the rotation of its keys, load it, and read on until more pages have left."""
    weights = run.fitted().saliency
    shares = cases.random(cases.LAYERS, cases.HEADS, seed=8).exp()
    cache = PiKVCache(window=16, scheduler=cases.SaliencyScheduler(weights, shares), ratio=0.6)
    path = run.folder / "scheduled.safetensors"
    run(None, cache, chunks=(150, 110))
    cache.save(path, run.model)
    return read_on(run, PiKVCache.load(path, run.model))


def read_on(run: Run, cache: PiKVCache) -> dict[str, Any]:
    """Return logits of 130 more tokens, and where the layers are."""
    with torch.no_grad():
        logits = [run.model(input_ids=part, past_key_values=cache).logits for part in context(130).split(65, dim=1)]
    return {"logits": logits, "counts": [layer.counts() for layer in cache.layers]}


def generated(run: Run) -> dict[str, Any]:
    """Generate with a press and a cache, from token ids on the model's device."""
    cache = PiKVCache("int4", "int4", window=16)
    with MoERouterPress(0.6, gates=run.gates)(run.model):
        tokens = run.model.generate(context().to(run.model.device), past_key_values=cache, max_new_tokens=8)
    return {"logits": [], "tokens": tokens[0, -8:]}


def piped(run: Run) -> dict[str, Any]:
    """Answer through kvpress's pipeline with a store, in which the context is known the second time."""
    tokenizer = AutoTokenizer.from_pretrained(run.folder / "model")
    pipe = pipeline("kv-press-text-generation", model=run.model, tokenizer=tokenizer)
    text, press = (run.folder / "context.txt").read_text(), PiKVPress(0.8, gates=run.gates)
    with TemporaryDirectory() as folder:
        store = FolderStore(folder)
        answers = [pipe(text, question="word3 ?", press=press, store=store, max_new_tokens=4) for _ in range(2)]
    return {"logits": [], "answers": answers}


CASES: Mapping[str, Callable[[Run], dict[str, Any]]] = {
    **{name: case for name, case in cases.CASES.items() if name not in LEFT_OUT},
    "all experts by the prior": all_experts,
    "saved and loaded": saved,
    "saved with a schedule": saved_schedule,
    "generated": generated,
    "pipeline and store": piped,
}


def on_cpu(found: Any) -> Any:
    """Return results whose tensors are plain ones on the CPU."""
    return tree_map(lambda thing: thing.cpu() if isinstance(thing, torch.Tensor) else thing, found)


def compare(found: dict[str, Any], expected: dict[str, Any], atol: float = 1e-4, agreeing: float = 1.0) -> None:
    """Compare the results of one case: tensors up to `atol`, and at least this share of decisions."""
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        if name == "logits":
            torch.testing.assert_close(found[name], wanted, atol=atol, rtol=atol)
        elif name in ("masks", "tokens"):
            same = [(one == other).float().mean() for one, other in zip(found[name], wanted, strict=True)]
            assert all(share >= agreeing for share in same), name
        elif name == "plan":
            tokens = [[layer["head_tokens"] for layer in plan["layers"]] for plan in (found[name], wanted)]
            assert agreeing < 1 or tokens[0] == tokens[1], name
        elif name != "values":  # their rows may be others if decisions are
            assert agreeing < 1 or found[name] == wanted, name
        elif agreeing == 1:
            torch.testing.assert_close(found[name], wanted, atol=atol, rtol=atol)
