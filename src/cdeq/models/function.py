"""Anybody's fixed point: a callable f(z, x) as a model, to solve, distil, certify and sweep."""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import Self

from cdeq.core.adjoint import Adjoint, Implicit
from cdeq.core.deq import DEQ
from cdeq.core.readout import LinearReadout
from cdeq.core.solve import relative_error
from cdeq.core.solvers import Anderson, Solver
from cdeq.core.state import Layout
from cdeq.core.tree import map_tensors
from cdeq.errors import CDEQError
from cdeq.models.base import Batch, EquilibriumModel
from cdeq.typing import Context, PerSample, State

Shape: TypeAlias = "tuple[int, ...] | tuple[tuple[int, ...], ...]"
"""The shape of one tensor, or one shape a tensor of a tuple."""


class Function(nn.Module):
    """A plain function as a cell; copies share the function, which shows no weights to copy."""

    def __init__(self, f: Callable[[Any, Any], State]) -> None:
        super().__init__()
        self.f = f

    def __deepcopy__(self, memo: dict[int, Any]) -> "Function":
        return Function(self.f)

    def forward(self, z: State, x: Context) -> State:
        return self.f(z, x)


class FunctionModel(EquilibriumModel):
    r"""Any callable f as an equilibrium model, :math:`z^* = f(z^*, x)`.

    Pass a network as the `nn.Module` that it is: it becomes the cell, whose weights a student
    copies and trains. The weights that a lambda, a bound method or another plain function uses
    inside cannot be seen from outside: they are neither copied nor trained, and a student of it
    learns nothing but its readout. `encode` and `decode` may be modules too, and train with f.

    A model without weights is where and in the precision that `model.to(…)` says.

    Arguments:
        f: The map, called as `f(z, x)`; a `Cell` prepares x once a solve.
        shape: The shape of one sample's state, without the batch dimension, such as `(64,)`; a
            tuple of such shapes for a state of several tensors. With `batched=False`, the shape of
            the whole state.
        encode: Makes the context from a batch; without it the batch is the context.
        decode: Makes the output, `decode(z, x)`; without it the state is the output, a state of
            several tensors as its packed rows.
        loss: The task loss of each sample, `loss(output, batch)`; needed for training only.
        divergence: How far an output is from the one that is wanted, each sample,
            `divergence(output, target)`, to which students listen. By default what fits logits
            with `decode`, and nothing to listen to without: the relative error of the state.
        select: Makes the context of some samples, `select(x, rows, samples)`, for those that a
            certified answer still needs. By default the rows of every tensor with as many of them
            as there are samples; pass it where a tensor that is common to all may have as many.
        initial: Makes z_0 from the context. By default zeros, as many samples as the context's
            first floating-point tensor has rows, in its precision and on its device.
        axis: Where features stand for the readout, 1 or -1. By default 1 for images (channels,
            height, width) and -1 otherwise.
        solver: How to find the fixed point.
        adjoint: How to differentiate it.
        max_steps: The budget of evaluations of f.
        tol: Stop a sample at this relative residual; None spends the budget.
        batched: Whether the first dimension of a state counts samples.

    Raises:
        TypeError: When what should be called is not callable.
        ValueError: When `shape` is no shape, `axis` cannot be told from it, or `max_steps` < 1.

    Example:
        Kepler's equation E = M + 0.4 sin E, and its student:

        >>> from cdeq import ConsistencyDEQ, ExponentialSchedule, refine
        >>> from cdeq.models.function import FunctionModel
        >>> model = FunctionModel(lambda z, x: x + 0.4 * torch.sin(z), (1,), tol=1e-6)
        >>> mean = torch.tensor([[0.5], [1.0]])
        >>> model(mean).detach()
        tensor([[0.7818], [1.3937]])
        >>> student = ConsistencyDEQ.from_teacher(model)
        >>> *_, z = refine(student, mean, model.initial(mean), ExponentialSchedule().times(5))
        >>> z.shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        f: Callable[[Any, Any], State],
        shape: Shape,
        *,
        encode: Callable[[Batch], Context] | None = None,
        decode: Callable[[Any, Any], Tensor] | None = None,
        loss: Callable[[Tensor, Batch], PerSample] | None = None,
        divergence: Callable[[Tensor, Tensor], PerSample] | None = None,
        select: Callable[[Any, Tensor, int], Context] | None = None,
        initial: Callable[[Context], State] | None = None,
        axis: int | None = None,
        solver: Solver[Any] = Anderson(),
        adjoint: Adjoint = Implicit(),
        max_steps: int = 40,
        tol: float | None = None,
        batched: bool = True,
    ) -> None:
        super().__init__()
        parts = {"encode": encode, "decode": decode, "loss": loss, "divergence": divergence}
        _require_callables(f, {**parts, "select": select, "initial": initial})
        self.spec = None
        self.shapes, self.single = _shapes(shape), _is_shape(shape)
        self.axis = _axis(self.shapes, axis, batched=batched)
        self.headless = decode is None and divergence is None
        self.deq = DEQ(
            f if isinstance(f, nn.Module) else Function(f),
            solver=solver,
            adjoint=adjoint,
            max_steps=max_steps,
            tol=tol,
            batched=batched,
        )
        self.encoder, self.decoder, self.start, self.selector = encode, decode, initial, select
        self.task_loss, self.task_divergence = loss, divergence
        # remembers device and precision, so that `to` means something without weights
        self.register_buffer("place", self._home().detach().new_empty(0), persistent=False)

    def encode(self, batch: Batch) -> Context:
        return batch if self.encoder is None else self.encoder(batch)

    def initial(self, x: Context) -> State:
        """The initial state: zeros, or what `initial` makes.

        Raises:
            ValueError: When nothing in x says how many samples there are, or what `initial` made
                is not of the model's shape.
        """
        if self.start is not None:
            return self._checked(self.start(x))
        found = _tensors(x)
        floating = [tensor for tensor in found if tensor.is_floating_point()]
        home = (floating or [self._home()])[0]
        lead = (_samples([*floating, *found]),) if self.deq.batched else ()
        dense = {"dtype": home.dtype, "device": home.device}  # even if x begins with a sparse one
        zeros = tuple(torch.zeros(lead + shape, **dense) for shape in self.shapes)
        return zeros[0] if self.single else zeros

    def decode(self, z: State, x: Context) -> Tensor:
        if self.decoder is not None:
            return self.decoder(z, x)
        return z if isinstance(z, Tensor) else Layout.of(z, batched=self.deq.batched).pack(z)

    def loss(self, output: Tensor, batch: Batch) -> PerSample:
        """The task loss of each sample.

        Raises:
            ValueError: When the model was built without one.
        """
        if self.task_loss is None:
            raise ValueError(
                "this FunctionModel was built without a task loss, so labels mean nothing to it; "
                "pass `loss=`, called as loss(output, batch), one number a sample."
            )
        return self.task_loss(output, batch)

    def divergence(self, output: Tensor, target: Tensor) -> PerSample:
        if self.task_divergence is not None:
            return self.task_divergence(output, target)
        if self.headless:
            return relative_error(output, target, batched=self.deq.batched)
        return super().divergence(output, target)

    def select(self, x: Context, rows: Tensor, samples: int) -> Context:
        if self.selector is not None:
            return self.selector(x, rows, samples)
        return super().select(x, rows, samples)

    def readout(self) -> LinearReadout:
        full = [((1, *shape) if self.deq.batched else shape) for shape in self.shapes]
        features = [shape[self.axis] for shape in full]
        home = self._home()
        return LinearReadout(features, axis=self.axis).to(home.device, home.dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights are or, without any, where the model was last moved to."""
        return self._home().device

    def save_pretrained(self, folder: str | Path) -> NoReturn:
        """Refuse: a function is code.

        Raises:
            CDEQError: Always.
        """
        raise CDEQError(_NOT_SAVED)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Self:
        """Refuse: a function is code.

        Raises:
            CDEQError: Always.
        """
        raise CDEQError(_NOT_SAVED)

    def _home(self) -> Tensor:
        """A tensor of the model's device and precision."""
        own: Iterator[Tensor] = chain(self.parameters(), self.buffers())
        return next((tensor for tensor in own if tensor.is_floating_point()), torch.empty(0))

    def _checked(self, z: State) -> State:
        batched = self.deq.batched
        layout = Layout.of(z, batched=batched)
        got = tuple(tuple(shape[1:] if batched else shape) for shape in layout.shapes)
        if (layout.single, got) != (self.single, self.shapes):
            raise ValueError(
                f"`initial` makes {'samples' if batched else 'a state'} of the model's shape "
                f"{self._shown(self.shapes, self.single)}; got {self._shown(got, layout.single)}."
            )
        return z

    @staticmethod
    def _shown(shapes: tuple[tuple[int, ...], ...], single: bool) -> Shape:
        return shapes[0] if single else shapes


