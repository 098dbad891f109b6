"""Which presses take part, and that the answers are those of `generate`."""

from __future__ import annotations

from kvpress import KVPressTextGenerationPipeline

from pikvpress import MoERouterPress
from pikvpress.demo import contestants, demo_document


def test_the_contestants_are_the_full_cache_three_of_kvpress_and_ours():
    runs = contestants([0.5, 0.75], "eplb")
    assert [(name, ratio) for name, _, ratio in runs] == [("full cache", 0.0)] + [
        (name, ratio)
        for ratio in (0.5, 0.75)
        for name in ("SnapKVPress", "ExpectedAttentionPress", "KeyDiffPress", "MoERouterPress")
    ] + [("PiKVPress", 0.875), ("PiKVPress", 0.9375)]
    assert all(press is None or press.compression_ratio == ratio for _, press, ratio in runs)
    assert runs[-1][1].router_type == "eplb"


def test_the_pipeline_answers_like_generate_does(smollm):
    """MoERouterPress gives the same answer through the pipeline and around a plain prefill and greedy decoding."""
    import torch
    from transformers import DynamicCache

    model, tokenizer = smollm
    context, question = demo_document()[0][:3000], "\n\nWhat is the magic number of the town of Sallow Haven?"
    answer = KVPressTextGenerationPipeline(model=model, tokenizer=tokenizer)(
        context, question=question, press=MoERouterPress(0.3), max_new_tokens=20
    )["answer"]
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": context + "<cut>"}], add_generation_prompt=True, tokenize=False
    )
    before, after = turn.split("<cut>")
    ids = [tokenizer.encode(part, return_tensors="pt", add_special_tokens=False) for part in (before, question + after)]
    cache = DynamicCache()
    with torch.no_grad():
        with MoERouterPress(0.3)(model):
            model.model(ids[0], past_key_values=cache)
        position, tokens, written = ids[0].shape[1], ids[1], []
        for _ in range(20):
            positions = torch.arange(position, position + tokens.shape[1])[None]
            logits = model(tokens, past_key_values=cache, position_ids=positions).logits
            position += tokens.shape[1]
            tokens = logits[:, -1:].argmax(dim=-1)
            written.append(tokens.item())
            if written[-1] == tokenizer.eos_token_id:
                break
    assert answer == tokenizer.decode(written, skip_special_tokens=True)
    assert "7316042" in answer
