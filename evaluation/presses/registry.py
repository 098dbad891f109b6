"""Presses by name: kvpress's registry, our own, and AdaKV over every scorer. Strategies define how they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kvpress as kv
from kvpress import BasePress, ScorerPress

from evaluation import ablations
from evaluation.compressors import (
    EagerPrefill,
    FullCache,
    Joining,
    Oracle,
    OwnPrefill,
    Replay,
    SharedPrefill,
    WhileAnswering,
    WhileReading,
    WithPackage,
    WithQuestion,
)
from evaluation.held import HeldDecodingPress, ScheduledPress
from evaluation.joined import JoinedPress
from evaluation.oracle import OraclePress
from evaluation.packed import PackedPress
from evaluation.presses.entry import BYTES, HEADS, KEY_CHANNELS, LATER_TOKENS, Entry
from evaluation.presses.per_layer import per_layer
from evaluation.quantized import QuantizedPress
from evaluation.rivals import KeyKeyPress, NexusQuantPress, TurboQuantPress
from evaluation.schema import FULL_CACHE
from pikvpress import FastVPress, MoERouterPress, PiKVPress, SaliencyPress
from pikvpress.cache.scheduler import SCHEDULERS
from pikvpress.experts import ChunkScorePress, ProbeAttentionPress, WindowedObservedAttentionPress
from pikvpress.support.registry import Registry

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

# Scorers that depend on the ratio, or draw new random numbers in each call.
NOT_SCORED_ONCE = ("compactor", "leverage", "moe_router", "random", "streaming_llm")

MASKED = SharedPrefill(masks=True)
SCORED_ONCE = SharedPrefill(scores_once=True)
SCORED_ONCE_AND_MASKED = SharedPrefill(masks=True, scores_once=True)


def _scorer(name: str, masks: bool = False) -> SharedPrefill:
    """Return the strategy for a scorer, or for a press that wraps it."""
    return SharedPrefill(masks=masks, scores_once=name not in NOT_SCORED_ONCE)


def _wrapped(
    prefix: str, wrap: Callable[[ScorerPress], BasePress], *names: str, masks: bool = False
) -> dict[str, Entry]:
    def entry(name: str) -> Entry:
        return Entry(lambda: wrap(SCORERS[name]()), _scorer(name, masks))

    return {f"{prefix}_{name}": entry(name) for name in names}


def _expected_attention(**settings: Any) -> ScorerPress:
    return kv.ExpectedAttentionPress(**settings)


def _quantized(name: str) -> Entry:
    return Entry(lambda: QuantizedPress(SCORERS[name]()), _scorer(name), BYTES)


def _hqq(press: ScorerPress) -> QuantizedPress:
    return QuantizedPress(press, backend="hqq")


def _rival(prefix: str, wrap: Callable[[ScorerPress], BasePress], package: str) -> dict[str, Entry]:
    """Return entries for a codec of another package, behind the presses that are best without one."""

    def entry(name: str) -> Entry:
        return Entry(lambda: wrap(SCORERS[name]()), WithPackage(package=package), BYTES)

    return {f"{prefix}_{name}": entry(name) for name in ("compactor", "keydiff")}


def _packed(*, keys: str, values: str) -> PackedPress:
    return PackedPress(keys, values)


def _decoding(make: Callable[[], BasePress], wrap: Callable[..., BasePress] = kv.DecodingPress) -> Entry:
    return Entry(lambda: wrap(base_press=make()), WhileAnswering(), ratio_of=None)


def _scheduled(name: str) -> Entry:
    return Entry(lambda: ScheduledPress(scheduler=name), WhileReading(), BYTES)


def _prefill_decoding(name: str) -> Entry:
    return Entry(lambda: HeldDecodingPress(base_press=SCORERS[name]()), WhileReading(), BYTES)


def _threshold(model_type: str) -> Entry:
    def make(*, threshold: Any) -> BasePress:
        return kv.DMSPress(kv.KVzapPress(model_type=model_type), threshold=threshold)

    return Entry(make, MASKED, ratio_of=None)


def _ablation(name: str, router_type: str, budgets: str = "equal") -> Entry:
    def make() -> MoERouterPress:
        return MoERouterPress(router_type=router_type, gates=ablations.path(name), budgets=budgets)

    return Entry(make, SharedPrefill(masks=budgets == "fitted"))


def _adakv_expected_attention() -> BasePress:
    return kv.AdaKVPress(_expected_attention(epsilon=1e-2))


def _adakv_snapkv() -> BasePress:
    return kv.AdaKVPress(kv.SnapKVPress())


def _snap_think(*, key_channel_compression_ratio: Any) -> BasePress:
    think = kv.ThinKPress(key_channel_compression_ratio=key_channel_compression_ratio)
    return kv.ComposedPress([kv.SnapKVPress(), think])


PRESSES: Registry[Entry] = Registry(
    "press",
    {
        FULL_CACHE: Entry(lambda: None, FullCache()),
        **{name: Entry(make, _scorer(name)) for name, make in SCORERS.items()},
        **_wrapped("adakv", kv.AdaKVPress, *SCORERS, masks=True),
        **_wrapped("critical", kv.CriticalKVPress, "snapkv", "keydiff", "moe_router"),
        **_wrapped("critical_adakv", kv.CriticalAdaKVPress, "snapkv", "moe_router", masks=True),
        **_wrapped("merging", kv.MergingPress, "knorm", "snapkv"),
        "merging_kvzap_mlp": Entry(lambda: kv.MergingPress(kv.KVzapPress(model_type="mlp"))),
        "merging_expected_attention": Entry(lambda: kv.MergingPress(_expected_attention(epsilon=1e-2)), SCORED_ONCE),
        "ablation_looking": _ablation("looking", "pikv"),
        "ablation_looking_fitted_budgets": _ablation("looking", "pikv", "fitted"),
        "ablation_static_per_layer": _ablation("static_per_layer", "static"),
        "ablation_static_per_layer_fitted_budgets": _ablation("static_per_layer", "static", "fitted"),
        "ablation_uniform": _ablation("uniform", "static"),
        **{f"ablation_random_{i}": _ablation(f"random_{i}", "base") for i in range(ablations.RANDOM)},
        "block_keydiff": Entry(lambda: kv.BlockPress(press=kv.KeyDiffPress(), block_size=128)),
        "chunkkv": Entry(lambda: kv.ChunkKVPress(press=kv.SnapKVPress(), chunk_length=20)),
        "critical_expected_attention": Entry(
            lambda: kv.CriticalKVPress(_expected_attention(use_vnorm=False)), SCORED_ONCE
        ),
        "critical_adakv_expected_attention": Entry(
            lambda: kv.CriticalAdaKVPress(_expected_attention(use_vnorm=False)), SCORED_ONCE_AND_MASKED
        ),
        "duo_attention": Entry(kv.DuoAttentionPress, MASKED, HEADS),
        "duo_attention_on_the_fly": Entry(lambda: kv.DuoAttentionPress(on_the_fly_scoring=True), MASKED, HEADS),
        "entropy_gated_chunkkv": Entry(lambda: kv.EntropyGatedChunkKVPress(press=kv.SnapKVPress())),
        "expected_attention": Entry(_adakv_expected_attention, SCORED_ONCE_AND_MASKED),
        "fastkvzip": Entry(kv.FastKVzipPress, OwnPrefill(masks=True)),
        "fastv": Entry(FastVPress, ratio_of=LATER_TOKENS),
        "finch": Entry(kv.FinchPress, WithQuestion()),
        **_rival("hqq", _hqq, "hqq"),
        "joined": Entry(JoinedPress, Joining(), ratio_of=None),
        "joined_pikv": Entry(lambda: JoinedPress(press=PiKVPress()), Joining(), BYTES),
        "kvcompose": Entry(kv.KVComposePress, Replay()),
        "kvcompose_unstructured": Entry(lambda: kv.KVComposePress(structured=False), Replay(masks=True)),
        "kvgrad": Entry(kv.KVgradPress, Replay(masks=True)),
        "kvzap_linear": _threshold("linear"),
        "kvzap_mlp": _threshold("mlp"),
        "kvzap_mlp_head": Entry(lambda: kv.KVzapPress(model_type="mlp")),
        "kvzap_mlp_layer": Entry(lambda: kv.AdaKVPress(kv.KVzapPress(model_type="mlp")), MASKED),
        "kvzip": Entry(kv.KVzipPress, Replay(masks=True)),
        "kvzip_plus": Entry(lambda: kv.KVzipPress(kvzip_plus_normalization=True), Replay(masks=True)),
        "lukv": Entry(lambda: kv.LUKVPress(_expected_attention(epsilon=2e-2), sink=4, window=1), MASKED),
        "moe_router_fitted_budgets": Entry(lambda: MoERouterPress(budgets="fitted"), MASKED),
        "nexusquant": Entry(lambda: NexusQuantPress(KeyKeyPress()), WithPackage(package="nexusquant-kv"), BYTES),
        **_rival("nexusquant", NexusQuantPress, "nexusquant-kv"),
        "observed_attention": Entry(kv.ObservedAttentionPress, EagerPrefill()),
        "oracle_choice": Entry(lambda: OraclePress(most=1), Oracle()),
        "oracle_blend": Entry(lambda: OraclePress(most=3), Oracle()),
        "packed": Entry(_packed, ratio_of=None),
        "per_layer": Entry(per_layer),
        "pikv": Entry(PiKVPress, ratio_of=BYTES),
        **{f"quantized_{name}": _quantized(name) for name in SCORERS},
        "pyramidkv": Entry(kv.PyramidKVPress),
        "RestoreKV": Entry(kv.RestoreKVPress, OwnPrefill(masks=True)),
        "RestoreKV_plus": Entry(lambda: kv.RestoreKVPress(kvzip_plus_normalization=True), OwnPrefill(masks=True)),
        "snap_think": Entry(_snap_think),
        "think": Entry(kv.ThinKPress, MASKED, KEY_CHANNELS),
        **_rival("turboquant", TurboQuantPress, "turboquant-kv"),
        "cam_adakv_snapkv": _decoding(_adakv_snapkv, kv.CAMPress),
        **{f"cam_{name}": _decoding(SCORERS[name], kv.CAMPress) for name in ("knorm", "streaming_llm", "tova")},
        "decoding_adakv_expected_attention_e2": _decoding(_adakv_expected_attention),
        "decoding_adakv_snapkv": _decoding(_adakv_snapkv),
        **{
            f"decoding_{name}": _decoding(SCORERS[name])
            for name in ("keydiff", "knorm", "moe_router", "qfilter", "streaming_llm", "tova")
        },
        **{f"scheduled_{name}": _scheduled(name) for name in SCHEDULERS},
        **{f"prefill_decoding_{name}": _prefill_decoding(name) for name in SCORERS},
    },
)
