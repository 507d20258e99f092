"""The options of each command."""

from argparse import ArgumentParser

from srptq_plugin.analysis import KINDS
from srptq_plugin.cli import argument_types
from srptq_plugin.recipes import DEFAULT_RECIPE

MODEL = "a checkpoint or ONNX file, a family of networks (see `srptq plugins`), or package.module:factory"
RUN = "a folder that `srptq quantize` wrote"
SCALE = "the images are high-resolution: downscale them by N"


def quantize(parser: ArgumentParser) -> None:
    """Add the options of `srptq quantize`."""
    _network(parser)
    parser.set_defaults(recipe=DEFAULT_RECIPE)
    _images(parser)
    _scale(parser)
    _device(parser)
    _max_drop(parser)
    _run_to_write(parser, "run")
    _resume(parser, "go on from where a run for the same folder was stopped")
    _toolkit(parser)
    _size(
        parser, "fix the input size of the exported file, such as 1x3x270x480, or 1x1x270x480 for Y (default: any size)"
    )


def train(parser: ArgumentParser) -> None:
    """Add the options of `srptq train`."""
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="a recipe's name or .yaml file; its `training` section configures training")
    add("--run", type=argument_types.path, required=True, metavar="RUN", help=RUN)
    add(
        "--images",
        type=argument_types.path,
        required=True,
        metavar="DIR",
        help="low-resolution training images, or a folder with HR and LR_x4 folders",
    )
    _scale(parser, "the images are high-resolution: downscale them by N, and learn to restore them")
    _data(parser, "high-resolution images for validation (default: hold out some of the training images)")
    _set(parser)
    _run_to_write(parser, "trained")
    _resume(parser, "continue an interrupted training of the same folder")
    _toolkit(parser)
    _device(parser)


def evaluate(parser: ArgumentParser) -> None:
    """Add the options of `srptq evaluate`."""
    _run(parser)
    add = parser.add_argument
    _data(parser, "high-resolution images, or a folder with HR and LR_x4 folders", required=True)
    _scale(parser, "refuse a network of another scale than N")
    add("--tile", type=int, metavar="N", help="run in tiles of N x N low-resolution pixels (default: whole images)")
    add(
        "--overlap",
        type=int,
        metavar="M",
        help="pixels that a tile reads beyond the part that it draws (default: 16, or a quarter of a small tile)",
    )
    add("--ensemble", action="store_true", help="average over 8 rotated and flipped inputs; takes 8 times as long")
    add("--csv", type=argument_types.path, metavar="FILE", help="write the scores of each image to a CSV file")
    add("--strict", action="store_true", help="stop at an image that cannot be scored, instead of skipping it")
    _device(parser)


def verify(parser: ArgumentParser) -> None:
    """Add the options of `srptq verify`."""
    _run(parser)
    _images(parser, "low-resolution images to compare on (default: the images that the run was calibrated on)")


def analyze(parser: ArgumentParser) -> None:
    """Add the options of `srptq analyze`."""
    _run_or_model(parser)
    _images(parser)
    _scale(parser)
    _device(parser)
    add = parser.add_argument
    add(
        "--patches",
        type=argument_types.count,
        default=8,
        metavar="N",
        help="how many image patches to measure on (default: %(default)s)",
    )
    add(
        "--by",
        nargs="+",
        choices=KINDS,
        default=KINDS,
        metavar="KIND",
        help="the kinds of parts to measure: stage, block, site (default: all)",
    )
    _data(parser, "high-resolution images, to measure PSNR and SSIM on the Y channel as well")
    add(
        "--out",
        type=argument_types.path,
        metavar="FILE",
        help="the JSON file to write (default: analysis.json or budget.json, in the run folder if there is one)",
    )
    _resume(parser, "go on from what an analysis for the same file had measured when it was stopped")
    add(
        "--budget",
        type=argument_types.budget,
        metavar="KIND=N",
        help="find bit widths: size=N or bops=N for the least noise at N times the cost of 8 bits everywhere, "
        "drop=N for the fewest BitOPs at a PSNR drop of at most N dB",
    )
    add(
        "--bits",
        nargs="+",
        type=argument_types.count,
        default=(4, 8, 16),
        metavar="N",
        help="bit widths that --budget chooses from (default: 4 8 16)",
    )
    add(
        "--recipe-out",
        type=argument_types.path,
        default="mixed.yaml",
        metavar="FILE",
        help="where --budget writes the recipe (default: %(default)s)",
    )


def plot(parser: ArgumentParser) -> None:
    """Add the options of `srptq plot`."""
    add = parser.add_argument
    add("subject", type=argument_types.path, metavar="FILE_OR_RUN", help="a file of `srptq analyze`, or a run folder")
    add("--site", metavar="NAME", help="draw this tensor of the run, by its name in summary.json")
    _images(parser, "low-resolution images for --site (default: the images that the run was calibrated on)")
    _scale(parser)
    _device(parser)
    add(
        "--out",
        type=argument_types.path,
        metavar="DIR",
        help="the folder for the PNG files (default: the folder of the input)",
    )


