"""What learned steps train: nothing at birth, a known number of parameters, mergeable."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from consistency.toys import FORMS, TEACHERS, close, disturb, equal
from models.graph.zoo import SPECS, batch_of, model_of
from problems import Convolving, Mixing, TwoScales, each_dtype
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cdeq.consistency.increments import Full, Increments, LowRank, Shared, merge
from cdeq.core.cell import bind
from cdeq.core.state import like, tensors
from cdeq.models.vision.contraction import ContractionCell

each_form = pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
each_cell = pytest.mark.parametrize("make", TEACHERS)
PARTS = Full(parts=("weight", "injection.bias"))


def somewhere(state: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """A point that is not zero: there no weight of a linear map would matter."""
    torch.manual_seed(9)
    return like(state, tuple(torch.randn_like(part) for part in tensors(state)))


def trained(*modules: nn.Module) -> dict[int, nn.Parameter]:
    """Each parameter that is trained, once."""
    found = [p for module in modules for p in module.parameters() if p.requires_grad]
    return {id(parameter): parameter for parameter in found}


@each_dtype
@each_form
@each_cell
def test_an_untrained_copy_is_the_teachers_map(make, form: Increments, dtype, device) -> None:
    taught = make(dtype, device)
    z = somewhere(taught.start)
    for copy in form.copies(taught.deq.cell, 3):
        assert equal(copy(z, taught.x), taught.f(z))


@each_form
def test_work_done_once_a_solve_stays_so(form: Increments, dtype, device) -> None:
    cell = ContractionCell(1, 3, 4, 0.9).to(device, dtype)
    x = torch.randn(2, 1, 4, 4, dtype=dtype, device=device)
    z = torch.randn(2, 3, 4, 4, dtype=dtype, device=device)
    copies = (*form.copies(cell, 2), *PARTS.copies(cell, 2))
    assert all(torch.equal(bind(copy, x)(z), bind(cell, x)(z)) for copy in copies)
    for copy in copies:
        disturb(copy)
        once = merge(copy, cell)
        for folded in (once, merge(once, cell)):
            torch.testing.assert_close(bind(folded, x)(z), bind(copy, x)(z))
        assert not torch.allclose(bind(once, x)(z), bind(cell, x)(z))


@each_form
@each_cell
def test_the_teacher_is_left_alone(make, form: Increments, device) -> None:
    taught = make(torch.float64, device)
    cell, before = taught.deq.cell, deepcopy(taught.deq.cell.state_dict())
    asked = [parameter.requires_grad for parameter in cell.parameters()]
    copies, z = form.copies(cell, 2), somewhere(taught.start)
    for copy in copies:
        sum(part.square().sum() for part in tensors(copy(z, taught.x))).backward()
        disturb(copy)
    assert not close(copies[0](z, taught.x), taught.f(z))
    assert [parameter.requires_grad for parameter in cell.parameters()] == asked
    assert all(parameter.grad is None for parameter in cell.parameters())
    assert {p.data_ptr() for p in cell.parameters()}.isdisjoint(
        p.data_ptr() for copy in copies for p in copy.parameters()
    )
    after = cell.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@each_form
@each_cell
def test_whatever_is_trained_has_a_gradient(make, form: Increments, device) -> None:
    """Away from Δ = 0, where A of A B, or a gate of 0, would have none."""
    taught = make(torch.float64, device)
    copies, z = form.copies(taught.deq.cell, 2), somewhere(taught.start)
    for copy in copies:
        disturb(copy)
        sum(part.square().sum() for part in tensors(copy(z, taught.x))).backward()
    for parameter in trained(*copies).values():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 0
    still = [p for copy in copies for p in copy.parameters() if not p.requires_grad]
    assert all(parameter.grad is None for parameter in still)


def low_rank_count(cell: nn.Module, rank: int) -> int:
    shapes = [(p.shape[0], p.numel() // p.shape[0], p.ndim) for p in cell.parameters()]
    return sum(
        rank * (rows + columns)
        if ndim > 1 and rank * (rows + columns) < rows * columns
        else rows * columns
        for rows, columns, ndim in shapes
    )


CELLS = {
    "mixing": Mixing(5),
    "wide": nn.Linear(3, 40),
    "narrow": nn.Sequential(nn.Linear(7, 1), nn.Linear(9, 9)),
    "convolving": Convolving(4),
    "two scales": TwoScales((7, 4)),
    "contraction": ContractionCell(1, 6, 4, 0.9),
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=list(CELLS))
@pytest.mark.parametrize("steps", (1, 3))
def test_the_number_of_trained_parameters(cell: nn.Module, steps: int) -> None:
    whole = sum(parameter.numel() for parameter in cell.parameters())
    expected = {Full(): steps * whole, Shared(): whole + steps, Shared(learned=False): whole}
    expected |= {LowRank(rank=r): steps * low_rank_count(cell, r) for r in (1, 2, 3, 100)}
    assert expected[LowRank(rank=1)] < expected[LowRank(rank=100)] == expected[Full()]
    for form, count in expected.items():
        parameters = trained(*form.copies(cell, steps)).values()
        assert sum(parameter.numel() for parameter in parameters) == count, form


def test_parts_are_trained_and_nothing_else() -> None:
    cell = CELLS["contraction"]
    for copy in PARTS.copies(cell, 2):
        names = {name for name, p in copy.named_parameters() if p.requires_grad}
        assert names == {"weight", "injection.bias"}


def test_a_product_has_its_rank() -> None:
    cell = nn.Linear(20, 30).double()
    for rank in (1, 3):
        [copy] = LowRank(rank=rank).copies(cell, 1)
        disturb(copy)
        delta = (copy.weight - cell.weight).detach()
        values = torch.linalg.svdvals(delta)
        assert values[rank - 1] > 1e-3 > 1e-10 > values[rank]


@pytest.mark.parametrize("form", (Full(), LowRank(rank=1)), ids=str)
@each_cell
def test_copies_are_independent(make, form: Increments, device) -> None:
    taught = make(torch.float64, device)
    first, second = form.copies(taught.deq.cell, 2)
    z = somewhere(taught.start)
    disturb(first)
    assert not close(first(z, taught.x), taught.f(z))
    assert equal(second(z, taught.x), taught.f(z))
    assert trained(first).keys().isdisjoint(trained(second))


@pytest.mark.parametrize("learned", (True, False))
@each_cell
def test_copies_have_one_increment_behind_gates_that_fall(make, learned: bool, device) -> None:
    """θ_j - θ = σ^j Δ for every weight."""
    taught = make(torch.float64, device)
    first, *others = Shared(decay=0.5, learned=learned).copies(taught.deq.cell, 3)
    common = trained(first).keys() & trained(others[0]).keys()
    for key in common:
        trained(first)[key].data += 0.1
    old = plain(taught.deq.cell)
    moved = plain(merge(first, taught.deq.cell))
    for name in old:
        torch.testing.assert_close(moved[name] - old[name], torch.full_like(old[name], 0.1))
    for j, copy in enumerate(others, start=1):
        for name, weight in plain(merge(copy, taught.deq.cell)).items():
            torch.testing.assert_close(weight - old[name], 0.5**j * (moved[name] - old[name]))
    own = [len(trained(copy).keys() - common) for copy in (first, *others)]
    assert len(common) == len(old)
    assert own == ([1] * 3 if learned else [0] * 3)


def plain(cell: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in cell.named_parameters()}


@each_form
@each_cell
def test_a_merged_copy_is_the_same_map(make, form: Increments, device) -> None:
    taught = make(torch.float64, device)
    copies, z = form.copies(taught.deq.cell, 2), somewhere(taught.start)
    for seed, copy in enumerate(copies):
        disturb(copy, seed=seed)
    before = deepcopy(copies[1].state_dict())
    folded = merge(copies[1], taught.deq.cell)
    assert close(folded(z, taught.x), copies[1](z, taught.x))
    assert not close(folded(z, taught.x), taught.f(z))
    assert plain(folded).keys() == plain(taught.deq.cell).keys()
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert all(map(torch.equal, before.values(), copies[1].state_dict().values()))
    assert trained(copies[1])


@each_form
@each_cell
def test_a_merged_copy_is_free_of_the_copy(make, form: Increments, device) -> None:
    taught = make(torch.float64, device)
    [copy], z = form.copies(taught.deq.cell, 1), somewhere(taught.start)
    disturb(copy)
    folded = merge(copy, taught.deq.cell)
    value = folded(z, taught.x)
    disturb(copy, seed=1)
    assert equal(folded(z, taught.x), value)
    assert not close(copy(z, taught.x), value)


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_merging_keeps_the_teachers_own_parametrization(form: Increments, device) -> None:
    taught = TEACHERS[-2](torch.float64, device)
    [copy] = form.copies(taught.deq.cell, 1)
    disturb(copy)
    folded = merge(copy, taught.deq.cell)
    assert parametrize.is_parametrized(folded.mix, "weight")
    assert type(folded.mix.parametrizations.weight[0]).__name__ == "_WeightNorm"
    assert len(list(folded.parameters())) == 2


# Steps that nothing holds to what the teacher is held to

FREE = Full(free=True)
HOLDING = [*(name for name in SPECS if name != "eignn-raw"), "contraction"]
each_holding = pytest.mark.parametrize("name", HOLDING)


def holding(name: str) -> tuple[nn.Module, Any, Tensor]:
    """A cell that bounds its weights, with weights that feel it; a context and a state."""
    if name == "contraction":
        torch.manual_seed(4)
        cell = ContractionCell(1, 3, 4, 0.9).double()
        x, z = torch.randn(2, 1, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4).double()
        return cell, x, z
    model = model_of(SPECS[name])
    x = model.encode(batch_of("odd"))
    return model.deq.cell, x, torch.randn_like(model.initial(x))


@each_holding
def test_a_free_copy_starts_as_the_teachers_map(name: str) -> None:
    cell, x, z = holding(name)
    for copy in FREE.copies(cell, 2):
        torch.testing.assert_close(bind(copy, x)(z), bind(cell, x)(z), rtol=1e-10, atol=1e-10)


@each_holding
def test_a_free_copy_uses_its_weights_as_they_are(name: str) -> None:
    """Folding it for inference changes no weight, and changes those of a copy that is held."""
    cell, x, z = holding(name)
    for form, is_free in ((FREE, True), (Full(), False)):
        [copy] = form.copies(cell, 1)
        disturb(copy, size=2.0)
        folded = merge(copy, cell)
        torch.testing.assert_close(bind(folded, x)(z), bind(copy, x)(z), rtol=1e-9, atol=1e-9)
        weights, own = plain(folded), plain(copy)
        kept = weights.keys() == own.keys() and all(
            torch.equal(weights[key], own[key]) for key in own
        )
        assert kept == is_free


@pytest.mark.parametrize("name", ["ignn", "eignn", "forward-backward", "contraction"])
@torch.no_grad()
def test_a_free_copy_can_go_where_no_held_one_can(name: str) -> None:
    """It grows with its weight; a held one stays a contraction, in a norm of its own."""
    cell, x, z = holding(name)
    grown = []
    for form in (FREE, Full()):
        [copy] = form.copies(cell, 1)
        dict(copy.named_parameters())["weight"].mul_(100.0)
        f, direction = bind(copy, x), 1e3 * torch.ones_like(z)
        grown.append(float((f(z + direction) - f(z)).norm() / direction.norm()))
    free, held = grown
    assert free > 5.0 and held < 2.0


@each_holding
def test_the_teacher_is_not_let_go(name: str) -> None:
    cell, x, z = holding(name)
    before, value = deepcopy(cell.state_dict()), bind(cell, x)(z)
    for copy in FREE.copies(cell, 2):
        disturb(copy, size=2.0)
    assert before.keys() == cell.state_dict().keys()
    assert all(torch.equal(before[key], now) for key, now in cell.state_dict().items())
    assert torch.equal(bind(cell, x)(z), value)
    assert not getattr(cell, "folded", False)


@each_holding
def test_all_that_is_left_of_a_folded_cell_is_trained(name: str) -> None:
    """With a gradient each; a scale that folding has put into the weight is gone."""
    cell, x, z = holding(name)
    [copy] = FREE.copies(cell, 1)
    disturb(copy, size=0.1)
    bind(copy, x)(z).square().sum().backward()
    trained_names = {key for key, p in copy.named_parameters() if p.requires_grad}
    with_gradient = {
        key for key, p in copy.named_parameters() if p.grad is not None and bool(p.grad.any())
    }
    names = {key for key, _ in cell.named_parameters()} - {"scale"}
    if name == "contraction":  # whose folded weight holds that of the injection
        names -= {"injection.weight"}
    assert with_gradient == names <= trained_names


def test_parts_of_a_free_copy_are_named_as_they_are_after_folding() -> None:
    cell, _, _ = holding("peaceman-rachford")
    [copy] = Full(parts=("weight",), free=True).copies(cell, 1)
    assert {key for key, p in copy.named_parameters() if p.requires_grad} == {"weight"}
    with pytest.raises(ValueError, match=r"\['weight', .*; got 'scale'"):
        Full(parts=("scale",), free=True).copies(cell, 1)
    assert Full(parts=("scale",)).copies(cell, 1)


@each_cell
def test_what_holds_nothing_has_nothing_to_let_go(make, device) -> None:
    taught = make(torch.float64, device)
    z = somewhere(taught.start)
    [free], [full] = (form.copies(taught.deq.cell, 1) for form in (FREE, Full()))
    assert equal(free(z, taught.x), full(z, taught.x))
    assert plain(free).keys() == plain(full).keys()


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_no_steps_are_no_copies(form: Increments) -> None:
    assert form.copies(Mixing(3), 0) == []


def test_parts_that_begin_no_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['mix.weight'\]; got 'bias'"):
        Full(parts=("mix", "bias")).copies(Mixing(3), 1)


@pytest.mark.parametrize("rank", (0, -1))
def test_a_rank_is_at_least_one(rank: int) -> None:
    with pytest.raises(ValueError, match=f"`rank` is the rank r ≥ 1 .*; got {rank}"):
        LowRank(rank=rank)


@pytest.mark.parametrize("decay", (0.0, -0.5, 1.1, float("nan")))
def test_a_decay_is_a_fraction(decay: float) -> None:
    with pytest.raises(ValueError, match=r"`decay` is the ratio σ .* in \(0, 1\]; got"):
        Shared(decay=decay)
