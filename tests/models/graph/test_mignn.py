"""MIGNN: every splitting, resolvent and solver reaches the one solution of the equation."""

from dataclasses import replace

import pytest
import torch
import tyro
from models.graph.zoo import SPECS, WEIGHTS, adjacency_of, batch_of, model_of
from problems import jacobians, seeded
from torch import Tensor

from cdeq import Anderson, Broyden, Picard, solve
from cdeq.core.solvers.base import Solver
from cdeq.models.graph.batch import GraphBatch
from cdeq.models.graph.mignn import MIGNN, MIGNNSpec, cayley
from cdeq.models.graph.resolvent import Direct, Equation, Neumann
from cdeq.models.graph.splitting import (
    DouglasRachford,
    ForwardBackward,
    PeacemanRachford,
    Splitting,
)

SPEC = SPECS["forward-backward"]
ODD = batch_of("odd")

RESOLVENTS = (Neumann(terms=1), Neumann(terms=3), Direct())
EXACT = (
    ForwardBackward(),
    ForwardBackward(step=0.4),
    *(PeacemanRachford(step=a, resolvent=r) for a in (0.4, 1.0) for r in RESOLVENTS),
    *(DouglasRachford(step=a, resolvent=r) for a in (0.4, 1.0) for r in RESOLVENTS),
    PeacemanRachford(step=3.0, resolvent=Direct()),
    DouglasRachford(step=3.0, resolvent=Direct()),
)
"""Whose fixed points give the equilibrium itself."""
COLD = tuple(
    kind(step=a, resolvent=Neumann(terms=k, warm=False))
    for kind in (PeacemanRachford, DouglasRachford)
    for a in (0.4, 1.0)
    for k in (1, 3)
)


def name_of(splitting: Splitting) -> str:
    return repr(splitting).replace("(", "-").replace(")", "").replace(", ", "-")


each_exact = pytest.mark.parametrize("splitting", EXACT, ids=name_of)
each_splitting = pytest.mark.parametrize("splitting", (*EXACT, *COLD), ids=name_of)


def model_with(splitting: Splitting, scale: float = 1.0) -> MIGNN:
    """The same weights for every splitting."""
    model = model_of(replace(SPEC, splitting=splitting))
    assert isinstance(model, MIGNN)
    model.deq.cell.scale.data.fill_(scale)
    return model


def equation_of(model: MIGNN, batch: GraphBatch) -> Equation:
    """Put together here, from the formula."""
    cell = model.deq.cell
    skew = (cell.weight - cell.weight.T) / 2
    unit = torch.eye(4, dtype=torch.float64)
    turn = (unit - skew) @ torch.linalg.inv(unit + skew) @ torch.diag(cell.signs)
    weight = cell.kappa * torch.sigmoid(cell.scale) * turn
    injected = batch.features @ cell.injection.weight.T + cell.injection.bias
    return Equation(injected.detach(), weight.detach(), batch.adjacency)


def propagated(z: Tensor, equation: Equation) -> Tensor:
    """A Z Wᵀ + B."""
    return equation.adjacency.matrix.to_dense() @ z @ equation.weight.T + equation.injection


@torch.no_grad()
def answer(model: MIGNN, batch: GraphBatch, solver: Solver = Anderson(window=3)) -> Tensor:
    x = model.encode(batch)
    found = solve(
        model.bind(x), model.initial(x), solver, max_steps=1200, tol=1e-13, batched=False
    )
    return model.spec.splitting.answer(found.check().z)


@each_exact
@pytest.mark.parametrize(
    "solver", (Picard(), Anderson(), Broyden(memory=60)), ids=("picard", "anderson", "broyden")
)
def test_every_way_leads_to_the_solution(splitting: Splitting, solver: Solver) -> None:
    model = model_with(splitting)
    z = answer(model, ODD, solver)
    expected = propagated(z, equation_of(model, ODD)).relu()
    torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
    reference = answer(model_with(ForwardBackward()), ODD)
    torch.testing.assert_close(z, reference, rtol=1e-9, atol=1e-9)
    assert float((z == 0).double().mean()) > 0.1 and float(z.max()) > 0.1  # both sides of ReLU


