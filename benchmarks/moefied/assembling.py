"""Split MLPs become a mixture of experts of transformers, in a folder that `from_pretrained` loads.

Experts of a split MLP have to be summed with weight 1. Every class of transformers weighs them by a softmax instead,
and most, like Mixtral, normalise the weights of the chosen ones, so that they depend on how many are chosen. Qwen2-MoE
does not with ``norm_topk_prob=False``, and its attention is that of Llama if its projections have no biases; OLMoE and
Qwen3-MoE normalise queries and keys. So the model is a `Qwen2MoeForCausalLM`:

- the router's weight is multiplied by `FLATNESS`, so that every expert has a probability of 1 / experts, to a few
  parts in 100,000, while their order, which decides who is chosen, stays;
- down projections are multiplied by the number of experts, so that chosen experts are summed with weight 1;
- the shared expert has a single neuron, whose weights are 0.

One folder therefore serves every number of active experts, ``num_experts_per_tok``, and with all of them the model is
the dense one. The cost: with fewer, what the others would have added is missing, and nothing was trained to make up for
it; probabilities tell nothing but their order, so their entropy is close to its maximum; experts whose estimated norms
differ by less than a percent may change places, as probabilities have 24 bits; and in float16 the router's weights
would be 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2MoeConfig, Qwen2MoeForCausalLM

from benchmarks.moefied.splitting import Split
from pikvpress.support.whole_file import whole_folder

FLATNESS = 2.0**-14
KEPT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
    *("num_key_value_heads", "max_position_embeddings", "initializer_range", "rms_norm_eps", "tie_word_embeddings"),
    *("attention_dropout", "rope_parameters", "head_dim", "pad_token_id", "bos_token_id", "eos_token_id"),
)


def check(model: PreTrainedModel, experts: int, active: int) -> None:
    """Raise a ``ValueError`` if a model cannot become a mixture of so many experts."""
    config = model.config
    if config.model_type != "llama" or config.attention_bias or config.mlp_bias:
        raise ValueError(f"only Llama models without biases can be split, and this is a {config.model_type}")
    if experts < 2 or config.intermediate_size % experts:
        raise ValueError(
            f"{config.intermediate_size} neurons cannot be divided into {experts} equal experts: choose a divisor of "
            "at least 2"
        )
    if not 1 <= active <= experts:
        raise ValueError(f"from 1 to {experts} experts can be active, got {active}")


@torch.no_grad()
def assembled(model: PreTrainedModel, splits: Sequence[Split], active: int) -> Qwen2MoeForCausalLM:
    """Return the mixture of experts, in eval mode and the dtype of the dense model, of which it has copies.

    Parameters
    ----------
    model : PreTrainedModel
        A dense Llama model.
    splits : sequence of Split
        The division of each layer's MLP.
    active : int
        Number of experts that read a token.

    Raises
    ------
    ValueError
        If the model has another architecture, or the number of experts is out of range.
    """
    experts, size = splits[0].neurons.shape
    check(model, experts, active)
    config = Qwen2MoeConfig(
        **{name: getattr(model.config, name) for name in KEPT},
        num_experts=experts,
        num_experts_per_tok=active,
        moe_intermediate_size=size,
        shared_expert_intermediate_size=1,
        norm_topk_prob=False,
        qkv_bias=False,
    )
    made = Qwen2MoeForCausalLM(config).eval()
    made.to(model.dtype)  # type: ignore[arg-type]
    weights = {name: weight for name, weight in model.state_dict().items() if ".mlp." not in name}
    for index, (layer, split) in enumerate(zip(model.model.layers, splits, strict=True)):
        gate, up, down = (getattr(layer.mlp, f"{name}_proj").weight for name in ("gate", "up", "down"))
        of_layer = {
            "gate.weight": FLATNESS * split.router,
            "experts.gate_up_proj": torch.stack([torch.cat([gate[own], up[own]]) for own in split.neurons]),
            "experts.down_proj": experts * torch.stack([down[:, own] for own in split.neurons]),
            "shared_expert.gate_proj.weight": torch.zeros_like(gate[:1]),
            "shared_expert.up_proj.weight": torch.zeros_like(up[:1]),
            "shared_expert.down_proj.weight": torch.zeros_like(down[:, :1]),
            "shared_expert_gate.weight": torch.zeros_like(gate[:1]),
        }
        weights |= {f"model.layers.{index}.mlp.{name}": weight for name, weight in of_layer.items()}
    made.load_state_dict(weights)
    return made


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model and its tokenizer into a new folder, which appears whole or not at all."""
    with whole_folder(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
