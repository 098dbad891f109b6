"""Watch models: sample their outputs, and read the caches that remain after tests.

Presses act after attention, and most tests end there: the outputs during a prefill do not depend on the compressed
cache. The plugin therefore reads each cache once more with its own tokens, before its model reads another cache and
after the test; the cache's length is restored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from kvpress import attention_patch
from transformers import PreTrainedModel

from scripts.kvpress_suite.failures import failure_of
from scripts.kvpress_suite.records import Failure, Forward

PROBES = (
    [5, 17],
    [42],
)  # two tokens together, then one; for more queries kvpress often finds no fake key
POSITION = 700  # after all contexts of the suite, which are in caches of different lengths
SAMPLES = 32
SCALE = 1e4


class Watch:
    """The outputs of the models in one test."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Reset for a new test."""
        self.forwards: list[Forward] = []
        self.unread: Failure | None = None
        self.last: dict[PreTrainedModel, Any] = {}

    def on(self, model: PreTrainedModel) -> PreTrainedModel:
        """Watch a model from now on, and return it."""
        body = model.base_model
        body.register_forward_pre_hook(self._before, with_kwargs=True)
        body.register_forward_hook(self._after, with_kwargs=True)
        return model

    def _before(self, body: PreTrainedModel, args: tuple, kwargs: dict) -> None:
        cache = self.last.get(body)
        if cache is not None and kwargs.get("past_key_values") is not cache:
            self._probe(body, cache)

    def _after(self, body: PreTrainedModel, args: tuple, kwargs: dict, output: Any) -> None:
        self.last[body] = getattr(output, "past_key_values", None)
        self.forwards.append(_sampled(output[0]))

    def end(self) -> None:
        """Read the remaining caches."""
        for body, cache in self.last.items():
            if cache is not None:
                self._probe(body, cache)
        self.last = {}

    def _probe(self, body: PreTrainedModel, cache: Any) -> None:
        forward = type(body).forward  # some presses replace the forward of the model
        try:
            with torch.no_grad(), _without_hooks(body), _masked_exactly(), torch.random.fork_rng():
                lengths = [layer.get_seq_length() for layer in cache.layers]
                place = POSITION
                for tokens in PROBES:
                    ids = torch.tensor([tokens], device=body.device).expand(_rows(cache), -1)
                    positions = torch.arange(place, place + len(tokens), device=body.device)[None]
                    output = forward(body, input_ids=ids, past_key_values=cache, position_ids=positions)
                    self.forwards.append(_sampled(output[0], probe=True))
                    place += len(tokens)
                for layer, length in zip(cache.layers, lengths, strict=True):
                    layer.crop(length)
        except Exception as error:  # any error goes into the report
            self.unread = self.unread or failure_of(error)


def _rows(cache: Any) -> int:
    return int(cache.layers[0].keys.shape[0])


@contextmanager
def _without_hooks(body: PreTrainedModel) -> Iterator[None]:
    """Temporarily remove all hooks: some presses count the tokens that they see."""
    names = ("_forward_hooks", "_forward_pre_hooks")
    saved = [(module, name, getattr(module, name)) for module in body.modules() for name in names]
    for module, name, _ in saved:
        setattr(module, name, OrderedDict())
    try:
        yield
    finally:
        for module, name, hooks in saved:
            setattr(module, name, hooks)


@contextmanager
def _masked_exactly() -> Iterator[None]:
    """Temporarily scale kvpress's fake keys.

    No query should attend to a fake key. But for several queries, a fake key may be nearly orthogonal to one of them,
    so that the masked entry still receives a little attention: enough to hide or simulate a difference.
    """
    search = attention_patch.search_hyperplane

    def scaled(queries: torch.Tensor, *args: Any) -> torch.Tensor:
        keys = search(queries, *args)
        return keys * SCALE if keys.dtype == torch.float32 else keys

    attention_patch.search_hyperplane = scaled
    try:
        yield
    finally:
        attention_patch.search_hyperplane = search


def _sampled(states: torch.Tensor, probe: bool = False) -> Forward:
    """Return a sample of hidden states: of the last token, and of all tokens."""
    flat, last = states.detach().float().flatten(), states.detach().float()[:, -1].flatten()
    numbers = [piece[:: max(1, len(piece) // SAMPLES)][:SAMPLES] for piece in (last, flat)]
    rounded = [float(f"{number:.7g}") for number in torch.cat(numbers).tolist()]
    return Forward(list(states.shape), str(states.dtype).removeprefix("torch."), rounded, probe)
