"""The DEQ-Transformer: what it reads, remembers and answers; its equilibrium."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models.language.small import (
    MEMORY,
    SPEC,
    WORDS,
    close,
    disturbed,
    model_of,
    segment,
    text_of,
    told,
    whole,
)
from torch import Tensor

from cdeq import (
    Anderson,
    Full,
    HyperDEQ,
    LowRank,
    Phantom,
    Picard,
    Shared,
    UntiedDEQ,
    certify,
    refine,
    solve,
)
from cdeq.hypersolver.scope import PerPosition
from cdeq.models.language.batch import LanguageBatch
from cdeq.models.language.deq_transformer import DEQTransformer
from cdeq.models.repeatable import NormalisedLinear

each_norm = pytest.mark.parametrize("norm", ["post", "pre"])


# Reading and remembering


@each_norm
def test_what_is_unknown_may_be_anything(norm: str) -> None:
    model, text = model_of(norm=norm, max_steps=5), text_of()
    batch = told(text)
    batch.known[0, :3] = False
    batch.known[1] = False
    unknown = ~batch.known
    other = batch._replace(
        past=batch.past.masked_fill(unknown, WORDS + 9),
        memory=batch.memory.masked_fill(unknown.unsqueeze(2), torch.nan),
    )
    assert torch.equal(model(other), model(batch))
    x = model.encode(other)
    kept = model.remember(model.initial(x), x)
    assert bool(kept.isfinite().all())


def test_without_a_memory_the_past_is_not_looked_at() -> None:
    model, text = model_of(max_steps=5), text_of()
    assert torch.equal(model(segment(text, 6, 10)), model(segment(text, 6, 10, past=0)))


def test_a_memory_that_there_is_none_of_changes_no_batch() -> None:
    batch, memory = told(text_of()), torch.zeros(3, MEMORY, 8)
    assert model_of().recall(batch, None) is batch
    assert model_of().recall(batch, memory).memory is memory


@pytest.mark.parametrize("length", [1, 3, 4, 7])
@pytest.mark.parametrize("remembered", [0, 2, MEMORY, 9])
def test_the_last_states_are_remembered(length: int, remembered: int) -> None:
    model, text = model_of(memory=remembered), text_of(13)
    memory, read = None, torch.zeros(3, remembered, 8, dtype=torch.float64)
    for start in range(0, 13, length):
        batch = segment(text, start, min(start + length, 13), past=remembered)
        x = model.encode(model.recall(batch, memory))
        z = torch.randn(3, batch.tokens.shape[1], 8, dtype=torch.float64, requires_grad=True)
        memory = model.remember(z, x)
        read = torch.cat([read, z.detach()], dim=1)
        assert torch.equal(memory, read[:, read.shape[1] - remembered :])
        assert not memory.requires_grad


@pytest.mark.parametrize("length", [1, 4, 7])
def test_segments_are_one_text(length: int) -> None:
    """Where the memory reaches back to the beginning, equilibria do not depend on the cutting."""
    model, text = model_of(memory=12, max_steps=120), text_of(12)
    memory, parts = None, []
    with torch.no_grad():
        for start in range(0, 12, length):
            batch = segment(text, start, min(start + length, 12), past=12)
            x = model.encode(model.recall(batch, memory))
            z = model.deq(x, model.initial(x)).z
            memory = model.remember(z, x)
            parts.append(model.decode(z, x))
        close(torch.cat(parts, dim=1), model(whole(text)))


# Answers and their gradients


def test_losses_and_divergences_are_those_of_the_distribution() -> None:
    model, batch = model_of(max_steps=5), told(text_of())
    hidden, other = model(batch).detach(), model(batch).detach().flip(0)
    p, q = model.log_probs(hidden), model.log_probs(other)
    picked = p.gather(2, batch.target.unsqueeze(2)).squeeze(2)
    close(model.loss(hidden, batch), -picked.mean(1))
    close(model.divergence(hidden, other), (q.exp() * (q - p)).sum(2).mean(1))


def gradients(model: DEQTransformer, hidden: Tensor, batch: LanguageBatch) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(model.loss(hidden, batch).mean(), parameters)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("solver", [Picard(), Anderson()])
def test_the_implicit_gradient_is_the_unrolled_one(solver: Picard | Anderson) -> None:
    model, batch = model_of(solver=solver, max_steps=100), told(text_of())
    implicit = gradients(model, model(batch), batch)
    x = model.encode(batch)
    unrolled = solve(model.bind(x), model.initial(x), Picard(), max_steps=150).z
    for name, gradient in gradients(model, model.decode(unrolled, x), batch).items():
        close(implicit[name], gradient, 1e-6)
        assert bool((gradient != 0).any()), name


def test_no_gradient_flows_through_the_memory() -> None:
    model, text = model_of(max_steps=20), text_of()
    x = model.encode(segment(text, 0, 6))
    batch = model.recall(segment(text, 6, 10), model.remember(model.deq(x, model.initial(x)).z, x))
    fresh = segment(text, 6, 10)._replace(memory=batch.memory.clone())
    once = gradients(model, model(batch), batch)
    for name, gradient in gradients(model, model(fresh), fresh).items():
        assert torch.equal(gradient, once[name])


@each_norm
def test_mixed_precision_reaches_every_parameter(norm: str) -> None:
    model, batch = model_of(norm=norm, max_steps=8).float(), told(text_of())
    batch = batch._replace(memory=batch.memory.float())
    exact = model.loss(model(batch), batch).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = model.loss(model(batch), batch)
    narrow.mean().backward()
    torch.testing.assert_close(narrow.detach(), exact, rtol=0.05, atol=0.05)
    for parameter in model.parameters():
        assert bool(parameter.grad.isfinite().all())
        assert bool((parameter.grad != 0).any())


@pytest.mark.parametrize("rate", ["word_dropout", "head_dropout"])
def test_features_are_dropped_at_all_positions_alike(rate: str) -> None:
    model, batch = model_of(**{rate: 0.5}, max_steps=3), told(text_of())
    assert torch.equal(model(batch), model_of(max_steps=3)(batch))
    x, z = model.encode(batch), torch.ones(3, 4, 8, dtype=torch.float64)
    model.train()
    torch.manual_seed(4)
    word = rate == "word_dropout"
    share = model.encode(batch).inputs / x.inputs if word else model.decode(z, x) / z
    close(share, share[:, :1].expand_as(share))
    assert {*share.detach().round(decimals=6).flatten().tolist()} == {0.0, 2.0}
    assert not torch.equal(share[0], share[1])


# Students and folders

FORMS = {
    "full": Full(),
    "free": Full(free=True),
    "parts": Full(parts=("first", "second")),
    "low-rank": LowRank(rank=1),
    "shared": Shared(decay=0.5),
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))


@torch.no_grad()
def path(student: UntiedDEQ, model: DEQTransformer, steps: int = 4) -> list[Tensor]:
    x = model.encode(told(text_of()))
    return list(refine(student, x, model.initial(x), torch.zeros(steps)))


@each_norm
@each_form
def test_an_untrained_student_is_picard_and_a_merged_one_the_same(norm: str, form) -> None:
    """Normalised weights are folded into the steps' maps, and nothing else changes."""
    model = model_of(norm=norm)
    student = UntiedDEQ.from_teacher(model, steps=3, increments=form)
    with torch.no_grad():
        x = model.encode(told(text_of()))
        z, f = model.initial(x), model.bind(x)
        expected = [z := f(z) for _ in range(3)]
    close(torch.stack(path(student, model, 3)), torch.stack(expected))
    learned = disturbed(student, 0.02)
    merged = learned.merged()
    close(torch.stack(path(merged, model)), torch.stack(path(learned, model)))
    assert float((path(merged, model, 1)[0] - expected[0]).abs().max()) > 1e-3
    for cell in merged.learned.cells:
        lengths = [layer.length for layer in cell.modules() if isinstance(layer, NormalisedLinear)]
        assert lengths == [None] * 6
    assert model.deq.cell.qkv.length is not None


