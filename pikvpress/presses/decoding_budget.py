"""What a press does for the tokens after a prompt: a scheduler keeps them at the same ratio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.cache import PiKVCache, PiKVLayer, ShardedPiKVCache
from pikvpress.cache.codecs import EXACT
from pikvpress.cache.scheduler import SCHEDULERS, Scheduler, known
from pikvpress.gates import Gates
from pikvpress.routing.recorder import Recorder
from pikvpress.schedulers import SaliencyScheduler


class DecodingBudget:
    """Schedule every `PiKVCache` after a press has compressed its prompt.

    The share of the prompt's entries that the press kept is also the share of later entries that stay. What the press
    kept of the prompt stays as it is.

    Parameters
    ----------
    choice : bool, str or Scheduler
        True for "saliency", with a head's share of the kept entries as its share of later ones; False for nothing.
    record : Recorder
        Record of the press.

    Raises
    ------
    ValueError
        For an unknown scheduler.
    TypeError
        For anything else.
    """

    def __init__(self, choice: bool | str | Scheduler, record: Recorder):
        self._scheduler = None if choice is False else known("saliency" if choice is True else choice)
        self._record = record
        self._weights: torch.Tensor | None = None
        self._begins = False
        self._between: RemovableHandle | None = None

    def __bool__(self) -> bool:
        return self._scheduler is not None

    @contextmanager
    def on(self, model: PreTrainedModel, gates: Gates | None) -> Iterator[None]:
        """Hook a model; hooks are removed at the end.

        Raises
        ------
        ValueError
            If saliency is needed and the gates of the model have none; from the model's forward, if its cache is not a
            `PiKVCache`.
        """
        if self._scheduler is None:
            yield
            return
        self._learn(gates)
        decoder = models.language_model(model)
        handles = [
            decoder.register_forward_pre_hook(self._before, with_kwargs=True),
            decoder.register_forward_hook(self._after, with_kwargs=True),
        ]
        with models.hooked(handles):
            yield

    @property
    def begun(self) -> bool:
        """Whether the press is the decoding press of a wrapper at the moment."""
        return self._between is not None

    def begin(self, model: PreTrainedModel, gates: Gates | None, ratio: float) -> None:
        """Schedule caches before the first tokens after their prompt, whoever compressed it, until `end`.

        Parameters
        ----------
        model : PreTrainedModel
            The model to hook.
        gates : Gates, optional
            Its gates.
        ratio : float
            Share of the entries after the prompt to remove.

        Raises
        ------
        ValueError
            As from `on`.
        """
        self.end()
        self._learn(gates)
        hook = partial(self._go_on, ratio)
        self._between = models.language_model(model).register_forward_pre_hook(hook, with_kwargs=True)

    def end(self) -> None:
        """Remove the hook of `begin`; scheduled caches stay scheduled."""
        if self._between is not None:
            self._between.remove()
            self._between = None

    def _learn(self, gates: Gates | None) -> None:
        """Take the weights of saliency from gates, or raise a ``ValueError`` if they are needed and missing."""
        self._weights = None if gates is None else gates.saliency
        given = isinstance(self._scheduler, SaliencyScheduler) and self._scheduler.weights is not None
        if isinstance(self._scheduler, SaliencyScheduler) and not given and self._weights is None:
            others = ", ".join(repr(name) for name in SCHEDULERS if name not in ("saliency", "duo"))
            raise ValueError(
                "decoding=True keeps entries by fitted saliency, and the press has no gates with its weights for this "
                f"model: run `pikvpress calibrate`, or set decoding to a scheduler without fitted parameters: {others}"
            )

    def _cache(self, kwargs: dict[str, Any]) -> PiKVCache:
        """Return the cache of a forward, which is no longer scheduled if it holds another prompt now."""
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, PiKVCache):
            raise ValueError(
                f"with decoding, entries are dropped one by one, which a {type(cache).__name__} cannot do: call the "
                "model with past_key_values=PiKVCache(), or the pipeline with cache=PiKVCache()"
            )
        if isinstance(cache, ShardedPiKVCache):
            raise ValueError("a sharded cache has no scheduler: use a PiKVCache, or a press without decoding")
        schedule = cache.current_schedule
        if cache.get_seq_length() == 0 and schedule is not None and schedule.of_press:
            cache.schedule(None)
        return cache

    def _go_on(self, ratio: float, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        cache = self._cache(kwargs)
        if cache.get_seq_length() > 0 and cache.current_schedule is None:
            self._schedule(cache, ratio, shares=None)

    def _before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._begins = self._cache(kwargs).get_seq_length() == 0

    def _after(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        cache = kwargs["past_key_values"]
        plan = self._record.plan(0.0)
        if not self._begins or not plan.layers:
            return
        kept = torch.tensor([layer.head_tokens for layer in plan.layers], dtype=torch.float64)
        share = kept.sum().item() / sum(layer.num_keys * len(layer.head_tokens or ()) for layer in plan.layers)
        self._schedule(cache, 1 - share, (kept / kept.mean()).float())

    def _schedule(self, cache: PiKVCache, ratio: float, shares: torch.Tensor | None) -> None:
        """Schedule what comes after the present contents of a cache, which stay; `shares` are those of the heads."""
        cache.settle()
        for layer in cache.layers:
            if isinstance(layer, PiKVLayer) and not layer.entries.are_compressed:
                keys = layer.entries.tail.keys  # of one length for all heads: stored, so that it stays as it is
                exact = [EXACT] * keys.shape[1]
                layer.pack(torch.ones(keys.shape[:3], dtype=torch.bool, device=keys.device), exact, exact, window=0)
        assert self._scheduler is not None
        scheduler = self._scheduler
        if isinstance(scheduler, SaliencyScheduler):
            scheduler = scheduler.given(self._weights, shares)
        cache.schedule(scheduler, ratio=ratio)
        if cache.current_schedule is not None:
            cache.current_schedule.of_press = True
