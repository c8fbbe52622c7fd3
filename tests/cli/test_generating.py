"""`cdeq generate`: the texts are the library's, and what cannot be read is said in a sentence."""

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
import tyro
from consistency.toys import disturb
from models.language.contracting import contracting
from rich.console import Console

from cdeq import AnchoredDEQ, ConsistencyDEQ, ExponentialSchedule, UntiedDEQ, refine
from cdeq.cli import bars
from cdeq.cli.generating import STARTS, Generate, Ready, StartName, Written, generate
from cdeq.consistency.increments import LowRank
from cdeq.data.subwords import Subwords
from cdeq.data.vocabulary import Vocabulary
from cdeq.errors import CDEQError, StoreError
from cdeq.models.language.decoding import Decoding
from cdeq.models.language.deq_transformer import DEQTransformer
from cdeq.models.language.generation import continuations
from cdeq.models.language.reading import read, solved, stepped

WORDS = ("the", "<eos>", "cat", "saw", "dog", "a", "tree", "and", "then", "ran", "<unk>")
VOCABULARY = Vocabulary(WORDS)
TIMES = ExponentialSchedule.from_ratio(0.5)
OPTIONS = Generate(prompt="the cat saw the dog and", tokens=12, students=(), tol=1e-9)


class Said:
    """A console and what it was told."""

    def __init__(self, **settings: object) -> None:
        self.out = StringIO()
        self.console = Console(file=self.out, width=100, **settings)  # type: ignore[arg-type]

    @property
    def text(self) -> str:
        return self.out.getvalue()


def students_of(teacher: DEQTransformer) -> dict[str, Ready]:
    torch.manual_seed(0)
    paper = ConsistencyDEQ.from_teacher(teacher).double()
    best = UntiedDEQ.from_teacher(teacher, steps=2, increments=LowRank(rank=1)).double()
    for student in (paper, best):
        disturb(student, 0.05)
    solver = AnchoredDEQ(paper, teacher, steps=0)
    named = {"paper": paper, "best": best, "solver": solver}
    return {name: Ready(student.eval(), TIMES) for name, student in named.items()}


def run(
    options: Generate = OPTIONS, vocabulary: Vocabulary = VOCABULARY, memory: int = 16
) -> tuple[dict[str, Written], str]:
    said, teacher = Said(), contracting(memory)
    written = generate(options, teacher, students_of(teacher), vocabulary, said.console, length=4)
    return written, said.text


@pytest.mark.parametrize("name", ["teacher", "paper", "best"])
@pytest.mark.parametrize(
    ("temperature", "starts"), [(0.0, ("cold", "previous")), (1.5, ("recurring", "cold"))]
)
def test_texts_are_those_of_the_library(
    name: str, temperature: float, starts: tuple[StartName, StartName]
) -> None:
    """And weights that are folded beforehand change no number."""
    decoding = Decoding(temperature=temperature)
    options = replace(
        OPTIONS,
        students=("paper", "best"),
        nfe=3,
        decoding=decoding,
        draws=5,
        start=starts[0],
        student_start=starts[1],
    )
    teacher = contracting()
    students = students_of(teacher)
    written = generate(options, teacher, students, VOCABULARY, Said().console, length=4)[name]
    answer = solved(teacher, tol=1e-9)
    if name in students:
        own = students[name].student
        answer = stepped(lambda x, z: refine(own, x, z, TIMES.times(3)))
    prompt = torch.tensor([VOCABULARY.encode(options.prompt)])
    before = read(teacher, prompt[:, :-1], answer, segment=4)
    steps = list(
        continuations(
            teacher,
            prompt[:, -1:],
            answer,
            tokens=12,
            decoding=decoding,
            generator=torch.Generator().manual_seed(5),
            start=STARTS[starts[name in students]],
            after=before,
        )
    )
    assert written.ids == [int(step.token) for step in steps]
    assert written.evaluations * 12 == pytest.approx(sum(step.evaluations for step in steps))
    assert written.prompt == before.evaluations
    assert written.speed > 0.0 == written.missed


@pytest.mark.parametrize("draws", [0, 1])
def test_equal_states_draw_equal_texts(draws: int) -> None:
    """A student that is its teacher's solver, given time, writes what its teacher writes."""
    written, _ = run(replace(OPTIONS, students=("solver",), nfe=40, draws=draws))
    assert written["solver"].ids == written["teacher"].ids
    other, _ = run(replace(OPTIONS, draws=draws + 1))
    assert other["teacher"].ids != written["teacher"].ids


