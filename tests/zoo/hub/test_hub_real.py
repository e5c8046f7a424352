"""Every pin of the registry, against the real Hub: run with `-m hub`, a network, and nothing in HF_ENDPOINT."""

from __future__ import annotations

import pytest

from zoo.hub import DownloadOptions, lock
from zoo.hub.lock import model_info
from zoo.registry import load

ON_HUB = [n for n, e in load().items() if e.weights and e.weights.hub]


@pytest.mark.hub
@pytest.mark.parametrize("name", ON_HUB)
def test_a_pin_is_what_the_hub_holds(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    weights = load()[name].weights
    assert weights and weights.hub
    info = model_info(name, weights.hub.repo, weights.hub.revision)
    files = {s.rfilename: s.lfs for s in info.siblings or []}
    lfs = files[weights.hub.file]
    assert lfs is not None
    assert weights.sha256 in (None, lfs.sha256) and weights.size in (None, lfs.size)
    [found] = lock([load()[name]], DownloadOptions())
    assert found.error is None