_NOT_SAVED = (
    "a FunctionModel is a function, which no folder can hold: keep f in your own code and its "
    "weights with `torch.save(model.state_dict(), …)`; students save themselves, and are read "
    "with `from_pretrained(folder, model)`."
)


def _require_callables(f: object, parts: Mapping[str, object]) -> None:
    if isinstance(f, type) and issubclass(f, nn.Module):
        raise TypeError(f"`f` is a module, not its class; got {f.__name__}: build one first.")
    if not callable(f):
        raise TypeError(f"`f` is the map, a function or module called as f(z, x); got {f!r}.")
    for name, part in parts.items():
        if part is not None and not callable(part):
            raise TypeError(f"`{name}` is a function, a module or None; got {part!r}.")


def _is_shape(shape: object) -> bool:
    return isinstance(shape, tuple) and all(type(size) is int for size in shape)


def _shapes(shape: Any) -> tuple[tuple[int, ...], ...]:  # noqa: ANN401 - about to be checked
    shapes = (shape,) if _is_shape(shape) else shape
    valid = isinstance(shapes, tuple) and all(
        _is_shape(s) and len(s) > 0 and min(s) > 0 for s in shapes
    )
    if not valid or not shapes:
        raise ValueError(
            "`shape` is the shape of one sample's state, a tuple of at least one positive int "
            f"such as (64,), or a tuple of such tuples; got {shape!r}."
        )
    return shapes


