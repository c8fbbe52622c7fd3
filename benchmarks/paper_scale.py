"""The recipes of the paper's own size: built, counted, and trained for a few updates.

    CDEQ_DATA=data python benchmarks/paper_scale.py --output results/paper-scale.json

* `wikitext103` reads WikiText-2 (the same articles in its test, fewer in its training), with the
  vocabulary and all other sizes of WikiText-103;
* `imagenet` reads the first ten classes of tiny-imagenet-200's `val`, brought to 224 × 224.

Batches are small and everything else is the recipe's: one kind of update of pre-training, one of
the teacher with its own solver, budget and gradient. Numbers of parameters are compared with those
that were published. Ten minutes on two cores, 12 GiB.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch
from machine import machine
from torch.optim import AdamW

from cdeq.atomic import write_atomic
from cdeq.data.image_cache import Decoding
from cdeq.data.image_folder import read_image_folder
from cdeq.data.streams import Streams
from cdeq.models.base import Batch, EquilibriumModel
from cdeq.models.language.deq_transformer import DEQTransformer
from cdeq.models.vision.mdeq import MDEQ
from cdeq.recipes.base import Recipe, TeacherRecipe
from cdeq.recipes.data_root import data_root
from cdeq.recipes.image import ImageRecipe
from cdeq.recipes.image_sources import FolderSource
from cdeq.recipes.language import LanguageRecipe
from cdeq.recipes.registry import RECIPES
from cdeq.recipes.text_sources import WikiTextSource
from cdeq.training.objective import Objective
from cdeq.training.teacher import FewStepObjective, TeacherObjective

TYPES = 267_735
"""Words of WikiText-103."""
PUBLISHED = {"wikitext103": 98e6, "imagenet": 18e6}
"""Parameters, as the papers round them."""

Loaded: TypeAlias = tuple[EquilibriumModel, Iterator[Batch]]
"""A teacher, and what it is trained on."""


def text(
    recipe: LanguageRecipe, root: Path, rows: int
) -> tuple[EquilibriumModel, Iterator[Batch]]:
    """The teacher, and segments of text."""
    corpus = WikiTextSource(root=root).load()
    model = DEQTransformer(replace(recipe.network, vocabulary=TYPES))
    past, length = recipe.network.memory, recipe.length
    data = Streams(corpus.train, streams=rows, length=length, past=past, types=TYPES)
    return model, (data.take(torch.arange(rows) + rows * step) for step in range(9))


def pictures(
    recipe: ImageRecipe, root: Path, rows: int
) -> tuple[EquilibriumModel, Iterator[Batch]]:
    """The teacher, and photographs, decoded and changed as in training."""
    assert isinstance(recipe.source, FolderSource)
    framing = recipe.source.framing
    classes = sorted((root / "tiny-imagenet-200/val").iterdir())
    with TemporaryDirectory() as folder:
        for path in classes[:10]:
            (Path(folder) / "some" / path.name).parent.mkdir(exist_ok=True)
            (Path(folder) / "some" / path.name).symlink_to(path.resolve())
        data, _ = read_image_folder(Path(folder) / "some", Decoding(framing=framing))
        torch.manual_seed(0)
        drawn = torch.randperm(len(data))[: 9 * rows].split(rows)
        changed = [recipe.augment()(data.take(part), torch.Generator()) for part in drawn]
    return MDEQ(recipe.network), iter(changed)


def updated(
    objective: Objective, batches: Iterator[Batch], updates: int, rate: float
) -> tuple[list[float], float]:
    """The losses of a few updates, and the seconds of one."""
    adam, losses = AdamW(objective.parameters(), lr=rate), []
    start = time.perf_counter()
    for step, batch in enumerate(islice(batches, updates)):
        rows = torch.arange(len(batch[0]))
        loss = objective(batch, rows, torch.Generator().manual_seed(step))["loss"]
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(round(float(loss.detach()), 4))
    return losses, round((time.perf_counter() - start) / updates, 1)


def measured(
    name: str, model: EquilibriumModel, batches: Iterator[Batch], settings: TeacherRecipe
) -> dict[str, Any]:
    """Parameters by part, and what updates do."""
    first = settings.pretraining
    assert first is not None
    size = {part: _size(module) for part, module in model.named_children()}
    before, early = updated(
        FewStepObjective(model, first.steps), batches, 3, first.plan.learning_rate
    )
    after, late = updated(
        TeacherObjective(model, settings.loss), batches, 2, settings.plan.learning_rate
    )
    return {
        "parameters": _size(model),
        "parameters_by_part": size,
        "over_published": round(_size(model) / PUBLISHED[name], 3),
        "pretraining_losses": before,
        "pretraining_seconds": early,
        "teacher_losses": after,
        "teacher_seconds": late,
    }


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


LOADERS: dict[str, Callable[[Any, Path, int], Loaded]] = {
    "wikitext103": text,
    "imagenet": pictures,
}


def measure(recipe: Recipe, name: str, root: Path, rows: int) -> dict[str, Any]:
    """One of the recipes."""
    torch.manual_seed(recipe.seed)
    model, batches = LOADERS[name](recipe, root, rows)
    return {"rows": rows, **measured(name, model, batches, recipe.teacher)}


def main() -> None:
    """Measure what is asked for, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("results/paper-scale.json"))
    parser.add_argument("--root", type=Path, default=data_root())
    parser.add_argument("--recipes", nargs="+", choices=[*LOADERS], default=[*LOADERS])
    parser.add_argument("--rows", type=int, default=2, help="samples an update")
    given = parser.parse_args()
    found = {
        name: measure(RECIPES[name](), name, given.root, given.rows) for name in given.recipes
    }
    contents = {"recipes": found, "machine": machine()}
    write_atomic(given.output, (json.dumps(contents, indent=2) + "\n").encode())
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
