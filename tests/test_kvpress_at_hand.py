"""Without kvpress, caches work and presses say what they need; with it, presses are told apart by what they do."""

from __future__ import annotations

import json

import pytest
from kvpress import AdaKVPress, DecodingPress, DMSPress, KnormPress, KVzipPress, PrefillDecodingPress

import pikvpress
from pikvpress import kvpress_at_hand as module
from pikvpress.presses import MoERouterPress
from tests.without_kvpress import BLOCK, run

USE = """
import json, tempfile, torch
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

import pikvpress
from pikvpress import FolderStore, PiKVCache, measure_memory_usage

sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
sizes |= {"pad_token_id": 0, "eos_token_id": None}
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=128, num_key_value_heads=2, **sizes)).eval()
ids = torch.randint(1, 128, (1, 300))

def generated(cache):
    return model.generate(ids, past_key_values=cache, max_new_tokens=8, do_sample=False)

plain, packed, held = PiKVCache(), PiKVCache("int8", "int8"), PiKVCache(scheduler="h2o", max_tokens=256)
same = torch.equal(generated(None), generated(plain))
generated(packed)
generated(held)
with tempfile.TemporaryDirectory() as folder:
    packed.save(Path(folder) / "cache", model, input_ids=ids[:, :0])
    loaded = PiKVCache.load(Path(folder) / "cache", model)
    lengths = [packed.get_seq_length(), loaded.get_seq_length()]
    store = FolderStore(Path(folder) / "store")
    for _ in range(2):
        with store.reading(model) as reading:
            generated(PiKVCache())
        known = reading.known
peak = measure_memory_usage(model, ids).cache
most = max(max(layer) for layer in held.layers[0].counts())
print(json.dumps([same, packed.nbytes < plain.nbytes, lengths, most, known, peak > 0, sorted(pikvpress.__all__)]))
"""


def refusal(code):
    printed = run(
        f"""
try:
    {code}
except ImportError as error:
    print(error)
"""
    )
    return printed.strip()


def test_caches_schedulers_files_and_stores_need_no_kvpress():
    same, packed, lengths, most, known, measured, names = json.loads(run(USE).splitlines()[-1])
    assert same and packed and measured
    assert lengths[0] == lengths[1] > 300 and known == 300 and most <= 256
    assert {"PiKVCache", "FolderStore", "SCHEDULERS"} <= set(names) < set(pikvpress.__all__)


@pytest.mark.parametrize("name", ["MoERouterPress", "PiKVPress", "register_expert", "DEFAULT_EXPERTS"])
def test_presses_and_experts_say_that_they_need_it(name):
    told = refusal(f"from pikvpress import {name}")
    assert told == (
        f"{name} needs kvpress, which is not installed: pip install 'kvpress>=0.5.5,<0.6', which needs a transformers "
        "before 5.3"
    )


def test_an_unknown_name_is_still_unknown():
    assert "cannot import name 'MoERouter'" in refusal("from pikvpress import MoERouter")


def test_a_kvpress_that_cannot_be_imported_is_told_apart_from_one_that_is_missing():
    broken = BLOCK.replace(
        'ModuleNotFoundError(f"No module named {name!r}", name="kvpress")', 'ImportError("cannot import X")'
    )
    printed = run("from pikvpress import kvpress_at_hand\nprint(kvpress_at_hand.needed_by('It'))", broken)
    assert "It needs kvpress, which cannot be imported (cannot import X): pip" in printed


def test_everything_is_there_with_it():
    assert set(pikvpress.__all__) <= set(dir(pikvpress))


def test_presses_are_told_apart():
    decoding = DecodingPress(KnormPress(), 4, 48)
    presses = [KnormPress(), AdaKVPress(KnormPress()), MoERouterPress(), decoding]
    assert all(map(module.is_press, presses)) and not module.is_press(KnormPress) and not module.is_press(None)
    assert module.removes_while_decoding(PrefillDecodingPress(KnormPress(), decoding))
    assert [module.removes_while_decoding(press) for press in presses] == [False, False, False, True]
    masking = [DMSPress(KnormPress(), 0.0, decoding=choice) for choice in (True, False)]
    assert [module.masks_while_decoding(press) for press in [*masking, *presses]] == [True, *[False] * 5]
    assert isinstance(KVzipPress(), module.READ_TWICE) and not isinstance(presses[0], module.READ_TWICE)
