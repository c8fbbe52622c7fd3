"""A small English text that every Python has: the documentation in its standard library."""

import ast
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from cdeq.data.corpus import Corpus
from cdeq.data.vocabulary import Vocabulary
from cdeq.errors import CDEQError

TRAIN = (
    *("_pyio", "ast", "base64", "cmd", "code", "concurrent.futures._base", "configparser"),
    *("contextlib", "difflib", "doctest", "email.charset", "email.header", "email.message"),
    *("enum", "fractions", "functools", "http.client", "http.cookiejar", "http.server"),
    *("imaplib", "inspect", "ipaddress", "json.decoder", "json.encoder", "logging"),
    *("logging.handlers", "mimetypes", "numbers", "optparse", "pdb", "poplib", "queue"),
    *("random", "re", "shelve", "socket", "statistics", "textwrap", "timeit", "typing"),
    *("unittest.case", "urllib.parse", "xml.etree.ElementTree", "xml.sax.handler"),
    *("xmlrpc.client",),
)
VALIDATION = ("fileinput", "ftplib", "threading", "uuid", "wave", "xml.sax.xmlreader")
TEST = ("bz2", "json", "lzma", "smtplib", "socketserver", "xmlrpc.server")
LEAST = 3
"""How often a word is in the training text, or it is unknown."""

_WORD = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")
_Documented: TypeAlias = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstring_corpus() -> Corpus:
    """About 130,000 words from the docstrings in the sources of 57 modules.

    A paragraph is a line of lower-case words, numbers and punctuation marks; paragraphs with
    examples are left out. Words that the training part has fewer than three times are `<unk>`.
    The modules are fixed; their texts, and so the ids, differ a little between Pythons.

    Raises:
        CDEQError: When this Python comes without the source of a module.

    Example:
        >>> corpus = docstring_corpus()
        >>> corpus.tokenizer.decode(corpus.train[:7].tolist())
        'python implementation of the io module .'
    """
    train, validation, test = ([*_lines(names)] for names in (TRAIN, VALIDATION, TEST))
    vocabulary = Vocabulary.of(train, least=LEAST)
    return Corpus(vocabulary, *(_ids(vocabulary, part) for part in (train, validation, test)))


def _ids(vocabulary: Vocabulary, lines: Iterable[str]) -> Int[Tensor, " n"]:
    return torch.tensor(vocabulary.encode("".join(lines)), dtype=torch.int32)


def _lines(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield from _documentation(ast.parse(_source(name)))


def _documentation(node: _Documented) -> Iterator[str]:
    """The paragraphs of a module, class or function and of those in it, in reading order."""
    yield from _paragraphs(ast.get_docstring(node) or "")
    for child in node.body:
        if isinstance(child, _Documented):
            yield from _documentation(child)


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        words = _WORD.findall(paragraph.lower())
        if words and ">>>" not in paragraph:
            yield " ".join(words) + "\n"


def _source(name: str) -> str:
    spec = find_spec(name)
    get_source = getattr(spec and spec.loader, "get_source", None)
    source = get_source(name) if get_source else None
    if source is None:
        raise CDEQError(
            f"the docstrings of `{name}` are read from its source, which this Python comes "
            "without; take a Python with its whole standard library, or another text."
        )
    return source
