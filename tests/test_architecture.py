"""Who may import whom, who may print, how long things may grow: the design as a test."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "cdeq"
FILES = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}

# What a package may import of ours besides itself; each domain under models/ is its own package.
# A package that is not listed may import everything below the recipes.
FLOOR = ("typing", "errors")
DISK = (*FLOOR, "atomic", "digest", "plain", "pretrained")
PARTS = ("base", "initializer", "operator_norm", "repeatable")  # what domains share
MAY_IMPORT = {
    **{name: DISK for name in DISK},
    **{name: () for name in FLOOR},
    "core": FLOOR,
    "consistency": (*DISK, "core"),
    "hypersolver": (*DISK, "core", "consistency"),
    "trajectories": (*DISK, "core"),
    "models": (*DISK, "core", *(f"models.{name}" for name in PARTS)),
    "report": ("errors", "atomic"),
}
ON_TOP = {"recipes": ("recipes/", "cli/", "__init__.py"), "cli": ("cli/",)}

# Packages of the extras: `CONFINED` ones appear in these places only, all of them are imported
# inside the function that needs them wherever torch alone has to be enough.
CONFINED = {
    "lightning": ("training/engine.py",),
    "rich": ("cli/", "training/engine.py"),
    "tyro": ("cli/",),
}
OPTIONAL = {*CONFINED, "matplotlib", "sklearn", "torchmetrics", "tensorboardX", "torchdeq"}
OPTIONAL |= {
    "PIL",
    "kornia",
    "datasets",
    "tokenizers",
    "huggingface_hub",
    "torch_geometric",
    "ogb",
}
TORCH_ALONE = ("core/", "consistency/", "trajectories/", "models/")

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def on_load(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: all but the inside of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, FUNCTIONS):
            yield child
            yield from on_load(child)


def imports(nodes: Iterator[ast.AST], file: str) -> Iterator[str]:
    """Every imported name in full, such as `cdeq.core.solve.solve`; relative ones resolved."""
    folder = ["cdeq", *file.split("/")[:-1]]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) + 1 - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def below(name: str, packages: tuple[str, ...]) -> bool:
    return any(package in ("", name) or name.startswith(f"{package}.") for package in packages)


def wrong_imports(file: str, tree: ast.AST) -> Iterator[str]:
    parts = file.removesuffix(".py").removesuffix("/__init__").split("/")
    home = ".".join(parts[:2] if parts[0] == "models" else parts[:1])
    allowed = (home, *MAY_IMPORT.get(parts[0], ("",)))
    for name in imports(ast.walk(tree), file):
        package, _, rest = name.partition(".")
        if package == "cdeq":
            places = ON_TOP.get(rest.split(".")[0], ("",))
            if not below(rest, allowed) or not file.startswith(places):
                yield f"{home} imports {name}"
        elif not file.startswith(CONFINED.get(package, ("",))):
            yield f"{package} is imported outside {CONFINED[package]}"
        elif package == "torch" and home == "report":
            yield "report imports torch"
    if file.startswith(TORCH_ALONE):
        loaded = {name.split(".")[0] for name in imports(on_load(tree), file)}
        yield from (f"{name} is imported on loading" for name in loaded & OPTIONAL)


def violations(file: str, code: str) -> Iterator[str]:
    tree = ast.parse(code)
    yield from wrong_imports(file, tree)
    if file.endswith(("utils.py", "helpers.py")):
        yield "a file is named after what is in it"
    if code.count("\n") >= 350:
        yield "350 lines or more"
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS) and (node.end_lineno or 0) - node.lineno >= 60:
            yield f"{node.name} is longer than 60 lines"
        if isinstance(node, ast.Name) and node.id == "print" and not file.startswith("cli/"):
            yield "only the command line prints"


@pytest.mark.parametrize("file", FILES)
def test_file_keeps_the_rules(file: str) -> None:
    assert not list(violations(file, FILES[file].read_text(encoding="utf-8")))


def test_all_files_were_looked_at() -> None:
    assert {"__init__.py", "core/solve.py", "core/solvers/anderson.py"} <= FILES.keys()


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("core/new.py", "from cdeq.consistency.time import TimeSpan"),
        ("core/new.py", "from cdeq import Anderson"),
        ("core/solvers/new.py", "from ...models.base import EquilibriumModel"),
        ("core/new.py", "import sklearn.datasets"),
        ("consistency/new.py", "def new():\n    from cdeq.trajectories import store"),
        ("trajectories/new.py", "import cdeq.training.distill"),
        ("models/base.py", "from cdeq.models.vision import cell"),
        ("models/graph/new.py", "from cdeq.models import language"),
        ("report/new.py", "import torch"),
        ("report/new.py", "from cdeq.core.solve import solve"),
        ("training/new.py", "from cdeq.recipes.vision import digits"),
        ("training/distill.py", "def new():\n    import lightning.fabric"),
        ("evaluation/new.py", "from rich.progress import track"),
        ("recipes/new.py", "import tyro"),
        ("data/new.py", "print(1)"),
        ("data/utils.py", ""),
        ("data/new.py", "\n" * 350),
        ("data/new.py", "def new():\n" + "    pass\n" * 60),
    ],
)
def test_a_broken_rule_is_noticed(file: str, code: str) -> None:
    assert len(list(violations(file, code))) == 1


def test_importing_the_library_needs_no_extra() -> None:
    code = "import sys, cdeq; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "cdeq" in loaded
    assert not loaded & OPTIONAL
