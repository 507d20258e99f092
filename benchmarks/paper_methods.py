"""The rows of the paper's tables: recipes with overrides, by table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

UNTUNED = ("reconstruction=null",)
PAPER_RATIO = ("activations.options.ratio=paper",)
TEN_EPOCHS = ("reconstruction.name=pac", "reconstruction.epochs=10")
WIDE_UPSAMPLER = ("stages.upsample.weights=8", "stages.upsample.activations=8")
BODY_ONLY = tuple(f"stages.{stage}.quantize=false" for stage in ("head", "upsample", "tail"))


@dataclass(frozen=True)
class Method:
    """A recipe with overrides. The recipe `None` is the float network."""

    name: str
    bits: str
    recipe: str | None = None
    overrides: Sequence[str] = ()


def _wide(bits: int) -> tuple[str, str]:
    return f"weights.bits={bits}", f"activations.bits={bits}"


def _baseline(name: str, bits: int, *overrides: str) -> Method:
    return Method(name, str(bits), f"paper-w4a4-{name.lower()}", (*_wide(bits), *overrides))


def _ours(name: str, bits: int, *overrides: str) -> Method:
    return Method(name, str(bits), f"paper-w{bits}a{bits}", overrides)


def _literal(name: str, bits: int, *overrides: str) -> Method:
    return Method(name, str(bits), f"paper-w{bits}a{bits}-literal", overrides)


FLOAT = Method("float", "32")


def methods(bits: int) -> Iterator[Method]:
    """Yield the rows of tables 3 and 4 for a number of bits."""
    if bits == 8:  # noqa: PLR2004 - the only width of the targets' own quantizers
        for target in ("OpenVINO", "TensorRT", "SNPE", "ONNX Runtime"):
            yield Method(f"{target}'s own", "8", f"{target.lower().replace(' ', '')}-w8a8-stock")
    for name in ("MinMax", "Percentile", "MSE", "Entropy"):
        yield _baseline(name, bits)
    yield _ours("DBDC", bits, *PAPER_RATIO, *UNTUNED)
    yield _literal("DBDC, literal", bits, *UNTUNED)
    yield _ours("DBDC + PaC", bits, *PAPER_RATIO, *TEN_EPOCHS)
    yield _literal("DBDC + PaC, literal", bits)
    if bits != 6:  # noqa: PLR2004
        yield _ours("DBDC auto + PaC", bits, *TEN_EPOCHS)
    yield Method("best", str(bits), f"paper-w{bits}a{bits}-best")
    if bits == 4:  # noqa: PLR2004
        yield Method("best, not rotated", "4", "paper-w4a4-best", ("rotate=false",))
        yield Method("best, upsampler at 8 bits", "4, 8", "paper-w4a4-best", WIDE_UPSAMPLER)


def weights_and_activations() -> Iterator[Method]:
    """Yield the rows of Table 2: min-max on weights, on activations, on both."""
    for bits in (6, 4):
        for name, off in ((f"{bits}/32", "activations"), (f"32/{bits}", "weights"), (f"{bits}/{bits}", "")):
            base = _baseline("MinMax", bits, *([f"{off}.quantize=false"] if off else []))
            yield Method("MinMax", name, base.recipe, base.overrides)


def body_only() -> Iterator[Method]:
    """Yield Table 5's rows of post-training quantization."""
    yield _ours("body only", 4, *PAPER_RATIO, *TEN_EPOCHS, *BODY_ONLY)
    yield _ours("all layers", 4, *PAPER_RATIO, *TEN_EPOCHS)


def ablation() -> Iterator[Method]:
    """Yield the rows of Table 6. The paper's row without either is Percentile's."""
    yield _baseline("Percentile", 4)
    yield _ours("DBDC", 4, *PAPER_RATIO, *UNTUNED)
    yield Method("PaC (from Percentile)", "4", "paper-w4a4-percentile", (*_wide(4), *TEN_EPOCHS))
    yield _ours("DBDC + PaC", 4, *PAPER_RATIO, *TEN_EPOCHS)


