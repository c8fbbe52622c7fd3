"""A vocabulary's vectors and the distribution over it, cheaper for rarer words."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Hidden = Float[Tensor, "*b d"]
Tokens = Int[Tensor, "*b"]


class AdaptiveVocabulary(nn.Module):
    r"""Word vectors and softmax, tied, in clusters of falling frequency.

    Tokens are numbered by falling frequency and cut into clusters c = 0, 1, …; those of cluster c
    have vectors of :math:`d_c = \max(1, \lfloor d / s^c \rfloor)` numbers. With :math:`E_c` a
    cluster's table and :math:`P_c` a matrix to d features (none for c = 0),

    .. math:: \mathrm{embed}(w) = \sqrt d \, P_c^\top E_c[w] , \qquad
        p(w \mid h) = \begin{cases}
            \mathrm{softmax}([E_0 h + b_0, A h + a])_w & c = 0 \\
            \mathrm{softmax}([E_0 h + b_0, A h + a])_{\text{cluster } c} \cdot
            \mathrm{softmax}(E_c P_c h + b_c)_w & c > 0
        \end{cases}

    References:
        | Efficient softmax approximation for GPUs (Grave et al., 2017)
        | https://arxiv.org/abs/1609.04309
        | Adaptive Input Representations for Neural Language Modeling (Baevski & Auli, 2019)
        | https://arxiv.org/abs/1809.10853

    Arguments:
        size: Tokens.
        features: d.
        cutoffs: Where clusters 1, 2, … begin, ascending; () is the plain tied softmax.
        shrink: s ≥ 1.

    Raises:
        ValueError: When the cutoffs do not ascend within 1 … size - 1, or a number is below 1.

    Example:
        >>> words = AdaptiveVocabulary(10, 8, cutoffs=(4,), shrink=4)
        >>> hidden = words.embed(torch.tensor([[1, 9]]))
        >>> torch.allclose(words.log_probs(hidden).exp().sum(-1), torch.ones(1, 2))
        True
    """

    def __init__(
        self, size: int, features: int, *, cutoffs: Sequence[int] = (), shrink: int = 4
    ) -> None:
        super().__init__()
        require_cutoffs(size, features, cutoffs, shrink)
        self.size, self.features = size, features
        self.edges = (0, *cutoffs, size)
        widths = [max(1, features // shrink**c) for c in range(len(self.edges) - 1)]
        counts = [end - start for start, end in self.spans()]
        scale = features**-0.5  # a vector of the input then has features of size 1
        self.tables = nn.ParameterList(
            torch.randn(count, width) * scale for count, width in zip(counts, widths, strict=True)
        )
        self.biases = nn.ParameterList(torch.zeros(count) for count in counts)
        self.projections = nn.ParameterList(
            torch.randn(width, features) * width**-0.5 for width in widths[1:]
        )
        self.clusters = nn.Linear(features, len(cutoffs)) if cutoffs else None

    def spans(self) -> Iterator[tuple[int, int]]:
        """First token and end of each cluster."""
        return zip(self.edges, self.edges[1:])  # noqa: B905 - one shorter on purpose

    def embed(self, tokens: Tokens) -> Hidden:
        """The vectors of these tokens."""
        flat = tokens.flatten().long()
        cluster = self._cluster(flat)
        found = self.tables[0].new_empty(len(flat), self.features)
        for c, (start, _) in enumerate(self.spans()):
            rows = (cluster == c).nonzero().squeeze(1)
            vectors = F.embedding(flat[rows] - start, self.tables[c])
            full = vectors if c == 0 else vectors @ self.projections[c - 1]
            found = found.index_copy(0, rows, full.to(found.dtype))  # autocast narrows products
        return found.unflatten(0, tokens.shape) * self.features**0.5

    def losses(self, hidden: Hidden, target: Tokens) -> Float[Tensor, "*b"]:
        """-log p(target | hidden), touching a rare cluster only for the targets in it."""
        rows = hidden.reshape(-1, self.features)
        wanted = target.flatten().long().contiguous()
        head = self._head(rows).log_softmax(-1)
        shortlist = self.edges[1]
        cluster = self._cluster(wanted)
        place = torch.where(cluster == 0, wanted, shortlist + cluster - 1)
        found = head.gather(1, place.unsqueeze(1)).squeeze(1)
        for c, (start, _) in enumerate(self.spans()):
            if c == 0:
                continue
            mine = (cluster == c).nonzero().squeeze(1)
            tail = F.cross_entropy(
                self._tail(rows[mine], c), wanted[mine] - start, reduction="none"
            )
            found = found.index_add(0, mine, -tail)
        return -found.view(target.shape)

    def log_probs(self, hidden: Hidden) -> Float[Tensor, "*b v"]:
        """log p of every token: as many numbers as there are tokens, for each position."""
        head, *tails = self.by_cluster(hidden)
        words, clusters = head.split([self.edges[1], len(tails)], dim=-1)
        inside = (tail + clusters[..., [c]] for c, tail in enumerate(tails))
        return torch.cat([words, *inside], dim=-1)

    def by_cluster(self, hidden: Hidden) -> tuple[Tensor, ...]:
        """log p of the frequent tokens and of every cluster, then log p inside each cluster."""
        tails = (self._tail(hidden, c) for c in range(1, len(self.tables)))
        return tuple(scores.log_softmax(-1) for scores in (self._head(hidden), *tails))

    def divergence(self, hidden: Hidden, target: Hidden) -> Float[Tensor, "*b"]:
        """KL of two distributions, each by its hidden features."""
        return self.divergence_of(hidden, self.by_cluster(target))

    def divergence_of(self, hidden: Hidden, wanted: Sequence[Tensor]) -> Float[Tensor, "*b"]:
        r"""KL of two distributions, one cluster at a time, so that no full one is ever built.

        .. math:: \mathrm{KL}(q \| p) = \mathrm{KL}(q_0 \| p_0)
            + \sum_{c > 0} q_0(c) \, \mathrm{KL}(q_c \| p_c)

        Arguments:
            hidden: What p belongs to.
            wanted: q, as `by_cluster` gives it.
        """
        pairs = zip(self.by_cluster(hidden), wanted, strict=True)
        each = [_divergence(given, there) for given, there in pairs]
        shares = wanted[0][..., self.edges[1] :].exp().unbind(-1)
        return sum((q * kl for q, kl in zip(shares, each[1:], strict=True)), each[0])

    def _cluster(self, tokens: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The cluster of each token; one outside the vocabulary is in the first or the last, whose
        table does not have it."""
        return torch.bucketize(tokens, tokens.new_tensor(self.edges[1:-1]), right=True)

    def _head(self, hidden: Hidden) -> Tensor:
        words = F.linear(hidden, self.tables[0], self.biases[0])
        if self.clusters is not None:
            words = torch.cat([words, self.clusters(hidden)], dim=-1)
        return _wide(words)

    def _tail(self, hidden: Hidden, c: int) -> Tensor:
        narrow = F.linear(hidden, self.projections[c - 1])
        return _wide(F.linear(narrow, self.tables[c], self.biases[c]))