def report(parser: ArgumentParser) -> None:
    """Add the options of `srptq report`."""
    add = parser.add_argument
    add("runs", nargs="+", type=argument_types.path, metavar="RUN", help=RUN)
    reference = "the float network on images that the first run was calibrated on"
    data = f"high-resolution images, or a folder with HR and LR_x4 folders, to score against (default: {reference})"
    _data(parser, data)
    crops = "how many images to show, from the greatest loss on (default: %(default)s)"
    add("--crops", type=argument_types.count, default=4, metavar="N", help=crops)
    out = "the HTML file to write (default: report.html, in the run folder if there is one run)"
    add("--out", type=argument_types.path, metavar="FILE", help=out)
    _device(parser)


def doctor(parser: ArgumentParser) -> None:
    """Add the options of `srptq doctor`."""
    parser.add_argument("--target", nargs="+", default=(), metavar="T", help="the targets to try (default: all)")


def completion(parser: ArgumentParser) -> None:
    """Add the options of `srptq completion`."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")


def cost(parser: ArgumentParser) -> None:
    """Add the options of `srptq cost`."""
    _run_or_model(parser)
    _images(parser, "low-resolution images, on which the bits of daq-m's channels in a run are measured (equation 10)")
    _size(parser, "the input size to count for, such as 1x3x270x480 (default: the run's, or for a 1280 x 720 output)")


def lint(parser: ArgumentParser) -> None:
    """Add the options of `srptq lint`."""
    parser.add_argument("file", type=argument_types.path, metavar="FILE", help="an ONNX file")
    parser.add_argument("--target", required=True, metavar="T", help="the target whose rules apply, such as tensorrt")
    encodings = "for snpe, the encodings of its tensors (default: FILE with .encodings for .onnx)"
    parser.add_argument("--encodings", type=argument_types.path, metavar="FILE", help=encodings)


def recipes(parser: ArgumentParser) -> None:
    """Add the options of `srptq recipes`."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("name", nargs="?", metavar="NAME", help="print this recipe, or .yaml file, in full")
    what.add_argument("--keys", action="store_true", help="list every key with its values, default and meaning")


def nothing(_parser: ArgumentParser) -> None:
    """Add no options."""


def _network(parser: ArgumentParser) -> None:
    """Add the options that choose a recipe and a network."""
    add = parser.add_argument
    add("--model", metavar="M", help=f"{MODEL} (default: the bundled EDSR)")
    add(
        "--recipe", metavar="R", help=f"a recipe's name (see `srptq recipes`) or .yaml file (default: {DEFAULT_RECIPE})"
    )
    _set(parser)
    add("--weights", type=argument_types.path, metavar="FILE", help="the checkpoint of a family or a factory")
    add(
        "--allow-missing",
        action="store_true",
        help="load a factory's checkpoint although keys are missing or unknown, and list them",
    )
    add(
        "--model-args",
        nargs="+",
        action="extend",
        default=[],
        type=argument_types.argument,
        metavar="NAME=VALUE",
        help="options of a family, arguments of a factory or further inputs of an ONNX file, such as upscale=4",
    )
    add(
        "--input-range",
        type=argument_types.input_range,
        metavar="B:W",
        help="the network's input values for black and white, such as 0:1 or 0:255",
    )
    add(
        "--output",
        metavar="NAME",
        help="the index or key of the output to quantize, if the network gives several (default: the last image)",
    )


def _data(parser: ArgumentParser, text: str, *, required: bool = False) -> None:
    parser.add_argument("--data", type=argument_types.path, required=required, metavar="DIR", help=text)


def _max_drop(parser: ArgumentParser) -> None:
    limit = "dB of PSNR on --data that may be lost in the runtime: leave operations float, or add bits, until it holds"
    parser.add_argument("--max-drop", type=float, metavar="DB", help=limit)
    _data(parser, "high-resolution images for --max-drop, or a folder with HR and LR_x4 folders")


def _set(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change keys of the recipe (see `srptq recipes --keys`)",
    )


def _images(parser: ArgumentParser, text: str = "low-resolution images to calibrate on") -> None:
    parser.add_argument("--images", type=argument_types.path, metavar="DIR", help=text)


def _scale(parser: ArgumentParser, text: str = SCALE) -> None:
    parser.add_argument("--scale", type=argument_types.scale, metavar="N", help=text)


def _device(parser: ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", metavar="D", help="cpu, cuda or auto (default: %(default)s)")


def _toolkit(parser: ArgumentParser) -> None:
    parser.add_argument("--toolkit", metavar="T", help="the quantization toolkit (default: the one in the recipe)")


def _resume(parser: ArgumentParser, text: str) -> None:
    parser.add_argument("--resume", action="store_true", help=text)


def _size(parser: ArgumentParser, text: str) -> None:
    parser.add_argument("--input-size", type=argument_types.input_size, metavar="SIZE", help=text)


def _run(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=argument_types.path, metavar="RUN", help=RUN)


def _run_to_write(parser: ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--out",
        type=argument_types.path,
        default=default,
        metavar="DIR",
        help="the run folder to write (default: %(default)s)",
    )


def _run_or_model(parser: ArgumentParser) -> None:
    parser.add_argument(
        "subject", nargs="?", metavar="RUN_OR_MODEL", help="a run folder, or a network as --model takes it"
    )
    _network(parser)
