"""An adapter is trained, checked and written, and the model is as it was."""

from __future__ import annotations

import peft
import pytest
import torch

from pikvpress import PiKVPress
from pikvpress.adaptation import adapt
from tests.adaptation.helpers import RECIPE
from tests.calibration.tiny import TEXTS, Tokenizer
from tests.conftest import make_tiny

PRESSES = [PiKVPress(0.9375, gates=None)]


def trained(output, model=None, texts=TEXTS, **choices):
    return adapt(model or make_tiny("llama"), Tokenizer(), output, texts, presses=PRESSES, recipe=RECIPE, **choices)


def test_an_adapter_is_written_that_peft_loads(tmp_path):
    model, told = make_tiny("llama"), []
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    found = trained(tmp_path / "adapter", model, contexts=24, progress=lambda *step: told.append(step))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {name: value.tolist() for name, value in model.state_dict().items()} == {
        name: value.tolist() for name, value in weights.items()
    }
    assert found.folder == tmp_path / "adapter" and found.contexts == 24
    assert max(found.gains.shares) < 1, "held-out contexts gain"
    assert told[0] == ("training", 1, 24) and told[-1] == ("checking on held-out text", 2, 2)
    assert sum(step[0] == "choosing" for step in told) == 2
    loaded = peft.PeftModel.from_pretrained(model, found.folder)
    assert loaded.peft_config["default"].r == RECIPE.rank


def test_the_same_seed_gives_the_same_adapter(tmp_path):
    first, second = (trained(tmp_path / name) for name in ("first", "second"))
    assert torch.equal(first.gains.after, second.gains.after)
    other = trained(tmp_path / "third", rate_ratio=4.0)
    assert not torch.equal(first.gains.after, other.gains.after)


def test_an_adapter_that_gains_nothing_is_not_written(tmp_path):
    found = trained(tmp_path / "adapter", learning_rate=30.0)
    assert found.folder is None and not any(tmp_path.iterdir())
    assert min(found.gains.shares) > 1


def test_minutes_bound_the_number_of_contexts(tmp_path):
    recipe_default = RECIPE.fewest_contexts
    found = trained(tmp_path / "adapter", contexts=None, minutes=0.0001)
    assert found.contexts == recipe_default


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"presses": []}, ValueError, "at least one press"),
        ({"rank": 0}, ValueError, "rank must be in"),
        ({"nonsense": 1}, TypeError, "nonsense"),
        ({"texts": ["Too short. "] * 8}, ValueError, "the texts have"),
    ],
)
def test_bad_input_leaves_the_model_alone(changes, error, message, tmp_path):
    model = make_tiny("llama")
    arguments = {"texts": TEXTS, "presses": PRESSES, "recipe": RECIPE} | changes
    with pytest.raises(error, match=message):
        adapt(model, Tokenizer(), tmp_path / "adapter", **arguments)
    assert not any("lora" in name for name, _ in model.named_parameters()) and not any(tmp_path.iterdir())


def test_folders_with_files_and_models_with_adapters_are_refused(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    for path, message in ((tmp_path / "taken", "is taken"), (tmp_path / "no/where", "does not exist")):
        with pytest.raises(ValueError, match=message):
            trained(path)
    wrapped = peft.get_peft_model(make_tiny("llama"), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="has an adapter already"):
        trained(tmp_path / "adapter", wrapped)
    with pytest.raises(ValueError, match="GPT2LMHeadModel cannot be compressed"):
        trained(tmp_path / "adapter", make_tiny("gpt2"))