def test_texts_stand_side_by_side_with_their_costs() -> None:
    written, said = run(replace(OPTIONS, students=("paper", "best"), nfe=2))
    lines = [line.split() for line in said.splitlines()]
    assert ["teacher", "paper", "best"] in lines
    assert "the cat saw the dog and …" in said
    spent = f"{written['teacher'].evaluations:.1f}"
    assert ["evaluations", "a", "token", spent, "2.0", "2.0"] in lines
    speeds = [f"{text.speed:.0f}" for text in written.values()]
    assert ["tokens", "a", "second", *speeds] in lines
    before = str(written["teacher"].prompt)
    assert ["evaluations,", "prompt", before, "4", "4"] in lines
    words = VOCABULARY.decode(written["teacher"].ids).split()
    assert all(word in said for word in words)


def test_the_teacher_is_left_alone() -> None:
    teacher = contracting()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    generate(OPTIONS, teacher, {}, VOCABULARY, Said().console)
    after = teacher.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_unknown_words_are_named_once() -> None:
    written, said = run(replace(OPTIONS, prompt="the zebra saw the gnu and the zebra"))
    assert "Unknown words, read as <unk>: zebra, gnu.\n" in said
    same, _ = run(replace(OPTIONS, prompt="the <unk> saw the <unk> and the <unk>"))
    assert same["teacher"].ids == written["teacher"].ids


def test_many_unknown_words_are_counted() -> None:
    _, said = run(replace(OPTIONS, prompt=" ".join(f"w{number}" for number in range(12))))
    assert "w6, w7 and 4 more.\n" in said
    assert "w8," not in said


@pytest.mark.parametrize("prompt", ["", "  ", "\t"])
def test_an_empty_prompt_is_the_end_of_a_line(prompt: str) -> None:
    written, said = run(replace(OPTIONS, prompt=prompt))
    assert said.startswith("The prompt is empty, so the text begins after the end of a line.\n")
    ended, silent = run(replace(OPTIONS, prompt="\n"))
    assert ended["teacher"].ids == written["teacher"].ids
    assert "empty" not in silent


def test_an_empty_prompt_is_the_end_of_a_line_in_subwords() -> None:
    subwords, said = Subwords.of(["the cat saw the dog\n"] * 9, size=260), Said()
    teacher = contracting(words=len(subwords))
    empty, ended = (
        generate(replace(OPTIONS, prompt=prompt), teacher, {}, subwords, said.console)["teacher"]
        for prompt in ("", "\n")
    )
    assert empty.ids == ended.ids
    assert "The prompt is empty" in said.text


LONG = "the cat saw the dog and then ran"


@pytest.mark.parametrize(("memory", "seen"), [(2, 3), (6, 7)])
def test_a_long_prompt_is_said_to_be_long(memory: int, seen: int) -> None:
    _, said = run(replace(OPTIONS, prompt=LONG), memory=memory)
    assert f"The prompt has 8 tokens, of which a new one sees the last {seen};" in said
    _, silent = run(replace(OPTIONS, prompt=LONG, refuse_long=True), memory=7)
    assert "of which" not in silent


def test_missed_tolerances_are_counted() -> None:
    written, said = run(replace(OPTIONS, tol=1e-9, max_steps=2, tokens=5))
    assert written["teacher"].missed == 5 + 2  # tokens, and segments of the prompt
    assert written["teacher"].evaluations == 2.0
    assert "7 of the teacher's states had a residual above 1e-09 after 2 evaluations." in said
    assert "residual" not in run()[1]


def test_only_the_end_of_a_prompt_is_shown_again() -> None:
    _, said = run(replace(OPTIONS, prompt="cat " + "the dog " * 40))
    assert "\n… the dog the dog" in said.replace("\n\n", "\n")
    assert "cat the" not in said


def test_a_prompt_may_be_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("the cat\nsaw the dog and", encoding="utf-8")
    typed, _ = run(replace(OPTIONS, prompt="the cat\nsaw the dog and"))
    read_in, _ = run(replace(OPTIONS, prompt="", file=path))
    assert read_in["teacher"].ids == typed["teacher"].ids


