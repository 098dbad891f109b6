"""A plain implementation of scheduled attention, with lists of positions, for comparison with what the cache holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

PAGE = 64
BATCH, HEADS, GROUP, SIZE = 2, 2, 2, 8


@dataclass
class Entry:
    """What a head has recorded about one entry."""

    position: int
    mass: float = 0.0
    last: int = 0
    uses: int = 0
    lately: float = 0.0


Rule = Callable[["Head", list[list[Entry]], int, int], list[list[Entry]]]


@dataclass
class Head:
    """What one row of a batch holds in its heads, and how many tokens it has read."""

    stored: list[list[Entry]] = field(default_factory=lambda: [[] for _ in range(HEADS)])
    recent: list[list[Entry]] = field(default_factory=lambda: [[] for _ in range(HEADS)])
    length: int = 0


@dataclass
class Dense:
    """Every key and value of a text; a rule says which entries may still be seen.

    Parameters
    ----------
    rule : callable
        Given a row, the candidates of each head, the mean quota and the row's number, returns what each head keeps.
    quota : callable
        Mean number of stored entries a head, from the number of entries that have left the window.
    window : int
        Number of recent entries.
    """

    rule: Callable
    quota: Callable[[int], int]
    window: int
    rows: list[Head] = field(default_factory=lambda: [Head() for _ in range(BATCH)])
    keys: torch.Tensor | None = None
    values: torch.Tensor | None = None
    left: int = 0

    def read(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return attention of shape (batch, tokens, heads, size), and let the rule drop entries."""
        tokens = keys.shape[2]
        self.keys = keys if self.keys is None else torch.cat([self.keys, keys], dim=2)
        self.values = values if self.values is None else torch.cat([self.values, values], dim=2)
        output = torch.zeros(BATCH, tokens, HEADS * GROUP, SIZE, dtype=query.dtype)
        for row, state in enumerate(self.rows):
            fresh = range(state.length, state.length + tokens)
            state.length += tokens
            for head in range(HEADS):
                state.recent[head] += [Entry(place, last=place) for place in fresh]
                self._attend(query, row, head, output)
            self._drop(row, state)
        whole = (self.rows[0].length - self.left - self.window) // PAGE
        self.left += max(0, whole) * PAGE
        return output

    def _attend(self, query: torch.Tensor, row: int, head: int, output: torch.Tensor) -> None:
        state, tokens = self.rows[row], query.shape[2]
        entries = state.stored[head] + state.recent[head]
        places = torch.tensor([entry.position for entry in entries])
        received = torch.zeros(len(entries), dtype=query.dtype)
        for member in range(GROUP):
            logits = query[row, head * GROUP + member] @ self.keys[row, head, places].T * SIZE**-0.5
            of_tokens = torch.arange(state.length - tokens, state.length)[:, None]
            weights = logits.masked_fill(places > of_tokens, -torch.inf).softmax(dim=-1)
            output[row, :, head * GROUP + member] = weights @ self.values[row, head, places]
            received += weights.sum(dim=0) / GROUP
        shares = received.tolist()
        for part, begin in ((state.stored[head], 0), (state.recent[head], len(state.stored[head]))):
            for first in range(0, len(part), PAGE):
                page = part[first : first + PAGE]
                remains = 0.5 ** (tokens / PAGE)
                share = sum(shares[begin + first : begin + first + len(page)]) / tokens
                for offset, entry in enumerate(page):
                    given = shares[begin + first + offset]
                    entry.mass += given
                    entry.lately = entry.lately * remains + given * (1 - remains) / tokens
                    if share >= len(page) / len(entries):
                        entry.last, entry.uses = state.length - 1, entry.uses + tokens

    def _drop(self, row: int, state: Head) -> None:
        whole = (len(state.recent[0]) - self.window) // PAGE * PAGE
        if whole <= 0:
            return
        candidates = [state.stored[head] + state.recent[head][:whole] for head in range(HEADS)]
        state.recent = [entries[whole:] for entries in state.recent]
        kept = self.rule(state, candidates, self.quota(self.left + whole), row)
        state.stored = [sorted(entries, key=lambda entry: entry.position) for entries in kept]

    def held(self, row: int) -> list[list[int]]:
        """Return the positions that each head of a row holds."""
        state = self.rows[row]
        return [[e.position for e in state.stored[head] + state.recent[head]] for head in range(HEADS)]


def best(entries: list[Entry], count: int, score: Callable[[Entry], float]) -> list[Entry]:
    """Return the entries of highest score, of equal ones the latest."""
    return sorted(entries, key=lambda entry: (score(entry), entry.position), reverse=True)[:count]


def per_head(score: Callable[[Entry], float]) -> Callable:
    """Return a rule by which every head keeps its own best entries."""
    return lambda state, candidates, quota, row: [best(entries, quota, score) for entries in candidates]


def by_page(score: Callable[[Entry, Head], float]) -> Callable:
    """Return a rule by which every head keeps its best pages, by the mean of their entries' scores."""

    def rule(state: Head, candidates: list[list[Entry]], quota: int, row: int) -> list[list[Entry]]:
        kept = []
        for entries in candidates:
            pages = [entries[first : first + PAGE] for first in range(0, len(entries), PAGE)]
            means = [sum(score(entry, state) for entry in page) / PAGE for page in pages]
            order = sorted(range(len(pages)), key=lambda number: (means[number], number), reverse=True)
            kept.append([entry for number in order[: quota // PAGE] for entry in pages[number]])
        return kept

    return rule