@each_form
def test_students_come_back(form, tmp_path: Path) -> None:
    model = model_of()
    guess = disturbed(model.initializer().double())
    student = disturbed(UntiedDEQ.from_teacher(model, steps=2, increments=form, first=guess), 0.02)
    student.save_pretrained(tmp_path / "untied")
    fresh = model.initializer()
    read = UntiedDEQ.from_pretrained(tmp_path / "untied", model, first=fresh)
    for one, other in zip(path(read, model), path(student, model), strict=True):
        assert torch.equal(one, other)


def test_learned_solvers_come_back(tmp_path: Path) -> None:
    model = model_of()
    guess = disturbed(model.initializer().double())
    student = disturbed(
        HyperDEQ.from_teacher(model, scope=PerPosition(), width=10, initializer=guess)
    )
    student.save_pretrained(tmp_path)
    read = HyperDEQ.from_pretrained(tmp_path, model, initializer=model.initializer())
    for one, other in zip(path(read, model), path(student, model), strict=True):
        assert torch.equal(one, other)


def test_certified_answers_do_not_depend_on_who_else_is_in_the_batch() -> None:
    """Samples leave it one by one, and their words, memories and masks with them."""
    model, text = model_of(solver=Anderson(), max_steps=60), text_of()
    student = disturbed(UntiedDEQ.from_teacher(model, first=model.initializer().double()), 0.01)
    batch = told(text)
    batch.known[1] = False
    found = certify(model, student, model.encode(batch), tol=1e-10, steps=2).check()
    assert len({*found.steps.tolist()}) > 1
    for row in range(3):
        alone = model.encode(LanguageBatch(*(part[row : row + 1] for part in batch)))
        other = certify(model, student, alone, tol=1e-10, steps=2)
        assert other.steps.tolist() == found.steps[row : row + 1].tolist()
        close(other.z, found.z[row : row + 1])
        close(model.bind(alone)(other.z).detach(), other.z)


