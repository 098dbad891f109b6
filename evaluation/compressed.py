"""Contexts as presses leave them: from one prefill shared by many presses, or from a press's own."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from kvpress import BasePress, FinchPress, KeyRerotationPress, KVComposePress, RestoreKVPress, ScorerPress
from kvpress.utils import extract_keys_and_values
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoTokenizer,
    Cache,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    QuantizedCache,
)

from evaluation.quantized import QuantizedPress, bytes_of
from pikvpress import PiKVCache, PiKVPress, models
from pikvpress.experts import Expert, LayerInput
from pikvpress.presses.router_press import RouterPress
from pikvpress.routing.examination import Examination, examine
from pikvpress.stopwatch import Stopwatch

Masked = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass
class CompressedContext:
    """What a press left of a context.

    Parameters
    ----------
    layers : list of (torch.Tensor, torch.Tensor)
        Keys and values of every layer, shape (1, kv_heads, kept, head_dim).
    masked : list of tuple of torch.Tensor, or None
        By layer: batch, head and position of entries that are held but not attended to.
    next_position : int
        Position of the token that follows.
    seconds : float
        What compressing took, the prefill without a press excluded.
    packed_bytes : int, optional
        Bytes that a `PiKVCache` or `QuantizedCache` held; `layers` are then what it gives back, filled up and the
        filling masked.
    """

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    masked: list[Masked | None]
    next_position: int
    seconds: float
    packed_bytes: int | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Entries held a head, by layer."""
        return tuple(keys.shape[2] for keys, _ in self.layers)

    @property
    def bytes_held(self) -> int:
        """Bytes of keys and values, masked ones included: they are held."""
        if self.packed_bytes is not None:
            return self.packed_bytes
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    @property
    def tokens_kept(self) -> float:
        """Entries that can be attended to, mean over layers and heads."""
        counts = [
            keys.shape[2] - (len(masked[0]) / keys.shape[1] if masked is not None else 0)
            for (keys, _), masked in zip(self.layers, self.masked, strict=True)
        ]
        return sum(counts) / len(counts)

    def sharing(self, full: CompressedContext) -> CompressedContext:
        """Return this context with the full one's tensors wherever its own are equal: masked entries are held once."""
        layers = [
            theirs if ours[0].shape == theirs[0].shape and all(map(torch.equal, ours, theirs)) else ours
            for ours, theirs in zip(self.layers, full.layers, strict=True)
        ]
        return replace(self, layers=layers)

    @property
    def is_masked(self) -> bool:
        """Whether removed entries are still held."""
        return self.packed_bytes is None and any(masked is not None and len(masked[0]) > 0 for masked in self.masked)


class Scores:
    """A press's scores of a context by layer, for ratios that they do not depend on.

    Attributes
    ----------
    seconds_saved : float
        What scoring would have taken in the latest use, had the scores not been there.
    """

    def __init__(self) -> None:
        self._of_layer: dict[int, tuple[torch.Tensor, Stopwatch]] = {}
        self.seconds_saved = 0.0

    @contextmanager
    def of(self, press: BasePress | None) -> Iterator[None]:
        """Let a press, or the one that it wraps, score only layers that were not scored before."""
        scorer: Any = press
        while isinstance(getattr(scorer, "press", None), ScorerPress):
            scorer = scorer.press
        compute, self.seconds_saved = scorer.score, 0.0

        def score(module: models.Attention, hidden_states: torch.Tensor, *rest: Any) -> torch.Tensor:
            layer = module.layer_idx
            if layer in self._of_layer:
                scores, watch = self._of_layer[layer]
                self.seconds_saved += watch.seconds
                return scores.clone()
            watch = Stopwatch()
            with watch.span(hidden_states.device):
                scores = compute(module, hidden_states, *rest)
            self._of_layer[layer] = scores.clone(), watch
            return scores

        with patch.object(scorer, "score", score):
            yield


