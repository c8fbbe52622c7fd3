"""Parts of a network that stay the same over one solve: dropout masks and normalised weights."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

TINY = 1e-12
"""The norm below which a row of weights counts as zero."""


def dropout_mask(like: Tensor, rate: float, *, shared: int | None = None) -> Tensor | None:
    r"""What a tensor is multiplied by in training: 0 with probability p, else :math:`1/(1-p)`.

    Drawn once a solve and used at every evaluation, so that f stays one map, with one fixed point
    (variational dropout).

    References:
        | A Theoretically Grounded Application of Dropout in Recurrent Neural Networks (Gal &
        Ghahramani, 2016)
        | https://arxiv.org/abs/1512.05287

    Arguments:
        like: A tensor of the shape and dtype that is masked.
        rate: p in [0, 1).
        shared: A dimension along which the mask is the same, the positions of a sequence say.

    Returns:
        The mask, or None where p = 0.

    Example:
        >>> mask = dropout_mask(torch.ones(2, 5, 8), 0.5, shared=1)
        >>> mask.shape, {*mask.flatten().tolist()} <= {0.0, 2.0}
        (torch.Size([2, 1, 8]), True)
    """
    if rate == 0.0:
        return None
    shape = list(like.shape)
    if shared is not None:
        shape[shared] = 1
    return F.dropout(like.new_ones(shape), rate)


def masked(value: Tensor, mask: Tensor | None) -> Tensor:
    """The value times the mask, where there is one; in the value's precision."""
    return value if mask is None else value * mask.to(value.dtype)


class NormalisedLinear(nn.Module):
    r"""A linear map whose rows have learned lengths (weight normalisation).

    .. math:: y = W x + b , \qquad W_i = g_i \, \frac{V_i}{\|V_i\|}

    `weight()` is computed once a solve, and `fold` makes it a plain matrix. Starts as the plain
    linear map with the weights it is given.

    References:
        | Weight Normalization (Salimans & Kingma, 2016)
        | https://arxiv.org/abs/1602.07868

    Arguments:
        inputs: Features in.
        outputs: Features out.
        bias: Whether b is learned; else it is zero.
        deviation: Of the normal numbers that V starts with.

    Example:
        >>> layer = NormalisedLinear(3, 2, deviation=0.1)
        >>> torch.allclose(layer.weight(), layer.direction)
        True
    """

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, deviation: float = 0.02
    ) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(outputs, inputs) * deviation)
        norms = torch.linalg.vector_norm(self.direction.detach(), dim=1)
        self.length: nn.Parameter | None = nn.Parameter(norms)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def weight(self) -> Float[Tensor, "o i"]:
        """W."""
        if self.length is None:
            return self.direction
        norms = torch.linalg.vector_norm(self.direction, dim=1).clamp_min(TINY)
        return self.direction * (self.length / norms).unsqueeze(1)

    @torch.no_grad()
    def fold(self) -> None:
        """Put W in the place of V."""
        self.direction.copy_(self.weight())
        self.length = None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(), self.bias)
