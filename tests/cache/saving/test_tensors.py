import pytest
import torch

from pikvpress.cache.saving.file import MappedFile, Pieces, write_sections
from pikvpress.cache.saving.tensors import described_tensors, restored_tensors

TENSORS = {
    "counts": torch.tensor([[3, 4]]),
    "positions": torch.arange(7, dtype=torch.int32),
    "none": torch.empty(1, 2, 0),
    "spread": torch.arange(6.0).view(2, 3).T,
    "missing": torch.tensor([True, False]),
}


def test_tensors_come_back(tmp_path):
    described, pieces = described_tensors(TENSORS)
    write_sections(tmp_path / "file", {"records": pieces}, {"tensors": described})
    file = MappedFile(tmp_path / "file")
    places = Pieces(file, "records")
    found = restored_tensors(file.contents["tensors"], places)
    places.finish()
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def test_other_types_are_refused():
    with pytest.raises(ValueError, match="wave is a tensor of complex64, which cannot be saved: use one of float32"):
        described_tensors({"wave": torch.zeros(2, dtype=torch.complex64)})
