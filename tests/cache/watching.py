"""Watching a cache while a model reads."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from transformers import PreTrainedModel

from pikvpress import PiKVCache


class Watched:
    """Calls a function after every layer of every forward of a model.

    Parameters
    ----------
    model : PreTrainedModel
        The model.
    check : callable
        Takes the index of the layer.
    """

    def __init__(self, model: PreTrainedModel, check: Callable[[int], None]):
        self.handles = [
            layer.self_attn.register_forward_hook(lambda *args, index=index: check(index))
            for index, layer in enumerate(model.model.layers)
        ]

    def __enter__(self) -> Watched:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self.handles:
            handle.remove()


class Within(Watched):
    """Asserts after every layer of every forward that no row of a cache holds more than so many entries a head.

    Attributes
    ----------
    steps : int
        How often this was asserted.
    most : int
        The most entries that a row of a layer has held, of all heads together.
    """

    def __init__(self, model: PreTrainedModel, cache: PiKVCache, max_tokens: int):
        self.steps = self.most = 0

        def check(index: int) -> None:
            for row in cache.layers[index].counts():
                assert sum(row) <= len(row) * max_tokens, f"{sum(row)} entries after {cache.get_seq_length()} tokens"
                self.most = max(self.most, sum(row))
            self.steps += 1

        super().__init__(model, check)
