"""The vocabulary of signatures.

Dimensions in shape strings: `b` sample, `d` packed feature, `k` iteration, `m` window, `j`
inference step, `c h w` image, `l` token, `n` node, `e` edge.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor

State: TypeAlias = "Tensor | tuple[Tensor, ...]"
"""A point z: one tensor, or several of different shapes (a resolution each, say)."""

Context: TypeAlias = Any
"""Everything that is constant along one trajectory (injection, mask, adjacency): the paper's x."""

Flat: TypeAlias = Float[Tensor, "b d"]
"""A state with one row a sample; this is all that solvers ever see."""

PerSample: TypeAlias = Float[Tensor, " b"]
"""One number a sample."""

Map: TypeAlias = Callable[[Any], State]
"""The map whose fixed point is wanted, its context bound: z ↦ f(z, x), from State to State."""

FlatMap: TypeAlias = Callable[[Flat], Flat]
"""The same map between packed states."""
