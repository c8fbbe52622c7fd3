"""What an answer costs at each budget: sparse products, time over one evaluation, memory."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cdeq.evaluation.memory import peak_bytes
from cdeq.evaluation.metrics import Score
from cdeq.evaluation.sweep import Measurement, Method
from cdeq.evaluation.timing import side_by_side
from cdeq.models.base import Batch, EquilibriumModel
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.sparse import SparseMatrix

MIB = 2**20


class Cost(NamedTuple):
    """The cost of one computation."""

    products: int
    """Products of the graph's matrix or its transpose, whichever way they are computed."""
    ratio: float
    """Its time over that of the other computation."""
    mebibytes: float
    """The most memory of tensors that it made, alive at once; weights and batch not included."""
    scored: float | None = None
    """The same where what is answered is judged as well: a softmax may need more than all else."""


@torch.no_grad()
def costs(
    model: EquilibriumModel,
    methods: Mapping[str, Method],
    batch: Batch,
    budgets: Sequence[int],
    *,
    rounds: int,
    score: Score | None = None,
) -> Iterator[Measurement]:
    """What each method's answer to one batch costs at each budget, from the batch to the answer.

    Yields `products` (where there are any), `time` as a ratio to one bare evaluation of the
    teacher's f, measured side by side in alternating rounds, `memory` in MiB, and `memory_scored`,
    the same with the score of the answer.

    Arguments:
        model: The teacher.
        methods: By name.
        batch: What to answer.
        budgets: Evaluations of f.
        rounds: How often each is timed.
        score: What judges an answer; None leaves `memory_scored` out.
    """
    model.eval()
    x = model.encode(batch)
    f, z = model.bind(x), model.initial(x)
    graph = batch.adjacency if isinstance(batch, GraphBatch) else None

    def bare() -> object:
        return f(z)

    for name, method in methods.items():
        for nfe in budgets:

            def answer() -> Tensor:
                x = model.encode(batch)
                run = islice(method(model, x, model.initial(x)), nfe)  # noqa: B023
                last = deque(run, maxlen=1)  # keeps no state that is not needed any more
                return model.decode(last.pop(), x)

            judged = None if score is None else lambda: score(answer(), batch)
            cost = cost_of(answer, bare, rounds=rounds, of=graph, scored=judged)
            yield from measurements(name, nfe, cost)


@torch.no_grad()
def cost_of_teacher(
    model: EquilibriumModel, batch: Batch, *, rounds: int, score: Score | None = None
) -> Cost:
    """What the teacher's own answer costs, with the budget and the tolerance that it was given.

    Arguments:
        model: The teacher.
        batch: What to answer.
        rounds: How often it is timed, beside one bare evaluation of f.
        score: What judges an answer; None leaves that out.
    """
    x = model.encode(batch)
    f, z = model.bind(x), model.initial(x)
    graph = batch.adjacency if isinstance(batch, GraphBatch) else None
    judged = None if score is None else lambda: score(model(batch), batch)
    return cost_of(lambda: model(batch), lambda: f(z), rounds=rounds, of=graph, scored=judged)


def cost_of(
    run: Callable[[], object],
    unit: Callable[[], object],
    *,
    rounds: int,
    of: SparseMatrix | None = None,
    scored: Callable[[], object] | None = None,
) -> Cost:
    """The cost of a computation, its time over that of another one.

    Arguments:
        run: The computation.
        unit: The other one.
        rounds: How often each is timed.
        of: The matrix whose products count; None counts none.
        scored: The computation and the score of what it gives, for its memory.

    Example:
        >>> double = lambda: torch.ones(2**18).double()
        >>> cost = cost_of(double, double, rounds=1)
        >>> cost.products, cost.mebibytes
        (0, 3.0)
    """
    with _Products(of) as products:
        memory = peak_bytes(run)
    judged = None if scored is None else peak_bytes(scored) / MIB
    return Cost(products.count, side_by_side((run, unit), rounds), memory / MIB, judged)


def measurements(name: str, nfe: int | None, cost: Cost) -> Iterator[Measurement]:
    """A cost as rows of a result."""
    if cost.products:
        yield Measurement(name, nfe, "products", float(cost.products))
    yield Measurement(name, nfe, "time", cost.ratio)
    yield Measurement(name, nfe, "memory", cost.mebibytes)
    if cost.scored is not None:
        yield Measurement(name, nfe, "memory_scored", cost.scored)


class _Products(TorchDispatchMode):
    """Counts products of one sparse matrix and its transpose."""

    def __init__(self, of: SparseMatrix | None) -> None:
        super().__init__()
        self.count = 0
        self.places = set() if of is None else {_place(of.matrix), _place(of.t().matrix)}

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own protocol
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func.overloadpacket in _PRODUCTS:
            self.count += any(map(self._counts, args))
        return func(*args, **(kwargs or {}))

    def _counts(self, argument: object) -> bool:
        if not isinstance(argument, Tensor) or argument.layout is not torch.sparse_csr:
            return False
        return _place(argument) in self.places


_PRODUCTS = {
    getattr(torch.ops.aten, name)
    for name in ("_sparse_mm_reduce_impl", "mm", "addmm", "mv", "addmv", "_sparse_mm")
}


def _place(matrix: Tensor) -> int:
    """Where its entries are: the same for all views of one matrix."""
    return matrix.values().data_ptr()
