"""ImageBudgetPress: a budget for the tokens of images, and another one for text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from kvpress import ScorerPress
from kvpress.utils import compute_n_kept
from transformers import PreTrainedModel

from pikvpress import models
from pikvpress.images import visual_ids
from pikvpress.kernels.compact import gather_rows, select
from pikvpress.layerwise import LayerwisePress
from pikvpress.presses.checks import (
    checked_ratio,
    refuse_masked_keys,
    refuse_padding,
    refuse_static,
    visual_among,
)
from pikvpress.support.finite import check_scores


@dataclass
class ImageBudgetPress(LayerwisePress):
    """Remove one share of the tokens of images, and another one of the tokens of text.

    Images take hundreds of tokens, many of which are alike, and few of which are attended to
    (https://arxiv.org/abs/2403.06764); every token of text may count. Any press that scores entries decides which ones
    stay. Of n tokens of images (and videos), exactly max(1, floor(n · (1 - image_compression_ratio))) are kept, of
    those of text as many by the ratio of the press; in a context without images, the latter are all.

    Parameters
    ----------
    press : ScorerPress
        The press that scores entries, such as `MoERouterPress` or `KnormPress`; its ``compression_ratio`` is that of
        text. `MoERouterPress` compares its experts at the ratio of the whole context.
    image_compression_ratio : float
        Share of the tokens of images to remove, in [0, 1).

    Raises
    ------
    TypeError
        If the press does not score entries, or a ratio is not a number.
    ValueError
        If the ratio is out of range; before the model runs, if it reads only text. During the prefill, for a static
        cache, a context that is given as embeddings, a padded batch, and rows with different numbers of such tokens.

    Examples
    --------
    >>> press = ImageBudgetPress(MoERouterPress(compression_ratio=0.25), image_compression_ratio=0.9)
    >>> with press(model):
    ...     model.generate(**inputs)
    """

    press: ScorerPress
    image_compression_ratio: float

    def __post_init__(self) -> None:
        if not isinstance(self.press, ScorerPress):
            raise TypeError(
                f"ImageBudgetPress needs a press that scores entries, such as MoERouterPress or KnormPress, got "
                f"{type(self.press).__name__}"
            )
        checked_ratio(self.image_compression_ratio, "image_compression_ratio")
        checked_ratio(self.press.compression_ratio)

    @property
    def compression_ratio(self) -> float:
        """Share of the tokens of text to remove: that of the press."""
        return self.press.compression_ratio

    @compression_ratio.setter
    def compression_ratio(self, value: float) -> None:
        self.press.compression_ratio = checked_ratio(value)

    def post_init_from_model(self, model: PreTrainedModel) -> None:
        """Check that the model reads images, and pass it on to the press."""
        models.check_supported(model)
        if not visual_ids(model):
            raise ValueError(
                f"{type(model).__name__} has no token ids for images in its configuration, so that a budget for them "
                f"is of no use: use the {type(self.press).__name__} alone"
            )
        self.press.post_init_from_model(model)

    def compress(
        self,
        module: models.Attention,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attentions: torch.Tensor,
        kwargs: dict,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the kept keys and values, shape (batch, kv_heads, kept, head_dim), in position order.

        Layers with a sliding window are left unchanged.
        """
        if models.is_sliding(module, kwargs["past_key_values"].layers[module.layer_idx]):
            return keys, values
        refuse_static(kwargs["past_key_values"])
        refuse_padding(kwargs.get("attention_mask"))
        refuse_masked_keys(module, "use ImageBudgetPress alone")
        visual = _visual(kwargs, keys)
        ratios = self.image_compression_ratio, self.press.compression_ratio
        counts = [int(part[0].sum()) for part in (visual, ~visual)]
        kept = [compute_n_kept(count, ratio) if count else 0 for count, ratio in zip(counts, ratios, strict=True)]
        if kept == counts:
            return keys, values
        with self._at(1 - sum(kept) / keys.shape[2]):
            scores = self.press.score(module, hidden_states, keys, values, attentions, kwargs)
        tensors = {"hidden states": hidden_states, "keys": keys, "values": values}
        check_scores(module.layer_idx, {type(self.press).__name__: scores}, tensors)
        parts = zip((visual, ~visual), kept, strict=True)
        positions = [_highest(scores, part, count) for part, count in parts if count]
        stay = torch.cat(positions, dim=-1).sort(dim=-1).values
        return gather_rows(keys, stay), gather_rows(values, stay)

    @contextmanager
    def _at(self, ratio: float) -> Iterator[None]:
        """Set the ratio of the press, on which some scores depend, and restore its own one on exit."""
        before = self.press.compression_ratio
        self.press.compression_ratio = ratio
        try:
            yield
        finally:
            self.press.compression_ratio = before


def _highest(scores: torch.Tensor, part: torch.Tensor, count: int) -> torch.Tensor:
    """Return the positions of the highest scores (batch, kv_heads, count) among a part (batch, keys) of the keys."""
    places = part.nonzero()[:, 1].view(len(part), 1, -1).expand(-1, scores.shape[1], -1)
    return places.gather(2, select(scores.gather(2, places), count))


def _visual(kwargs: dict, keys: torch.Tensor) -> torch.Tensor:
    """Return which keys are of images, bool, shape (batch, keys), or raise a ``ValueError``."""
    visual = visual_among(kwargs, keys.shape[2])
    if visual is None:
        raise ValueError(
            "the model was not called with input_ids, by which tokens of images are known: pass them instead of "
            "embeddings"
        )
    return visual.to(keys.device)
