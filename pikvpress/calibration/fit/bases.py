"""Calibrated directions of keys and values, and a prediction of part of the residual."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import mse_loss
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from pikvpress import models
from pikvpress.cache.calibrated import Bases, read_back
from pikvpress.calibration.data.situations import make_situations
from pikvpress.calibration.data.texts import shipped_texts, split
from pikvpress.calibration.recipe import Recipe

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

    They are the principal directions of what the cache holds, whereas Palu (https://arxiv.org/abs/2407.21118) and LoRC
    (https://arxiv.org/abs/2410.03111) compute those of the projection weights. Keys are used as cached, rotated by
    their positions, which spreads them over more directions. The residual is not independent of the coordinates: a
    perceptron learns to predict part of it, and is kept for heads where it helps on held-out text.

    Parameters
    ----------
    model, tokenizer
        The model in eval mode, restored at the end, and its tokenizer.
    texts : sequence of str, optional
        Documents similar to those that the model will read. By default the shipped texts.
    rank : int, default=32
        Number of directions per head, fewer than its channels.
    learned : bool, default=True
        Whether to learn a correction.
    contexts : int, default=12
        Number of contexts to fit on; a third as many are held out.
    length, seed : int, default=1024, 0
        Tokens per context, and random seed.

    Returns
    -------
    Bases
        Bases with `about["unexplained"]`: shares of the variance left on held-out text, mean over heads.

    Raises
    ------
    ValueError
        If the model is not supported, the rank is out of range, or the texts are too short.
    """
    models.check_supported(model)
    first = models.attention_layers(model)[0]
    if not 0 < rank < first.head_dim:
        raise ValueError(f"rank must be from 1 to {first.head_dim - 1}, fewer than a head's channels, got {rank}")
    recipe = Recipe(length=length, seed=seed)
    texts, generator = shipped_texts() if texts is None else texts, torch.Generator().manual_seed(seed)
    sides = {name: _Side(recipe.bases_entries, generator) for name in ("keys", "values")}
    for context, held_out in _contexts(tokenizer, texts, contexts, recipe):
        for side, states in zip(sides.values(), _read(model, context), strict=True):
            side.add(states, held_out)
    found = [side.factors(rank, recipe if learned else None) for side in sides.values()]
    left = dict(zip(sides, (shares for _, shares in found), strict=True))
    about = {"rank": rank, "contexts": contexts, "length": length, "seed": seed, "unexplained": left}
    return Bases(models.fingerprint(first), found[0][0], found[1][0], about)


def _contexts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], count: int, recipe: Recipe
) -> Iterator[tuple[tuple[int, ...], bool]]:
    """Yield contexts to fit on, and a third as many held-out ones, each with whether it is held out."""
    fit, held = split(texts, recipe.held_out_documents)
    made = make_situations(tokenizer, fit, count, recipe, recipe.seed)
    checks = make_situations(tokenizer, held, max(1, count // 3), recipe, recipe.seed + 1)
    yield from ((situation.context, False) for situation in made)
    yield from ((situation.context, True) for situation in checks)


@torch.no_grad()
def _read(model: PreTrainedModel, context: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values of all layers, (layers, kv_heads, tokens, head_dim), float32, on the CPU."""
    cache = DynamicCache()
    model.model(input_ids=torch.tensor([context], device=model.device), past_key_values=cache)
    keys = torch.cat([layer.keys for layer in cache.layers]).float().cpu()  # type: ignore[misc]
    return keys, torch.cat([layer.values for layer in cache.layers]).float().cpu()  # type: ignore[misc]


class _Side:
    """Statistics of the keys, or of the values, collected while contexts are read.

    Parameters
    ----------
    entries : int
        Number of entries per context that are kept for learning and validation.
    generator : torch.Generator
        Random generator that draws them.
    """

    def __init__(self, entries: int, generator: torch.Generator):
        self._entries, self._generator = entries, generator
        self._moments = _Moments()
        self._fit: list[torch.Tensor] = []
        self._held: list[torch.Tensor] = []

    def add(self, states: torch.Tensor, held_out: bool) -> None:
        """Add the states (layers, kv_heads, tokens, head_dim) of a context, which may be held out."""
        if not held_out:
            self._moments.add(states)
        rows = torch.randperm(states.shape[2], generator=self._generator)[: self._entries]
        (self._held if held_out else self._fit).append(states[:, :, rows])

    def factors(self, rank: int, recipe: Recipe | None) -> tuple[Factors, dict[str, float]]:
        """Return factors in float16, with a correction if a recipe is given, and the variance they leave."""
        factors, held = self._moments.factors(rank), torch.cat(self._held, dim=2)
        before = _unexplained(held, factors)
        left = {"directions": before.mean().item()}
        if recipe is not None:
            factors = _learn(torch.cat(self._fit, dim=2), factors, recipe, self._generator)
            after = _unexplained(held, factors)
            factors["outward"] *= (after < before)[..., None, None]
            left["with correction"] = torch.minimum(before, after).mean().item()
        return {name: tensor.half() for name, tensor in factors.items()}, left


class _Moments:
    """Sums over entries, so that only one context is in memory at a time."""

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


def _learn(states: torch.Tensor, factors: Factors, recipe: Recipe, generator: torch.Generator) -> Factors:
    """Return the factors with a perceptron for the residual, for all heads at once."""
    layers, heads, count, size = states.shape
    rank, hidden, batch = factors["spread"].shape[-1], recipe.bases_units, recipe.bases_batch
    coordinates = _coordinates(states, factors)
    left = states - read_back(coordinates, factors)
    scale = left.square().mean(dim=(2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    weights = {
        "inward": torch.randn(layers, heads, rank, hidden, generator=generator) * (2 / rank) ** 0.5,
        "bias": torch.zeros(layers, heads, hidden),
        "outward": torch.zeros(layers, heads, hidden, size),
    }
    zero = {"mean": torch.zeros_like(factors["mean"]), "directions": torch.zeros_like(factors["directions"])}
    with torch.enable_grad():
        for tensor in weights.values():
            tensor.requires_grad_()
        optimiser = torch.optim.AdamW(weights.values(), lr=recipe.bases_rate, weight_decay=recipe.bases_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.bases_steps)
        for _ in range(recipe.bases_steps):
            rows = torch.randint(count, (batch,), generator=generator)
            foreseen = read_back(coordinates[:, :, rows], {**zero, "spread": factors["spread"], **weights})
            loss = mse_loss(foreseen, left[:, :, rows] / scale, reduction="sum") / batch
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    learned = {name: tensor.detach() for name, tensor in weights.items()}
    learned["outward"] = learned["outward"] * scale
    return factors | learned
