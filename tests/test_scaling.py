"""The simulation of a step against closed forms."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isclose

import pytest

from benchmarks.scaling import __main__ as scaling
from benchmarks.scaling.constants import MODELS, Cluster, Decoder, rate_of_codes
from benchmarks.scaling.heads import RULES, shared, shipped_sizes, sizes_of
from benchmarks.scaling.simulation import Setting, simulate

MODEL = Decoder(layers=3, hidden=512, feed_forward=1024, heads=32, vocabulary=1000)
SILENT = Cluster(link_bandwidth=inf, network_bandwidth=inf, start_seconds=0, link_seconds=0, network_seconds=0)
TOKENS = 2**16


def read(model: Decoder, tokens: int) -> int:
    """Return the bytes that a step reads: all weights but the embeddings, and the cache."""
    return model.weights - model.output_weights + model.layers * model.cache(tokens)


@pytest.mark.parametrize("model", [MODEL, *MODELS.values()])
def test_one_rank_takes_the_time_of_its_bytes(model):
    found, cluster = simulate(Setting(model, TOKENS, 1), Cluster()), Cluster()
    assert isclose(found.seconds, read(model, TOKENS) / cluster.memory_bandwidth)
    assert isclose(found.reading, found.seconds) and found.sending == 0
    assert isclose(found.nbytes, model.weights + model.layers * model.cache(TOKENS))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_without_messages_equal_heads_are_split_perfectly(ranks, rule):
    found = simulate(Setting(MODEL, TOKENS, ranks, rule=rule), SILENT)
    weights, cached = read(MODEL, 0) / min(ranks, 8), MODEL.layers * MODEL.cache(TOKENS) / ranks
    assert isclose(found.seconds, (weights + cached) / SILENT.memory_bandwidth) and found.sending == 0


@pytest.mark.parametrize("rule", RULES)
def test_without_messages_unequal_heads_take_the_fullest_rank_of_each_layer(rule):
    setting = Setting(MODEL, TOKENS, 16, ratio=0.5, rule=rule)
    fullest = [
        max(shared(sizes_of(MODEL, layer, TOKENS, 0.5), 16, 8, MODEL.head_dim, rule).nbytes)
        for layer in range(MODEL.layers)
    ]
    found = simulate(setting, SILENT)
    assert isclose(found.seconds, (read(MODEL, 0) / 8 + sum(fullest)) / SILENT.memory_bandwidth)
    assert found.reading < found.seconds


@pytest.mark.parametrize("at_once", [False, True])
def test_without_bytes_to_read_a_step_is_its_messages(at_once):
    cluster = replace(Cluster(), memory_bandwidth=inf)
    found = simulate(Setting(MODEL, TOKENS, 16, at_once=at_once), cluster)
    queries, partial = 2 * 32 * 128, 4 * 32 * 129
    merge = cluster.gather_over_all(16, 16 * partial)
    if not at_once:
        merge = cluster.gather(8, partial) + cluster.gather_between(2, 2 * partial / 8) + cluster.gather(8, queries)
    layer = cluster.gather(8, queries) + merge + 2 * cluster.reduce(8, 2 * 512)
    assert isclose(found.seconds, 3 * layer) and isclose(found.sending, found.seconds)


def test_messages_are_latencies_and_bytes():
    cluster = Cluster(link_bandwidth=2, network_bandwidth=1, start_seconds=100, link_seconds=10, network_seconds=1)
    assert cluster.gather(1, 8) == cluster.reduce(1, 8) == cluster.gather_between(1, 8) == 0
    assert cluster.gather(4, 8) == 100 + 3 * (10 + 1)
    assert cluster.reduce(4, 8) == 100 + 6 * (10 + 1)
    assert cluster.gather_between(8, 16) == 100 + 3 * 1 + 14
    assert cluster.gather_over_all(16, 32) == 100 + 14 * 10 + 1 * 1 + 30 / 2
    assert cluster.gather_over_all(8, 8) == cluster.gather(8, 8)


def test_heads_are_as_unequal_as_those_of_the_shipped_gates():
    sizes = shipped_sizes()
    assert isclose(sum(sizes), len(sizes)) and max(sizes) > 2 * min(sizes)
    assert sizes_of(MODEL, 1, TOKENS, 0) == (MODEL.cache(TOKENS) / 8,) * 8
    whole = Decoder(layers=len(sizes), hidden=8, feed_forward=8, heads=8, kv_heads=1)
    cached = sum(sum(sizes_of(whole, layer, TOKENS, 7 / 8)) for layer in range(whole.layers))
    assert isclose(cached, whole.layers * whole.cache(TOKENS) / 8)


def test_heads_are_divided_no_further_than_caches_divide_them():
    """Eight heads of 256 entries are eight pieces, however many ranks there are."""
    sizes = sizes_of(MODEL, 0, 256, 0)
    for rule in RULES:
        share = shared(sizes, 64, 8, MODEL.head_dim, rule)
        assert sorted(share.nbytes)[-9:] == [0.0] + [MODEL.cache(256) / 8] * 8
        assert sum(share.heads) == 8


def test_a_node_of_the_hierarchical_rule_holds_few_heads():
    sizes = sizes_of(MODEL, 0, TOKENS, 7 / 8)
    by_node, packed = (shared(sizes, 64, 8, MODEL.head_dim, rule) for rule in ("hierarchical", "longest first"))
    assert max(by_node.heads) <= 5 < max(packed.heads)
    assert isclose(sum(by_node.nbytes), sum(packed.nbytes))


def test_ranks_must_be_whole_nodes():
    with pytest.raises(ValueError, match="12 ranks are not whole nodes of 8"):
        simulate(Setting(MODEL, TOKENS, 12), Cluster())


def test_codes_were_measured_to_be_slower_than_exact_entries():
    assert 0.1 < rate_of_codes() < 1


def test_the_table_and_the_picture(tmp_path, capsys):
    scaling.main(tokens=[131_072], most=16, output=tmp_path)
    shown = capsys.readouterr().out
    assert "Llama-3.1-405B, 131,072 tokens" in shown and "waiting" in shown and " 16 " in shown
    assert {path.name for path in tmp_path.iterdir()} == {"scaling-light.png", "scaling-dark.png"}
