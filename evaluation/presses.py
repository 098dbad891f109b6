"""Presses by name: kvpress's registry, ours, and AdaKV over every scorer, with settings as ``name@option=value``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import kvpress as kv
import yaml
from kvpress import BasePress, ScorerPress

from evaluation import ablations
from evaluation.oracle import Oracle
from evaluation.quantized import QuantizedPress
from pikvpress import FastVPress, MoERouterPress, PerLayerPress, PiKVPress, SaliencyPress
from pikvpress.experts import ChunkScorePress, ProbeAttentionPress, WindowedObservedAttentionPress
from pikvpress.presses.checks import checked_ratio
from pikvpress.support.registry import Registry, check_name

FULL_CACHE = "no_press"


@dataclass(frozen=True)
class Entry:
    """A press that can be named.

    Parameters
    ----------
    make : callable
        Returns a new press.
    unit : str
        What the ratio is a share of: "tokens", "bytes", "heads" or "key channels". Empty for a press that works by a
        threshold or a size instead.
    ratio_field : str
        The attribute that the ratio sets.
    shares : bool
        Whether the press acts in hooks after attention alone, so that one prefill serves it and others.
    scores_once : bool
        Whether its scores do not depend on the ratio, so that they serve every one.
    decodes : bool
        Whether it compresses while answering.
    reads_weights : bool
        Whether it needs attention weights, hence a prefill in eager mode.
    query_aware : bool
        Whether it needs the question behind the context.
    masks : bool
        Whether removed entries are masked only, their bytes still held.
    looks_ahead : bool
        Whether it is told what will be read behind the context: an oracle.
    needs_option : str
        A setting without a default, which must be given as ``name@option=value``.
    """

    make: Callable[[], BasePress | None]
    unit: str = "tokens"
    ratio_field: str = "compression_ratio"
    shares: bool = True
    scores_once: bool = False
    decodes: bool = False
    reads_weights: bool = False
    query_aware: bool = False
    masks: bool = False
    looks_ahead: bool = False
    needs_option: str = ""


SCORERS: dict[str, Callable[[], ScorerPress]] = {
    "chunk_scores": ChunkScorePress,
    "compactor": kv.CompactorPress,
    "cur": kv.CURPress,
    "keydiff": kv.KeyDiffPress,
    "knorm": kv.KnormPress,
    "lagkv": kv.LagKVPress,
    "leverage": kv.LeverageScorePress,
    "moe_router": MoERouterPress,
    "non_causal": kv.NonCausalAttnPress,
    "plain_expected_attention": kv.ExpectedAttentionPress,
    "probe_attention": ProbeAttentionPress,
    "qfilter": kv.QFilterPress,
    "random": kv.RandomPress,
    "saliency": SaliencyPress,
    "snapkv": kv.SnapKVPress,
    "streaming_llm": kv.StreamingLLMPress,
    "tova": kv.TOVAPress,
    "windowed_observed_attention": WindowedObservedAttentionPress,
}

# Scorers that look at the ratio, or draw anew at each call.
NOT_SCORED_ONCE = ("compactor", "leverage", "moe_router", "random", "streaming_llm")


def _scorer(name: str) -> Entry:
    return Entry(SCORERS[name], scores_once=name not in NOT_SCORED_ONCE)


def _wrapped(
    prefix: str, wrap: Callable[[ScorerPress], BasePress], *names: str, masks: bool = False
) -> dict[str, Entry]:
    def entry(scorer: Entry) -> Entry:
        return Entry(lambda: wrap(scorer.make()), masks=masks, scores_once=scorer.scores_once)  # type: ignore[arg-type]

    return {f"{prefix}_{name}": entry(_scorer(name)) for name in names}


def _expected_attention(**settings: Any) -> ScorerPress:
    return kv.ExpectedAttentionPress(**settings)


def _quantized(name: str) -> Entry:
    return Entry(lambda: QuantizedPress(SCORERS[name]()), unit="bytes", scores_once=_scorer(name).scores_once)


def _decoding(make: Callable[[], BasePress], wrap: Callable[..., BasePress] = kv.DecodingPress) -> Entry:
    return Entry(lambda: wrap(base_press=make()), unit="", shares=False, decodes=True)


def _threshold(model_type: str) -> Entry:
    return Entry(
        lambda: kv.DMSPress(kv.KVzapPress(model_type=model_type)), unit="", masks=True, needs_option="threshold"
    )


def _oracle(most: int) -> Entry:
    return Entry(lambda: Oracle(most), shares=False, looks_ahead=True)


def _ablation(name: str, router_type: str, budgets: str = "equal") -> Entry:
    def make() -> MoERouterPress:
        return MoERouterPress(router_type=router_type, gates=ablations.path(name), budgets=budgets)

    return Entry(make, masks=budgets == "fitted")


def _adakv_expected_attention() -> BasePress:
    return kv.AdaKVPress(_expected_attention(epsilon=1e-2))


def _adakv_snapkv() -> BasePress:
    return kv.AdaKVPress(kv.SnapKVPress())


PRESSES: Registry[Entry] = Registry(
    "press",
    {
        FULL_CACHE: Entry(lambda: None),
        **{name: _scorer(name) for name in SCORERS},
        **_wrapped("adakv", kv.AdaKVPress, *SCORERS, masks=True),
        **_wrapped("critical", kv.CriticalKVPress, "snapkv", "keydiff", "moe_router"),
        **_wrapped("critical_adakv", kv.CriticalAdaKVPress, "snapkv", "moe_router", masks=True),
        **_wrapped("merging", kv.MergingPress, "knorm", "snapkv"),
        "merging_kvzap_mlp": Entry(lambda: kv.MergingPress(kv.KVzapPress(model_type="mlp"))),
        "merging_expected_attention": Entry(
            lambda: kv.MergingPress(_expected_attention(epsilon=1e-2)), scores_once=True
        ),
        "ablation_looking": _ablation("looking", "pikv"),
        "ablation_looking_fitted_budgets": _ablation("looking", "pikv", "fitted"),
        "ablation_static_per_layer": _ablation("static_per_layer", "static"),
        "ablation_static_per_layer_fitted_budgets": _ablation("static_per_layer", "static", "fitted"),
        "ablation_uniform": _ablation("uniform", "static"),
        **{f"ablation_random_{i}": _ablation(f"random_{i}", "base") for i in range(ablations.RANDOM)},
        "block_keydiff": Entry(lambda: kv.BlockPress(press=kv.KeyDiffPress(), block_size=128)),
        "chunkkv": Entry(lambda: kv.ChunkKVPress(press=kv.SnapKVPress(), chunk_length=20)),
        "critical_expected_attention": Entry(
            lambda: kv.CriticalKVPress(_expected_attention(use_vnorm=False)), scores_once=True
        ),
        "critical_adakv_expected_attention": Entry(
            lambda: kv.CriticalAdaKVPress(_expected_attention(use_vnorm=False)), scores_once=True, masks=True
        ),
        "duo_attention": Entry(kv.DuoAttentionPress, masks=True, unit="heads", ratio_field="head_compression_ratio"),
        "duo_attention_on_the_fly": Entry(
            lambda: kv.DuoAttentionPress(on_the_fly_scoring=True),
            masks=True,
            unit="heads",
            ratio_field="head_compression_ratio",
        ),
        "entropy_gated_chunkkv": Entry(lambda: kv.EntropyGatedChunkKVPress(press=kv.SnapKVPress())),
        "expected_attention": Entry(_adakv_expected_attention, scores_once=True, masks=True),
        "fastkvzip": Entry(kv.FastKVzipPress, shares=False, masks=True),
        "fastv": Entry(FastVPress, unit="later layers' tokens"),
        "finch": Entry(kv.FinchPress, shares=False, query_aware=True),
        "kvcompose": Entry(kv.KVComposePress, shares=False, scores_once=True),
        "kvcompose_unstructured": Entry(
            lambda: kv.KVComposePress(structured=False), shares=False, scores_once=True, masks=True
        ),
        "kvgrad": Entry(kv.KVgradPress, shares=False, scores_once=True, masks=True),
        "kvzap_linear": _threshold("linear"),
        "kvzap_mlp": _threshold("mlp"),
        "kvzap_mlp_head": Entry(lambda: kv.KVzapPress(model_type="mlp")),
        "kvzap_mlp_layer": Entry(lambda: kv.AdaKVPress(kv.KVzapPress(model_type="mlp")), masks=True),
        "kvzip": Entry(kv.KVzipPress, shares=False, scores_once=True, masks=True),
        "kvzip_plus": Entry(
            lambda: kv.KVzipPress(kvzip_plus_normalization=True), shares=False, scores_once=True, masks=True
        ),
        "lukv": Entry(lambda: kv.LUKVPress(_expected_attention(epsilon=2e-2), sink=4, window=1), masks=True),
        "moe_router_fitted_budgets": Entry(lambda: MoERouterPress(budgets="fitted"), masks=True),
        "observed_attention": Entry(kv.ObservedAttentionPress, shares=False, reads_weights=True),
        "oracle_choice": _oracle(most=1),
        "oracle_blend": _oracle(most=3),
        "per_layer": Entry(lambda: PerLayerPress({}, default=kv.KnormPress()), needs_option="presses"),
        "pikv": Entry(PiKVPress, unit="bytes"),
        **{f"quantized_{name}": _quantized(name) for name in SCORERS},
        "pyramidkv": Entry(kv.PyramidKVPress),
        "RestoreKV": Entry(kv.RestoreKVPress, shares=False, masks=True),
        "RestoreKV_plus": Entry(lambda: kv.RestoreKVPress(kvzip_plus_normalization=True), shares=False, masks=True),
        "snap_think": Entry(
            lambda: kv.ComposedPress([kv.SnapKVPress(), kv.ThinKPress()]), needs_option="key_channel_compression_ratio"
        ),
        "think": Entry(kv.ThinKPress, masks=True, unit="key channels", ratio_field="key_channel_compression_ratio"),
        "cam_adakv_snapkv": _decoding(_adakv_snapkv, kv.CAMPress),
        **{f"cam_{name}": _decoding(SCORERS[name], kv.CAMPress) for name in ("knorm", "streaming_llm", "tova")},
        "decoding_adakv_expected_attention_e2": _decoding(_adakv_expected_attention),
        "decoding_adakv_snapkv": _decoding(_adakv_snapkv),
        **{
            f"decoding_{name}": _decoding(SCORERS[name])
            for name in ("keydiff", "knorm", "moe_router", "qfilter", "streaming_llm", "tova")
        },
    },
)


@dataclass(frozen=True)
class PressSpec:
    """A press as named in a study.

    Parameters
    ----------
    name : str
        As typed, settings included.
    entry : Entry
        What is known of it.
    options : dict
        Its settings.
    """

    name: str
    entry: Entry
    options: dict[str, Any]

    @property
    def has_ratio(self) -> bool:
        """Whether the press is run at every ratio of a study, rather than once."""
        return bool(self.entry.unit) and self.name != FULL_CACHE

    def make(self, ratio: float | None) -> BasePress | None:
        """Return a new press at a ratio.

        Raises
        ------
        ValueError
            For settings that the press does not have or refuses.
        """
        try:
            press = _with_options(self.entry.make(), self.options, self.name)
            if press is not None and self.has_ratio:
                _set_ratio(press, self.entry.ratio_field, checked_ratio(ratio))
        except (AssertionError, TypeError, ValueError) as error:
            raise ValueError(f"press {self.name!r} cannot be made: {error or 'a setting is out of range'}") from error
        return press


def parse_press(name: str) -> PressSpec:
    """Return the press of a name like ``snapkv`` or ``moe_router@router_type=adaptive@top_k=2``.

    Values are read as YAML: numbers, true, text, [lists], {mappings}. A setting of a wrapper is found on the press
    inside it if the wrapper has none of that name.

    Raises
    ------
    ValueError
        For an unknown press or setting (near names are offered), or a value the press refuses.
    """
    base, *settings = re.split(r"@(?![^\[{]*[\]}])", name)  # an @ inside brackets belongs to a value
    entry = PRESSES[base]
    options: dict[str, Any] = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign or not key:
            raise ValueError(f"{setting!r} in {name!r} is no setting: write {base}@option=value")
        if key == entry.ratio_field and entry.unit:
            raise ValueError(f"{key} in {name!r} is what --ratio sets: give it there")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"the value of {key!r} in {name!r} cannot be read: {error}") from error
    if entry.needs_option and entry.needs_option not in options:
        raise ValueError(f"{base} needs a setting: write {base}@{entry.needs_option}=...")
    spec = PressSpec(name, entry, options)
    spec.make(0.5 if spec.has_ratio else None)
    return spec


def _with_options(press: BasePress | None, options: dict[str, Any], name: str) -> BasePress | None:
    if press is None:
        if options:
            raise ValueError(f"{FULL_CACHE} has no settings")
        return None
    if isinstance(press, PerLayerPress):
        return _per_layer(options)
    left = dict(options)
    press = _replaced(press, left)
    if left:
        known = sorted({field for inner in _presses_in(press) for field in _settings_of(inner)})
        for option in left:
            check_name(option, known, f"setting of {name}")
    return press


def _replaced(press: BasePress, options: dict[str, Any]) -> BasePress:
    """Return the press with the options that it has, which are taken out of ``options``, inner presses likewise."""
    mine = {name: options.pop(name) for name in _settings_of(press) if name in options}
    for item in fields(press):  # type: ignore[arg-type]
        if not item.init:
            continue
        value = getattr(press, item.name)
        if isinstance(value, BasePress):
            mine[item.name] = _replaced(value, options)
        elif isinstance(value, list) and value and all(isinstance(inner, BasePress) for inner in value):
            mine[item.name] = [_replaced(inner, options) for inner in value]
    return replace(press, **mine) if mine else press  # type: ignore[type-var]


def _settings_of(press: BasePress) -> list[str]:
    if not is_dataclass(press):
        return []
    names = [item.name for item in fields(press) if item.init]
    return [name for name in names if not isinstance(getattr(press, name, None), BasePress) and name != "presses"]


def _presses_in(press: BasePress) -> Iterator[BasePress]:
    yield press
    for item in fields(press):  # type: ignore[arg-type]
        value = getattr(press, item.name, None) if item.init else None
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, BasePress):
                yield from _presses_in(inner)


def _per_layer(options: dict[str, Any]) -> PerLayerPress:
    """Return a PerLayerPress from ``presses={0-9: knorm, 10: snapkv}``."""
    layers = options.get("presses")
    if set(options) != {"presses"} or not isinstance(layers, dict) or not layers:
        raise ValueError("write per_layer@presses={0-9: knorm, 10: snapkv}, layers to names of presses")
    presses: dict[int, BasePress] = {}
    for where, name in layers.items():
        first, _, last = str(where).partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            raise ValueError(f"{where!r} is no layer: write 3, or 3-7")
        spec = parse_press(str(name))
        for layer in range(int(first), int(last or first) + 1):
            press = spec.make(0.5)
            if press is None:
                raise ValueError(f"layer {layer} has {name!r}: leave layers that are not compressed out")
            presses[layer] = press
    return PerLayerPress(presses)


def _set_ratio(press: BasePress, name: str, ratio: float) -> None:
    if isinstance(press, kv.ComposedPress):
        _set_ratio(press.presses[0], name, ratio)  # the press beside ThinK; ThinK has its own setting
    elif isinstance(press, PerLayerPress):
        for inner in press.presses.values():
            _set_ratio(inner, name, ratio)
    else:
        setattr(press, name, ratio)
