"""`cdeq predict`: what pictures show, as the teacher has it and as its students have it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
import tyro
from jaxtyping import Bool, Int
from rich.console import Console
from rich.progress import track
from torch import Tensor

from cdeq.cli.measuring import Ready
from cdeq.cli.prompting import legible, say
from cdeq.consistency.refine import refine
from cdeq.core.cell import folded
from cdeq.core.solve import solve
from cdeq.data.framing import Framing
from cdeq.data.image_cache import Unusable
from cdeq.data.labels import Labels
from cdeq.errors import CDEQError, StoreError
from cdeq.models.vision.batch import ImageBatch
from cdeq.models.vision.mdeq import MDEQ
from cdeq.training.plan import require_count
from cdeq.typing import Context, State

TEACHER = "teacher"


@dataclass(frozen=True, kw_only=True)
class Predict:
    """What is classified, and how.

    Arguments:
        images: Files; they are brought to the size of the training images.
        by: Who answers: the teacher, and students by name.
        nfe: A student's evaluations.
        tol: The relative residual to which the teacher's states are found.
        max_steps: Evaluations after which a state of the teacher's is left as it is; such are
            marked.
        top: Classes that are named, the likeliest first.
        unusable: Refuse a file that is no image, or leave it out and say so.
        batch_size: Images at a time.

    Raises:
        ValueError: When a count is below 1, or nobody is to answer.
    """

    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    by: tuple[str, ...] = (TEACHER,)
    nfe: int = 2
    tol: float = 1e-3
    max_steps: int = 100
    top: int = 5
    unusable: Unusable = "refuse"
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("nfe", "max_steps", "top", "batch_size"):
            require_count(name, getattr(self, name))
        if not self.by:
            raise ValueError("`by` names who answers, the teacher or students; got nobody.")


class Prediction(NamedTuple):
    """What one image shows."""

    image: Path
    by: str
    classes: tuple[str, ...]
    """The likeliest first."""
    probabilities: tuple[float, ...]
    evaluations: int
    """Of f, for this image."""
    missed: bool
    """Whether its state missed the tolerance; a student has none."""


_Answer: TypeAlias = tuple[tuple[int, ...], tuple[float, ...], int, bool]
"""The likeliest classes of an image, their probabilities, evaluations, and whether the tolerance
was missed."""


class _Found(NamedTuple):
    z: State
    evaluations: Int[Tensor, " b"]
    missed: Bool[Tensor, " b"]


_Answerer: TypeAlias = Callable[[Context, State], _Found]


def predict(
    options: Predict,
    teacher: MDEQ,
    students: Mapping[str, Ready],
    labels: Labels,
    console: Console,
) -> list[Prediction]:
    """Classify files, and show the likeliest classes with what they cost.

    Arguments:
        options: Which files, and how.
        teacher: The teacher.
        students: Those that are distilled, by name.
        labels: The names of the teacher's classes, and what becomes of a file.
        console: Where the answers go.

    Returns:
        A prediction for each file by each of those who answer, file by file.

    Raises:
        CDEQError: When there is no file, or a student is not distilled.
        StoreError: When a file is no image, and such are refused.
    """
    answerers = _answerers(options, teacher, students)
    if not options.images:
        raise CDEQError("there is nothing to classify; name image files behind the recipe.")
    paths, pixels = _decoded(options, labels.framing, console)
    predictions: list[Prediction] = []
    parts = range(0, len(paths), options.batch_size)
    for begin in track(parts, "classifying           ", console=console, transient=True):
        rows = slice(begin, begin + options.batch_size)
        image = torch.stack(pixels[rows]).to(teacher.device).float() / 255
        found = {
            name: _predicted(options, teacher, answer, image) for name, answer in answerers.items()
        }
        for number, path in enumerate(paths[rows]):
            for name, answers in found.items():
                best, likely, nfe, missed = answers[number]
                named = tuple(labels.classes[place] for place in best)
                predictions.append(Prediction(path, name, named, likely, nfe, missed))
    _show(predictions, console)
    return predictions


def _answerers(
    options: Predict, teacher: MDEQ, students: Mapping[str, Ready]
) -> dict[str, _Answerer]:
    """Those who are asked."""
    model = folded(teacher)
    found: dict[str, _Answerer] = {}
    for name in dict.fromkeys(options.by):
        if name == TEACHER:
            found[name] = _solving(options, model)
        elif name in students:
            found[name] = _refining(options, students[name])
        else:
            known = ", ".join((TEACHER, *students))
            raise CDEQError(f"there is no trained {name!r} to ask; choose `--by` from {known}.")
    return found


def _solving(options: Predict, model: MDEQ) -> _Answerer:
    def answer(x: Context, z0: State) -> _Found:
        found = solve(
            model.bind(x), z0, model.deq.solver, max_steps=options.max_steps, tol=options.tol
        )
        return _Found(found.z, found.steps, ~found.converged)

    return answer


def _refining(options: Predict, ready: Ready) -> _Answerer:
    def answer(x: Context, z0: State) -> _Found:
        *_, z = refine(ready.student, x, z0, ready.times.times(options.nfe))
        samples = len(x)
        return _Found(z, torch.full((samples,), options.nfe), torch.zeros(samples) > 0)

    return answer


def _decoded(
    options: Predict, framing: Framing, console: Console
) -> tuple[list[Path], list[Tensor]]:
    """The files that are images, and their pixels."""
    paths, pixels = [], []
    for path in options.images:
        try:
            pixels.append(framing.decode(path))
            paths.append(path)
        except StoreError as error:
            if options.unusable == "refuse":
                raise
            say(console, f"{error} It is left out.")
    if not paths:
        raise CDEQError("none of the files is an image that can be read.")
    return paths, pixels


@torch.no_grad()
def _predicted(options: Predict, teacher: MDEQ, answer: _Answerer, image: Tensor) -> list[_Answer]:
    unknown = torch.zeros(len(image), dtype=torch.long, device=image.device)
    x = teacher.encode(ImageBatch(image, unknown))
    found = answer(x, teacher.initial(x))
    probabilities = teacher.decode(found.z, x).softmax(1)
    likely, best = probabilities.topk(min(options.top, probabilities.shape[1]), dim=1)
    pairs = zip(best.tolist(), likely.tolist(), strict=True)
    return [
        (tuple(names), tuple(shares), int(found.evaluations[row]), bool(found.missed[row]))
        for row, (names, shares) in enumerate(pairs)
    ]


def _show(predictions: Sequence[Prediction], console: Console) -> None:
    """Under each image, a line for each of those who answer."""
    width = max(len(found.by) for found in predictions)
    for path, answers in groupby(predictions, lambda found: found.image):
        say(console, f"\n{legible(str(path))}")
        for found in answers:
            pairs = zip(found.classes, found.probabilities, strict=True)
            named = ", ".join(f"{legible(name)} {share:.1%}" for name, share in pairs)
            spent = "evaluation" if found.evaluations == 1 else "evaluations"
            star = "*" if found.missed else ""
            say(console, f"  {found.by:<{width}}  {named} ({found.evaluations}{star} {spent})")
    if any(found.missed for found in predictions):
        say(console, "* The state was left with a residual above the tolerance.")
