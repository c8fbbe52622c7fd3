"""The small network that looks at the residuals of a window and says how to mix its states."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.core.state import tensors
from cdeq.hypersolver.scope import Scope
from cdeq.typing import Map, State

GROUPS, KERNEL = 5, 5

Code = Float[Tensor, "u p"]
"""What is left of one residual: p numbers a unit."""


class Compression(nn.Module):
    r"""A residual as a few numbers a unit.

    .. math:: c(r) = V \, \mathrm{gather} \, \mathrm{ReLU}(U r)

    Without biases c is homogeneous, :math:`c(s r) = s \, c(r)` for s > 0: residuals that shrink by
    orders of magnitude are told apart by their directions as well as on the first step.

    Arguments:
        features: The feature size of each tensor of the state.
        axis: Where features stand in each of them, 1 or -1.
        width: p, a multiple of 5 from 10 up, since the window's network normalises in 5 groups.
        scope: What a unit is.
        batched: Whether the first dimension of a state counts samples.

    Raises:
        ValueError: When `width` is no such multiple.

    Example:
        >>> from cdeq.hypersolver.scope import Pooled
        >>> compression = Compression([3], axis=1, width=10, scope=Pooled())
        >>> compression(torch.ones(2, 3, 4, 4)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        features: Sequence[int],
        *,
        axis: int,
        width: int,
        scope: Scope,
        batched: bool = True,
    ) -> None:
        super().__init__()
        require_width(width)
        self.axis, self.width, self.scope, self.batched = axis, width, scope, batched
        self.inward = nn.ModuleList(nn.Linear(size, width, bias=False) for size in features)
        self.outward = nn.Linear(width, width, bias=False)

    def forward(self, residual: State, smooth: Map | None = None) -> Code:
        """The code of each unit.

        Arguments:
            residual: r.
            smooth: What is done to the codes in the middle, positions in their order; see
                `HyperDEQ`.
        """
        pairs = zip(self.inward, tensors(residual), strict=True)
        codes = [layer(part.movedim(self.axis, -1)).relu() for layer, part in pairs]
        code = self.scope.gather(codes, batched=self.batched)
        (code,) = tensors(code if smooth is None else smooth(code))
        return self.outward(code).reshape(-1, self.width)


class Mixing(NamedTuple):
    """How the states of a window are mixed."""

    alpha: Float[Tensor, "u m"]
    """α, which sums to one, the newest state last."""
    beta: Float[Tensor, " u"]
    """β."""


class WindowNetwork(nn.Module):
    r"""The weights of a window, from the codes of its residuals.

    A convolution over the window (kernel 5), GroupNorm, ReLU and a skip give :math:`h_i`, then

    .. math::
        \alpha = a + \frac{1 - \mathbf 1^\top a}{m_k + 1} \mathbf 1 , \qquad
        a_i = v^\top h_i + v_0 + [\, i \text{ is the newest} \,] , \qquad
        \beta = 1 + \tfrac12 \tanh( w^\top \bar h + w_0 )

    with v and w zero to begin with: the newest state alone, undamped. Codes are scaled by the
    largest number in their window first.

    Arguments:
        width: Numbers in a code.

    Example:
        >>> WindowNetwork(10)(torch.randn(1, 10, 3))
        Mixing(alpha=tensor([[0., 0., 1.]], ...), beta=tensor([1.], ...))
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        require_width(width)
        # as torch would begin a convolution
        self.kernel = nn.Parameter(nn.Conv1d(width, width, KERNEL).weight.detach())
        self.norm, self.heads = nn.GroupNorm(GROUPS, width), nn.Linear(width, 2)
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)

    def forward(self, codes: Float[Tensor, "u p m"]) -> Mixing:
        h = codes / _largest(codes)
        h = h + self.norm(_convolved(h, self.kernel)).relu_()
        heads = _convolved(h, self.heads.weight.unsqueeze(2)) + self.heads.bias.unsqueeze(1)
        a, b = heads.unbind(1)
        a = a + F.pad(a.new_ones(1), (a.shape[1] - 1, 0))
        alpha = a + (1 - a.sum(1, keepdim=True)) / a.shape[1]
        return Mixing(alpha, 1 + 0.5 * torch.tanh(b.mean(1)))


def _largest(codes: Float[Tensor, "u p m"]) -> Float[Tensor, "u 1 1"]:
    """The largest number of each window; 1 at the equilibrium itself, where all of them vanish."""
    low, high = codes.flatten(1).aminmax(dim=1, keepdim=True)
    largest = torch.maximum(high, -low)
    something = largest > torch.finfo(codes.dtype).tiny ** 0.5
    return largest.where(something, 1.0).unsqueeze(2)


def _convolved(h: Float[Tensor, "u p m"], kernel: Float[Tensor, "q p s"]) -> Tensor:
    """The convolution over the window, with zeros beyond its ends, as one product of matrices:
    there are many units and few states, which is many times as fast that way."""
    channels, states = h.shape[1:]
    units = torch.eye(channels * states, dtype=h.dtype, device=h.device)
    images = F.conv1d(units.view(-1, channels, states), kernel, padding=kernel.shape[2] // 2)
    return (h.flatten(1) @ images.flatten(1)).view(len(h), -1, states)


def require_width(width: int) -> None:
    """Refuse a width that the groups do not divide, or that leaves one number a group.

    Raises:
        ValueError: Says what came.
    """
    if width < 2 * GROUPS or width % GROUPS:
        raise ValueError(
            f"`width` is normalised in {GROUPS} groups of at least two, so it is a multiple of "
            f"{GROUPS} from {2 * GROUPS} up; got {width}."
        )
