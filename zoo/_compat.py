"""Make torchvision importable beside a torch build that lacks its compiled operators.

torchvision registers fake kernels for `torchvision::nms` and `torchvision::qnms` at import. When its compiled library does
not match the installed torch (a CUDA wheel beside a CPU torch), the operators do not exist and the import fails, and with
it `import timm`. Declaring their schemas is enough for transforms and models; calling the operators still fails.
"""

from __future__ import annotations

import importlib
import sys

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[object] = []  # torch.library.Library removes its operators when it is collected


def ensure_torchvision() -> None:
    """Import torchvision, declaring the operators that its import names missing; idempotent.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: its import fails for any other reason.
    """
    if "torchvision" in sys.modules:
        return
    import torch

    for _ in range(len(_SCHEMAS) + 1):
        try:
            importlib.import_module("torchvision")
            return
        except RuntimeError as error:
            missing = [op for op in _SCHEMAS if f"torchvision::{op} does not exist" in str(error)]
            if not missing:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            for op in missing:
                library.define(_SCHEMAS[op])  # type: ignore[no-untyped-call]
            _libraries.append(library)
            for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[module]
    importlib.import_module("torchvision")
