"""Repairs torchvision beside a CPU-only torch; import this before timm, peft, open_clip or torchmetrics.

PyPI's torchvision wheel is built for CUDA. Beside a torch without CUDA its compiled operators do not load, and
`import torchvision` then fails with "operator torchvision::nms does not exist" (pytorch/vision#9085), which takes
timm with it. Declaring the schemas of these operators is enough: nothing here calls them.
"""

import torch

_LIBRARIES = []  # a torch Library undoes its definitions when it is collected

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def repair_torchvision() -> None:
    """Make `import torchvision` work where its compiled operators cannot be loaded; otherwise change nothing."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _LIBRARIES.append(library)
    import torchvision  # noqa: F401


repair_torchvision()
