"""Questions about compressed contexts: greedy answers, and predictions along a given text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from kvpress import BasePress
from transformers import DynamicCache, PreTrainedModel

from evaluation.compressed import CompressedContext
from evaluation.prefilling import at_hand
from evaluation.reading import ContextBatch, reading_mode

# Dropping finished answers copies what the others read, so it is done when only this share is unfinished.
DROP = 0.7


def answers(
    model: PreTrainedModel, contexts: Sequence[CompressedContext], question: Sequence[int], max_new_tokens: int
) -> list[list[int]]:
    """Return the greedy answer from each context, as token ids.

    Unlike kvpress's pipeline, this checks whether the first token already ends the answer.

    Parameters
    ----------
    model : PreTrainedModel
        The model; its generation config defines the stop tokens.
    contexts : sequence of CompressedContext
        Compressed versions of one text, which are processed in one batch.
    question : sequence of int
        Token ids after the context.
    max_new_tokens : int
        Maximum number of tokens of an answer.
    """
    results: list[list[int]] = [[] for _ in contexts]
    stop = stop_tokens(model)
    read = list(range(len(contexts)))  # indices of the contexts in the rows of the batch
    going = set(read)
    with reading_mode(model):
        batch = ContextBatch(model, contexts, len(question) + max_new_tokens)
        logits = batch.read(torch.tensor([list(question)], device=model.device), last_only=True)
        for step in range(max_new_tokens):
            tokens = logits[:, -1].argmax(dim=-1).tolist()
            for i, token in zip(read, tokens, strict=True):
                if i in going:
                    results[i].append(token)
            going -= {i for i, token in zip(read, tokens, strict=True) if token in stop}
            if not going or step + 1 == max_new_tokens:
                break
            if len(going) <= DROP * len(read):
                rows = [row for row, i in enumerate(read) if i in going]
                batch.keep(rows)
                read, tokens = [read[row] for row in rows], [tokens[row] for row in rows]
            logits = batch.read(torch.tensor(tokens, device=model.device).unsqueeze(1))
    return results


def answer_while_compressing(
    model: PreTrainedModel, press: BasePress, context: CompressedContext, question: Sequence[int], max_new_tokens: int
) -> list[int]:
    """Return the greedy answer of a press that compresses while decoding."""
    cache = DynamicCache()
    for index, (keys, values) in enumerate(context.layers):
        cache.update(keys.clone(), values.clone(), index)
    ids, position = torch.tensor([list(question)], device=model.device), context.next_position
    answer: list[int] = []
    with torch.no_grad(), at_hand(model), press(model):
        while len(answer) < max_new_tokens and (not answer or answer[-1] not in stop_tokens(model)):
            positions = torch.arange(position, position + ids.shape[1], device=model.device).unsqueeze(0)
            logits = model(input_ids=ids, past_key_values=cache, position_ids=positions, logits_to_keep=1).logits
            answer.append(int(logits[0, -1].argmax()))
            position += ids.shape[1]
            ids = torch.tensor([answer[-1:]], device=model.device)
    return answer


def log_probabilities(
    model: PreTrainedModel, contexts: Sequence[CompressedContext], future: Sequence[int]
) -> Iterator[torch.Tensor]:
    """Yield, for each context, log probabilities of the next token after each token of ``future``."""
    with reading_mode(model):
        logits = ContextBatch(model, contexts, len(future)).read(torch.tensor([list(future)], device=model.device))
    return (row.float().log_softmax(dim=-1) for row in logits)


def stop_tokens(model: PreTrainedModel) -> set[int]:
    """Return the tokens at which the model's generation config ends an answer."""
    stop = model.generation_config.eos_token_id  # type: ignore[union-attr]
    return set() if stop is None else set(stop if isinstance(stop, list) else [stop])