def options() -> Iterator[Method]:
    """Yield DBDC auto + PaC of five epochs at 4 bits, then the same with one option changed at a time."""
    start = ("reconstruction.epochs=5", "reconstruction.start=observed")
    yield _ours("DBDC auto + PaC, 5 epochs", 4, *start)
    for changed in (
        ("reconstruction.output_loss=l1",),
        ("reconstruction.region_weight=0",),
        ("reconstruction.recolor=false",),
        ("reconstruction.schedule=alternating",),
        ("reconstruction.start=image",),
        ("reconstruction.blocks=sensitivity",),
        ("reconstruction.bias_correction=true",),
        ("reconstruction.weights=rounding",),
        ("reconstruction.weights=free",),
        ("equalize=true",),
        ("calibration.choose=detail",),
        ("calibration.size=68", "calibration.patches=50"),
    ):
        name = ", ".join(key.removeprefix("reconstruction.").removeprefix("calibration.") for key in changed)
        yield _ours(name, 4, *start, *changed)


def literal_dbdc() -> Iterator[Method]:
    """Yield DBDC with the paper's M at 4 bits, then the same with one choice changed to the letter, and with all."""
    yield _baseline("Percentile", 4)
    yield _ours("DBDC", 4, *PAPER_RATIO, *UNTUNED)
    average = "activations.options.average=ema"
    for name, changed in {
        "overshoot": ("activations.options.overshoot=true",),
        "moving average": (average,),
        "moving average from extremes": (average, "activations.options.start=extremes"),
        "weights by tensor": ("weights.per_channel=false",),
    }.items():
        yield _ours(name, 4, *PAPER_RATIO, *UNTUNED, *changed)
    yield _literal("DBDC, literal", 4, *UNTUNED)
    yield Method("DBDC, literal, weights clipped", "4", "paper-w4a4-literal-srresnet", UNTUNED)
    yield _ours("M = 0.002, as Percentile cuts", 4, "activations.options.ratio=0.002", *UNTUNED)
    yield _ours("M of least expected error", 4, *UNTUNED)
    percentile = "activations.options.percentile=0.002"
    yield Method("Percentile of M / 2 at each end", "4", "paper-w4a4-percentile", (*_wide(4), percentile))


def literal_pac() -> Iterator[Method]:
    """Yield DBDC and PaC to the letter at 4 bits, then the same with one choice changed to ours."""
    yield _literal("DBDC + PaC, literal", 4)
    relative = "reconstruction.rates=relative", "reconstruction.activation_rate=0.001"
    mean = "activations.options.start=clipped", "activations.options.average=mean"
    for name, changed in {
        "gradient from all values": ("reconstruction.gradient=full",),
        "gradient from all values, relative rates": ("reconstruction.gradient=full", *relative),
        "gradient from all values, joint turns": ("reconstruction.gradient=full", "reconstruction.schedule=joint"),
        "relative rates": relative,
        "joint turns": ("reconstruction.schedule=joint",),
        "root mean square": ("reconstruction.output_loss=rms",),
        "squared feature loss": ("reconstruction.feature_loss=sum",),
        "mean over batches": mean,
        "weights by channel": ("weights.per_channel=true",),
    }.items():
        yield _literal(name, 4, *changed)


def training_free() -> Iterator[Method]:
    """Yield DAQ's Table 2: levels computed from each image in the body, without tuning, and DFQ's, from noise."""
    for bits in (4, 2, 1):
        for name, kind in (("linear", "linear"), ("DAQ", "daq"), ("DAQ-m", "daq-m")):
            kinds = f"weights.quantizer={kind.removesuffix('-m')}", f"activations.quantizer={kind}"
            yield Method(name, str(bits), "paper-w4a4-daq", (*_wide(bits), *kinds))
        yield Method("DFQ", str(bits), "paper-w4a4-dfq", _wide(bits))


def fqsr() -> Iterator[Method]:
    """Yield FQSR's settings (weights, features, skips) before training, and one with a coarser image."""
    for bits, skips in ((8, 32), (8, 8), (6, 8), (6, 6), (4, 32), (4, 8)):
        yield Method("FQSR, calibrated", f"{bits}/{bits}/{skips}", f"paper-w{bits}a{bits}-fqsr-s{skips}")
    yield Method("and the image at 4 bits", "4/4/8", "paper-w4a4-fqsr-s8", ("stages.head.activations=null",))


def every_width() -> Iterator[Method]:
    """Yield the float network, then the rows of tables 3 and 4 for 8, 6 and 4 bits."""
    yield FLOAT
    for bits in (8, 6, 4):
        yield from methods(bits)
