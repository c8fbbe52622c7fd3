"""Certified answers whatever states, contexts and students look like."""

import pytest
import torch
from consistency.toys import TOL, Jump, Rows, alone, close, only
from problems import seeded
from torch import Tensor

from cdeq import FunctionModel, residual_norm
from cdeq.consistency.certified import certify


def test_contexts_of_any_form_follow_their_samples(device) -> None:
    """Rows, what is common to all, and what is no tensor."""
    shift = tuple(
        seeded(5, *s, seed=3, dtype=torch.float64, device=device) for s in ((4, 2), (3,))
    )
    x = {"shift": shift, "scale": torch.tensor([0.5, 0.9]).to(shift[0]), "name": "pulled"}

    def pulled(z: tuple[Tensor, ...], x: dict) -> tuple[Tensor, ...]:
        common = x["scale"].prod()
        return tuple(torch.sin(common * a) + b for a, b in zip(z, x["shift"], strict=True))

    rows = Rows(pulled)
    model = FunctionModel(rows, ((4, 2), (3,)), axis=-1).to(device, torch.float64)
    exact = alone(model, x, tol=1e-12).z
    start = only(exact, torch.tensor([True, True, False, True, False], device=device))
    rows.sizes.clear()
    answer = certify(model, Jump(start), x, tol=TOL, steps=1).check()
    assert len(set(rows.sizes)) > 1
    assert isinstance(answer.z, tuple) and close(answer.z, exact)
    assert answer.fallback.tolist() == [False, False, True, False, True]


def test_what_is_common_to_all_may_have_as_many_rows_as_there_are_samples(device) -> None:
    """Width 3, samples 3: a row of the shift would broadcast, and another equation be solved."""
    own, shift = (seeded(*s, seed=4, dtype=torch.float64, device=device) for s in ((3, 3), (3,)))
    model = FunctionModel(
        lambda z, x: torch.sin(z) / 2 + x["own"] + x["shift"],
        (3,),
        select=lambda x, rows, samples: {**x, "own": x["own"][rows]},
    )
    x = {"own": own, "shift": shift}
    exact = alone(model, x, tol=1e-12).z
    start = only(exact, torch.tensor([True, False, True], device=device))
    answer = certify(model, Jump(start), x, tol=TOL, steps=1).check()
    assert bool((residual_norm(model.bind(x), answer.z) <= 1.01 * TOL).all())
    assert close(answer.z, exact)


@pytest.mark.parametrize("half", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("steps", (0, 2))
def test_states_of_half_precision_have_residuals_in_full(half, steps, device) -> None:
    x = torch.tensor([[0.5], [1.0], [-3.0]], dtype=half, device=device)
    model = FunctionModel(lambda z, x: z / 2 + x, (1,)).to(device)
    answer = certify(model, Jump(torch.ones_like(x)), x, tol=2e-2, steps=steps).check()
    assert (answer.z.dtype, answer.residual.dtype) == (half, torch.float32)
    assert torch.equal(answer.residual, residual_norm(model.bind(x), answer.z))


def test_a_student_of_ones_own_may_hold_its_teacher(device) -> None:
    model = FunctionModel(lambda z, x: z / 2 + x, (2,)).to(device)
    x = torch.ones(3, 2, device=device)
    student = Jump(2 * x)
    student.teacher = model
    assert certify(model, student, x, tol=1e-4, steps=1).check().steps.tolist() == [2, 2, 2]
