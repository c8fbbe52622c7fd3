"""Graphs from the command line: every stage, explicit networks, a graph of one's own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cli.run import Ended, cdeq, contents, refused, rows_of, weights
from safetensors.torch import load_file

from cdeq.cli.baselines import explicit_models, few_step_models
from cdeq.cli.stages import Run
from cdeq.data.graph_file import read_graph_file
from cdeq.evaluation.explicit import score_explicit
from cdeq.evaluation.metrics import NODE_ACCURACY
from cdeq.recipes.explicit import EXPLICIT
from cdeq.recipes.graph_sources import loaded
from cdeq.report import Results
from cdeq.training.supervised import SupervisedObjective

SOURCE = ["--source.length", "5", "--source.features", "12", "--source.noise", "0.1"]
STEPS = [
    "--network.hidden", "4",
    "--network.max-steps", "40",
    "--teacher.loss.shortest", "20",
    "--teacher.loss.longest", "20",
    "--teacher.plan.steps", "6",
    "--teacher.plan.validate-every", "3",
    "--trajectories.max-steps", "8",
    "--distil", "student-best", "ignn-solver",
    "--best.plan.steps", "4",
    "--hyper.plan.steps", "3",
    "--hyper.longest", "3",
    "--few-step.steps", "3",
    "--few-step-budgets", "1", "3",
    "--gcn.network.hidden", "4",
    "--gcn.plan.steps", "7",
    "--gcn.plan.checkpoint-every", "2",
    "--gat.network.hidden", "4",
    "--gat.plan.steps", "3",
    "--gcnii.network.hidden", "4",
    "--gcnii.network.layers", "3",
    "--gcnii.plan.steps", "3",
    "--gpm.network.hidden", "4",
    "--gpm.plan.steps", "3",
    "--evaluation.budgets", "1", "3",
    "--evaluation.cost-budgets", "1", "3",
    "--evaluation.cost-rounds", "1",
]  # fmt: skip
"""`chains` with networks of a few features, trained for a few steps."""

STUDENTS = ("student-best", "ignn-solver")
TRAINED = ("teacher", *STUDENTS, "few-step-1", "few-step-3", *EXPLICIT)


def small(command: str, folder: Path, *more: object) -> Ended:
    return cdeq(command, "chains", "--folder", folder, *SOURCE, *STEPS, *more)


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
        *TRAINED, "cache", "evaluation",
    }  # fmt: skip
    assert not [*folder.rglob("*.pt"), *folder.rglob("*.partial")]


def table(folder: Path, metric: str) -> dict[tuple[str, int | None], float]:
    found = [row for row in rows_of(folder) if row.metric == metric]
    assert {row.split for row in found} == {"test"}
    return {(row.model, row.nfe): row.value for row in found}


ITERATIVE = [(name, nfe) for name in ("picard", "anderson", *STUDENTS) for nfe in (1, 3)]
CONVERGED = [("teacher", None), *((name, None) for name in EXPLICIT)]


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
        assert {*costs} == {*ITERATIVE, *CONVERGED[1:]}
        assert all(value > 0.0 for value in costs.values())


def test_products_are_those_of_each_method(finished: Path) -> None:
    """One an evaluation of IGNN, one more where a step looks at neighbours, one a layer."""
    expected: dict[tuple[str, int | None], float] = {
        (name, nfe): nfe * (2.0 if name == "ignn-solver" else 1.0) for name, nfe in ITERATIVE
    }
    expected |= {
        (name, None): float(round(model.products))
        for name, model in explicit_models(run_in(finished)).items()
        if model.products
    }
    assert table(finished, "products") == expected
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


# A graph of one's own


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Two rings of twelve nodes, each of its own class, in the names of PyTorch Geometric."""
    here = np.arange(24)
    after = np.where(here % 12 == 11, here - 11, here + 1)
    label = here // 12
    features = np.eye(2)[label] + np.random.default_rng(0).normal(size=(24, 2))
    np.savez(tmp_path / "rings.npz", edge_index=np.stack([here, after]), x=features, y=label)
    loaded.cache_clear()
    return tmp_path / "rings.npz"


def own(command: str, graph: Path, *more: object) -> Ended:
    folder = graph.parent / "run"
    words = ("--folder", folder, "--source.path", graph, *STEPS, "--explicit", "gcn", *more)
    return cdeq(command, "own_graph", *words)


def test_a_graph_of_ones_own_goes_all_the_way(graph: Path) -> None:
    said = own("demo", graph)
    assert (said.code, said.err) == (0, "")
    folder, data = graph.parent / "run", read_graph_file(graph)
    assert {*table(folder, "accuracy")} == {
        *ITERATIVE, ("teacher", None), ("gcn", None), ("few-step", 1), ("few-step", 3),
    }  # fmt: skip
    shares = {round(value * len(data.test), 6) for value in table(folder, "accuracy").values()}
    assert all(share.is_integer() for share in shares), "of its own test nodes"
    assert table(folder, "products")["picard", 3] == 3.0
    spec = json.loads((folder / "teacher/config.json").read_text())["spec"]
    assert (spec["inputs"], spec["classes"]) == (2, 2)


