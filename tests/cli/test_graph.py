"""Graphs from the command line: every stage, explicit networks, a graph of one's own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli.graph_runs import CONVERGED, ITERATIVE, SOURCE, STEPS, STUDENTS, TRAINED, small, table
from cli.run import Ended, cdeq, contents, refused, rows_of, weights
from safetensors.torch import load_file

from cdeq.cli.baselines import explicit_models, few_step_models
from cdeq.cli.stages import Run
from cdeq.evaluation.explicit import score_explicit
from cdeq.evaluation.metrics import NODE_ACCURACY
from cdeq.recipes.graph_explicit import EXPLICIT
from cdeq.report import Results
from cdeq.training.supervised import SupervisedObjective


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    folder = tmp_path_factory.mktemp("graph") / "run"
    return folder, small("demo", folder)


@pytest.fixture(scope="module")
def finished(demo: tuple[Path, Ended]) -> Path:
    """The folder of the demo, not to be changed."""
    return demo[0]


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def run_in(folder: Path) -> Run:
    """The run that a folder is of, for looking at its models."""
    from cdeq.cli import main

    seen: list[Run] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "start", lambda command, run: seen.append(run))
        small("evaluate", folder)
    return seen[0]


# What a demo leaves behind


def test_the_demo_trains_everything_in_order(demo: tuple[Path, Ended]) -> None:
    folder, said = demo
    assert (said.code, said.err) == (0, "")
    order = [
        "training the teacher", "The teacher converges", "caching trajectories",
        *(f"distilling {name}" for name in STUDENTS),
        "training few-step 1", "training few-step 3",
        *(f"training {name} " for name in EXPLICIT),
        "evaluating  ", "accuracy on test", "products on test", "Everything is in",
    ]  # fmt: skip
    places = [said.out.find(text) for text in order]
    assert -1 not in places
    assert places == sorted(places)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        *TRAINED, "cache", "evaluation", "evaluation-baselines",
    }  # fmt: skip
    assert not [*folder.rglob("*.pt"), *folder.rglob("*.partial")]


def test_every_model_is_scored_and_measured(finished: Path) -> None:
    assert Results.load(finished / "results.json").task == "node classification"
    accuracy = table(finished, "accuracy")
    assert {*accuracy} == {*ITERATIVE, *CONVERGED, ("few-step", 1), ("few-step", 3)}
    assert all(0.0 <= value <= 1.0 for value in accuracy.values())
    residual, nodes = (table(finished, f"relative_residual{kind}") for kind in ("", "_nodes"))
    assert residual.keys() == nodes.keys() == {*ITERATIVE, ("teacher", None)}
    assert nodes["teacher", None] < 1e-4 < nodes["picard", 1]
    for metric in ("time", "memory"):
        costs = table(finished, metric)
        assert {*costs} == {*ITERATIVE, *CONVERGED, ("few-step", 1), ("few-step", 3)}
        assert all(value > 0.0 for value in costs.values())


def test_products_are_those_of_each_method(finished: Path) -> None:
    """One an evaluation of IGNN, one more where a step looks at neighbours, one a layer."""
    expected: dict[tuple[str, int | None], float] = {
        (name, nfe): nfe * (2.0 if name == "ignn-solver" else 1.0) for name, nfe in ITERATIVE
    }
    expected |= {("few-step", steps): float(steps) for steps in (1, 3)}
    expected |= {
        (name, None): float(round(model.products))
        for name, model in explicit_models(run_in(finished)).items()
        if model.products
    }
    found = table(finished, "products")
    assert found.pop(("teacher", None)) > 3.0
    assert found == expected
    assert expected["gcnii", None] == expected["gcn", None] == 3.0
    assert ("gpm", None) not in expected


def numbers_in(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert "kind" in config
    return sum(
        tensor.numel()
        for name, tensor in load_file(folder / "model.safetensors").items()
        if not name.endswith(buffers)
    )


def test_parameters_are_those_that_were_saved(finished: Path) -> None:
    """A student's own, the teacher's map where it needs that too, and the teacher's head."""
    found = table(finished, "parameters")
    assert {*found} == {(name, None) for name in ("teacher", *STUDENTS, *EXPLICIT)}
    for name in ("teacher", *EXPLICIT):
        assert found[name, None] == numbers_in(finished / name)
    whole = found["teacher", None]
    for name in STUDENTS:
        assert found[name, None] == numbers_in(finished / name) + whole


def test_scores_are_those_of_the_saved_networks(finished: Path) -> None:
    run = run_in(finished)
    for name, model in explicit_models(run).items():
        score = score_explicit(name, model, run.data.test, NODE_ACCURACY)
        assert table(finished, "accuracy")[name, None] == score.value


