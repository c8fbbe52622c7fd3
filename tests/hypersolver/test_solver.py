"""A learned solver: exact at birth, one evaluation a step, and nothing kept but its window."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from consistency.toys import TIMES, as_model, disturb, equal, run
from problems import Counted, Mixing, Taught, each_teacher, rows, seeded, vector_teacher
from torch import Tensor, nn

from cdeq import DEQ, Picard, certify, refine, relative_error, solve
from cdeq.core.state import detach, like, tensors
from cdeq.core.tree import map_tensors
from cdeq.errors import StoreError
from cdeq.hypersolver.scope import PerPosition, Pooled, Scope
from cdeq.hypersolver.solver import HyperDEQ, HyperMemory
from cdeq.models.function import FunctionModel
from cdeq.typing import Context, Map, State

SCOPES = (Pooled(), PerPosition())
each_scope = pytest.mark.parametrize("scope", SCOPES, ids=str)
each_window = pytest.mark.parametrize("window", (0, 1, 3))


class Guess(nn.Module):
    """Looks at x alone."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, z: State, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


def learned(taught: Taught, size: float = 0.3, **settings: object) -> HyperDEQ:
    """A solver whose weights are anything but the newest state's."""
    student = HyperDEQ.from_teacher(taught, width=10, **settings)
    disturb(student, size)
    return student


def memories(student: HyperDEQ, taught: Taught, steps: int) -> list[tuple[State, HyperMemory]]:
    """What each step of a run returns."""
    step, z, memory, found = student.bind(taught.x), taught.start, None, []
    with torch.no_grad():
        for t in TIMES[:steps]:
            z, memory = step(z, t, memory)
            found.append((z, memory))
    return found


# What a step is


@each_teacher
@each_scope
@each_window
def test_untrained_it_is_picard_to_the_last_bit(make, scope, window, device) -> None:
    taught = make(torch.float64, device)
    student = HyperDEQ.from_teacher(taught, window=window, scope=scope)
    z = taught.start
    for state in run(student, taught, 6):
        z = taught.f(z)
        assert equal(state, z)


@each_teacher
@each_scope
@each_window
def test_a_step_is_the_weighted_sum_of_relaxed_images(make, scope, window, device) -> None:
    """Per position, from the memory alone."""
    taught = make(torch.float64, device)
    student = learned(taught, window=window, scope=scope)
    form = student.compression
    for k, (z, memory) in enumerate(memories(student, taught, 6)):
        alpha, beta = memory.mixing
        assert alpha.shape == (len(beta), min(k, window) + 1)
        torch.testing.assert_close(alpha.sum(1), torch.ones_like(beta))
        expected = torch.zeros_like(flat(z, form))
        for i, (point, value) in enumerate(zip(*memory[:2], strict=True)):
            relaxed = beta[:, None] * flat(value, form) + (1 - beta[:, None]) * flat(point, form)
            expected += alpha[:, i, None] * relaxed
        torch.testing.assert_close(flat(z, form), expected)


def flat(state: State, form) -> Tensor:
    """One row a unit."""
    last = [part.movedim(form.axis, -1) for part in tensors(state)]
    if isinstance(form.scope, PerPosition):
        return torch.cat([part.reshape(-1, part.shape[-1]) for part in last], dim=1)
    samples = len(last[0]) if form.batched else 1
    return torch.cat([part.reshape(samples, -1) for part in last], dim=1)


@each_teacher
@each_scope
def test_the_memory_tells_the_true_images_and_the_mixed_residual(make, scope, device) -> None:
    taught = make(torch.float64, device)
    student = learned(taught, scope=scope)
    for _, memory in memories(student, taught, 4):
        for point, value in zip(*memory[:2], strict=True):
            assert equal(taught.f(point), value)
        mixed = flat(student.mixed_residual(memory), student.compression)
        parts = [flat(v, student.compression) - flat(z, student.compression)
                 for z, v in zip(*memory[:2], strict=True)]  # fmt: skip
        expected = sum(a[:, None] * r for a, r in zip(memory.mixing.alpha.T, parts, strict=True))
        torch.testing.assert_close(mixed, expected)


