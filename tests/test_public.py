"""What `import cdeq` offers is documented, and settings are checked when an object is made."""

import inspect

import pytest

import cdeq

PUBLIC = {
    name: thing
    for name, thing in vars(cdeq).items()
    if not name.startswith("_") and not inspect.ismodule(thing)
}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_is(name: str) -> None:
    text = (PUBLIC[name].__doc__ or "").strip()  # not inspect.getdoc, which inherits
    assert text and not text.startswith(f"{name}(")  # a dataclass makes up its own otherwise


@pytest.mark.parametrize("name", [n for n, thing in PUBLIC.items() if inspect.isfunction(thing)])
def test_every_argument_of_a_public_function_is_explained(name: str) -> None:
    text = inspect.getdoc(PUBLIC[name]) or ""
    arguments = inspect.signature(PUBLIC[name]).parameters
    if len(arguments) > 2:
        assert all(f"{argument}:" in text for argument in arguments)
