"""In one process, the press is that of kvpress; `tests/test_ranks.py` splits it over several."""

from __future__ import annotations

from tests.experts.scoring import check_needs, check_scores


def test_scores_are_kvpress_s(ids):
    check_scores("TOVAPress", {}, "llama", ids)


def test_the_expert_is_ours_and_kvpress_s_press_has_its_needs():
    check_needs("tova", "TOVAPress")
