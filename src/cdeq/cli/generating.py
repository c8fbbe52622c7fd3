"""`cdeq generate`: a prompt goes on, as the teacher has it and as its students have it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Literal, NamedTuple, TypeAlias

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from cdeq.cli.bars import patient_bar
from cdeq.cli.measuring import Ready
from cdeq.cli.prompting import encoded, judge_length, legible, prompt_text, require_vocabulary, say
from cdeq.consistency.refine import Student, refine
from cdeq.consistency.student import require_own
from cdeq.consistency.time import Schedule
from cdeq.consistency.untied import UntiedDEQ
from cdeq.core.cell import folded
from cdeq.data.tokenizer import Tokenizer
from cdeq.errors import CDEQError
from cdeq.models.language.decoding import Decoding
from cdeq.models.language.deq_transformer import DEQTransformer
from cdeq.models.language.generation import (
    Start,
    cold,
    continuations,
    previous,
    recurring,
)
from cdeq.models.language.reading import Answerer, read, solved, stepped
from cdeq.training.plan import require_count

SHOWN = 60
"""Tokens of the prompt that are shown again, the last ones."""

StartName: TypeAlias = Literal["recurring", "previous", "cold"]
STARTS: Mapping[StartName, Start] = {"recurring": recurring, "previous": previous, "cold": cold}


@dataclass(frozen=True, kw_only=True)
class Generate:
    """What goes on, and how.

    Arguments:
        prompt: The text to go on from; an empty one is the end of a line.
        file: A file in UTF-8 to take the prompt from, its last end of a line included.
        tokens: New tokens.
        students: Whose texts stand beside the teacher's, of those that are distilled.
        nfe: Their evaluations a segment of the prompt and a new token.
        tol: The relative residual to which the teacher's states are found.
        max_steps: Evaluations after which a state of the teacher's is left as it is; such are
            reported.
        start: Where a new state of the teacher's starts: at that of the same token where it is in
            memory, at that of the token before, or at z_0.
        student_start: Where a new state of a student's starts; z_0 is where they have learned to.
        decoding: How tokens are chosen.
        draws: The seed of the draws, which are the same for all texts.
        refuse_long: Refuse a prompt that the next token does not see in whole, instead of saying
            so.

    Raises:
        ValueError: When a count is below 1, or prompt and file are both given.
    """

    prompt: str = ""
    file: Path | None = None
    tokens: int = 40
    students: tuple[str, ...] = ("student-best",)
    nfe: int = 2
    tol: float = 1e-3
    max_steps: int = 100
    start: StartName = "recurring"
    student_start: StartName = "cold"
    decoding: Decoding = Decoding()
    draws: int = 0
    refuse_long: bool = False

    def __post_init__(self) -> None:
        for name in ("tokens", "nfe", "max_steps"):
            require_count(name, getattr(self, name))
        if self.prompt and self.file is not None:
            raise ValueError(
                f"the prompt is a text or that of a file; got {self.prompt!r} and {self.file}; "
                "leave one out."
            )


class Written(NamedTuple):
    """A text that goes on."""

    ids: list[int]
    evaluations: float
    """Of f, a new token."""
    speed: float
    """New tokens a second."""
    prompt: int
    """Evaluations of f that the prompt took, but for its last token."""
    missed: int
    """States that missed their tolerance."""


def generate(
    options: Generate,
    teacher: DEQTransformer,
    students: Mapping[str, Ready],
    tokenizer: Tokenizer,
    console: Console,
    *,
    length: int = 64,
) -> dict[str, Written]:
    """Go on with a prompt, and show the texts side by side.

    Arguments:
        options: What and how.
        teacher: The teacher.
        students: All that are distilled, by name.
        tokenizer: The teacher's.
        console: Where the texts go.
        length: Tokens of the prompt that are read at once.

    Returns:
        The texts, by who wrote them.

    Raises:
        ValueError: When the prompt has unknown words without a stand-in, or is no text.
        StoreError: When the vocabulary or a student is another teacher's, or the prompt's file
            cannot be read.
        CDEQError: When a student is not distilled, or the prompt is too long and such are refused.
    """
    require_vocabulary(tokenizer, teacher)
    model = folded(teacher)
    writers = _writers(options, teacher, model, students)
    text = prompt_text(options.prompt, options.file)
    prompt = torch.tensor([encoded(text, tokenizer, console)], device=model.device)
    judge_length(model, prompt.shape[1], console, refuse=options.refuse_long)
    written = {}
    for name, writer in writers.items():
        with patient_bar(console) as progress:
            advance = partial(progress, name)
            written[name] = _written(options, model, prompt, writer, length, advance)
    _show(options, tokenizer, prompt[0].tolist(), written, console)
    return written


class _Writer(NamedTuple):
    """Who goes on with a prompt."""

    answer: Answerer
    start: Start


def _writers(
    options: Generate,
    teacher: DEQTransformer,
    model: DEQTransformer,
    students: Mapping[str, Ready],
) -> dict[str, _Writer]:
    """The teacher, and the students that are wanted.

    Raises:
        CDEQError: When one is not there.
        StoreError: When one is another teacher's.
    """
    missing = [name for name in options.students if name not in students]
    if missing:
        raise CDEQError(
            f"there is no distilled {missing[0]!r} to go on with the prompt; distil it, or choose "
            f"`--students` from these: {', '.join(students) or 'none yet'}."
        )
    exact = solved(model, tol=options.tol, max_steps=options.max_steps)
    found = {"teacher": _Writer(exact, STARTS[options.start])}
    for name in options.students:
        require_own(students[name].student, teacher)
        answer = _refined(*students[name], options.nfe)
        found[name] = _Writer(answer, STARTS[options.student_start])
    return found


def _refined(student: Student, times: Schedule, nfe: int) -> Answerer:
    if isinstance(student, UntiedDEQ):
        student = student.merged()  # folding forgets increments that are not merged
    ready = folded(student) if isinstance(student, nn.Module) else student
    return stepped(lambda x, z0: refine(ready, x, z0, times.times(nfe)))


def _written(
    options: Generate,
    model: DEQTransformer,
    prompt: Tensor,
    writer: _Writer,
    length: int,
    advance: Callable[[int, int], object],
) -> Written:
    """How somebody goes on."""
    first, last, answer = prompt[:, :-1], prompt[:, -1:], writer.answer
    parts = -(-first.shape[1] // length) + options.tokens
    read(model, last, answer)  # whatever is done for the first time is slow
    reading = read(
        model, first, answer, segment=length, advance=lambda done, _: advance(done, parts)
    )
    steps = continuations(
        model,
        last,
        answer,
        tokens=options.tokens,
        decoding=options.decoding,
        generator=torch.Generator().manual_seed(options.draws),
        start=writer.start,
        after=reading,
    )
    ids, evaluations, missed, began = [], 0, reading.missed, perf_counter()
    for step in steps:
        ids.append(int(step.token))
        evaluations, missed = evaluations + step.evaluations, missed + step.missed
        advance(parts - options.tokens + len(ids), parts)
    speed = len(ids) / (perf_counter() - began)
    return Written(ids, evaluations / len(ids), speed, reading.evaluations, missed)


def _show(
    options: Generate,
    tokenizer: Tokenizer,
    prompt: list[int],
    written: Mapping[str, Written],
    console: Console,
) -> None:
    """The end of the prompt, and the texts side by side with what they cost."""
    shown = legible(tokenizer.decode(prompt[-SHOWN:]))
    if shown.strip():
        say(console, f"\n{'… ' if len(prompt) > SHOWN else ''}{shown} …")
    table = Table(box=SIMPLE)
    table.add_column("", no_wrap=True)
    for name in written:
        table.add_column(name, ratio=1)
    texts = list(written.values())
    table.add_row("", *(Text(legible(tokenizer.decode(text.ids))) for text in texts))
    table.add_row()
    table.add_row("evaluations a token", *(f"{text.evaluations:.1f}" for text in texts))
    table.add_row("tokens a second", *(f"{text.speed:.0f}" for text in texts))
    table.add_row("evaluations, prompt", *(str(text.prompt) for text in texts))
    console.print(table, highlight=False)
    if missed := written["teacher"].missed:
        say(
            console,
            f"{missed} of the teacher's states had a residual above {options.tol:g} after "
            f"{options.max_steps} evaluations.",
        )