class Examinations:
    """What routers with the same experts see of a context: looked at once for all of them.

    Attributes
    ----------
    seconds_saved : float
        What looking would have taken in the latest use, had it not been done before.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[int, float, bool, str], tuple[torch.Tensor, torch.Tensor, Examination, Stopwatch]] = {}
        self.seconds_saved = 0.0

    @contextmanager
    def shared(self, press: BasePress | None) -> Iterator[None]:
        """Let the routers in a press examine only what was not examined before."""
        self.seconds_saved = 0.0

        def look(experts: Sequence[Expert], layer: LayerInput, ratio: float, measures: bool = True) -> Examination:
            made = repr([(expert.name, expert.press, _fitted(expert)) for expert in experts])
            key = layer.index, ratio, measures, made
            if key in self._found:
                known_keys, known_values, found, watch = self._found[key]
                if torch.equal(layer.keys, known_keys) and torch.equal(layer.values, known_values):
                    self.seconds_saved += watch.seconds
                    return found
            watch = Stopwatch()
            with watch.span(layer.keys.device):
                found = examine(experts, layer, ratio, measures)
            self._found[key] = layer.keys.clone(), layer.values.clone(), found, watch
            return found

        routing = list(_routers_in(press))
        for inner in routing:
            inner.examiner = look
        try:
            yield
        finally:
            for inner in routing:
                inner.examiner = examine


def _routers_in(press: Any) -> Iterator[RouterPress]:
    """Yield the presses that route in a press, itself included."""
    if isinstance(press, RouterPress):
        yield press
    elif isinstance(press, Mapping | list | tuple):
        for inner in press.values() if isinstance(press, Mapping) else press:
            yield from _routers_in(inner)
    elif isinstance(press, BasePress):
        yield from _routers_in(list(vars(press).values()))


def _fitted(expert: Expert) -> str:
    """Return a digest of what gates bring along for an expert."""
    weights = getattr(expert.press, "weights", None)
    return "" if weights is None else hashlib.sha256(weights.numpy(force=True).tobytes()).hexdigest()


class SharedPrefill:
    """One prefill that serves every press whose work is done in hooks after attention.

    Such a press changes what later tokens read, not what the context's own tokens have read, so its hooks can be called
    afterwards with what they would have been given.

    Parameters
    ----------
    model : PreTrainedModel
        Prefills once.
    context : list of int
        Token ids.
    """

    def __init__(self, model: PreTrainedModel, context: Sequence[int]):
        self._model, self.length = model, len(context)
        self._calls: list[tuple[models.Attention, dict[str, Any]]] = []
        self._full = DynamicCache()
        self._examinations = Examinations()
        handles = [
            layer.register_forward_hook(self._remember, with_kwargs=True) for layer in models.attention_layers(model)
        ]
        began = time.perf_counter()
        try:
            prefill(model, context, self._full)
        finally:
            for handle in handles:
                handle.remove()
        _wait(model.device)
        self.seconds = time.perf_counter() - began

    def compress(self, press: BasePress | None, scores: Scores | None = None) -> CompressedContext:
        """Return the context as the press leaves it; the full one without a press.

        Parameters
        ----------
        press : BasePress, optional
            Acts in hooks after attention.
        scores : Scores, optional
            Of the same press at other ratios, for one whose scores do not depend on the ratio: filled or used.
        """
        cache = _cache_for(press, self._model)
        watch = Stopwatch()
        once = scores.of(press) if scores else nullcontext()
        with torch.no_grad(), at_hand(self._model), once, self._examinations.shared(press):
            if press is not None:
                with watch.span(self._model.device):
                    press.post_init_from_model(self._model)
            for index, (module, kwargs) in enumerate(self._calls):
                keys, values = extract_keys_and_values(self._full, index)
                cache.update(keys.clone(), values.clone(), index)  # presses may write into what they are given
                if press is None:
                    continue
                with watch.span(keys.device):
                    press.forward_hook(module, [], kwargs | {"past_key_values": cache}, [None, None])
            seconds = watch.seconds + (scores.seconds_saved if scores else 0.0) + self._examinations.seconds_saved
            if isinstance(cache, PiKVCache):
                return _unpacked(cache, self.length, seconds)
            return _taken(self._model, press, cache, self.length, seconds)

    def _remember(self, module: models.Attention, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        self._calls.append((module, {name: value for name, value in kwargs.items() if name != "past_key_values"}))


def compress_with_weights(
    model: PreTrainedModel, context: Sequence[int], presses: Sequence[BasePress], plain_seconds: float
) -> list[CompressedContext]:
    """Return a context as each of several presses leaves it that read attention weights.

    The weights of all layers are too large to be kept, so the presses' hooks are called while one prefill in eager mode
    goes on, each with a cache of its own.

    Parameters
    ----------
    model, context
        As used.
    presses : sequence of BasePress
        Presses that do their work in hooks after attention.
    plain_seconds : float
        What a prefill takes without a press, subtracted from the times.
    """
    caches = [DynamicCache() for _ in presses]
    watches = [Stopwatch() for _ in presses]
    full = DynamicCache()

    def call_presses(module: models.Attention, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        keys, values = extract_keys_and_values(full, module.layer_idx)
        for press, cache, watch in zip(presses, caches, watches, strict=True):
            cache.update(keys.clone(), values.clone(), module.layer_idx)
            with watch.span(model.device):
                press.forward_hook(module, [], kwargs | {"past_key_values": cache}, output)

    with ExitStack() as stack:
        stack.enter_context(at_hand(model))
        stack.enter_context(models.attention_mode(model, "eager"))
        for press in presses:
            press.post_init_from_model(model)
        for layer in models.attention_layers(model):
            stack.callback(layer.register_forward_hook(call_presses, with_kwargs=True).remove)
        began = time.perf_counter()
        prefill(model, context, full)
        _wait(model.device)
        eager = time.perf_counter() - began - sum(watch.seconds for watch in watches)
        return [
            _taken(model, press, cache, len(context), max(0.0, eager - plain_seconds) + watch.seconds)
            for press, cache, watch in zip(presses, caches, watches, strict=True)
        ]


def compress_alone(
    model: PreTrainedModel,
    context: Sequence[int],
    press: BasePress,
    plain_seconds: float,
    ratios: Sequence[float] = (),
) -> list[CompressedContext]:
    """Return a context as a press leaves it that takes the prefill into its own hands.

    Parameters
    ----------
    model, context, press
        As used.
    plain_seconds : float
        What a prefill takes without a press, subtracted from the time.
    ratios : sequence of float, optional
        For presses that replay the context, as KVzip does, and whose scores do not depend on the ratio: score once,
        then remove at each of these. Without it, there is one result, at the ratio that the press has.
    """
    cache = DynamicCache()
    taken: list[CompressedContext] = []

    def take(cache: DynamicCache) -> None:
        _wait(model.device)
        seconds = max(0.0, time.perf_counter() - began - plain_seconds)
        taken.append(_taken(model, press, cache, len(context), seconds))

    def remove_at_every_ratio(model: PreTrainedModel) -> None:
        for ratio in ratios:
            press.compression_ratio = ratio  # type: ignore[attr-defined]
            if isinstance(press, KVComposePress):  # it writes into its cache, and chooses before it removes
                press.cache = models.copied(cache)
                press.prepare_important_masks()
                KVComposePress.compress_cache(press, model)
                take(press.cache)
            else:
                type(press).compress_post(press, model)  # type: ignore[attr-defined]
                take(cache)

    with ExitStack() as stack:
        stack.enter_context(at_hand(model))
        if ratios:
            removes = "compress_cache" if isinstance(press, KVComposePress) else "compress_post"
            stack.enter_context(patch.object(press, removes, remove_at_every_ratio))
        began = time.perf_counter()
        with torch.no_grad(), press(model):
            prefill(model, context, cache)
        if not ratios:
            take(cache)
    return taken


def prefill(model: PreTrainedModel, context: Sequence[int], cache: DynamicCache) -> None:
    """Read a context into a cache, without the language-modelling head."""
    with torch.no_grad():
        model.model(input_ids=torch.tensor([context], device=model.device), past_key_values=cache)


@contextmanager
def at_hand(model: PreTrainedModel) -> Iterator[None]:
    """Give attention layers what kvpress's presses look for on them, and take away what they leave there."""
    layers = models.attention_layers(model)
    for layer in layers:
        layer.masked_key_indices = None
    try:
        with models.rotary_at_hand(model):
            yield
    finally:
        for layer in layers:
            layer.masked_key_indices = None