def test_baselines_are_where_the_teacher_is(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise their costs could not be set against its own."""
    monkeypatch.setattr("cdeq.cli.baselines.device_of", lambda hardware: torch.device("meta"))
    run = run_in(finished)
    models = [*explicit_models(run).values(), *few_step_models(run).values()]
    assert len(models) == 6
    assert {model.device.type for model in models} == {"meta"}


# Again


@pytest.mark.parametrize(
    "command", ["train", "cache", "distill", "baseline", "explicit", "evaluate", "demo"]
)
def test_what_is_done_is_done(copied: Path, command: str) -> None:
    before = contents(copied)
    said = small(command, copied)
    assert (said.code, said.err) == (0, "")
    assert contents(copied) == before
    if command in ("explicit", "demo"):
        assert all(f"{name}: already trained in" in said.out for name in EXPLICIT)
    if command in ("evaluate", "demo"):
        assert "Evaluation: already done" in said.out


def test_one_network_can_be_trained_alone_and_others_follow(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "teacher", tmp_path / "teacher")
    assert small("explicit", tmp_path, "--explicit", "gat").code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"teacher", "gat"}
    assert weights(tmp_path / "gat") == weights(finished / "gat")
    assert small("evaluate", tmp_path).code == 0
    assert {row.model for row in rows_of(tmp_path)} & {*EXPLICIT} == {"gat"}
    assert "gat: already trained in" in small("explicit", tmp_path).out
    said = small("evaluate", tmp_path)
    assert "already done" not in said.out
    assert {row.model for row in rows_of(tmp_path)} >= {*EXPLICIT}
    for name in EXPLICIT:
        assert weights(tmp_path / name) == weights(finished / name)


def stopping(after: int, error: type[BaseException]) -> Callable[..., object]:
    """Training that is stopped by Ctrl-C, or dies, before one more update than `after`."""
    forward, done = SupervisedObjective.forward, [0]

    def stop(self: SupervisedObjective, *arguments: object) -> object:
        if done[0] == after:
            raise error
        done[0] += 1
        return forward(self, *arguments)  # type: ignore[arg-type]

    return stop


class Died(BaseException):
    """The process is gone."""


def test_a_stopped_network_goes_on_to_the_same_bits(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after five of seven updates, it takes the last three again from its checkpoint."""
    shutil.copytree(finished / "teacher", tmp_path / "teacher")
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedObjective, "forward", stopping(5, Died))
        with pytest.raises(Died):
            small("explicit", tmp_path, "--explicit", "gcn")
    assert (tmp_path / "gcn/checkpoint.pt").exists()
    assert small("evaluate", tmp_path).code == 0
    assert "gcn" not in {row.model for row in rows_of(tmp_path)}, "it is not finished"
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedObjective, "forward", stopping(3, Died))
        assert small("explicit", tmp_path, "--explicit", "gcn").code == 0
    assert weights(tmp_path / "gcn") == weights(finished / "gcn")
    assert not [*tmp_path.rglob("*.pt")]


def test_ctrl_c_says_how_to_go_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished / "teacher", tmp_path / "teacher")
    monkeypatch.setattr(SupervisedObjective, "forward", stopping(3, KeyboardInterrupt))
    said = small("explicit", tmp_path, "--explicit", "gcn")
    assert said.code == 130
    assert "the same command, without `--fresh`, continues there" in said.out


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        ("explicit", ["--gcn.plan.steps", "8"], "explicit.plan.steps was 7, now 8"),
        ("evaluate", ["--gcnii.network.layers", "4"], "explicit.network.layers was 3, now 4"),
        ("explicit", ["--gat.network.hidden", "8"], "explicit.network.hidden was 4, now 8"),
        ("train", ["--source.seed", "1"], "data.train was "),
        ("explicit", ["--normalisation", "row"], "data.train was "),
        ("explicit", ["--no-undirected"], "data.train was "),
        ("distill", ["--hyper.window", "2"], "student.window was 5, now 2"),
        ("distill", ["--best.increments.no-free"], "increments.free was True, now False"),
        ("train", ["--teacher.loss.radius-weight", "1"], "radius_weight was 0.0, now 1.0"),
    ],
    ids=str,
)
def test_other_settings_are_refused_and_touch_nothing(
    finished: Path, command: str, words: list[str], says: str
) -> None:
    text = refused(finished, command, "chains", "--folder", finished, *SOURCE, *STEPS, *words)
    assert says in " ".join(text.split())


def test_a_recipe_without_networks_says_so(tmp_path: Path) -> None:
    said = cdeq("explicit", "digits_tiny", "--folder", tmp_path / "run")
    assert said.code == 0
    assert "no explicit networks; nothing to train" in said.out
    assert not (tmp_path / "run").exists()
