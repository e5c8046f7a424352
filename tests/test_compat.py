"""A torchvision that does not match its torch is cured, and one that does is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from zoo._compat import ensure_torchvision
ensure_torchvision()
import torchvision, timm
from torchvision import transforms
import torch
net = timm.create_model("resnet18", num_classes=3).eval()
assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
ensure_torchvision()
"""

FAKE = """
import torch
torch.ops.torchvision  # noqa: B018
import sys, types
calls = []
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            calls.append(name)
            raise RuntimeError("operator torchvision::roi_align does not exist")
sys.meta_path.insert(0, Finder())
from zoo._compat import ensure_torchvision
try:
    ensure_torchvision()
except RuntimeError as error:
    assert "roi_align" in str(error) and calls == ["torchvision"]
else:
    raise SystemExit("an unknown failure must be raised")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)


def test_timm_imports_beside_this_torch() -> None:
    done = run(CODE)
    assert done.returncode == 0, done.stderr


def test_a_failure_that_is_not_known_is_raised() -> None:
    done = run(FAKE)
    assert done.returncode == 0, done.stderr