def test_a_text_does_nothing_to_the_terminal() -> None:
    words = ("\x1b[2J", "<eos>", "\x07", *(f"{number}\x9b" for number in range(8)))
    _, said = run(replace(OPTIONS, prompt="<eos>"), Vocabulary(words))
    assert not {"\x1b", "\x07", "\x9b"} & {*said}
    assert "�" in said


def test_marks_in_a_text_are_text() -> None:
    words = ("[bold]", "<eos>", "[/x]", *(f"[red]{number}" for number in range(8)))
    written, said = run(replace(OPTIONS, prompt="[bold]"), Vocabulary(words))
    assert "[bold] …" in said
    new = {words[number] for number in written["teacher"].ids} - {"<eos>"}
    assert new and all(word in said for word in new)


@pytest.mark.parametrize(("patience", "shown"), [(0.0, True), (60.0, False)])
def test_a_bar_is_for_those_who_wait(
    patience: float, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, "PATIENCE", patience)
    said, teacher = Said(force_terminal=True), contracting()
    generate(OPTIONS, teacher, {}, VOCABULARY, said.console)
    assert ("%" in said.text) == shown
    assert "evaluations a token" in said.text


def test_options_are_typed_as_they_are_named() -> None:
    words = "--prompt x --students paper best --nfe 1 --decoding.top-k 3 --start cold --draws 4"
    assert tyro.cli(Generate, args=words.split()) == Generate(
        prompt="x",
        students=("paper", "best"),
        nfe=1,
        decoding=Decoding(top_k=3),
        start="cold",
        draws=4,
    )
    assert tyro.cli(Generate, args=["--students"]).students == ()


Wrong = Callable[[DEQTransformer, Path], object]


def with_prompt(prompt: str, vocabulary: Vocabulary = VOCABULARY, **changes: object) -> Wrong:
    options = replace(OPTIONS, prompt=prompt, **changes)  # type: ignore[arg-type]
    return lambda teacher, folder: generate(options, teacher, {}, vocabulary, Said().console)


def no_student(teacher: DEQTransformer, folder: Path) -> None:
    options = replace(OPTIONS, students=("untied-8",))
    generate(options, teacher, students_of(teacher), VOCABULARY, Said().console)


def no_students_at_all(teacher: DEQTransformer, folder: Path) -> None:
    generate(replace(OPTIONS, students=("best",)), teacher, {}, VOCABULARY, Said().console)


def another_teachers(teacher: DEQTransformer, folder: Path) -> None:
    other = contracting()
    disturb(other)
    options = replace(OPTIONS, students=("paper",))
    generate(options, teacher, students_of(other), VOCABULARY, Said().console)


def file_with(content: bytes) -> Wrong:
    def wrong(teacher: DEQTransformer, folder: Path) -> None:
        path = folder / "prompt.txt"
        path.write_bytes(content)
        options = replace(OPTIONS, prompt="", file=path)
        generate(options, teacher, {}, VOCABULARY, Said().console)

    return wrong


def no_file(teacher: DEQTransformer, folder: Path) -> None:
    options = replace(OPTIONS, prompt="", file=folder / "none.txt")
    generate(options, teacher, {}, VOCABULARY, Said().console)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (with_prompt("cat", Vocabulary(WORDS[:-1])), StoreError, "knows 11 tokens and this"),
        (with_prompt("gnu", Vocabulary((*WORDS[:-1], "x"))), ValueError, "got 'gnu'"),
        (with_prompt("cat \udce9t"), ValueError, "got the byte 0xe9 at position 4"),
        (with_prompt(LONG * 3, refuse_long=True), CDEQError, "sees the last 17 tokens, and the"),
        (no_student, CDEQError, "'untied-8' .* from these: paper, best, solver"),
        (no_students_at_all, CDEQError, "from these: none yet"),
        (another_teachers, StoreError, "student of another teacher"),
        (file_with(b"the c\xe9t"), StoreError, "no text in UTF-8"),
        (file_with(b""), StoreError, "holds no words"),
        (no_file, StoreError, "cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(
    wrong: Wrong, error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said) as caught:
        wrong(contracting(), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [{"tokens": 0}, {"nfe": 0}, {"max_steps": 0}, {"prompt": "x", "file": Path("y")}],
    ids=str,
)
def test_options_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"count of at least 1|leave one out"):
        Generate(**wrong)  # type: ignore[arg-type]