@each_teacher
@each_scope
def test_a_fixed_point_stays_one_whatever_was_learned(make, scope, device) -> None:
    taught = make(torch.float64, device)
    batched = taught.deq.batched
    exact = detach(solve(taught.f, taught.start, Picard(), max_steps=400, batched=batched).z)
    student = learned(taught, size=1.0, scope=scope)
    with torch.no_grad():
        *_, z = refine(student, taught.x, exact, TIMES[:9])
    assert float(relative_error(z, exact, batched=batched).max()) < 1e-12


@each_teacher
@each_scope
def test_each_step_costs_one_evaluation(make, scope, device) -> None:
    taught = make(torch.float64, device)
    student = learned(taught, scope=scope, window=2)
    student.cell.forward = counted = Counted(student.cell.forward)
    for steps in range(1, 7):
        counted.calls = 0
        run(student, taught, steps)
        assert counted.calls == steps


@each_teacher
@each_scope
@each_window
def test_memory_does_not_grow_beyond_the_window(make, scope, window, device) -> None:
    taught = make(torch.float64, device)
    sizes: list[int] = []
    for _, memory in memories(learned(taught, window=window, scope=scope), taught, 8):
        held: list[Tensor] = []
        map_tensors(lambda tensor, held=held: held.append(tensor), tuple(memory))
        sizes.append(sum(tensor.numel() for tensor in held))
    assert sizes[: window + 1] == sorted(set(sizes))
    assert set(sizes[window:]) == {sizes[-1]}


def test_a_run_can_be_taken_step_by_step(device) -> None:
    """All that a run needs goes through its memory: two runs may take turns."""
    taught = vector_teacher(torch.float64, device)
    student = learned(taught)
    whole, z2, memory, memory2 = run(student, taught, 5), taught.start + 1, None, None
    z = taught.start
    with torch.no_grad():
        for t, expected in zip(TIMES[:5], whole, strict=True):
            z, memory = student(z, t, taught.x, memory)
            z2, memory2 = student(z2, t, taught.x, memory2)
            assert equal(z, expected)
        *_, alone = refine(student, taught.x, taught.start + 1, TIMES[:5])
    assert equal(z2, alone)


# Who hears of whom