def _axis(shapes: tuple[tuple[int, ...], ...], axis: int | None, *, batched: bool) -> int:
    """Where features stand: as given, or as the number of dimensions, samples included, tells."""
    dimensions = {len(shape) + batched for shape in shapes}
    guesses = {1 if count == 4 else -1 for count in dimensions}
    if axis is None and len(guesses) > 1:
        raise ValueError(
            "images have their features first and everything else last, and this state mixes "
            f"them; got shapes {shapes}: say where features stand in all of them, `axis=1` or "
            "`axis=-1`."
        )
    axis = guesses.pop() if axis is None else axis
    if axis not in (1, -1) or (axis == 1 and min(dimensions) < 2):
        raise ValueError(
            f"`axis` is where features stand in every tensor of the state, 1 or -1; got {axis} "
            f"for shapes {shapes}."
        )
    return axis


def _tensors(x: Context) -> list[Tensor]:
    """The tensors of a context, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(note, x)
    return found


def _samples(tensors: list[Tensor]) -> int:
    """How many rows the first tensor has that has any dimension."""
    sizes = [len(tensor) for tensor in tensors if tensor.ndim > 0]
    if not sizes:
        raise ValueError(
            "nothing in this context says how many samples there are, since it holds no tensor "
            "with a dimension; pass `initial=`, a function from the context to z_0, or "
            "`batched=False`."
        )
    return sizes[0]