def _wide(scores: Tensor) -> Tensor:
    """In single precision at least: a log p in half precision has three digits, which a CPU's
    autocast leaves it with."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _divergence(given: Tensor, wanted: Tensor) -> Tensor:
    return F.kl_div(given, wanted, log_target=True, reduction="none").sum(-1)


class Words(Protocol):
    """What a specification says of its vocabulary; None is read off the data by who has it."""

    @property
    def vocabulary(self) -> int | None: ...
    @property
    def features(self) -> int: ...
    @property
    def cutoffs(self) -> tuple[int, ...]: ...
    @property
    def shrink(self) -> int: ...


def vocabulary_of(spec: Words) -> AdaptiveVocabulary:
    """The tied vocabulary of a language model, which none can be built without.

    Raises:
        ValueError: When its size has been left to the data.
    """
    if spec.vocabulary is None:
        raise ValueError(
            "a model is built for a known `vocabulary`; got a specification that leaves it to the "
            "data: fill it in with `dataclasses.replace`."
        )
    return AdaptiveVocabulary(
        spec.vocabulary, spec.features, cutoffs=spec.cutoffs, shrink=spec.shrink
    )


def require_cutoffs(size: int, features: int, cutoffs: Sequence[int], shrink: int) -> None:
    """Refuse a vocabulary that cannot be cut like this.

    Raises:
        ValueError: When the cutoffs do not ascend within 1 … size - 1, or a number is below 1.
    """
    if min(size, features, shrink) < 1:
        raise ValueError(
            "a vocabulary has tokens and features, and clusters shrink by a factor, all ≥ 1; got "
            f"{size}, {features} and {shrink}."
        )
    edges = (0, *cutoffs, size)
    if [*edges] != sorted({*edges}):
        raise ValueError(
            f"`cutoffs` are where rarer clusters begin, ascending between 1 and {size - 1}; got "
            f"{tuple(cutoffs)}."
        )
