import pytest
import torch

from pikvpress.kernels.key_geometry import cosines, key_geometry, mean_direction


@pytest.mark.parametrize("length", [1, 7, 5000])
def test_lengths_directions_and_cosines_by_hand(length):
    torch.manual_seed(0)
    keys, values = torch.randn(2, 3, length, 6) + 1, torch.randn(2, 3, length, 6)
    geometry = key_geometry(keys, values)
    found = cosines(keys, geometry.direction)
    torch.testing.assert_close(mean_direction(keys), geometry.direction)
    for batch in range(2):
        for head in range(3):
            rows = keys[batch, head]
            lengths = (rows * rows).sum(dim=1) ** 0.5
            torch.testing.assert_close(geometry.key_norms[batch, head], lengths)
            of_values = (values[batch, head] ** 2).sum(dim=1) ** 0.5
            torch.testing.assert_close(geometry.value_norms[batch, head], of_values)
            mean = sum(row / length_ for row, length_ in zip(rows, lengths, strict=True)) / length
            torch.testing.assert_close(geometry.direction[batch, head], mean)
            torch.testing.assert_close(found[batch, head], (rows @ mean) / lengths / (mean @ mean) ** 0.5)


def test_half_precision_gives_float32():
    keys = torch.full((1, 1, 3, 4), 60000.0).half()
    geometry = key_geometry(keys, keys)
    assert [part.dtype for part in geometry] == [torch.float32] * 3
    torch.testing.assert_close(geometry.key_norms, 2 * keys[..., 0].float())
    torch.testing.assert_close(cosines(keys, geometry.direction), torch.ones(1, 1, 3))


def test_keys_without_length_and_no_keys_at_all_have_no_direction():
    nothing, none = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 0, 4)
    for keys in (nothing, none):
        geometry = key_geometry(keys, keys)
        assert (geometry.direction == 0).all() and (geometry.key_norms == 0).all()
        assert (cosines(keys, geometry.direction) == 0).all()
    assert cosines(none, torch.ones(1, 2, 4)).shape == (1, 2, 0)


def test_other_shapes_are_refused():
    keys = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="values"):
        key_geometry(keys, keys[:, :, 1:])
    with pytest.raises(ValueError, match="directions"):
        cosines(keys, torch.zeros(1, 2, 3))
