"""Assisted decoding after a press: prompt lookup and assistant models produce the tokens of plain decoding.

transformers appends the first candidates to the prompt, where a press or a cache with codecs treats them as context,
and removes rejected candidates based on the length that the cache would have without a press. Here the prompt is read
alone, and removal is based on the entries that the press has kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
from transformers import Cache, GenerationMixin, PreTrainedModel

from pikvpress import models
from pikvpress.cache import PiKVCache
from pikvpress.cache.layer import ZERO_REMOVES_NONE
from pikvpress.kvpress_at_hand import masks_while_decoding, removes_while_decoding

if TYPE_CHECKING:
    from kvpress import BasePress


def install() -> None:
    """Wrap transformers' assisted decoding; without compression it is unchanged."""
    if not hasattr(GenerationMixin._assisted_decoding, "__wrapped__"):
        GenerationMixin._assisted_decoding = _behind_presses(GenerationMixin._assisted_decoding)  # type: ignore[method-assign]


def _behind_presses(decode: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(decode)
    def assisted(self: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        presses, cache = models.presses_on(self), models.cache_given(kwargs)
        if not presses and not (isinstance(cache, PiKVCache) and cache.packs):
            return decode(self, *args, **kwargs)
        drafts_itself = kwargs.get("assistant_model") is self or _exits_early(kwargs.get("generation_config"))
        for press in presses:
            _check(press, drafts_itself)
        with ExitStack() as stack:
            stack.enter_context(_prompt_alone(self))
            if isinstance(cache, Cache) and not ZERO_REMOVES_NONE:  # later versions crop by the number of candidates
                counted = stack.enter_context(_crops_counted(cache))
                stack.enter_context(_places_counted(self, counted))
            return decode(self, *args, **kwargs)

    return assisted


def is_running(model: Any) -> bool:
    """Return whether a model is decoding with candidate tokens, after a press."""
    return "_get_candidate_generator" in vars(model)


def _exits_early(generation_config: Any) -> bool:
    return getattr(generation_config, "assistant_early_exit", None) is not None


def _check(press: BasePress, drafts_itself: bool) -> None:
    """Raise a ``ValueError`` if tokens would differ from those of plain decoding."""
    if removes_while_decoding(press) or masks_while_decoding(press):
        raise ValueError(
            f"{type(press).__name__} removes entries during decoding, including candidates that may have to be undone: "
            "generate without prompt_lookup_num_tokens or assistant_model, or compress only the prompt"
        )
    if drafts_itself:
        raise ValueError(
            f"the model drafts with its own layers, on which {type(press).__name__} would act: use "
            "prompt_lookup_num_tokens or another assistant_model, and no assistant_early_exit"
        )


class _NoneAtFirst:
    """A candidate generator whose first candidates, right after the prompt, are not used.

    They are generated nevertheless, because assistant models have their own cache and mask, which begin with the
    prompt.
    """

    def __init__(self, generator: Any):
        self._generator, self._used = generator, False

    def get_candidates(
        self, input_ids: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        found = self._generator.get_candidates(input_ids, *args, **kwargs)
        used, self._used = self._used, True
        return found if used else (input_ids, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


@contextmanager
def _prompt_alone(model: PreTrainedModel) -> Iterator[None]:
    """Let a model's candidate generators begin after the prompt."""
    make: Any = model._get_candidate_generator

    def first_none(*args: Any, **kwargs: Any) -> _NoneAtFirst:
        return _NoneAtFirst(make(*args, **kwargs))

    model._get_candidate_generator = first_none  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        del model._get_candidate_generator


@contextmanager
def _crops_counted(cache: Cache) -> Iterator[list[int]]:
    """Allow cropping a cache by the length of the text; yield how many fewer entries each of its layers has.

    The first crop happens after the prompt and removes nothing: it shows how many entries the press has removed.
    """
    removed: list[int] = []

    def crop(max_length: int) -> None:
        if not removed:
            removed.extend(max_length - layer.get_seq_length() for layer in cache.layers)
        for layer, fewer in zip(cache.layers, removed, strict=True):
            layer.crop(max_length - fewer)  # type: ignore[attr-defined]

    cache.crop = crop  # type: ignore[assignment,method-assign]
    try:
        yield removed
    finally:
        del cache.crop


@contextmanager
def _places_counted(model: PreTrainedModel, removed: list[int]) -> Iterator[None]:
    """Pass a model the cache positions of candidates, which determine its mask, separately from their positions."""

    def count(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        places = kwargs.get("cache_position")
        if places is None or not removed or removed[0] == 0:
            return None
        positions = kwargs.get("position_ids")
        positions = places.unsqueeze(0) if positions is None else positions
        return args, kwargs | {"cache_position": places - removed[0], "position_ids": positions}

    with models.hooked([model.register_forward_pre_hook(count, with_kwargs=True)]):
        yield
