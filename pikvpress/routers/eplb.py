"""The router with exact balance."""

from __future__ import annotations

import math

import torch

from pikvpress.routers.base import Router


class EPLBRouter(Router):
    """Give every expert the same number of heads of a layer; each expert chooses the heads that it suits best.

    In expert choice (https://arxiv.org/abs/2202.09368), each of the E experts takes, of the H heads, its best C =
    floor(capacity_factor · top_k · H / E), at least ceil(H / E). Plain expert choice leaves some heads without any
    expert and gives others more than `top_k`. Here heads apply to experts in the order of their gate probability, and a
    full expert keeps the heads with the highest probability (deferred acceptance, Gale and Shapley 1962). Remaining
    imbalances are then resolved by the exchanges that lose the least probability. No expert serves more than C heads,
    and every head has at least one and at most `top_k` experts. With `capacity_factor` 1, every expert serves exactly C
    heads if E · C <= top_k · H.

    The balance is exact in every call, so no balancing loss is added during fitting.
    """

    def select(self, probabilities: torch.Tensor, available: torch.Tensor) -> torch.Tensor:
        """Return which experts each head uses, bool, shape (batch, kv_heads, experts)."""
        wanted = super().select(probabilities, available).sum(dim=-1)
        columns = available.nonzero().flatten().tolist()
        chosen = torch.zeros_like(probabilities, dtype=torch.bool)
        for row in range(probabilities.shape[0]):  # a sequence's routing must not depend on its batch
            demand = [min(number, len(columns)) for number in wanted[row].tolist()]
            slots = math.floor(self.settings.capacity_factor * sum(demand) / len(columns))
            capacity = max(slots, math.ceil(len(demand) / len(columns)))
            affinity = probabilities[row][:, columns].detach().tolist()
            for head, expert in _Matching(affinity, demand, capacity).pairs:
                chosen[row, head, columns[expert]] = True
        return chosen

    def auxiliary_loss(self, probabilities: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Return 0, connected to the autograd graph."""
        return probabilities.sum() * 0


class _Matching:
    """Pairs of (head, expert), with at most `demand` experts per head and at most `capacity` heads per expert."""

    def __init__(self, affinity: list[list[float]], demand: list[int], capacity: int):
        self.affinity, self.demand, self.capacity = affinity, demand, capacity
        self.heads, self.experts = range(len(affinity)), range(len(affinity[0]))
        self.pairs: set[tuple[int, int]] = set()
        self._accept()
        self._serve_every_head()
        self._fill()

    def _served(self, head: int) -> int:
        return sum((head, expert) in self.pairs for expert in self.experts)

    def _load(self, expert: int) -> int:
        return sum((head, expert) in self.pairs for head in self.heads)

    def _accept(self) -> None:
        """Let heads apply to experts, and let experts keep the best applicants."""
        lists = [sorted(self.experts, key=row.__getitem__) for row in self.affinity]
        waiting = [head for head in self.heads for _ in range(self.demand[head])]
        while waiting:
            head = waiting.pop(0)
            if not lists[head]:
                continue
            expert = lists[head].pop()
            self.pairs.add((head, expert))
            if self._load(expert) > self.capacity:
                askers = [other for other in self.heads if (other, expert) in self.pairs]
                rejected = min(askers, key=lambda other: (self.affinity[other][expert], -other))
                self.pairs.remove((rejected, expert))
                waiting.append(rejected)

    def _serve_every_head(self) -> None:
        """Give each head without experts an expert of a head that has several."""
        for head in self.heads:
            if self._served(head) == 0:
                _, other, expert = max(
                    (self.affinity[head][expert] - self.affinity[other][expert], other, expert)
                    for other, expert in self.pairs
                    if self._served(other) > 1
                )
                self.pairs.remove((other, expert))
                self.pairs.add((head, expert))

    def _fill(self) -> None:
        """Give free slots to heads that lack experts, directly or through a head that passes on one of its own."""
        while True:
            free = [expert for expert in self.experts if self._load(expert) < self.capacity]
            short = [head for head in self.heads if self._served(head) < self.demand[head]]
            direct: list[tuple[float, set[tuple[int, int]], set[tuple[int, int]]]] = [
                (self.affinity[head][expert], {(head, expert)}, set())
                for head in short
                for expert in free
                if (head, expert) not in self.pairs
            ]
            passed_on = [
                (
                    self.affinity[head][taken] - self.affinity[other][taken] + self.affinity[other][expert],
                    {(head, taken), (other, expert)},
                    {(other, taken)},
                )
                for head in short
                for expert in free
                for other, taken in self.pairs
                if (head, taken) not in self.pairs and (other, expert) not in self.pairs
            ]
            moves = direct or passed_on
            if not moves:
                return
            _, added, dropped = max(moves, key=lambda move: (move[0], sorted(move[1])))
            self.pairs = (self.pairs - dropped) | added