@pytest.mark.parametrize("graph", ("star", "odd"))
@each_splitting
def test_it_contracts_by_the_factor_it_says(graph: str, splitting: Splitting) -> None:
    model, batch = model_with(splitting), batch_of(graph)
    bound = splitting.factor(model.deq.cell.norm())
    assert 0.0 < bound < 1.0
    f = model.bind(model.encode(batch))
    for seed in range(2):
        state = seeded(len(batch.features), 4, seed=seed, dtype=torch.float64)
        jacobian = jacobians(f, state, batched=False)[0]
        assert float(torch.linalg.matrix_norm(jacobian, 2)) <= bound + 1e-12


@pytest.mark.parametrize("change", WEIGHTS.values(), ids=list(WEIGHTS))
@pytest.mark.parametrize("kappa", (0.3, 1.0))
@torch.no_grad()
def test_the_weight_is_orthogonal_but_for_its_length(change, kappa: float) -> None:
    model = model_of(replace(SPEC, kappa=kappa))
    change(model)
    cell = model.deq.cell
    length = kappa * float(torch.sigmoid(cell.scale))
    assert cell.norm() == pytest.approx(length, abs=1e-10)
    cell.fold()  # which puts W in the place of what it is made of
    unit = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(cell.weight @ cell.weight.T, length**2 * unit, rtol=0, atol=1e-10)
    assert cell.norm() == pytest.approx(length, abs=1e-10)


def test_a_cayley_transform_turns_and_the_signs_reflect() -> None:
    free = seeded(5, 5, seed=1, dtype=torch.float64)
    turn = cayley(free)
    torch.testing.assert_close(turn @ turn.T, torch.eye(5, dtype=torch.float64))
    assert float(torch.linalg.det(turn)) == pytest.approx(1.0)
    torch.testing.assert_close(cayley(free + free @ free.T - 7), turn)
    torch.testing.assert_close(cayley(-free), turn.T)
    assert torch.equal(cayley(free + free.T), torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("hidden", "share", "negative"), [(64, 0.2, 13), (4, 0.2, 1), (4, 0.0, 0), (10, 0.5, 5)]
)
@torch.no_grad()
def test_a_share_of_the_signs_is_negative(hidden: int, share: float, negative: int) -> None:
    spec = replace(SPEC, hidden=hidden, negative=share)
    cell = model_of(spec).deq.cell
    assert int((cell.signs == -1).sum()) == negative
    assert int((cell.signs == 1).sum()) == hidden - negative
    cell.fold()
    assert float(torch.linalg.det(cell.weight).sign()) == (-1) ** negative


STATE = seeded(9, 4, seed=6, dtype=torch.float64)


