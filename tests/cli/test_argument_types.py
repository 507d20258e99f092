"""The values of `--model-args` are YAML, as the values of `--set` are."""

from argparse import ArgumentTypeError
from typing import Any

import pytest

from srptq_plugin.cli.argument_types import argument, input_size
from srptq_plugin.recipes.recipe_files import dump, parse, parse_set


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("False", False),
        ("true", True),
        ("None", None),
        ("null", None),
        ("[8, 8]", [8, 8]),
        ("'915'", "915"),
        ("915", 915),
        ("1e-3", 1e-3),
        ("relu", "relu"),
    ],
)
def test_arguments_are_yaml_like_set(text: str, value: Any) -> None:
    assert argument(f"name={text}") == ("name", value)
    assert type(argument(f"name={text}")[1]) is type(value)
    assert parse_set(f"name={text}").data == {"name": value}


def test_an_input_size_has_three_channels_or_one() -> None:
    assert input_size("1x1x8x12") == (1, 1, 8, 12)
    with pytest.raises(ArgumentTypeError, match="such as 1x3x270x480, or 1 x 1 x height x width for Y"):
        input_size("1x4x8x12")


def test_none_as_text_survives_a_file() -> None:
    assert parse(dump({"name": "None", "images": None}), "a file") == {"name": "None", "images": None}