@contextmanager
def tokenizer_by_name(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Let presses that load the tokenizer by the model's name have this one: a GGUF file's is not found by name."""
    load = AutoTokenizer.from_pretrained

    def from_pretrained(name: str, *args: Any, **kwargs: Any) -> Any:
        return tokenizer if name == model.config.name_or_path else load(name, *args, **kwargs)

    with patch.object(AutoTokenizer, "from_pretrained", from_pretrained):
        yield


def _cache_for(press: BasePress | None, model: PreTrainedModel) -> Cache:
    if isinstance(press, PiKVPress):
        return PiKVCache()
    return press.cache(model) if isinstance(press, QuantizedPress) else DynamicCache()


def _unpacked(cache: PiKVCache, length: int, seconds: float) -> CompressedContext:
    """Return what a cache for one row holds as rectangles: heads filled up to the longest of their layer."""
    layers: list[tuple[torch.Tensor, torch.Tensor]] = []
    masked: list[Masked | None] = []
    for layer in cache.layers:
        if not layer.context:
            layers.append((layer.keys, layer.values))
            masked.append(None)
            continue
        keys, values = (
            [
                torch.cat([getattr(part, name).part(head) for part in layer.parts])
                for head in range(len(layer.counts()[0]))
            ]
            for name in ("keys", "values")
        )
        filled = [pad_sequence(rows, batch_first=True).unsqueeze(0) for rows in (keys, values)]
        layers.append((filled[0], filled[1]))
        missing = torch.arange(filled[0].shape[2])[None] >= torch.tensor([len(rows) for rows in keys])[:, None]
        head, position = missing.nonzero(as_tuple=True)
        masked.append((torch.zeros_like(head), head, position) if len(head) else None)
    return CompressedContext(layers, masked, length, seconds, cache.nbytes)


def _taken(
    model: PreTrainedModel, press: BasePress | None, cache: Cache, length: int, seconds: float
) -> CompressedContext:
    layers = [extract_keys_and_values(cache, index) for index in range(len(cache))]
    masked = [getattr(layer, "masked_key_indices", None) for layer in models.attention_layers(model)]
    position = cache.get_seq_length() if _moves_positions(press) else length
    packed = bytes_of(cache) if isinstance(cache, QuantizedCache) else None
    return CompressedContext(layers, [m and tuple(m) for m in masked], position, seconds, packed)  # type: ignore[misc]


def _moves_positions(press: BasePress | None) -> bool:
    """Whether kept keys are rotated to new positions, as kvpress's pipeline asks too."""
    if isinstance(press, FinchPress):
        return press.rerotate_keys
    return isinstance(press, KeyRerotationPress | RestoreKVPress)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
