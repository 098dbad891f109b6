"""As many tokens are kept as kvpress keeps."""

from __future__ import annotations

from kvpress.utils import compute_n_kept

from pikvpress.budgets.tokens_kept import tokens_kept


def test_as_many_are_kept_as_by_kvpress():
    ratios = [*(step / 97 for step in range(98)), 0.1, 0.3, 0.7, 0.875, 1.5]
    for num_keys in (0, 1, 2, 3, 10, 127, 1000, 131072):
        assert [tokens_kept(num_keys, ratio) for ratio in ratios] == [
            compute_n_kept(num_keys, ratio) for ratio in ratios
        ]
