"""`cdeq COMMAND …`: the only place where strings become objects."""

import difflib
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, NoReturn, cast

import tyro
from rich.console import Console

from cdeq.cli.commands import COMMANDS, Options, start
from cdeq.cli.keys import key_lines, positionals
from cdeq.cli.scoring import combined, compare, report, show
from cdeq.cli.stages import Run
from cdeq.errors import CDEQError
from cdeq.evaluation.timing import bench
from cdeq.recipes import RECIPES, Recipe
from cdeq.report.panels import ERROR
from cdeq.training.processes import is_main
from cdeq.training.stopping import Interrupted

OTHER_COMMANDS = {
    "combine": "Put results of several recipes side by side: `ignn=FILE eignn=FILE`.",
    "bench": "Measure the cost of solvers and student steps, as ratios.",
    "compare": "Draw chosen models of several result files, a row of axes a task.",
    "report": "Merge runs that differ in their seed; write table and pictures.",
    "recipes": "List the recipes.",
}


@dataclass(frozen=True)
class RunOptions:
    """Where the run goes.

    Arguments:
        folder: Everything is written here; the same command continues a stopped run.
        fresh: Replace what this command left in the folder before.
    """

    folder: Path
    fresh: bool = False


@dataclass(frozen=True)
class ReportOptions:
    """Runs to merge, and where the report goes.

    Arguments:
        runs: Run folders or result files; several must differ in their seed alone.
        output: Where to write, without suffix: .json, .md and pictures.
        pictures: Draw one picture a metric; `compare` draws chosen models alone.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    output: Path
    pictures: bool = True


@dataclass(frozen=True)
class CompareOptions:
    """What to draw.

    Arguments:
        results: Result files, one a task.
        models: The models to compare; solvers and teacher are drawn as references.
        output: The picture, .png or .svg.
        beside: The metric beside the task's own.
    """

    results: tyro.conf.Positional[tuple[Path, ...]]
    models: tuple[str, ...]
    output: Path
    beside: str = ERROR


@dataclass(frozen=True)
class CombineOptions:
    """What to put side by side.

    Arguments:
        results: LABEL=FILE, a result file under the label that its models get; `=FILE` for none.
        output: Where to write, without suffix: .json and .md.
    """

    results: tyro.conf.Positional[tuple[str, ...]]
    output: Path


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Arguments:
        output: The result file.
        rounds: Side-by-side repetitions; the ratio of medians is reported.
    """

    output: Path = Path("results/bench.json")
    rounds: int = 7


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits with 1 on an error that has a sentence, with 130 on Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(quiet=not is_main())
    try:
        _dispatch(given, console)
    except (Interrupted, KeyboardInterrupt) as stop:
        again = "the same command, without `--fresh`, continues there."
        console.print(f"\n{str(stop) or 'stopped'}; {again}", highlight=False, soft_wrap=True)
        raise SystemExit(130) from None
    except (CDEQError, ValueError, OSError) as error:
        Console(stderr=True).print(
            f"cdeq: {error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        raise SystemExit(1) from None


def _dispatch(given: list[str], console: Console) -> None:
    command = given[0] if given else "--help"
    if command in ("-h", "--help"):
        _print(console, _overview(console.width))
    elif command == "recipes":
        _print(console, _recipes(console.width))
    elif command == "bench":
        options = tyro.cli(BenchOptions, prog="cdeq bench", args=given[1:])
        bench(options.output, rounds=options.rounds, say=console.print)
    elif command == "report":
        chosen = tyro.cli(ReportOptions, prog="cdeq report", args=given[1:])
        found = report(chosen.runs, chosen.output, console, pictures=chosen.pictures)
        show(found, console)
    elif command == "compare":
        wanted = tyro.cli(CompareOptions, prog="cdeq compare", args=given[1:])
        compare(wanted.results, wanted.models, wanted.output, console, beside=wanted.beside)
    elif command == "combine":
        parts = tyro.cli(CombineOptions, prog="cdeq combine", args=given[1:])
        show(combined(_labelled(parts.results), parts.output), console)
    elif command in COMMANDS:
        run, own = _run(command, given[1:], console)
        start(command, run) if own is None else start(command, run, own)
    else:
        _unknown("command", command, [*COMMANDS, *OTHER_COMMANDS])


def _labelled(pairs: Sequence[str]) -> dict[str, Path]:
    """LABEL=FILE, taken apart.

    Raises:
        ValueError: When one has no `=`, or a label comes twice.
    """
    split = [pair.partition("=") for pair in pairs]
    labels = [label for label, _, _ in split]
    if not all(sign for _, sign, _ in split) or len({*labels}) != len(labels):
        raise ValueError(
            f"results are named LABEL=FILE, each label once; got {' '.join(pairs) or 'none'}."
        )
    return {label: Path(file) for label, _, file in split}


def _run(command: str, given: list[str], console: Console) -> tuple[Run, Options | None]:
    """The run that `cdeq COMMAND RECIPE --key value …` describes, and options of its own."""
    if not given or given[0] in ("-h", "--help"):
        _print(console, _command_help(command, console.width))
        raise SystemExit(0 if given else 2)
    name, *rest = given
    if name not in RECIPES:
        _unknown("recipe", name, RECIPES)
    options, default = RunOptions(Path("out") / name), RECIPES[name]()
    if "-h" in rest or "--help" in rest:
        _print(console, _recipe_help(command, name, options, default, console.width))
        raise SystemExit(0)
    own = COMMANDS[command].options
    wanted = {"run": options, "recipe": default} | ({} if own is None else {"own": own})
    parser = make_dataclass(
        "Arguments",
        [
            (key, Annotated[type(part), tyro.conf.arg(name="")], field(default=part))
            for key, part in wanted.items()
        ],
        frozen=True,
    )
    parsed = cast(
        Any,
        tyro.cli(
            parser,
            prog=f"cdeq {command} {name}",
            args=rest,
            config=(tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed),
        ),
    )
    recipe: Recipe = parsed.recipe
    typed = shlex.join(["cdeq", command, *given])
    run = Run(name, recipe, parsed.run.folder, console, typed, parsed.run.fresh)
    return run, getattr(parsed, "own", None)


def _print(console: Console, lines: Iterator[str]) -> None:
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _overview(width: int) -> Iterator[str]:
    summaries = {name: command.summary for name, command in COMMANDS.items()}
    yield from (
        "cdeq: few-step inference for deep equilibrium models.",
        "",
        "usage: cdeq COMMAND RECIPE [--key value …]",
        "       cdeq COMMAND RECIPE --help          the keys that matter to the command",
        "",
        "commands:",
    )
    yield from _columns({**summaries, **OTHER_COMMANDS}, width)
    yield ""
    yield from _recipes(width)


def _recipes(width: int) -> Iterator[str]:
    yield "recipes:"
    yield from _columns({name: recipe.__doc__ or "" for name, recipe in RECIPES.items()}, width)


def _command_help(command: str, width: int) -> Iterator[str]:
    yield f"usage: cdeq {command} RECIPE [--key value …]"
    yield from ("", COMMANDS[command].summary, "")
    yield from _recipes(width)
    yield from ("", f"`cdeq {command} RECIPE --help` lists the keys.")


def _recipe_help(
    command: str, name: str, options: RunOptions, recipe: Recipe, width: int
) -> Iterator[str]:
    wanted = COMMANDS[command].keys or tuple(f.name for f in fields(recipe))
    own = COMMANDS[command].options
    placed = "" if own is None else "".join(f" {n.upper()}…" for n in positionals(own))
    yield f"usage: cdeq {command} {name}{placed} [--key value …]"
    yield from ("", COMMANDS[command].summary)
    yield from wrap(f"{name}: {RECIPES[name].__doc__}", width)
    yield from key_lines(options, width)
    if own is not None:
        yield from key_lines(own, width)
    yield from key_lines(recipe, width, only=wanted)
    if COMMANDS[command].keys:
        about = (
            "Keys of other commands are accepted as well, and have to be the same in one folder"
        )
        yield from ("", *wrap(f"{about}; `cdeq demo {name} --help` lists all.", width))


def _columns(texts: dict[str, str], width: int) -> Iterator[str]:
    indent = max(map(len, texts)) + 4
    for name, text in texts.items():
        first = f"  {name}".ljust(indent)
        yield from wrap(text, width, initial_indent=first, subsequent_indent=" " * indent)


def _unknown(kind: str, name: str, known: Sequence[str] | dict[str, Any]) -> NoReturn:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
    raise CDEQError(f"there is no {kind} {name!r}; {hint}")


if __name__ == "__main__":
    main()
