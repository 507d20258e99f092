"""The commands and their options."""

import sys
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import NoReturn

from srptq_plugin import __version__
from srptq_plugin.analysis import KINDS
from srptq_plugin.cli import argument_types
from srptq_plugin.cli.help_texts import ABOUT, ABOUTS, EPILOG
from srptq_plugin.errors import told

USER_ERROR = 2
DEFAULT_RECIPE = "openvino-w8a8"
MODEL = "a family (see `srptq plugins`) or package.module:factory"
LOG = "log to stderr what is being done"


class Parser(ArgumentParser):
    """Refuses in one line, as every other error."""

    def error(self, message: str) -> NoReturn:
        """Leave with 2, the user's input is at fault."""
        self.exit(USER_ERROR, f"srptq: error: {told(message)}; see {self.prog} --help\n")


def parse(argv: Sequence[str] | None) -> Namespace:
    """The command line, read; leaves by SystemExit after --help, --version or a mistake."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        parser.exit(USER_ERROR)
    return arguments


def _parser() -> ArgumentParser:
    parser = Parser(
        "srptq",
        description=ABOUT,
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"srptq {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help=LOG)
    parser.set_defaults(command=None)
    common = _common()
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name, text, fill in COMMANDS:
        command = commands.add_parser(
            name,
            help=text,
            description=ABOUTS.get(name, f"{text[0].upper()}{text[1:]}."),
            parents=[common],
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        fill(command)
    return parser


def _common() -> Parser:
    """What every command takes; SUPPRESS, so that `srptq -v quantize` stays verbose."""
    common = Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object on stdout, nothing else")
    common.add_argument("-v", "--verbose", action="store_true", default=SUPPRESS, help=LOG)
    return common


def _quantize(parser: ArgumentParser) -> None:
    add = parser.add_argument
    _network(parser)
    parser.set_defaults(recipe=DEFAULT_RECIPE)
    _calibration(parser)
    add("--out", type=argument_types.path, default="run", metavar="DIR", help="the run folder (default: %(default)s)")
    add("--toolkit", metavar="T", help="the toolkit, where not the recipe's")
    _size(parser, "static, as 1x3x270x480 (default: any)")


def _network(parser: ArgumentParser) -> None:
    """A recipe and a network."""
    add = parser.add_argument
    add("--model", metavar="M", help=f"{MODEL} (default: the bundled EDSR)")
    add("--recipe", metavar="R", help=f"name or .yaml file (default: {DEFAULT_RECIPE})")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change keys of the recipe")
    add("--weights", type=argument_types.path, metavar="FILE", help=".safetensors, .pth or .pt")
    add(
        "--model-args",
        nargs="+",
        action="extend",
        default=[],
        type=argument_types.argument,
        metavar="NAME=VALUE",
        help="arguments of the network, such as upscale=4",
    )
    add("--input-range", type=argument_types.input_range, metavar="B:W", help="what black and white are, as 0:1")


def _calibration(parser: ArgumentParser, what: str = "low-resolution images to calibrate on") -> None:
    add = parser.add_argument
    add("--images", type=argument_types.path, metavar="DIR", help=what)
    add(
        "--scale", type=argument_types.scale, metavar="N", help="the images are high-resolution: make them smaller by N"
    )
    _device(parser)


def _size(parser: ArgumentParser, text: str) -> None:
    parser.add_argument("--input-size", type=argument_types.input_size, metavar="SIZE", help=text)


def _subject(parser: ArgumentParser) -> None:
    """A run folder, or what would be quantized."""
    parser.add_argument("subject", nargs="?", metavar="RUN_OR_MODEL", help="a run folder, or what --model takes")
    _network(parser)


def _cost(parser: ArgumentParser) -> None:
    _subject(parser)
    _size(parser, "as 1x3x270x480 (default: the run's, or what gives 1280 x 720)")


def _analyze(parser: ArgumentParser) -> None:
    _subject(parser)
    _calibration(parser)
    add = parser.add_argument
    add(
        "--patches",
        type=argument_types.count,
        default=8,
        metavar="N",
        help="how many to measure on (default: %(default)s)",
    )
    add(
        "--by",
        nargs="+",
        choices=KINDS,
        default=KINDS,
        metavar="KIND",
        help="what to measure: stage, block, site (default: all)",
    )
    add(
        "--data", type=argument_types.path, metavar="DIR", help="high-resolution images, for PSNR and SSIM on Y as well"
    )
    add(
        "--out",
        type=argument_types.path,
        metavar="FILE",
        help="what was measured (default: analysis.json or budget.json, in the run folder if there is one)",
    )
    add(
        "--budget",
        type=argument_types.budget,
        metavar="KIND=N",
        help="write a recipe: least noise at size or bops of N of 8 bits everywhere, or least bops at a drop of N dB",
    )
    add(
        "--bits",
        nargs="+",
        type=argument_types.count,
        default=(4, 8, 16),
        metavar="N",
        help="what --budget chooses from (default: 4 8 16)",
    )
    add(
        "--recipe-out",
        type=argument_types.path,
        default="mixed.yaml",
        metavar="FILE",
        help="where --budget writes it (default: %(default)s)",
    )


def _plot(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("subject", type=argument_types.path, metavar="FILE_OR_RUN", help="what `srptq analyze` wrote, or a run folder")
    add("--site", metavar="NAME", help="a tensor of the run, by the name that summary.json has for it")
    _calibration(parser, "low-resolution images that have the values (default: those of the run)")
    add(
        "--out",
        type=argument_types.path,
        metavar="DIR",
        help="a folder for the PNG files (default: beside what is drawn)",
    )


def _train(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="name or .yaml file; its `training` says how")
    add("--run", type=argument_types.path, required=True, metavar="RUN", help="a folder that `srptq quantize` wrote")
    add(
        "--images",
        type=argument_types.path,
        required=True,
        metavar="DIR",
        help="low-resolution images, or HR and LR_x4 folders",
    )
    add(
        "--scale",
        type=argument_types.scale,
        metavar="N",
        help="the images are photographs: make them smaller by N, and learn them",
    )
    add(
        "--data",
        type=argument_types.path,
        metavar="DIR",
        help="high-resolution images to validate on (default: some are held out)",
    )
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change keys of the recipe")
    add(
        "--out",
        type=argument_types.path,
        default="trained",
        metavar="DIR",
        help="the run folder (default: %(default)s)",
    )
    add("--resume", action="store_true", help="go on with an interrupted training of the same folder")
    add("--toolkit", metavar="T", help="the toolkit, where not the recipe's")
    _device(parser)


def _device(parser: ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", metavar="D", help="cpu, cuda or auto (default: %(default)s)")


def _evaluate(parser: ArgumentParser) -> None:
    _run_folder(parser)
    add = parser.add_argument
    add("--data", type=argument_types.path, required=True, metavar="DIR", help="high-resolution images")
    add("--scale", type=argument_types.scale, metavar="N", help="(default: the network's)")
    add("--tile", type=int, metavar="N", help="run in tiles of NxN low-resolution pixels (default: whole)")
    add("--overlap", type=int, metavar="M", help="how far a tile sees beyond its part (default: 16, or a quarter)")
    add("--ensemble", action="store_true", help="mean of the 8 turned and mirrored outputs; takes 8 times as long")
    add("--csv", type=argument_types.path, metavar="FILE", help="write the scores of each image")
    add("--strict", action="store_true", help="stop where an image cannot be scored, instead of leaving it out")
    _device(parser)


def _verify(parser: ArgumentParser) -> None:
    _run_folder(parser)
    parser.add_argument("--images", type=argument_types.path, metavar="DIR", help="low-resolution images to compare on")


def _lint(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=argument_types.path, metavar="FILE", help="an ONNX file, from wherever")
    parser.add_argument("--target", required=True, metavar="T", help="whose rules, such as tensorrt")


def _recipes(parser: ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("name", nargs="?", metavar="NAME", help="print this recipe, or .yaml file, in full")
    what.add_argument("--keys", action="store_true", help="print every key: its values, its default, what it is")


def _run_folder(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=argument_types.path, metavar="RUN", help="a folder that `srptq quantize` wrote")


def _nothing(_parser: ArgumentParser) -> None:
    """No options of its own."""


COMMANDS = (
    ("quantize", "quantize a network and write a run folder", _quantize),
    ("train", "train from a calibrated run, with or without labels, and write another run", _train),
    ("evaluate", "PSNR and SSIM: bicubic, float, simulated, and in the runtime", _evaluate),
    ("verify", "hold the simulation against the real runtime; exit code 1 where they differ", _verify),
    ("analyze", "measure what each stage, block and site costs the image", _analyze),
    ("plot", "draw what analyze measured, or the values and bounds of a site; needs matplotlib", _plot),
    ("cost", "count arithmetic, bytes and memory, quantized and in float; no image is read", _cost),
    ("lint", "check any ONNX file against a target's rules; exit code 1 where it breaks one", _lint),
    ("recipes", "list the recipes that come with the package, or print one, or all keys", _recipes),
    ("targets", "list the deployment targets and what they allow", _nothing),
    ("plugins", "list the plugins and what they register", _nothing),
)
