"""The index of this process among several."""

from __future__ import annotations

from evaluation.processes import Place, this_process


def test_the_place_is_what_launchers_set(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert this_process() == Place(0, 1, 0)
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert this_process() == Place(5, 8, 1)


def test_every_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert Place(5, 8, 1).device() == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert Place(5, 8, 1).device() == "cuda:1"
