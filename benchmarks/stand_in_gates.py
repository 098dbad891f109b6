"""Random gates for a model with random weights: presses take the same time with them as with fitted gates."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.calibration import Recipe
from pikvpress.experts import make_experts
from pikvpress.gates import Gates, key, save_gates
from pikvpress.routers import RouterSettings
from pikvpress.routing.make_router import make_router
from pikvpress.saliency_features import num_features

ROUTER = "pikv"


def write_gates(model: PreTrainedModel, experts: list[str], path: Path, looks: bool = False, seed: int = 0) -> None:
    """Write gates for some experts with different blends and needs per head.

    Parameters
    ----------
    model : PreTrainedModel
        The model that the gates are for.
    experts : list of str
        Names of the experts, which may include "saliency".
    path : Path
        Where to write them.
    looks : bool, default=False
        Whether their routers look at the input, so that experts are measured.
    seed : int, default=0
        Random seed.
    """
    first = models.attention_layers(model)[0]
    layers, heads = first.config.num_hidden_layers, models.num_key_value_heads(first)
    generator = torch.Generator().manual_seed(seed)
    made = make_experts(experts, None)
    routers = {}
    for kind in ("equal", "fitted"):
        router = make_router(ROUTER, made, first, RouterSettings(top_k=min(RouterSettings.top_k, len(made))))
        with torch.no_grad():
            router.static.copy_(torch.randn(router.static.shape, generator=generator))
            router.evidence.mul_(looks)
        routers[key(ROUTER, kind)] = dict(router.state_dict())
    # Errors decrease with the kept share, in some heads later than in others, and every codec adds to them.
    kept = torch.tensor(Recipe.keep_shares)
    needs = 2.0 * torch.randn(layers, heads, 1, generator=generator)
    curves = (needs - 6 * kept).exp().expand(len(Recipe.ratios), -1, -1, -1).contiguous()
    coarse = torch.linspace(0, 1, len(Recipe.codec_pairs)).pow(3).view(-1, 1)
    features = num_features(first.head_dim) + first.q_proj.in_features
    weights = torch.randn(layers, heads, features, generator=generator)
    save_gates(
        path,
        Gates(
            model=models.fingerprint(first),
            experts=experts,
            routers=routers,
            curves=curves,
            keep_shares=Recipe.keep_shares,
            ratios=Recipe.ratios,
            codec_curves=(curves.unsqueeze(-2) + coarse * curves.mean()).contiguous(),
            codecs=Recipe.codec_pairs,
            saliency=weights[..., : num_features(first.head_dim)].contiguous(),
            saliency_hidden=weights,
            about={"made of": "random numbers, to time presses"},
        ),
    )
