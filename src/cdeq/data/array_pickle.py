"""Pickles of byte arrays, lists and dicts, read without the power to run anything.

A pickle may name any function of any module and have it called. Here four names are known, and
what answers to them are stand-ins that hold a shape and bytes: no code of NumPy's runs on what a
file says, and no module is imported for it.
"""

import pickle
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from jaxtyping import UInt8
from torch import Tensor

from cdeq.errors import StoreError


def read_array_pickle(path: Path) -> Any:  # noqa: ANN401 - the caller looks at what it is
    """What the file holds; byte strings are bytes, arrays `ByteArray`.

    Arguments:
        path: A pickle as CIFAR's are: by Python 2, or by Python 3 in protocol 3 or 4.

    Raises:
        StoreError: When there is no such file, it asks for anything but arrays of bytes, or is
            damaged.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "batch")
        ...     _ = path.write_bytes(pickle.dumps({b"labels": [3, 1]}))
        ...     read_array_pickle(path)
        {b'labels': [3, 1]}
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}); unpack it again.") from error
    with file:
        try:
            return _Unpickler(file, path).load()
        except StoreError:
            raise
        except Exception as error:  # a damaged pickle fails in a dozen ways
            raise StoreError(
                f"{path} is damaged ({type(error).__name__}: {error}); unpack it again."
            ) from error


class ByteArray:
    """Stands for an array of numbers 0 … 255."""

    shape: tuple[int, ...] = (0,)
    content: bytes = b""

    def __setstate__(self, state: tuple[int, tuple[int, ...], "_Kind", bool, bytes]) -> None:
        _, self.shape, kind, by_columns, self.content = state
        if not isinstance(kind, _Kind) or by_columns or prod(self.shape) != len(self.content):
            raise ValueError(f"no array of {self.shape} bytes by rows")

    def tensor(self) -> UInt8[Tensor, "..."]:
        """Its numbers."""
        return torch.frombuffer(bytearray(self.content), dtype=torch.uint8).view(self.shape)


class _Kind:
    """Stands for NumPy's `dtype`, of which there is one."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        if code not in ("u1", b"u1"):
            raise ValueError(f"numbers are bytes, `u1`; got {code!r}")

    def __setstate__(self, state: object) -> None:
        pass  # the order of bytes and the like, which single bytes have not


def _empty_array(*_: object) -> ByteArray:
    """Stands for NumPy's `_reconstruct`: the state of the array follows."""
    return ByteArray()


_KNOWN = {
    ("numpy", "ndarray"): ByteArray,
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="bytes")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - as the base class has it
        if (module, name) not in _KNOWN:
            raise StoreError(
                f"{self.path} asks for `{module}.{name}`, which could run code and which lists of "
                "bytes have no use for, so it was not read; get the official archive again."
            )
        return _KNOWN[module, name]
