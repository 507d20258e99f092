"""Check the language of code and documents: American spelling, plain phrases, names that say something.

    python docs/language.py [FILE_OR_FOLDER ...]

Prints `file:line: problem` and exits with 1 if there is any. `make check` runs it on every tracked file.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPELLING = {
    r"(?:equal|normal|real|initial|optim|standard|recogn|quant|minim|maxim|summar|general|organ|serial|random|visual)is"
    r"(?:e|ed|es|ing|er|ation)": "z, not s",
    r"licen(?:ce|ces|ced)": "license",
    "artefacts?": "artifact",
    "behaviour": "behavior",
    r"(?:re)?colour\w*": "color",
    r"cent(?:re|red|ring)": "center",
    "catalogue": "catalog",
    r"favour\w*": "favor",
    "grey": "gray",
    r"neighbour\w*": "neighbor",
    r"analys(?:e|ed|ing)": "analyze",
    r"(?:un)?labelled": "labeled",
    "learnt": "learned",
    "misspelt": "misspelled",
    "modelling": "modeling",
    "towards": "toward",
}
PHRASES = {
    "anew": "again",
    "as ever": "as usual, or nothing",
    "beside": "next to, besides, or with",
    "by now": "nothing, or since when",
    "lest": "so that ... not",
    r"none where": "None if",
    r"th(?:at|ose) of": "the noun again",
    "told": "the message, or reported",
    r"what (?:it )?is": "a noun",
    "whoever": "callers, or users",
}
OPENINGS = re.compile(
    r"(?i)(?:a|all|an|any|as|both|by|each|every|how|in|no|of|one|that|the|this|those|what|where|whether|which|who)\b"
)
"""Openings that a function's docstring must not have. It begins with a verb."""
BINDINGS = frozenset({"each", "found", "told"})
"""Names that say how a value was come by, not what it means."""
LONGEST_TEST = 8
"""The most words in the name of a test, after `test_`."""
SUFFIXES = (".py", ".md", ".yaml", ".toml")
FOLDERS = (
    "srptq_plugin",
    "adapters",
    "recipes",
    "tests",
    "docs",
    "examples",
    "benchmarks",
    "README.md",
    "CHANGELOG.md",
)
OLD_NAMES = frozenset(
    {
        "docs/language.py",
        "srptq_plugin/recipes/renamed_keys.py",
        "tests/docs/test_language.py",
        "tests/recipes/test_renamed_keys.py",
    }
)
"""Files that must use the refused names and spellings."""

_SPELLING = [(re.compile(rf"(?i)(?<![a-z]){word}(?![a-z])"), cure) for word, cure in SPELLING.items()]
_PHRASES = [(re.compile(rf"(?i)(?<![\w-]){phrase}(?![\w-])"), cure) for phrase, cure in PHRASES.items()]
_CODE = re.compile(r"``.*?``|`[^`]*`|https?://\S+")


def problems(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line number and a description of each problem in a file."""
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        yield from ((number, f"{match[0]!r}: {cure}") for words, cure in _SPELLING for match in words.finditer(line))
    if path.suffix == ".py":
        yield from _of_python(text)
    elif path.suffix in (".md", ".yaml"):
        yield from _of_prose(enumerate(text.splitlines(), 1))


def _of_prose(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    fenced = False
    for number, line in lines:
        fenced ^= line.lstrip().startswith("```")
        if not fenced:
            yield from _phrases(number, line)


def _phrases(number: int, text: str) -> Iterator[tuple[int, str]]:
    prose = _CODE.sub("", text)
    return ((number, f"{match[0]!r}: {cure}") for words, cure in _PHRASES for match in words.finditer(prose))


def _of_python(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        first = token.start[0]
        if token.type == tokenize.COMMENT:
            yield from _sentences(first, token.string)
        elif token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)):
            for number, line in enumerate(token.string.splitlines(), first):
                yield from _phrases(number, line)
    for node in ast.walk(ast.parse(text)):
        yield from _bindings(node)
        yield from _docstring(node)
        yield from _test_name(node)


def _sentences(number: int, text: str) -> Iterator[tuple[int, str]]:
    yield from _phrases(number, text)
    if ";" in _CODE.sub("", text):
        yield number, "';': write two sentences"


def _bindings(node: ast.AST) -> Iterator[tuple[int, str]]:
    name = node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else ""
    name = node.arg if isinstance(node, ast.arg) else name
    if name in BINDINGS:
        yield getattr(node, "lineno", 0), f"{name}: name what it means"


def _docstring(node: ast.AST) -> Iterator[tuple[int, str]]:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    docstring = ast.get_docstring(node)
    if docstring is None:
        return
    number = node.body[0].lineno
    prose = re.split(r"\n\s*>>>|\n\s*```", docstring)[0]
    if ";" in _CODE.sub("", prose):
        yield number, "';' in a docstring: write two sentences"
    if isinstance(node, ast.FunctionDef) and not _is_property(node):
        first = OPENINGS.match(docstring)
        if first:
            yield number, f"{first[0]!r} begins the docstring of {node.name}: begin with a verb"


def _test_name(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
        words = len(node.name.removeprefix("test_").split("_"))
        if words > LONGEST_TEST:
            yield node.lineno, f"{node.name} has {words} words: at most {LONGEST_TEST}"


def _is_property(node: ast.FunctionDef) -> bool:
    names = {getattr(name, "id", getattr(name, "attr", "")) for name in node.decorator_list}
    return not names.isdisjoint({"property", "cached_property", "setter"})


def checked_files(paths: Sequence[str]) -> Iterator[Path]:
    """Yield the text files in these folders, by default in all. Without git, untracked files are among them."""
    command = ["git", "ls-files", *paths]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    files = map(ROOT.joinpath, listed.stdout.splitlines()) if listed.returncode == 0 else _walk(paths)
    for path in files:
        if path.relative_to(ROOT).as_posix() not in OLD_NAMES and path.suffix in SUFFIXES and path.is_file():
            yield path


def _walk(paths: Sequence[str]) -> Iterator[Path]:
    for folder in map(ROOT.joinpath, paths or FOLDERS):
        yield from folder.rglob("*") if folder.is_dir() else [folder]


def main(paths: Sequence[str]) -> int:
    """Print all problems. Return 1 if there are any, else 0."""
    lines = [
        f"{path.relative_to(ROOT)}:{n}: {what}"
        for path in checked_files(paths)
        for n, what in sorted(set(problems(path)))
    ]
    print("\n".join(lines))  # noqa: T201
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