@each_norm
@pytest.mark.parametrize("phantom", [None, Phantom(steps=3, damping=0.5)])
def test_a_model_comes_back_from_its_folder(
    norm: str, phantom: Phantom | None, tmp_path: Path
) -> None:
    model, batch = model_of(norm=norm, phantom=phantom, tol=1e-3).float(), whole(text_of())
    model.save_pretrained(tmp_path)
    read = DEQTransformer.from_pretrained(tmp_path)
    assert read.spec == model.spec
    assert read.deq.adjoint == model.deq.adjoint
    assert torch.equal(read(batch), model(batch))


# Misuse


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heads": 0}, "`heads` is a count of at least 1; got 0"),
        ({"adjoint_steps": 0}, "`adjoint_steps` is a count of at least 1; got 0"),
        ({"features": 9, "heads": 3}, "`features` are even"),
        ({"heads": 3}, "divided evenly among `heads`; got 8 and 3"),
        ({"memory": -1}, "`memory` counts tokens from 0 up; got -1"),
        ({"dropout": 1.0}, r"`dropout` is a share in \[0, 1\); got 1.0"),
        ({"word_dropout": -0.1}, r"`word_dropout` is a share in \[0, 1\); got -0.1"),
        ({"head_dropout": float("nan")}, r"`head_dropout` is a share in \[0, 1\); got nan"),
        ({"cutoffs": (WORDS,)}, "`cutoffs` are where rarer clusters begin"),
    ],
)
def test_settings_have_ranges(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(SPEC, **changes)


def test_a_model_is_built_for_a_known_vocabulary() -> None:
    with pytest.raises(ValueError, match="built for a known `vocabulary`"):
        DEQTransformer(replace(SPEC, vocabulary=None, cutoffs=(99,)))


@pytest.mark.parametrize("token", [-1, WORDS])
def test_tokens_that_there_are_none_of_are_refused(token: int) -> None:
    model, text = model_of(), text_of()
    for name in ("tokens", "past"):
        batch = told(text)
        getattr(batch, name)[0, 1] = token
        with pytest.raises(ValueError, match=f"knows {WORDS} tokens, counted from 0; got tokens"):
            model.encode(batch)


def test_a_memory_has_a_state_for_each_past_token() -> None:
    model, batch = model_of(), told(text_of())
    for memory in (batch.memory[:, 1:], batch.memory[..., :4], batch.memory[:2]):
        with pytest.raises(ValueError, match="one state for each past token; got"):
            model.encode(model.recall(batch, memory))
