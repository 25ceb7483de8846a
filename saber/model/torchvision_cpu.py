"""Makes torchvision importable beside a CPU build of torch, and with it the Omni processor. Imported before both."""

from __future__ import annotations

import sys

import torch


def _import_torchvision() -> None:
    """torchvision's wheel is linked to CUDA; beside a CPU torch its import fails for want of two operator schemas, and
    then the Omni processor cannot be imported. Declaring the schemas cures it; on a matching install nothing is done.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _import_torchvision.library = library  # kept alive: the schemas go when it goes
        import torchvision  # noqa: F401


_import_torchvision()
