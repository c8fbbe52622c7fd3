"""A prompt as ids, and what there is to say about it."""

from pathlib import Path

from rich.console import Console

from cdeq.data.lines import Lines
from cdeq.data.tokenizer import Tokenizer
from cdeq.data.vocabulary import UNKNOWN, Vocabulary
from cdeq.errors import CDEQError, StoreError
from cdeq.models.language.deq_transformer import DEQTransformer
from cdeq.models.language.generation import unseen

NAMED = 8
"""How many unknown words are named."""


def require_vocabulary(tokenizer: Tokenizer, teacher: DEQTransformer) -> None:
    """Refuse a vocabulary that is not the teacher's.

    Arguments:
        tokenizer: The vocabulary.
        teacher: The teacher.

    Raises:
        StoreError: Says how large each is.
    """
    known, size = teacher.vocabulary.size, len(tokenizer)
    if size != known:
        raise StoreError(
            f"the teacher knows {known:,} tokens and this vocabulary has {size:,}; take the text "
            "that the teacher was trained on."
        )


def prompt_text(prompt: str, file: Path | None) -> str:
    """The text of a prompt, typed or in a file.

    Raises:
        ValueError: When what was typed is no UTF-8.
        StoreError: When the file cannot be read, is no UTF-8 or has no words.
    """
    if file is not None:
        return "".join(Lines(path=file, unfinished=True).chunks())
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"a prompt is text in UTF-8; got the byte {ord(prompt[error.start]) & 0xFF:#04x} at "
            f"position {error.start}; convert it to UTF-8."
        ) from error
    return prompt


def encoded(text: str, tokenizer: Tokenizer, console: Console) -> list[int]:
    """The ids of a prompt, at least one.

    Arguments:
        text: The prompt; where it has no words, it is read as the end of a line.
        tokenizer: Makes the ids.
        console: Told what is not read as it was typed.

    Raises:
        ValueError: When a word is unknown and has no stand-in.
    """
    ids = tokenizer.encode(text)
    if unknown := _unknown(text, tokenizer):
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        named = ", ".join(unknown[:NAMED])
        say(console, f"Unknown words, read as {UNKNOWN}: {legible(named)}{more}.")
    if not ids:
        say(console, "The prompt is empty, so the text begins after the end of a line.")
    return ids or tokenizer.encode("\n")


def _unknown(text: str, tokenizer: Tokenizer) -> list[str]:
    """The words that are not in a vocabulary, each once; to subwords none is unknown."""
    if not isinstance(tokenizer, Vocabulary):
        return []
    known = {*tokenizer.words}
    return list(dict.fromkeys(word for word in text.split() if word not in known))


def judge_length(model: DEQTransformer, length: int, console: Console, *, refuse: bool) -> None:
    """Say that the beginning of a prompt is not seen any more, or refuse it.

    Arguments:
        model: Which goes on with it.
        length: Of the prompt.
        console: Told so.
        refuse: Whether it is refused.

    Raises:
        CDEQError: When it is refused.
    """
    if not (before := unseen(model, length)):
        return
    seen = length - before
    if refuse:
        raise CDEQError(
            f"a new token sees the last {seen} tokens, and the prompt has {length:,}; shorten it, "
            "or leave out `--refuse-long`."
        )
    say(
        console,
        f"The prompt has {length:,} tokens, of which a new one sees the last {seen}; what stands "
        "before has its say through their states alone.",
    )


def say(console: Console, sentence: str) -> None:
    """Print a sentence as it is."""
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def legible(text: str) -> str:
    r"""Without characters that would do something to a terminal.

    Example:
        >>> legible("a\x1b[2Jb")
        'a�[2Jb'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
