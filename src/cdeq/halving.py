"""Model folders of half the size."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cdeq.errors import StoreError
from cdeq.pretrained import load_folder, save_folder


def halve(folder: str | Path) -> None:
    """Round the weights in a model folder to half precision, in place.

    The model that is read from it afterwards is another one, by three digits: what was distilled
    from it before is refused, so this comes before distillation. Weights that are so already stay.

    Raises:
        StoreError: When the folder is damaged, or a weight is too large for half precision.

    Example:
        >>> import tempfile
        >>> from cdeq.models.vision.contraction import ContractionDEQ, ContractionSpec
        >>> model, folder = ContractionDEQ(ContractionSpec(channels=4)), tempfile.mkdtemp()
        >>> model.save_pretrained(folder)
        >>> halve(folder)
        >>> again = ContractionDEQ.from_pretrained(folder)
        >>> weight, rounded = next(model.parameters()), next(again.parameters())
        >>> torch.equal(rounded, weight.half().float())
        True
    """
    config, weights = load_folder(folder)
    kept = {key: value for key, value in config.items() if key not in ("format", "sha256")}
    save_folder(folder, {name: _halved(name, weight) for name, weight in weights.items()}, kept)


def _halved(name: str, weight: Tensor) -> Tensor:
    if not weight.is_floating_point():
        return weight
    half = weight.to(torch.float16)
    if not bool(half.isfinite().all()):
        raise StoreError(
            f"half precision goes up to {torch.finfo(torch.float16).max:g}; {name} has "
            f"{float(weight.abs().max()):g}: keep it as it is."
        )
    return half


def main(folders: Sequence[str]) -> None:
    """Halve each of them."""
    for folder in folders:
        halve(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
