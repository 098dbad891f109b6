"""Presses that read the context again to score it, as KVzip does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from kvpress import BasePress, KVComposePress
from transformers import DynamicCache, PreTrainedModel

from evaluation.compressed import CompressedContext
from evaluation.compressors.compressor import Compressor
from evaluation.compressors.own_prefill import timed
from evaluation.prefilling import prefill
from pikvpress import models
from pikvpress.support.swapped import swapped

if TYPE_CHECKING:
    from evaluation.compressors.source_context import SourceContext
    from evaluation.presses.spec import PressSpec
    from evaluation.units import Sample


@dataclass(frozen=True)
class Replay(Compressor):
    """The press's own prefill, then passes that score the context, once for all ratios."""

    def compress(
        self, press: PressSpec, ratio: float | None, source: SourceContext, sample: Sample | None = None
    ) -> CompressedContext:
        """Return the context compressed by the press; the first call compresses at every ratio."""

        def at_every_ratio() -> dict[float, CompressedContext]:
            made: Any = press.make(source.ratios[0])
            found = compress_at_ratios(source.model, source.context, made, source.prefilled.seconds, source.ratios)
            return dict(zip(source.ratios, found, strict=True))

        assert ratio is not None
        return source.once(("replay", press.name), at_every_ratio)[ratio]


def compress_at_ratios(
    model: PreTrainedModel,
    context: Sequence[int],
    press: BasePress,
    plain_seconds: float,
    ratios: Sequence[float],
) -> list[CompressedContext]:
    """Return a context compressed by a press at several ratios, scored once.

    Parameters
    ----------
    model, context, press
        The model, the token ids of the context, and the press.
    plain_seconds : float
        Time of a prefill without a press, which is subtracted from the times.
    ratios : sequence of float
        Ratios; the first is that of the press.
    """
    cache = DynamicCache()
    found: list[CompressedContext] = []

    def remove_at_every_ratio(model: PreTrainedModel) -> None:
        for ratio in ratios:
            press.compression_ratio = ratio  # type: ignore[attr-defined]
            if isinstance(press, KVComposePress):  # it modifies its cache, and selects before it removes
                press.cache = models.copied(cache)
                press.prepare_important_masks()
                KVComposePress.compress_cache(press, model)
                found.append(take(press.cache))
            else:
                type(press).compress_post(press, model)  # type: ignore[attr-defined]
                found.append(take(cache))

    removes = "compress_cache" if isinstance(press, KVComposePress) else "compress_post"
    swap = swapped(press, **{removes: remove_at_every_ratio})
    with timed(model, press, len(context), plain_seconds) as take, swap, torch.no_grad(), press(model):
        prefill(model, context, cache)
    return found
