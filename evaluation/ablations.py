"""Variants of the shipped gates for comparison: with less information, or forced to look at the input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pikvpress.calibration import Recipe, calibrate
from pikvpress.gates import Gates, save_gates
from pikvpress.routers import ROUTERS, StaticRouter

FOLDER = Path(__file__).parent / "ablation_gates"
RANDOM = 5


class LayerRouter(StaticRouter):
    """One blend for all heads of a layer: the mean of their logits."""

    def probabilities(self, layer: int, features: torch.Tensor, available: torch.Tensor) -> torch.Tensor:
        """Return gate probabilities, shape (batch, kv_heads, experts), the same for all heads."""
        logits = self.static[layer].mean(dim=0).expand(*features.shape[:2], -1)
        return (logits / self.settings.temperature).masked_fill(~available, -torch.inf).softmax(dim=-1)


def path(name: str) -> Path:
    """Return the path of the gates of an ablation."""
    return FOLDER / f"{name}.safetensors"


def write_ablations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, gates: Gates, folder: Path = FOLDER
) -> list[Path]:
    """Write gates with the same experts, for comparison.

    `looking` and `static_per_layer` are calibrated like the gates, on the same contexts. `looking` uses the input even
    if that brings no gain on held-out text; `static_per_layer` never does, and has one blend per layer. `uniform` gives
    all experts equal weights; `random_0` to `random_4` are random.

    Parameters
    ----------
    model, tokenizer
        The model of the gates, and its tokenizer.
    gates : Gates
        Gates fitted by `calibrate`.
    folder : Path
        Where to write them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changes = {
        "looking": ("pikv", Recipe(least_gain=-math.inf)),
        "static_per_layer": ("static", Recipe(router_classes={**ROUTERS, "static": LayerRouter})),
    }
    for name, (router, recipe) in changes.items():
        found = calibrate(
            model,
            tokenizer,
            recipe=recipe,
            contexts=gates.about["contexts"],
            length=gates.about["length"],
            experts=gates.experts,
            max_experts=len(gates.experts),
            routers=[router],
            objective=gates.about["objective"],
            seed=gates.about["seed"],
            output=folder / f"{name}.safetensors",
        )
        if router == "static":
            _save(found.path, found.gates, {key: _tied(values) for key, values in found.gates.routers.items()})
    gates = replace(gates, curves=None, codec_curves=None)  # the variants below have no fitted budgets
    like = gates.routers["base"]
    none = {name: torch.zeros_like(value) for name, value in like.items()}
    _save(folder / "uniform.safetensors", gates, {"static": none})
    for seed in range(RANDOM):
        _save(folder / f"random_{seed}.safetensors", gates, {"base": _drawn(like, seed)})
    return sorted(folder.glob("*.safetensors"))


def _save(path: Path, gates: Gates, routers: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    save_gates(path, replace(gates, routers=routers))


def _tied(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    static = parameters["static"]
    return {**parameters, "static": static.mean(dim=1, keepdim=True).expand_as(static)}


def _drawn(like: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Return random gates: logits with variance 1 per head, and the same again from standardised features."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(value.shape, generator=generator) for name, value in like.items()}
    drawn["evidence"] /= len(drawn["evidence"]) ** 0.5
    return drawn
