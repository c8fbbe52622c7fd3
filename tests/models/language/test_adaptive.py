"""The tied adaptive vocabulary: one distribution, however it is asked for."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cdeq.models.language.adaptive import AdaptiveVocabulary

SIZE, FEATURES = 11, 8
CUTS = {"plain": (), "two": (4,), "three": (3, 7), "thin": (1, 3, 9), "lone": (1, 2, 10)}
each_cut = pytest.mark.parametrize("cutoffs", CUTS.values(), ids=list(CUTS))
each_clustered = pytest.mark.parametrize("cutoffs", list(CUTS.values())[1:], ids=list(CUTS)[1:])
each_learning = pytest.mark.parametrize(  # a lone word in a rare cluster is certain in there
    "cutoffs", list(CUTS.values())[:-1], ids=list(CUTS)[:-1]
)


def words_of(cutoffs: tuple[int, ...], shrink: int = 2) -> AdaptiveVocabulary:
    """In float64, and as if trained: no bias is left at its start."""
    torch.manual_seed(0)
    words = AdaptiveVocabulary(SIZE, FEATURES, cutoffs=cutoffs, shrink=shrink).double()
    for parameter in words.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    return words


def hidden_of(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, FEATURES, dtype=torch.float64, generator=generator)


def all_tokens() -> Tensor:
    """Every token once, out of order."""
    return torch.randperm(SIZE, generator=torch.Generator().manual_seed(2))


def by_hand(words: AdaptiveVocabulary, hidden: Tensor) -> Tensor:
    """log p of every token for one position, word by word from the formula."""
    edges = list(pairwise((0, *words.edges[1:-1], SIZE)))
    head = [words.tables[0][w] @ hidden + words.biases[0][w] for w in range(edges[0][1])]
    if words.clusters is not None:
        head += list(words.clusters.weight @ hidden + words.clusters.bias)
    total = torch.stack(head).exp().sum().log()
    found = [score - total for score in head[: edges[0][1]]]
    for c, (start, end) in enumerate(edges[1:], start=1):
        narrow = words.projections[c - 1] @ hidden
        scores = [words.tables[c][w] @ narrow + words.biases[c][w] for w in range(end - start)]
        inside = torch.stack(scores).exp().sum().log()
        found += [score - inside + head[edges[0][1] + c - 1] - total for score in scores]
    return torch.stack(found)


@each_cut
def test_the_distribution_is_that_of_the_formula_and_sums_to_one(cutoffs) -> None:
    words, hidden = words_of(cutoffs), hidden_of(5)
    found = words.log_probs(hidden)
    torch.testing.assert_close(found, torch.stack([by_hand(words, row) for row in hidden]))
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(5, dtype=torch.float64))


@each_cut
def test_losses_are_minus_the_log_of_p(cutoffs) -> None:
    words, target = words_of(cutoffs), all_tokens()
    hidden = hidden_of(SIZE)
    gathered = words.log_probs(hidden).gather(-1, target.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(words.losses(hidden, target), -gathered)


@each_cut
def test_the_divergence_is_that_of_whole_distributions(cutoffs) -> None:
    words, given, wanted = words_of(cutoffs), hidden_of(2, 6), hidden_of(2, 6, seed=3)
    q, p = words.log_probs(wanted), words.log_probs(given)
    whole = (q.exp() * (q - p)).sum(-1)
    torch.testing.assert_close(words.divergence(given, wanted), whole)
    assert bool((whole > 0).all())
    torch.testing.assert_close(words.divergence(given, given), torch.zeros_like(whole))


@pytest.mark.parametrize("shrink", [1, 4])
def test_without_cutoffs_it_is_the_tied_softmax(shrink: int) -> None:
    words, hidden = words_of((), shrink), hidden_of(2, 3)
    table, bias = words.tables[0], words.biases[0]
    assert torch.equal(words.log_probs(hidden), F.linear(hidden, table, bias).log_softmax(-1))
    tokens = all_tokens()
    torch.testing.assert_close(words.embed(tokens), table[tokens] * FEATURES**0.5)
    assert sum(parameter.numel() for parameter in words.parameters()) == SIZE * (FEATURES + 1)


@each_clustered
def test_a_vector_is_its_row_through_the_clusters_matrix(cutoffs) -> None:
    words, tokens = words_of(cutoffs), all_tokens()
    found = words.embed(tokens)
    for place, token in enumerate(tokens.tolist()):
        c = sum(token >= cut for cut in cutoffs)
        row = words.tables[c][token - words.edges[c]]
        full = row if c == 0 else words.projections[c - 1].T @ row
        torch.testing.assert_close(found[place], full * FEATURES**0.5)


@each_cut
@pytest.mark.parametrize("shrink", [1, 2, 4, 100])
def test_rarer_words_have_shorter_vectors(cutoffs, shrink: int) -> None:
    words = words_of(cutoffs, shrink)
    edges = (0, *cutoffs, SIZE)
    widths = [max(1, FEATURES // shrink**c) for c in range(len(edges) - 1)]
    counts = [end - start for start, end in pairwise(edges)]
    sizes = list(zip(counts, widths, strict=True))
    assert [tuple(table.shape) for table in words.tables] == sizes
    gates = len(cutoffs) * (FEATURES + 1)
    expected = sum(n * (w + 1) for n, w in sizes) + FEATURES * sum(widths[1:]) + gates
    assert sum(parameter.numel() for parameter in words.parameters()) == expected


@each_cut
def test_any_shape_and_integer_is_the_same(cutoffs) -> None:
    words, target = words_of(cutoffs), all_tokens()[:8]
    hidden = hidden_of(8)
    flat = words.embed(target), words.losses(hidden, target), words.log_probs(hidden)
    for shape in ((2, 4), (2, 2, 2), (8, 1)):
        tokens, rows = target.view(shape).int(), hidden.view(*shape, FEATURES)
        other = words.embed(tokens), words.losses(rows, tokens), words.log_probs(rows)
        for one, whole in zip(other, flat, strict=True):
            assert one.shape[: len(shape)] == shape
            torch.testing.assert_close(one.reshape(whole.shape), whole)
    transposed = words.losses(hidden.view(2, 4, FEATURES).transpose(0, 1), target.view(2, 4).T)
    torch.testing.assert_close(transposed, flat[1].view(2, 4).T)


@each_cut
def test_nothing_is_a_text_too(cutoffs) -> None:
    words, none = words_of(cutoffs), torch.empty(2, 0, dtype=torch.long)
    assert words.embed(none).shape == (2, 0, FEATURES)
    assert words.losses(words.embed(none), none).shape == (2, 0)


def gradients(words: AdaptiveVocabulary, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*words.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return dict(zip(names, found, strict=True))


@each_learning
def test_gradients_reach_every_parameter_whichever_way_is_taken(cutoffs) -> None:
    words, target = words_of(cutoffs), all_tokens()
    near = gradients(words, words.losses(hidden_of(SIZE), target).sum())
    picked = words.log_probs(hidden_of(SIZE)).gather(1, target.unsqueeze(1))
    far = gradients(words, -picked.sum())
    assert near.keys() == far.keys()
    for name, gradient in near.items():
        torch.testing.assert_close(gradient, far[name])
        assert bool((gradient != 0).any())


@each_learning
def test_words_and_softmax_are_tied(cutoffs) -> None:
    """A word's row moves both its vector and its probability, through one parameter."""
    words = words_of(cutoffs)
    for token in range(SIZE):
        vector = gradients(words, words.embed(torch.tensor([token])).sum())
        loss = gradients(words, words.losses(hidden_of(1), torch.tensor([token])).sum())
        moved = [name for name in vector if bool((vector[name] != 0).any())]
        assert moved
        assert all(bool((loss[name] != 0).any()) for name in moved)


