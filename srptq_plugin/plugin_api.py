"""The names that plugins import. They stay what they are from one version to the next, wherever they are defined."""

from srptq_plugin.deploy.qdq import Placer, StoredSite, stored_sites
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import MissingRuntimeError, NotInstalledError, SrptqError, UnknownNameError
from srptq_plugin.graph.export import own_module
from srptq_plugin.graph.fusion import Fusion
from srptq_plugin.graph.rules import Rules
from srptq_plugin.graph.types import Array, Size
from srptq_plugin.models.checkpoint import load_into
from srptq_plugin.models.model_options import settle
from srptq_plugin.models.model_record import ModelFamily, Request, SRNetwork, State
from srptq_plugin.observers.base import Average, BatchObserver, TensorRows, extremes
from srptq_plugin.observers.minmax import MinMaxObserver
from srptq_plugin.planning.plan import Plan, Site
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.entries import (
    Entry,
    ModelEntry,
    ObserverEntry,
    QuantizerEntry,
    ReconstructionEntry,
    TargetEntry,
    ToolkitEntry,
)
from srptq_plugin.plugins.hookspecs import hookimpl
from srptq_plugin.plugins.hosts import Adopter, Change, Host
from srptq_plugin.plugins.protocols import (
    Adaptable,
    Checker,
    EmulatedRuntime,
    Finding,
    Inspectable,
    Inspection,
    Kernels,
    Linter,
    ObserverFactory,
    PairLinter,
    Reconstruction,
    Runtime,
    Target,
    Toolkit,
)
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, dequantize, project, quantize, round_through
from srptq_plugin.quantization.observer import Observer
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize, Mode
from srptq_plugin.quantization.quantizer_kinds import AnyQuantizer
from srptq_plugin.quantization.trainable import TrainableQuantizer
from srptq_plugin.utils.checkpoint import Checkpoint
from srptq_plugin.utils.options import Options
from srptq_plugin.utils.progress import Progress, quiet

__all__ = [
    "Adaptable",
    "Adopter",
    "AnyQuantizer",
    "Array",
    "Average",
    "BatchObserver",
    "BoundedFakeQuantize",
    "Bounds",
    "Change",
    "Checker",
    "Checkpoint",
    "EmulatedRuntime",
    "Entry",
    "Finding",
    "Fusion",
    "Host",
    "Inspectable",
    "Inspection",
    "IntGrid",
    "Kernels",
    "Linter",
    "MinMaxObserver",
    "MissingRuntimeError",
    "Mode",
    "ModelEntry",
    "ModelFamily",
    "NotInstalledError",
    "Observer",
    "ObserverEntry",
    "ObserverFactory",
    "Options",
    "PairLinter",
    "Placer",
    "Plan",
    "PreparedGraph",
    "Progress",
    "QParams",
    "QuantTable",
    "QuantizerEntry",
    "Reconstruction",
    "ReconstructionEntry",
    "Registry",
    "Request",
    "Rules",
    "Runtime",
    "SRNetwork",
    "Site",
    "Size",
    "SrptqError",
    "State",
    "StoredSite",
    "Target",
    "TargetEntry",
    "TensorRows",
    "Toolkit",
    "ToolkitEntry",
    "TrainableQuantizer",
    "UnknownNameError",
    "dequantize",
    "extremes",
    "hookimpl",
    "load_into",
    "own_module",
    "project",
    "quantize",
    "quiet",
    "round_through",
    "settle",
    "stored_sites",
]
