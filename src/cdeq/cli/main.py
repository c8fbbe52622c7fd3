"""`cdeq COMMAND …`: the only place where strings become objects."""

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import tyro
from rich.console import Console

from cdeq.cli.commands import RUN_COMMANDS, start
from cdeq.cli.scoring import report, show
from cdeq.cli.stages import Run
from cdeq.errors import CDEQError
from cdeq.evaluation.timing import bench
from cdeq.recipes import RECIPES, Recipe
from cdeq.training.stopping import Interrupted

OTHER_COMMANDS = {
    "bench": "Measure the cost of solvers and student steps, as ratios.",
    "report": "Merge runs that differ in their seed; write table and pictures.",
    "recipes": "List the recipes.",
}


@dataclass(frozen=True)
class RunOptions:
    """Where the run goes."""

    folder: Path
    """Everything is written here; the same command continues a stopped run."""
    fresh: bool = False
    """Replace what this command left in the folder before."""


@dataclass(frozen=True)
class ReportOptions:
    """Runs to merge, and where the report goes."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders or result files; several must differ in their seed alone."""
    output: Path
    """Where to write, without suffix: .json, .md and pictures."""


@dataclass(frozen=True)
class BenchOptions:
    """What to measure."""

    output: Path = Path("results/bench.json")
    """The result file."""
    rounds: int = 7
    """Side-by-side repetitions; the ratio of medians is reported."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits with 1 on an error that has a sentence, with 130 on Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    try:
        _dispatch(given, console)
    except (Interrupted, KeyboardInterrupt) as stop:
        console.print(f"\n{stop or 'stopped'}", highlight=False)
        raise SystemExit(130) from None
    except (CDEQError, ValueError, OSError) as error:
        Console(stderr=True).print(f"cdeq: {error}", style="red", highlight=False, markup=False)
        raise SystemExit(1) from None


def _dispatch(given: list[str], console: Console) -> None:
    command = given[0] if given else "--help"
    if command in ("-h", "--help"):
        console.print(_overview(), highlight=False, markup=False)
    elif command == "recipes":
        console.print(_recipe_list(), highlight=False, markup=False)
    elif command == "bench":
        options = tyro.cli(BenchOptions, prog="cdeq bench", args=given[1:])
        bench(options.output, rounds=options.rounds, say=console.print)
    elif command == "report":
        options = tyro.cli(ReportOptions, prog="cdeq report", args=given[1:])
        show(report(options.runs, options.output, console), console)
    elif command in RUN_COMMANDS:
        start(command, _run(command, given[1:], console))
    else:
        _unknown("command", command, [*RUN_COMMANDS, *OTHER_COMMANDS])


def _run(command: str, given: list[str], console: Console) -> Run:
    """The run that `cdeq COMMAND RECIPE --key value …` describes."""
    if not given or given[0] in ("-h", "--help"):
        console.print(f"usage: cdeq {command} RECIPE [--key value …]\n", markup=False)
        console.print(_recipe_list(), highlight=False, markup=False)
        raise SystemExit(0 if given else 2)
    name, *rest = given
    if name not in RECIPES:
        _unknown("recipe", name, RECIPES)
    default = RECIPES[name]()
    options = field(default_factory=lambda: RunOptions(Path("out") / name))
    parser = make_dataclass(
        "Arguments",
        [
            ("run", Annotated[RunOptions, tyro.conf.arg(name="")], options),
            ("recipe", Annotated[type(default), tyro.conf.arg(name="")], field(default=default)),
        ],
        frozen=True,
    )
    parsed = cast(
        Any,
        tyro.cli(
            parser,
            prog=f"cdeq {command} {name}",
            description=RECIPES[name].__doc__,
            args=rest,
            config=(tyro.conf.AvoidSubcommands,),
        ),
    )
    recipe: Recipe = parsed.recipe
    return Run(name, recipe, parsed.run.folder, console, parsed.run.fresh)


def _overview() -> str:
    lines = [f"  {name:<9}{function.__doc__}" for name, function in RUN_COMMANDS.items()]
    lines += [f"  {name:<9}{text}" for name, text in OTHER_COMMANDS.items()]
    return "\n".join(
        [
            "cdeq: few-step inference for deep equilibrium models.",
            "",
            "usage: cdeq COMMAND RECIPE [--key value …]",
            "       cdeq COMMAND RECIPE --help        every key of a recipe",
            "",
            "commands:",
            *lines,
            "",
            _recipe_list(),
        ]
    )


def _recipe_list() -> str:
    lines = (f"  {name:<18}{function.__doc__}" for name, function in RECIPES.items())
    return "\n".join(["recipes:", *lines])


def _unknown(kind: str, name: str, known: Sequence[str] | dict[str, Any]) -> NoReturn:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
    raise CDEQError(f"there is no {kind} {name!r}; {hint}")
