"""Fingerprints of tensors: equal digests mean equal names, dtypes, shapes and bytes."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def digest_of(source: nn.Module | Mapping[str, Tensor], *, settings: str = "") -> str:
    """The SHA-256 of a module's state, or of named tensors, as 64 hexadecimal digits.

    Arguments:
        source: A module (its `state_dict` counts) or tensors by name, in any order, on any device.
        settings: What else decides its output. A number in a module's constructor that is neither
            parameter nor buffer leaves no trace in the state.

    Raises:
        TypeError: When an entry is no dense tensor.

    Example:
        >>> cell = torch.nn.Linear(2, 2)
        >>> before = digest_of(cell)
        >>> digest_of(dict(reversed(cell.state_dict().items()))) == before
        True
        >>> cell.weight.data[0, 0] = 1.0
        >>> digest_of(cell) == before
        False
    """
    named = source.state_dict() if isinstance(source, nn.Module) else source
    digest = hashlib.sha256(f"{settings}\0".encode())
    for name in sorted(named):
        tensor = named[name]
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            raise TypeError(
                "a digest is taken of dense tensors, since it is one of their bytes; got "
                f"{type(tensor).__name__} for `{name}`: pass its dense parts, or name it in "
                f"`settings`."
            )
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_of_tensors(*tensors: Tensor) -> str:
    """The SHA-256 of a data set that is a few tensors, in this order.

    Example:
        >>> images, labels = torch.zeros(3, 2), torch.arange(3)
        >>> digest_of_tensors(images, labels) == digest_of_tensors(images, labels.flip(0))
        False
    """
    return digest_of({str(position): tensor for position, tensor in enumerate(tensors)})
