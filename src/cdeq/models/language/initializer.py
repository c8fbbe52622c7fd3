"""A small causal network that guesses the equilibrium from the words alone."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cdeq.models.language.cell import LanguageContext


class CausalInitializer(nn.Module):
    r"""A guess from each word and the few before it.

    .. math:: z = W_2 \, \mathrm{ReLU}(\mathrm{conv}_w(x))

    References:
        | Neural Deep Equilibrium Solvers (Bai, Koltun & Kolter, 2022)
        | https://openreview.net/forum?id=B0oHOwT5ENL

    Arguments:
        features: Of a word vector and of the state.
        window: w ≥ 1, the word itself included.
        hidden: Features between the two maps.
    """

    def __init__(self, features: int, *, window: int = 3, hidden: int = 200) -> None:
        super().__init__()
        self.window = window
        self.convolution = nn.Conv1d(features, hidden, window)
        self.output = nn.Linear(hidden, features)

    def forward(self, z: Float[Tensor, "b l d"], x: LanguageContext) -> Float[Tensor, "b l d"]:
        present = z.shape[1]
        exists = F.pad(x.known, (0, present), value=True).unsqueeze(2)
        words = torch.where(exists, x.inputs, 0.0).transpose(1, 2)
        needed = F.pad(words, (self.window - 1, 0))[:, :, -(present + self.window - 1) :]
        return self.output(self.convolution(needed).transpose(1, 2).relu())
