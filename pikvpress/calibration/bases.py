"""Directions of keys and values by calibration, and what can be foreseen of the rest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import mse_loss
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from pikvpress import models
from pikvpress.cache.calibrated import Bases, read_back
from pikvpress.calibration.situations import make_situations
from pikvpress.calibration.texts import shipped_texts, split

SAMPLED = 512  # entries of a context that the correction is learned from
HIDDEN = 64  # units of the correction
STEPS, BATCH, RATE = 600, 256, 3e-3

Factors = dict[str, torch.Tensor]


def calibrate_bases(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] | None = None,
    *,
    rank: int = 32,
    learned: bool = True,
    contexts: int = 12,
    length: int = 1024,
    seed: int = 0,
) -> Bases:
    """Find the leading directions of every head's keys and values over many contexts, for a `PiKVCache`.

    They are the principal directions of what the cache holds, as Palu (https://arxiv.org/abs/2407.21118) and LoRC
    (https://arxiv.org/abs/2410.03111) find those of the projection weights. Keys are taken as they are cached, rotated
    by their positions, which spreads them over more directions. What the directions leave out is not independent of
    the coordinates along them: a perceptron learns what it can, and is kept for heads where it helps on held-out text.

    Parameters
    ----------
    model : PreTrainedModel
        In eval mode; left as it was found.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    texts : sequence of str, optional
        Documents like those that the model will read. By default the ones that ship.
    rank : int, default=32
        Directions a head, fewer than its channels.
    learned : bool, default=True
        Whether to learn a correction.
    contexts : int, default=12
        How many to fit on; a third as many are held out.
    length : int, default=1024
        Tokens of a context.
    seed : int, default=0
        Random seed.

    Returns
    -------
    Bases
        With `about["unexplained"]`: shares of the variance left on held-out text, mean over heads.

    Raises
    ------
    ValueError
        If the model is not supported, the rank is out of range, or the texts are too short.
    """
    models.check_supported(model)
    first = models.attention_layers(model)[0]
    if not 0 < rank < first.head_dim:
        raise ValueError(f"rank must be from 1 to {first.head_dim - 1}, fewer than a head's channels, got {rank}")
    fit_texts, held_texts = split(shipped_texts() if texts is None else texts)
    fit = make_situations(tokenizer, fit_texts, contexts, length, seed)
    held = make_situations(tokenizer, held_texts, max(1, contexts // 3), length, seed + 1)
    moments = [_Moments(), _Moments()]
    samples: list[list[torch.Tensor]] = [[], []]
    checks: list[list[torch.Tensor]] = [[], []]
    generator = torch.Generator().manual_seed(seed)
    for index, situation in enumerate([*fit, *held]):
        for side, states in enumerate(_read(model, situation.context)):
            if index < len(fit):
                moments[side].add(states)
            rows = torch.randperm(states.shape[2], generator=generator)[:SAMPLED]
            (samples if index < len(fit) else checks)[side].append(states[:, :, rows])
    sides: list[Factors] = []
    about: dict[str, dict[str, float]] = {}
    for side, name in enumerate(("keys", "values")):
        factors, held_states = moments[side].factors(rank), torch.cat(checks[side], dim=2)
        before = _unexplained(held_states, factors)
        about[name] = {"directions": before.mean().item()}
        if learned:
            corrected = _learn(torch.cat(samples[side], dim=2), factors, generator)
            after = _unexplained(held_states, corrected)
            corrected["outward"] *= (after < before)[..., None, None]
            about[name]["with correction"] = torch.minimum(before, after).mean().item()
            factors = corrected
        sides.append({name: tensor.half() for name, tensor in factors.items()})
    described = {"rank": rank, "contexts": contexts, "length": length, "seed": seed, "unexplained": about}
    return Bases(models.fingerprint(first), sides[0], sides[1], described)


@torch.no_grad()
def _read(model: PreTrainedModel, context: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values of all layers, (layers, kv_heads, tokens, head_dim), float32, on the CPU."""
    cache = DynamicCache()
    model.model(input_ids=torch.tensor([context], device=model.device), past_key_values=cache)
    keys = torch.cat([layer.keys for layer in cache.layers]).float().cpu()  # type: ignore[misc]
    return keys, torch.cat([layer.values for layer in cache.layers]).float().cpu()  # type: ignore[misc]


class _Moments:
    """Sums over entries, so that one context is held at a time."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: torch.Tensor | float = 0.0
        self._products: torch.Tensor | float = 0.0

    def add(self, states: torch.Tensor) -> None:
        """Add a context's states (layers, kv_heads, tokens, head_dim)."""
        wide = states.double()
        self._count += states.shape[2]
        self._sum = self._sum + wide.sum(dim=2)
        self._products = self._products + wide.transpose(2, 3) @ wide

    def factors(self, rank: int) -> Factors:
        """Return mean, directions and the spread of the coordinates along them."""
        mean = torch.as_tensor(self._sum) / self._count
        covariance = torch.as_tensor(self._products) / self._count - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        variances, directions = torch.linalg.eigh(covariance)
        leading = directions[..., -rank:].flip(-1).transpose(-1, -2)
        spread = variances[..., -rank:].flip(-1).clamp_min(1e-12).sqrt()
        found = {"mean": mean, "directions": leading, "spread": spread}
        return {name: tensor.float().contiguous() for name, tensor in found.items()}


def _coordinates(states: torch.Tensor, factors: Factors) -> torch.Tensor:
    return (states - factors["mean"].unsqueeze(-2)) @ factors["directions"].transpose(-1, -2)


def _unexplained(states: torch.Tensor, factors: Factors) -> torch.Tensor:
    """Return the share of each head's variance that is left, (layers, kv_heads)."""
    lost = states - read_back(_coordinates(states, factors), factors)
    return lost.square().sum(dim=(2, 3)) / (states - factors["mean"].unsqueeze(-2)).square().sum(dim=(2, 3))


def _learn(states: torch.Tensor, factors: Factors, generator: torch.Generator) -> Factors:
    """Return the factors with a perceptron for what they leave out, of all heads at once."""
    layers, heads, count, size = states.shape
    rank = factors["spread"].shape[-1]
    coordinates = _coordinates(states, factors)
    left = states - read_back(coordinates, factors)
    scale = left.square().mean(dim=(2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    weights = {
        "inward": torch.randn(layers, heads, rank, HIDDEN, generator=generator) * (2 / rank) ** 0.5,
        "bias": torch.zeros(layers, heads, HIDDEN),
        "outward": torch.zeros(layers, heads, HIDDEN, size),
    }
    zero = {"mean": torch.zeros_like(factors["mean"]), "directions": torch.zeros_like(factors["directions"])}
    with torch.enable_grad():
        for tensor in weights.values():
            tensor.requires_grad_()
        optimiser = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for _ in range(STEPS):
            rows = torch.randint(count, (BATCH,), generator=generator)
            foreseen = read_back(coordinates[:, :, rows], {**zero, "spread": factors["spread"], **weights})
            loss = mse_loss(foreseen, left[:, :, rows] / scale, reduction="sum") / BATCH
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    learned = {name: tensor.detach() for name, tensor in weights.items()}
    learned["outward"] = learned["outward"] * scale
    return factors | learned