def test_a_graph_that_changed_is_another_one(graph: Path) -> None:
    assert own("train", graph).code == 0
    fields = dict(np.load(graph))
    fields["x"][0, 0] += 1.0
    np.savez(graph, **fields)
    loaded.cache_clear()
    said = own("train", graph)
    assert said.code == 1
    assert "data.train was" in said.err


def test_another_draw_of_the_split_is_another_run(graph: Path) -> None:
    assert own("train", graph).code == 0
    said = own("train", graph, "--source.split-seed", "1")
    assert said.code == 1
    assert "data.train was" in said.err


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("edge_index", np.array([[0], [24]]), "edges join nodes 0 … 23; got 1 that do not"),
        ("x", np.full((24, 2), np.nan), "node features must be finite numbers"),
        ("y", np.full(24, -1), "the training split is empty"),
    ],
)
def test_a_graph_that_is_none_is_refused_in_a_sentence(
    field: str, value: np.ndarray, text: str, graph: Path
) -> None:
    np.savez(graph, **{**np.load(graph), field: value})
    loaded.cache_clear()
    said = own("train", graph)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("cdeq: ") and said.err.count("\n") == 1
    assert text in said.err
    assert not (graph.parent / "run").exists()


# Data that are not there, and settings that give up too much


@pytest.mark.parametrize(
    ("recipe", "missing"),
    [
        ("cora", "planetoid"),
        ("computers", "amazon"),
        ("physics", "coauthor"),
        ("arxiv", "ogbn_arxiv"),
        ("ogbn_products", "ogbn_products"),
    ],
)
def test_missing_data_are_named_and_where_they_are_looked_for(
    recipe: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDEQ_DATA", str(tmp_path / "here"))
    text = refused(tmp_path, "train", recipe, "--folder", tmp_path / "run")
    assert f"{tmp_path / 'here' / missing}" in text
    assert f"looked for in {tmp_path / 'here'}, " in text
    assert "the environment variable CDEQ_DATA or the source's `root`" in text
    root = tmp_path / "there"
    words = ("train", recipe, "--folder", tmp_path / "run", "--source.root", root)
    assert f"{root / missing}" in refused(tmp_path, *words)


@pytest.mark.parametrize(
    ("recipe", "under", "file"),
    [("arxiv", "ogbn_arxiv", "raw/edge.csv.gz"), ("cora", "planetoid", "Cora/raw/ind.cora.x")],
)
def test_half_unpacked_data_name_the_file_that_is_missing(
    recipe: str, under: str, file: str, tmp_path: Path
) -> None:
    (tmp_path / under).mkdir()
    words = ("train", recipe, "--folder", tmp_path / "run", "--source.root", tmp_path)
    text = refused(tmp_path, *words)
    assert file in text
    assert "CDEQ_DATA" in text


def test_a_missing_graph_of_ones_own_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    words = ("train", "own_graph", "--folder", tmp_path / "run", "--source.path", path)
    assert f"there is no file {path}" in refused(tmp_path, *words)


@pytest.mark.parametrize(
    ("recipe", "words", "text"),
    [
        ("chains", ["--network.kappa", "1.2"], "`kappa` < 1 is what makes IGNN well-posed"),
        ("chains", ["--network.kappa", "1.0"], "which every solver finds; got 1.0"),
        ("chains", ["--network.kappa", "None"], "to give that up, say `unguaranteed`"),
        ("chains", ["--network.kappa", "-0.5"], "so it is above 0; got -0.5"),
        ("computers_eignn", ["--network.gamma", "1.0"], "`gamma` < 1"),
        ("computers_mignn", ["--network.kappa", "1.5"], "`kappa` ≤ 1"),
    ],
    ids=str,
)
def test_what_gives_up_the_guarantee_is_refused(
    recipe: str, words: list[str], text: str, tmp_path: Path
) -> None:
    said = cdeq("train", recipe, "--folder", tmp_path / "run", *words)
    assert said.code == 2
    assert text in " ".join(said.err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kappa", ["1.2", "None"])
def test_the_guarantee_can_be_given_up_by_saying_so(kappa: str, tmp_path: Path) -> None:
    words = ("--network.kappa", kappa, "--network.unguaranteed")
    assert small("train", tmp_path / "run", *words).code == 0
    spec = json.loads((tmp_path / "run/teacher/config.json").read_text())["spec"]
    assert (spec["kappa"], spec["unguaranteed"]) == (None if kappa == "None" else 1.2, True)
