"""Sizes as an exported program writes them, checked against a grammar because torch evaluates the text as Python."""

import ast
import re
from functools import lru_cache


def words(*lines: str) -> frozenset[str]:
    """Return all words of some lines of text."""
    return frozenset(" ".join(lines).split())


LONGEST, DEEPEST = 50_000, 150
"""The most letters of an expression, and the most nested brackets."""
CHARACTERS = re.compile(r"[\w '().,+\-*/%=<>!&|~\[\]]*", re.ASCII)
SYMBOL = re.compile(r"[a-z]{1,4}\d{1,6}")
NUMBER = re.compile(r"-?\d+(\.\d*)?(e[+-]?\d+)?")
MOST_DIGITS = 20
LARGEST_POWER = 8
FUNCTIONS = words(
    # sums, products, quotients and remainders
    "Add Mul Mod PythonMod FloorDiv CleanDiv CeilDiv IntTrueDiv FloatTrueDiv ModularIndexing",
    # powers, with limited exponents
    "Pow PowByNatural FloatPow",
    # extremes and signs
    "Max Min max min abs torch.sym_max torch.sym_min",
    # rounding and conversions
    "floor ceiling CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt RoundDecimal ToFloat",
    "math.trunc math.floor math.ceil torch.sym_float torch.sym_int Integer Rational Identity",
    # comparisons
    "Eq Ne Lt Le Gt Ge Equality Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan",
    # logic
    "Not And Or Where IsNonOverlappingAndDenseIndicator",
)
OPERATORS = (
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr, ast.BitXor),
    *(ast.USub, ast.UAdd, ast.Not, ast.Invert, ast.And, ast.Or),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot),
)
READ = {"size", "stride", "storage_offset", "dim"}
"""Methods of an input that a guard may call."""


@lru_cache(maxsize=4096)
def check_size(text: str) -> None:
    """Raise ValueError for everything but arithmetic on numbers and symbols.

    >>> check_size("Mul(Integer(2), Symbol('s0', positive=True, integer=True))"), check_size("2*s0 + 1")
    (None, None)
    >>> check_size("__import__('os').system('true')")
    Traceback (most recent call last):
    ValueError: __import__('os').system('true') is not arithmetic
    """
    _check(_parse(text))


@lru_cache(maxsize=4096)
def check_guard(text: str) -> None:
    """Raise ValueError for everything but arithmetic and comparisons, also of sizes of the input.

    >>> check_guard("L['x'].size()[2] % 2 == 0")
    """
    _check(_parse(text))


def _parse(text: str) -> ast.expr:
    if len(text) > LONGEST or not CHARACTERS.fullmatch(text) or _depth(text) > DEEPEST:
        raise ValueError(f"{text[:60]!r} is not arithmetic")
    return ast.parse(text.strip(), mode="eval").body


def _depth(text: str) -> int:
    """Count nested brackets. Deep ones are refused before parsing, as Python's parser would run out of stack."""
    deepest = level = 0
    for letter in text:
        level += (letter in "([") - (letter in ")]")
        deepest = max(deepest, level)
    return deepest


def _check(node: ast.expr) -> None:
    match node:
        case ast.Constant(value=bool() | int() | float()):
            _check_digits(ast.unparse(node))
        case ast.Name(id=name) if SYMBOL.fullmatch(name):
            pass
        case ast.Call(func=ast.Name(id="Symbol" | "Float"), args=[ast.Constant(value=str(text))]):
            _check_quoted(node, text)
        case ast.Call(func=ast.Name() | ast.Attribute(value=ast.Name()), args=arguments):
            _check_call(node, arguments)
        case ast.Subscript(value=ast.Call() as read, slice=ast.Constant(value=int())):
            _check_read(read)
        case ast.Call() if _is_read(node):
            pass
        case ast.UnaryOp() | ast.BinOp() | ast.BoolOp() | ast.Compare():
            _check_operation(node)
        case _:
            raise ValueError(f"{ast.unparse(node)[:60]} is not arithmetic")


def _check_digits(number: str) -> None:
    if len(number) > MOST_DIGITS:
        raise ValueError(f"{number[:MOST_DIGITS]}...: a number of too many digits")


def _check_quoted(call: ast.Call, text: str) -> None:
    """Check the text that `Symbol` or `Float` is called with."""
    _check_keywords(call)
    if not (SYMBOL if ast.unparse(call.func) == "Symbol" else NUMBER).fullmatch(text):
        raise ValueError(f"{text[:60]!r} is neither a symbol nor a number")


def _check_call(call: ast.Call, arguments: list[ast.expr]) -> None:
    name = ast.unparse(call.func)
    if name not in FUNCTIONS:
        raise ValueError(f"{name} is not arithmetic")
    _check_keywords(call)
    if name.endswith("Pow"):
        _check_power(arguments[-1])
    for argument in arguments:
        _check(argument)


def _check_keywords(call: ast.Call) -> None:
    """Check the assumptions about a symbol and the precision of a number, which are plain constants."""
    for keyword in call.keywords:
        if keyword.arg is None or not isinstance(keyword.value, ast.Constant) or isinstance(keyword.value.value, str):
            raise ValueError(f"{ast.unparse(keyword)[:60]} is not arithmetic")


def _check_operation(node: ast.UnaryOp | ast.BinOp | ast.BoolOp | ast.Compare) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            _check(child)
        elif type(child) not in OPERATORS:
            raise ValueError(f"{type(child).__name__} is not arithmetic")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        _check_power(node.right)


def _check_power(exponent: ast.expr) -> None:
    """Refuse large powers, since computing one could take forever."""
    digits = re.fullmatch(r"(?:Integer\()?\(?(-?\d+)\)?\)?", ast.unparse(exponent))
    if not digits or abs(int(digits[1])) > LARGEST_POWER:
        raise ValueError(f"a power of {ast.unparse(exponent)[:20]} is too large")


def _check_read(node: ast.expr) -> None:
    if not _is_read(node):
        raise ValueError(f"{ast.unparse(node)[:60]} is not arithmetic")


def _is_read(node: ast.expr) -> bool:
    """Return True for a call that reads a size of an input, such as `L['x'].size()`."""
    match node:
        case ast.Call(
            func=ast.Attribute(
                value=ast.Subscript(value=ast.Name(id="L"), slice=ast.Constant(value=str(name))), attr=attribute
            ),
            args=[],
            keywords=[],
        ):
            return attribute in READ and name.isidentifier()
        case _:
            return False