@each_clustered
def test_a_cluster_that_no_target_is_in_is_left_alone(cutoffs) -> None:
    words = words_of(cutoffs)
    target = torch.randint(cutoffs[0], (6,))
    found = gradients(words, words.losses(hidden_of(6), target).sum())
    rare = [n for n in found if n.startswith(("projections", "tables", "biases")) and n[-1] != "0"]
    rare += [name for name in found if name == "projections.0"]
    assert rare
    assert all(not bool(found[name].any()) for name in rare)
    assert bool(found["clusters.weight"].any())


@each_cut
def test_gradients_reach_the_hidden_features(cutoffs) -> None:
    words, target = words_of(cutoffs), all_tokens()[:3]
    hidden = hidden_of(3).requires_grad_()
    assert torch.autograd.gradcheck(lambda h: words.losses(h, target), hidden)
    assert torch.autograd.gradcheck(words.divergence, (hidden, hidden_of(3, seed=4)))
    assert torch.autograd.gradcheck(words.divergence, (hidden_of(3, seed=4), hidden))


@pytest.mark.parametrize("cutoffs", [(), (400, 1200)])
def test_word_vectors_start_with_features_of_size_one(cutoffs: tuple[int, ...]) -> None:
    torch.manual_seed(5)
    words = AdaptiveVocabulary(3000, 64, cutoffs=cutoffs, shrink=2)
    with torch.no_grad():
        vectors = words.embed(torch.arange(3000))
    for start, end in words.spans():
        assert abs(float(vectors[start:end].square().mean()) - 1.0) < 0.1


@each_cut
def test_mixed_precision_narrows_products_alone(cutoffs) -> None:
    """What comes out has the digits of single precision, however narrow the scores were."""
    words, tokens = words_of(cutoffs).float(), all_tokens()
    hidden, other = hidden_of(SIZE).float(), hidden_of(SIZE, seed=3).float()

    def answers() -> list[Tensor]:
        ours = [words.embed(tokens), words.losses(hidden, tokens), words.log_probs(hidden)]
        return [*ours, words.divergence(hidden, other)]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = answers()
    for one, exact in zip(narrow, answers(), strict=True):
        assert one.dtype is torch.float32
        torch.testing.assert_close(one, exact, rtol=0.05, atol=0.05)
    ones = torch.ones(SIZE)
    torch.testing.assert_close(narrow[2].exp().sum(-1), ones, rtol=1e-5, atol=1e-5)


@each_cut
@pytest.mark.parametrize("token", [-1, SIZE, SIZE + 5])
def test_no_word_outside_has_a_vector_or_a_probability(cutoffs, token: int) -> None:
    words, tokens = words_of(cutoffs), torch.tensor([0, token])
    with pytest.raises(IndexError):
        words.embed(tokens)
    with pytest.raises((IndexError, RuntimeError), match=r"out of (bounds|range)"):
        words.losses(hidden_of(2), tokens)


@pytest.mark.parametrize("cutoffs", [(0,), (SIZE,), (SIZE + 1,), (-1, 4), (4, 4), (7, 3)])
def test_cutoffs_ascend_within_the_vocabulary(cutoffs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`cutoffs` are where rarer clusters begin") as raised:
        AdaptiveVocabulary(SIZE, FEATURES, cutoffs=cutoffs)
    assert str(cutoffs) in str(raised.value)


@pytest.mark.parametrize(("size", "features", "shrink"), [(0, 8, 4), (5, 0, 4), (5, 8, 0)])
def test_counts_are_at_least_one(size: int, features: int, shrink: int) -> None:
    with pytest.raises(ValueError, match=f"all ≥ 1; got {size}, {features} and {shrink}"):
        AdaptiveVocabulary(size, features, shrink=shrink)
