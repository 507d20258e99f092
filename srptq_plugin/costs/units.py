"""Numbers for people: bytes, operations and multiplications with SI prefixes."""


def scaled(number: float, unit: str = "") -> str:
    """Format a number with four digits and an SI prefix.

    >>> scaled(997_041_415_680), scaled(132_779_520, "B"), scaled(512, "B")
    ('997.0 G', '132.8 MB', '512 B')
    """
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:#.4g} {prefix}{unit}"
    return f"{number:.0f} {unit}".rstrip()