@pytest.mark.parametrize("index", (0, 2))
@each_scope
def test_a_sample_does_not_hear_of_its_batch(scope: Scope, index: int, device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = learned(taught, scope=scope)
    part = slice(index, index + 1)
    alone = Taught(taught.deq, taught.x[part], taught.start[part], taught.features, taught.axis)
    for ours, theirs in zip(run(student, alone, 5), run(student, taught, 5), strict=True):
        torch.testing.assert_close(ours, rows(theirs, part))


class Causal(nn.Module):
    """A position sees those before it: the cell tanh(W mean + x) of sequences."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        counts = torch.arange(1, z.shape[1] + 1, dtype=z.dtype, device=z.device)
        return torch.tanh(0.5 * self.mix(z.cumsum(1) / counts[:, None]) + x)


def sequences(length: int, device: torch.device) -> Taught:
    torch.manual_seed(0)
    x = seeded(2, 7, 4, seed=40, dtype=torch.float64, device=device)[:, :length]
    deq = DEQ(Causal(4).to(x), max_steps=40)
    return Taught(deq, x, torch.zeros_like(x), (4,), -1)


@pytest.mark.parametrize("length", (1, 3, 6))
def test_weights_a_token_are_causal(length: int, device) -> None:
    whole, part = sequences(7, device), sequences(length, device)
    student = learned(whole, scope=PerPosition(), initializer=Guess(4))
    for ours, theirs in zip(run(student, part, 5), run(student, whole, 5), strict=True):
        torch.testing.assert_close(ours, theirs[:, :length])


def test_weights_a_sequence_are_not(device) -> None:
    whole, part = sequences(7, device), sequences(3, device)
    student = learned(whole, scope=Pooled())
    assert not torch.allclose(run(student, part, 5)[-1], run(student, whole, 5)[-1][:, :3])


Graph = tuple[Tensor, Tensor]


class Propagating(Mixing):
    """tanh(A z W + x) on a graph."""

    def forward(self, z: Tensor, x: Graph) -> Tensor:
        return torch.tanh(x[0] @ self.mix(z) + x[1])


class NodeGuess(Guess):
    def forward(self, z: Tensor, x: Graph) -> Tensor:
        return super().forward(z, x[1])


def along(x: Graph) -> Map:
    """Codes averaged over neighbours."""
    return lambda codes: x[0] @ codes


def path(order: Tensor, device: torch.device) -> Taught:
    """A path of six nodes in some order, no two of which are alike."""
    torch.manual_seed(0)
    dense = torch.eye(6, dtype=torch.float64, device=device)
    adjacency = (dense + dense.roll(1, 0).tril() + dense.roll(-1, 0).triu())[order][:, order] / 3
    x = seeded(6, 3, seed=41, dtype=torch.float64, device=device)[order]
    deq = DEQ(Propagating(3).to(x), max_steps=40, batched=False)
    return Taught(deq, (adjacency, x), torch.zeros_like(x), (3,), -1)


GRAPHS = {
    "pooled": {},
    "per node": {"scope": PerPosition()},
    "smoothed": {"scope": PerPosition(), "neighbours": along},
    "guessing": {"scope": PerPosition(), "neighbours": along, "initializer": NodeGuess(3)},
}


@pytest.mark.parametrize("settings", GRAPHS.values(), ids=list(GRAPHS))
def test_the_order_of_nodes_does_not_matter(settings, device) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2], device=device)
    plain, mixed = path(torch.arange(6, device=device), device), path(order, device)
    student = learned(plain, **settings)
    for ours, theirs in zip(run(student, mixed, 5), run(student, plain, 5), strict=True):
        torch.testing.assert_close(ours, theirs[order])


def test_codes_are_smoothed_once_a_step(device) -> None:
    taught, calls = path(torch.arange(6, device=device), device), []

    def watched(x: Graph) -> Map:
        calls.append(0)
        return lambda codes: (calls.append(codes.shape), along(x)(codes))[1]

    student = learned(taught, scope=PerPosition(), neighbours=watched)
    smoothed = run(student, taught, 4)
    assert calls == [0, *[(6, 10)] * 4]
    student.neighbours = None
    assert not equal(smoothed[-1], run(student, taught, 4)[-1])


def test_smoothing_over_a_graph_without_edges_changes_nothing(device) -> None:
    taught = path(torch.arange(6, device=device), device)
    student = learned(taught, scope=PerPosition(), neighbours=lambda x: lambda codes: codes)
    smoothed = run(student, taught, 4)
    student.neighbours = None
    assert all(map(equal, smoothed, run(student, taught, 4)))


# Where a run begins


def test_the_initializer_takes_the_place_of_z_0(device) -> None:
    taught, guess = vector_teacher(torch.float64, device), Guess()
    student = HyperDEQ.from_teacher(taught, initializer=guess)
    first, second = run(student, taught, 2)
    start = guess(taught.start, taught.x)
    assert torch.equal(first, taught.f(start)) and torch.equal(second, taught.f(first))
    elsewhere = Taught(taught.deq, taught.x, taught.start + 7, taught.features, taught.axis)
    assert all(map(equal, run(student, elsewhere, 2), (first, second)))
    ((_, memory),) = memories(student, taught, 1)
    assert torch.equal(memory.points[0], start)


def test_what_is_learned_goes_where_the_teacher_is(dtype, device) -> None:
    taught = vector_teacher(dtype, device)
    student = HyperDEQ.from_teacher(taught, initializer=Guess())
    assert {(p.dtype, p.device) for p in student.parameters()} == {(dtype, device)}


def test_a_function_without_weights_has_a_place_too(dtype, device) -> None:
    model = FunctionModel(lambda z, x: torch.cos(z) + x, (4,)).to(device, dtype)
    x = torch.rand(3, 4, dtype=dtype, device=device)
    *_, z = refine(HyperDEQ.from_teacher(model), x, model.initial(x), TIMES[:3])
    assert z.dtype == dtype and torch.equal(z, torch.cos(torch.cos(torch.cos(0 * x) + x) + x) + x)


@pytest.mark.parametrize("shape", ((1, 5), (3, 4)))
def test_a_guess_of_another_shape_is_refused(shape: tuple[int, int], device) -> None:
    """It would broadcast otherwise."""
    taught = vector_teacher(torch.float64, device)
    student = HyperDEQ.from_teacher(taught)
    student.initializer = Constant(torch.zeros(shape, dtype=torch.float64, device=device))
    with pytest.raises(ValueError, match=rf"form of z_0, \[\(3, 5\)\].*got \[\({shape[0]}, "):
        run(student, taught, 1)


class Constant(nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, z: State, x: Context) -> Tensor:
        return self.value


# What is trained


@each_teacher
@each_scope
def test_gradients_reach_all_that_is_learned_and_nothing_else(make, scope, device) -> None:
    taught = make(torch.float64, device)
    student = learned(taught, scope=scope)
    moved = like(taught.start, tuple(part + 1 for part in tensors(taught.start)))
    *_, z = refine(student, taught.x, moved, TIMES[:4])
    sum(part.square().sum() for part in tensors(z)).backward()
    for name, parameter in student.named_parameters():
        own = not name.startswith("cell.")
        assert parameter.requires_grad == own
        assert (parameter.grad is not None and bool(parameter.grad.abs().max() > 0)) == own


@each_scope
def test_the_gradient_of_a_run_is_right(scope: Scope, device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = learned(taught, scope=scope, window=2)

    def end(start: Tensor) -> Tensor:
        *_, z = refine(student, taught.x[:2], start, TIMES[:4])
        return z

    start = seeded(2, 5, seed=5, dtype=torch.float64, device=device).requires_grad_()
    assert torch.autograd.gradcheck(end, start)


def test_f_is_a_frozen_copy_that_never_trains(device) -> None:
    taught = vector_teacher(torch.float64, device)
    taught.deq.cell.dropout = nn.Dropout(0.5)
    student = learned(taught)
    for mode in (True, False, True):
        assert student.train(mode) is student
        assert student.network.training == mode and not student.cell.dropout.training
    states = run(student, taught, 4)
    taught.deq.cell.mix.weight.data.zero_()
    assert all(map(equal, run(student, taught, 4), states))
    assert all(parameter.requires_grad for parameter in taught.deq.cell.parameters())


def test_mixed_precision_is_for_f_alone(device) -> None:
    taught = vector_teacher(torch.float32, device)
    student = learned(taught)
    with torch.autocast(device.type, torch.bfloat16):
        found = memories(student, taught, 4)
    exact = run(student, taught, 4)
    for (z, memory), wanted in zip(found, exact, strict=True):
        assert z.dtype == torch.float32
        sums = memory.mixing.alpha.sum(1)
        torch.testing.assert_close(sums, torch.ones_like(sums))
        torch.testing.assert_close(z, wanted, rtol=0.05, atol=0.05)


# Certified and adaptive


@each_teacher
@each_scope
@pytest.mark.parametrize("size", (0.3, 100.0))
def test_every_answer_is_certified_whatever_was_learned(make, scope, size, device) -> None:
    taught = make(torch.float64, device)
    model, student = as_model(taught), learned(taught, size=size, scope=scope)
    found = certify(model, student, taught.x, tol=1e-8, steps=4)
    assert found.status.name == "CONVERGED" and bool(found.converged.all())
    assert float(found.residual.max()) <= 1e-8


@torch.no_grad()
def test_it_stops_by_itself(device) -> None:
    taught = vector_teacher(torch.float64, device)
    student, batched = learned(taught, size=0.05), taught.deq.batched
    states = list(refine(student, taught.x, taught.start, TIMES[:60], stop=1e-6, batched=batched))
    exact = solve(taught.f, taught.start, Picard(), max_steps=400).z
    assert 3 < len(states) < 60
    assert float(relative_error(states[-1], exact, batched=batched).max()) < 1e-4


# Folders


def flipped(x: Tensor) -> Map:
    """Everybody's neighbour is somebody else."""
    return lambda codes: codes.flip(0)


FORMS: dict[str, Callable[[], dict]] = {
    "plain": dict,
    "wide": lambda: {"width": 20, "window": 1},
    "per position": lambda: {"scope": PerPosition()},
    "guessing": lambda: {"initializer": Guess()},
    "smoothed": lambda: {
        "scope": PerPosition(),
        "neighbours": lambda x: lambda codes: codes.flip(0),
    },
}
READ_WITH = ("initializer", "neighbours")


@pytest.mark.parametrize("form", FORMS)
def test_what_was_learned_is_saved(form: str, device, tmp_path: Path) -> None:
    taught, settings = vector_teacher(torch.float64, device), FORMS[form]()
    student = HyperDEQ.from_teacher(taught, **settings)
    disturb(student)
    student.save_pretrained(tmp_path)
    torch.manual_seed(1)  # what is not saved must not depend on the moment of reading
    again = {name: part for name, part in FORMS[form]().items() if name in READ_WITH}
    read = HyperDEQ.from_pretrained(tmp_path, taught, **again)
    assert all(map(equal, run(read, taught, 6), run(student, taught, 6)))
    assert not read.training and read.window == student.window
    read.save_pretrained(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_the_file_does_not_hold_the_teacher(device, tmp_path: Path) -> None:
    taught = vector_teacher(torch.float64, device)
    student = HyperDEQ.from_teacher(taught)
    student.save_pretrained(tmp_path)
    own = sum(p.numel() for p in student.parameters() if p.requires_grad)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert 8 * own < size < 8 * own + 2048  # names and shapes


def test_another_teacher_and_other_parts_are_refused(device, tmp_path: Path) -> None:
    taught = vector_teacher(torch.float64, device)
    read = partial(HyperDEQ.from_pretrained, teacher=taught)
    for form in ("plain", "guessing", "smoothed"):
        HyperDEQ.from_teacher(taught, **FORMS[form]()).save_pretrained(tmp_path / form)
    with pytest.raises(StoreError, match="built with an `initializer` is read with another such"):
        read(tmp_path / "guessing")
    with pytest.raises(StoreError, match=r"holds .* built with an `initializer`"):
        read(tmp_path / "plain", initializer=Guess())
    with pytest.raises(StoreError, match="settings and weights make no HyperDEQ"):
        read(tmp_path / "guessing", initializer=nn.Sequential(Guess(4)))
    with pytest.raises(StoreError, match="codes are smoothed: True; one that was built with"):
        read(tmp_path / "smoothed")
    taught.deq.cell.mix.weight.data[0, 0] += 1e-9
    with pytest.raises(StoreError, match="student of another teacher"):
        read(tmp_path / "plain")


class Single(Scope):
    """Somebody's own: one α for all samples together."""

    def gather(self, codes: Sequence[Tensor], *, batched: bool) -> Tensor:
        return Pooled().gather(codes, batched=False)

    def spread(self, weight: Tensor, part: Tensor, *, axis: int, batched: bool) -> Tensor:
        return weight


def test_a_scope_of_ones_own(device) -> None:
    taught = vector_teacher(torch.float64, device)
    student = learned(taught, scope=Single())
    for k, (_, memory) in enumerate(memories(student, taught, 4)):
        assert memory.mixing.alpha.shape == (1, k + 1)


def test_what_nobody_could_read_is_not_written(device, tmp_path: Path) -> None:
    student = HyperDEQ.from_teacher(vector_teacher(torch.float64, device), scope=Single())
    with pytest.raises(StoreError, match=r"`scope` is Pooled\(\) or PerPosition\(\)"):
        student.save_pretrained(tmp_path / "student")
    assert not (tmp_path / "student").exists()


# Misuse


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"window": -1}, "counts the earlier states m ≥ 0 that are kept; got -1"),
        ({"width": 12}, "a multiple of 5 from 10 up; got 12"),
        ({"neighbours": along}, r"scope PerPosition\(\); got Pooled\(\)"),
    ],
)
def test_impossible_settings_are_refused(settings, text: str, device) -> None:
    with pytest.raises(ValueError, match=text):
        HyperDEQ.from_teacher(vector_teacher(torch.float64, device), **settings)


def test_a_readout_that_says_nothing_is_refused(device, monkeypatch) -> None:
    monkeypatch.setattr(Taught, "readout", lambda taught: nn.Identity())
    with pytest.raises(TypeError, match="got Identity: build a Compression for the state"):
        HyperDEQ.from_teacher(vector_teacher(torch.float64, device))
