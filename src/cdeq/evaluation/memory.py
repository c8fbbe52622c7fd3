"""Peak memory of a computation, in bytes of live tensors."""

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(run: Callable[[], object], held: tuple[Tensor, ...] = ()) -> int:
    """The most bytes of tensors alive at once while `run` runs, those in `held` included.

    Counted from the tensors themselves on the CPU, where no allocator keeps books; on a GPU, use
    `torch.cuda.max_memory_allocated`.

    Arguments:
        run: The computation; what it allocates is counted until it is freed.
        held: Tensors that exist beforehand and belong to the count: weights, inputs.

    Example:
        >>> import torch
        >>> peak_bytes(lambda: torch.zeros(1000) + 1)
        8000
    """
    ledger = _Ledger()
    for tensor in held:
        ledger.enter(tensor)
    with ledger:
        run()
    return ledger.peak


class _Ledger(TorchDispatchMode):
    """Counts storages that some tensor still points to."""

    def __init__(self) -> None:
        super().__init__()
        self.owners: Counter[int] = Counter()
        self.live = self.peak = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own protocol
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.enter(leaf)
        return result

    def enter(self, tensor: Tensor) -> None:
        for part in _dense_parts(tensor):
            storage = part.untyped_storage()
            place, size = storage.data_ptr(), storage.nbytes()
            if self.owners[place] == 0:
                self.live += size
                self.peak = max(self.peak, self.live)
            self.owners[place] += 1
            weakref.finalize(tensor, self._leave, place, size)

    def _leave(self, place: int, size: int) -> None:
        self.owners[place] -= 1
        if self.owners[place] == 0:
            self.live -= size


_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
}
"""What a sparse tensor, which has no storage of its own, is made of."""


def _dense_parts(tensor: Tensor) -> list[Tensor]:
    names = _PARTS.get(tensor.layout)
    return [tensor] if names is None else [getattr(tensor, name)() for name in names]
