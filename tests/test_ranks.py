"""A model that is split over 2, 3 and 4 processes compresses as it does in one."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pikvpress.ranks import HeadShard, sample_of_columns, shard_of
from tests.conftest import make_tiny
from tests.parallel import bad_input, cases
from tests.parallel.processes import run_on_ranks, split_model

SIZES = (2, 3, 4)
ERRORS = {
    "NaN on one rank": "values of layer 1 contain NaN",
    "another ratio on one rank": "rank 0 has 0.5, rank 1 has 0.6",
    "gates on one rank": "rank 1 has None",
    "gates found on one rank": "rank 1 has None",
    "another dtype on one rank": "rank 1 has torch.bfloat16",
    "weights of a rank's heads": f"but the model has {cases.HEADS}",
    "a cache of one process": f"this cache holds {cases.HEADS} KV heads a layer",
    "a sharded cache of a split model": "this model is split over ranks: use a PiKVCache",
    "a store": "a store has whole contexts",
    "calibration": "calibrate it in one process",
    "cut heads": "3 ranks would cut some of the 4 KV heads",
}


def test_a_model_over_several_processes_compresses_as_in_one(tmp_path):
    """All in one test: the processes are started once."""
    cases.write(tmp_path)
    run = cases.Run(cases.load(tmp_path / "model", None), tmp_path)
    alone = {name: case(run) for name, case in cases.CASES.items()}
    wrong = []
    for size in SIZES:
        of_ranks = run_on_ranks(split_model, size, tmp_path)
        for name in cases.CASES:
            try:
                check(alone[name], [of_rank[name] for of_rank in of_ranks])
            except AssertionError as error:
                wrong.append(f"{name} with {size} processes: {error}")
        check_gathers([of_rank["global"]["gathers"] for of_rank in of_ranks], size)
        first, *others = [of_rank["page"] for of_rank in of_ranks]
        assert "pikv router (prior), ratio 0.875, 2 layers" in first and others == [""] * (size - 1)
        for name in bad_input.CASES:
            messages = [of_rank["errors"][name] for of_rank in of_ranks]
            runs = name == "cut heads" and size != 3
            if not all(message == "" if runs else ERRORS[name] in message for message in messages):
                wrong.append(f"{name} with {size} processes: {messages}")
    assert not wrong, "\n".join(wrong)


def check(whole: dict[str, Any], parts: list[dict[str, Any]]) -> None:
    """Compare the results of all ranks with those of one process."""
    for index, mask in enumerate(whole["masks"]):
        assert torch.equal(together([part["masks"][index] for part in parts], mask), mask), "kept entries"
    for part in parts:
        for found, expected in zip(part["logits"], whole["logits"], strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert ("plan" in part) == ("plan" in whole)
        if "plan" in whole:
            check_plan(part["plan"], whole["plan"])
    for index, counts in enumerate(whole.get("counts", ())):
        assert [count for part in parts for count in part["counts"][index][0]] == counts[0]
    if "quotas" in whole:  # the fixed entries of the fullest rank count on all, so that no quota is larger than alone
        assert all(part["quotas"] == parts[0]["quotas"] for part in parts), "quotas of ranks"
        assert all(quota <= alone for quota, alone in zip(parts[0]["quotas"], whole["quotas"], strict=True))
        for index in range(cases.LAYERS):
            held = sum(part["held"][index] for part in parts)
            assert held <= cases.HEADS * cases.SCHEDULED, "entries under the ceiling"
    for index, values in enumerate(whole.get("values", ())):
        found = together([part["values"][index] for part in parts], values)
        torch.testing.assert_close(found, values, atol=1e-5, rtol=1e-5)


def together(parts: list[torch.Tensor], whole: torch.Tensor) -> torch.Tensor:
    """Return the heads of all ranks, unless every rank holds all."""
    return parts[0] if parts[0].shape == whole.shape else torch.cat(parts, dim=1)


def check_plan(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare plans: all numbers are equal, but gate weights that were measured have rounding errors."""
    for layer, wanted in zip(found["layers"], expected["layers"], strict=True):
        torch.testing.assert_close(torch.tensor(layer["weights"]), torch.tensor(wanted["weights"]), atol=1e-4, rtol=0)
        assert layer | {"weights": None} == wanted | {"weights": None}
    assert found | {"layers": None} == expected | {"layers": None}


def check_gathers(of_ranks: list[list[int]], size: int) -> None:
    """A pool for all layers needs one message a prefill, beside the features that the router measures in a layer."""
    own = cases.HEADS // size
    for *features, scores in of_ranks:
        assert len(features) == cases.LAYERS and max(features) < own * 20
        assert scores == cases.LAYERS * own * 260


def test_one_process_holds_all_heads_and_sends_nothing():
    shard = shard_of(make_tiny("llama").model.layers[0].self_attn)
    numbers = torch.randn(3, 2, 4)
    assert (shard.total, shard.first, shard.count, shard.ranks, shard.is_whole) == (2, 0, 2, 1, True)
    assert torch.equal(shard.cut(numbers, 1), numbers) and shard.gathered(numbers, 1) is numbers
    assert shard.own("ab") == "ab" and shard.collected(5) == [5]
    shard.agree({"ratio": 0.5})
    with pytest.raises(KeyError, match="as it is"), shard.together(torch.device("cpu")):
        raise KeyError("as it is")


def test_what_belongs_to_a_group_is_copied_but_not_pickled():
    whole, part = HeadShard(4, 0, 4), HeadShard(4, 2, 2, group=object())
    assert copy.deepcopy(part) is part
    assert pickle.loads(pickle.dumps(whole)).total == 4
    with pytest.raises(TypeError, match=r"cannot be pickled: save a cache with cache\.save, a file for each rank"):
        pickle.dumps(part)


def test_a_rank_takes_its_own_heads():
    shard = HeadShard(6, 2, 2, group="of three")
    assert shard.ranks == 3 and not shard.is_whole and shard.own("abcdef") == "cd"
    numbers = torch.arange(24).view(2, 12)
    assert torch.equal(shard.cut(numbers, 1, per_head=2), numbers[:, 4:8])
    with pytest.raises(ValueError, match="numbers for 12 heads, but the model has 6"):
        shard.cut(numbers, 1)


def test_projections_that_transformers_has_split_in_an_unknown_way_are_named():
    projection = SimpleNamespace(_hf_tp_plan="colwise", _forward_hooks={})
    attention = SimpleNamespace(config=SimpleNamespace(num_key_value_heads=4), k_proj=projection)
    with pytest.raises(ValueError, match="tp_plan='auto'"):
        shard_of(attention)


def test_the_sample_of_a_weight_is_evenly_spaced():
    projection = torch.nn.Linear(10, 7)
    expected = (projection.weight.flatten()[::3][:20] > 0).to(torch.uint8)
    assert torch.equal(sample_of_columns(projection, 10, 20), expected)