@torch.no_grad()
def test_the_auxiliary_variable_is_a_gradient_step_from_the_solution() -> None:
    """u* = Z - a F(Z), with F(Z) = Z - A Z Wᵀ - B."""
    z = answer(model_with(EXACT[0]), ODD)
    gap = z - propagated(z, equation_of(model_with(EXACT[0]), ODD))
    for step in (0.4, 1.0):
        u = z - step * gap
        for splitting in (s for s in EXACT[2:] if s.step == step):
            model = model_with(splitting)
            found = model.bind(model.encode(ODD))(u)
            torch.testing.assert_close(found, u, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", (PeacemanRachford, DouglasRachford))
def test_a_cold_series_is_biased_and_a_warm_one_is_not(kind: type) -> None:
    exact, size = answer(model_with(EXACT[0]), ODD), {}
    for warm in (True, False):
        for terms in (1, 2, 4, 8):
            splitting = kind(resolvent=Neumann(terms=terms, warm=warm))
            size[warm, terms] = float((answer(model_with(splitting), ODD) - exact).norm())
    assert max(size[True, k] for k in (1, 2, 4, 8)) < 1e-9
    assert size[False, 1] > 0.1
    for fewer, more in ((1, 2), (2, 4), (4, 8)):
        ratio = (0.74 / 2) ** (more - fewer)  # a w / (1 + a) with w = σ(1), in the worst case
        assert 0.0 < size[False, more] < 2 * ratio * size[False, fewer]


def test_the_head_sees_z_and_not_the_auxiliary_variable() -> None:
    for splitting in EXACT:
        model = model_with(splitting)
        seen = STATE if isinstance(splitting, ForwardBackward) else STATE.clamp_min(0)
        x = model.encode(ODD)
        assert torch.equal(model.decode(STATE, x), model.head(seen))


def test_logits_do_not_depend_on_the_splitting() -> None:
    with torch.no_grad():
        logits = [model_with(splitting)(ODD) for splitting in (*EXACT[::3], EXACT[-1])]
    for other in logits:
        torch.testing.assert_close(other, logits[0], rtol=1e-9, atol=1e-9)


def test_gradients_do_not_depend_on_the_splitting() -> None:
    """The implicit function theorem speaks of the answer alone."""
    every = []
    for splitting in (*EXACT[::3], EXACT[-1]):
        model = model_with(splitting)
        loss = model.loss(model(ODD), ODD).sum()
        every.append(torch.autograd.grad(loss, [*model.parameters()]))
    for gradients in every:
        for ours, theirs in zip(gradients, every[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_an_adjacency_that_is_not_symmetric_is_refused() -> None:
    batch = batch_of("star", adjacency_of("star", normalisation="row"))
    with pytest.raises(ValueError, match=r"has to be symmetric here.*by `normalised` with"):
        model_of(SPEC).encode(batch)
    free = model_of(replace(SPEC, unguaranteed=True))
    z, b = answer(free, batch), equation_of(free, batch)
    torch.testing.assert_close(z, propagated(z, b).relu(), rtol=1e-9, atol=1e-9)
    exact = model_of(replace(SPECS["direct"], unguaranteed=True))
    with pytest.raises(ValueError, match="has to be symmetric here"):
        exact.bind(exact.encode(batch))


@pytest.mark.parametrize("kappa", (1.1, 20.0))
def test_giving_up_uniqueness_has_to_be_said(kappa: float) -> None:
    with pytest.raises(ValueError, match=f"makes MIGNN well-posed.*got {kappa}; .*`unguaranteed`"):
        MIGNNSpec(kappa=kappa)
    spec = MIGNNSpec(inputs=2, classes=2, kappa=kappa, unguaranteed=True)
    model = MIGNN(spec)
    model.deq.cell.scale.data.fill_(20.0)
    assert model.well_posed.startswith("not known to be well-posed: ‖W‖₂ = ")


def test_what_is_guaranteed_is_said() -> None:
    """‖W‖ = σ(1) = 0.7311."""
    w = 0.7310585786
    text = model_with(PeacemanRachford(resolvent=Direct())).well_posed
    assert "‖W‖₂ = 0.7311 < 1" in text and f"f contracts by {w / (2 - w):.4f}" in text
    large = model_with(PeacemanRachford(step=3.0, resolvent=Neumann(terms=1)))
    assert "so large a step only the audit can tell" in large.well_posed


@pytest.mark.parametrize("kappa", (0.0, -0.5, float("nan"), float("inf")))
def test_a_bound_is_positive(kappa: float) -> None:
    with pytest.raises(ValueError, match="`kappa` bounds ‖W‖₂, so it is above 0"):
        MIGNNSpec(kappa=kappa, unguaranteed=True)


@pytest.mark.parametrize("share", (1.0, -0.1, float("nan")))
def test_a_share_of_signs_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="`negative` is a share in"):
        MIGNNSpec(negative=share)


def test_the_command_line_reaches_into_the_splitting() -> None:
    words = "--splitting.step 0.5 --splitting.resolvent.terms 3 --splitting.resolvent.no-warm"
    config = (tyro.conf.AvoidSubcommands,)
    parsed = tyro.cli(MIGNNSpec, default=MIGNNSpec(), args=words.split(), config=config)
    expected = PeacemanRachford(step=0.5, resolvent=Neumann(terms=3, warm=False))
    assert parsed == MIGNNSpec(splitting=expected)


def test_the_command_line_chooses_a_splitting() -> None:
    words = "splitting:douglas-rachford splitting.resolvent:direct"
    parsed = tyro.cli(MIGNNSpec, args=words.split())
    assert parsed == MIGNNSpec(splitting=DouglasRachford(resolvent=Direct()))
