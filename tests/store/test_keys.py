"""Every prefix has a key of its own, which depends on nothing but its tokens and the setting."""

import hashlib

import pytest
import torch

from pikvpress.store.keys import BLOCK, ContextKey, ContextKeys
from tests.store.cases import text

SETTING = hashlib.sha256(b"setting").hexdigest()


def plain(ids: torch.Tensor, length: int) -> str:
    """Return the digest of a prefix, block by block."""
    digest = hashlib.sha256(f"{SETTING} {len(ids)}".encode()).digest()
    for first in range(0, length, BLOCK):
        numbers = ids[:, first : min(first + BLOCK, length)].contiguous().numpy().astype("<i8").tobytes()
        digest = hashlib.sha256(digest + numbers).digest()
    return digest.hex()


@pytest.mark.parametrize("rows", [1, 3])
def test_keys_are_chains_of_digests(rows):
    ids = text(rows)
    keys = ContextKeys(SETTING, ids.int())
    for length in (1, 63, 64, 65, 128, ids.shape[1]):
        key = keys.at(length)
        assert key == ContextKey(SETTING[:16], length, plain(ids, length))
        assert key == ContextKeys(SETTING, ids[:, :length]).at(length)


def test_other_tokens_rows_and_settings_have_other_keys():
    ids = text()
    changed = [ids.clone() for _ in range(3)]
    for one, place in zip(changed, (0, 100, 199), strict=True):
        one[0, place] += 1
    texts = [(SETTING, one) for one in (ids, *changed, ids.repeat(2, 1), ids.view(11, 19))]
    keys = [ContextKeys(setting, one).at(one.shape[1]) for setting, one in [*texts, ("0" * 64, ids)]]
    assert len({key.digest for key in keys}) == len(keys)
    assert keys[-1].group != keys[0].group and len({key.group for key in keys[:-1]}) == 1


def test_keys_have_names():
    key = ContextKeys(SETTING, text()).at(70)
    assert ContextKey.of(key.name) == key
    for name in ("", "x", key.name + "0", key.name.upper(), key.name.replace("-70-", "-0-")):
        assert ContextKey.of(name) is None
