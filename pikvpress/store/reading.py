"""A model that reads only what a store does not have."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from pikvpress import models
from pikvpress.cache import PiKVCache
from pikvpress.cache.saving.whole import CacheState, load, save
from pikvpress.images import visual_ids
from pikvpress.kvpress_at_hand import DECODING, PREFILL_DECODING, READ_TWICE, classes, masks_while_decoding
from pikvpress.ranks import shard_of
from pikvpress.store.keys import ContextKey, ContextKeys
from pikvpress.store.setting import Setting

if TYPE_CHECKING:
    from kvpress import BasePress

    from pikvpress.store.cache_store import CacheStore

logger = logging.getLogger(__name__)

# Their caches are not finished when the model has read the context, or they take more than the context.
UNFINISHED = (*READ_TWICE, *DECODING, *PREFILL_DECODING, *classes("FinchPress", "RestoreKVPress"))


class Reading:
    """Prompts that a model reads beside a store; see `CacheStore.reading`.

    Attributes
    ----------
    length : int
        Number of tokens of the latest prompt.
    known : int
        How many of them, from the first on, came from the store.
    failure : Exception or None
        Why the latest prompt could not be stored, if it could not.
    """

    def __init__(self, store: CacheStore, model: PreTrainedModel, press: BasePress | None, prefix_share: float):
        if not 0 <= prefix_share <= 1:
            raise ValueError(f"prefix_share is a share of the prompt and must be in [0, 1], got {prefix_share}")
        models.check_supported(model)
        if not shard_of(models.attention_layers(model)[0]).is_whole:
            raise ValueError(
                "a store has whole contexts, and this model is split over ranks, of which each holds a part: save a "
                "file for each rank with cache.save"
            )
        if visual_ids(model):
            raise ValueError(
                f"{type(model).__name__} reads images, and a store finds contexts by token ids, which are the same for "
                "all images of a size: read contexts with images without a store"
            )
        _check_press(press)
        self.length, self.known = 0, 0
        self.failure: Exception | None = None
        self._store, self._model, self._press = store, model, press
        # After keys were moved, positions go on from the number of kept entries, which only the pipeline does.
        self._share = 1.0 if isinstance(press, classes("KeyRerotationPress")) else prefix_share
        self._setting = Setting(model, press)
        # The prompt that is being read, and will be stored.
        self._new: tuple[ContextKey, torch.Tensor, PiKVCache] | None = None

    @contextmanager
    def on(self) -> Iterator[None]:
        """Look every prompt up before the model's decoder reads it; undone at the end."""
        decoder = models.language_model(self._model)
        forward, was_own = decoder.forward, "forward" in vars(decoder)
        self._last_hook = decoder.register_forward_hook(self._after, with_kwargs=True)

        @wraps(forward)
        def looked_up(*args: Any, **kwargs: Any) -> Any:
            # The cache is finished after the hooks of all presses, so that ours comes last.
            self._last_hook.remove()
            self._last_hook = decoder.register_forward_hook(self._after, with_kwargs=True)
            return self._forward(forward, args, kwargs)

        decoder.forward = looked_up
        try:
            yield
        finally:
            self._last_hook.remove()
            if was_own:
                decoder.forward = forward
            else:
                del decoder.forward

    def _forward(self, forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        self._new = None
        parameters = inspect.signature(forward).parameters
        kwargs = dict(zip(parameters, args, strict=False)) | kwargs
        cache, input_ids = models.cache_given(kwargs), kwargs.get("input_ids")
        if not isinstance(cache, PiKVCache):
            raise ValueError(
                f"a store holds PiKVCaches, not a {type(cache).__name__}: call the model with "
                "past_key_values=PiKVCache(), or the pipeline with cache=PiKVCache()"
            )
        if cache.get_seq_length() > 0:
            return forward(**kwargs)
        if input_ids is None:
            raise ValueError("a store finds contexts by their token ids: call the model with input_ids")
        _check_plain(kwargs, input_ids)
        self.length, self.known, self.failure = input_ids.shape[1], 0, None
        if self.length == 0:
            return forward(**kwargs)
        keys = ContextKeys(self._setting.of(cache), input_ids)
        state = self._found(keys, input_ids)
        if state is None:
            self._new = keys.at(self.length), input_ids, cache
            return forward(**kwargs)
        empty = cache.state
        cache.take(state)
        if self.known == self.length:
            assert state.output is not None
            last: Any = state.output.to(input_ids.device)
            held: dict[str, Any] = {models.CACHE: cache}
            return MoeModelOutputWithPast(last_hidden_state=last, **held)
        positions = torch.arange(self.known, self.length, device=input_ids.device).expand(input_ids.shape[0], -1)
        rest = {"input_ids": input_ids[:, self.known :], "position_ids": positions}
        if "cache_position" in parameters:  # later versions of transformers ask the cache
            places = torch.arange(self.length - self.known, device=input_ids.device)
            rest["cache_position"] = places + cache.get_seq_length()
        try:
            return forward(**kwargs | rest | {"attention_mask": None})
        except BaseException:
            cache.take(empty)
            raise

    def _found(self, keys: ContextKeys, input_ids: torch.Tensor) -> CacheState | None:
        """Return the longest stored prefix that is whole."""
        least = max(1, math.ceil(self._share * keys.length))
        for key, path in self._store.find(keys, least):
            try:
                state = load(path, self._model, input_ids[:, : key.length], verify=True)
                if state.output is None:
                    raise ValueError(f"{path} does not say what the model returned")
            except FileNotFoundError:  # another process has just removed it
                continue
            except OSError as error:
                logger.warning("a stored context cannot be opened: %s", error)
                continue
            except ValueError as error:
                logger.warning("a stored context is removed, and read again when it is needed: %s", error)
                self._store.remove(key)
                continue
            self.known = key.length
            return state
        return None

    def _after(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """Store the prompt that has just been read, if it is new."""
        if self._new is None:
            return
        (key, input_ids, cache), self._new = self._new, None
        last = output[0][:, -1:]

        def write(path: Path) -> None:
            save(path, replace(cache.state, output=last), self._model, input_ids, self._press)

        try:
            self._store.put(key, write, cache.nbytes)
        except (OSError, ValueError) as failure:  # the answer does not depend on it
            logger.warning("the context was read but not stored: %s", failure)
            self.failure = failure


def _check_press(press: BasePress | None) -> None:
    if isinstance(press, UNFINISHED) or masks_while_decoding(press):
        raise ValueError(
            f"{type(press).__name__} is not finished with a cache when the model has read the context, so that the "
            "cache cannot be stored then: use another press, or save the finished cache with cache.save"
        )


def _check_plain(kwargs: dict[str, Any], input_ids: torch.Tensor) -> None:
    """Raise a ``ValueError`` if the token ids alone do not determine what the model reads."""
    mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
    if mask is not None and not (isinstance(mask, torch.Tensor) and mask.dim() == 2 and bool(mask.all())):
        raise ValueError("padded batches and other masks cannot be stored: read contexts one at a time, without a mask")
    if positions is not None:
        expected = torch.arange(input_ids.shape[1], device=positions.device).expand(positions.shape)
        if not torch.equal(positions, expected):
            raise ValueError("contexts are stored from position 0 on: call the model without position_ids")
