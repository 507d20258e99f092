"""Checks of a user's MQBench config: names, options and bits, an alias, and warnings about keys that nobody reads."""

import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mqbench import prepare_by_platform as platform  # pyright: ignore[reportMissingImports]
from torch import nn

from srptq_adapters.mqbench.observer_class import SRObserver
from srptq_adapters.mqbench.patching import Undo, swapped
from srptq_adapters.mqbench.quantizer_class import SRFakeQuantize
from srptq_plugin.errors import SrptqError, UnknownNameError

logger = logging.getLogger(__name__)

SIDES = {"w": "weight", "a": "activation"}
"""The roles by the prefix of their keys."""
QCONFIG = frozenset(
    f"{side}_{key}"
    for side in SIDES
    for key in ("observer", "fakequantize", "fakeq_params", "qscheme", "observer_extra_args")
)
QUANTIZER = frozenset(
    {"additional_function_type", "additional_module_type", "additional_node_name"}
    | {"exclude_module_name", "exclude_function_type", "exclude_node_name"}
)
CONSTRUCTOR_KEYS = ("observer_extra_args", "fakeq_params", "qscheme")
TOP = frozenset(
    {"extra_qconfig_dict", "extra_quantizer_dict", "extra_fuse_dict", "preserve_attr", "concrete_args", "leaf_module"}
)
EIGHT_BITS = ("Tensorrt", "SNPE", "OPENVINO", "QDQ", "PPLCUDA")
"""Backends whose files hold 8-bit types."""
FORCED = "OPENVINO"
"""The backend whose quantizer sets the weights' bits by itself."""


def checks() -> Iterator[tuple[str, str, Callable[[], Undo]]]:
    """Yield the MQBench functions to wrap: name, summary, and the call that wraps it."""
    yield "prepare_by_platform", "keys that MQBench ignores are named", _wrap_prepare
    yield "get_qconfig_by_platform", "`observer` as an alias; names, options and bits are checked", _wrap_qconfig


def _wrap_prepare() -> Undo:
    stock = platform.prepare_by_platform

    def prepare_by_platform(
        model: Any,
        deploy_backend: Any,
        prepare_custom_config_dict: Mapping[str, Any] | None = None,
        *args: Any,
        **keywords: Any,
    ) -> Any:
        custom = prepare_custom_config_dict or {}
        _warn_of_ignored("prepare_custom_config_dict", custom, TOP)
        _warn_of_ignored("extra_quantizer_dict", custom.get("extra_quantizer_dict", {}), QUANTIZER)
        prepared = stock(model, deploy_backend, custom, *args, **keywords)
        name_quantizers(prepared)
        return prepared

    return swapped(platform, "prepare_by_platform", prepare_by_platform)


def name_quantizers(prepared: nn.Module) -> None:
    """Give our quantizers and observers their paths in the model, for their messages."""
    for name, module in prepared.named_modules():
        if isinstance(module, SRFakeQuantize):
            module.core.name = name
        elif isinstance(module, SRObserver):
            module.site = name.removesuffix(".activation_post_process")


def _wrap_qconfig() -> Undo:
    stock = platform.get_qconfig_by_platform

    def get_qconfig_by_platform(deploy_backend: Any, extra_qparams: Mapping[str, Any]) -> Any:
        config = with_alias(extra_qparams)
        _warn_of_ignored("extra_qconfig_dict", config, QCONFIG)
        check_names(config)
        check_schemes(deploy_backend, config)
        with _restored_defaults(deploy_backend):
            qconfig = stock(deploy_backend, config)
        for side, role in SIDES.items():
            _try(
                getattr(qconfig, role), f"extra_qconfig_dict: {', '.join(f'{side}_{key}' for key in CONSTRUCTOR_KEYS)}"
            )
        return qconfig

    return swapped(platform, "get_qconfig_by_platform", get_qconfig_by_platform)


def with_alias(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the alias `observer` as `a_observer`.

    >>> with_alias({"observer": "dbdc"})
    {'a_observer': 'dbdc'}
    """
    renamed = dict(config)
    alias = renamed.pop("observer", None)
    if alias is not None and renamed.setdefault("a_observer", alias) != alias:
        raise SrptqError(
            f"extra_qconfig_dict: observer is {alias!r} and a_observer {renamed['a_observer']!r}; "
            "they are the same key, give one"
        )
    return renamed


def _warn_of_ignored(where: str, config: Mapping[str, Any], known: frozenset[str]) -> None:
    for key in config:
        if key not in known:
            logger.warning("%s: MQBench ignores the key %r; it reads %s", where, key, ", ".join(sorted(known)))


def check_names(config: Mapping[str, Any]) -> None:
    """Raise an error for observers and fake-quantizers that nobody registered, and for options that ours lack."""
    tables = {"observer": platform.ObserverDict, "fakequantize": platform.FakeQuantizeDict}
    for side in SIDES:
        for key, table in tables.items():
            name = config.get(f"{side}_{key}")
            if name and name not in table:
                raise SrptqError(f"extra_qconfig_dict.{side}_{key}: {UnknownNameError(key, name, table)}")
        quantizer = platform.FakeQuantizeDict.get(config.get(f"{side}_fakequantize"))
        _check_options(f"{side}_fakeq_params", config, quantizer)
    name = config.get("w_fakequantize")
    if name and getattr(getattr(platform.FakeQuantizeDict[name], "kind", None), "dynamic", False):
        raise SrptqError(f"extra_qconfig_dict.w_fakequantize: {name} is for activations here; give BoundedFakeQuantize")


def _check_options(key: str, config: Mapping[str, Any], quantizer: Any) -> None:
    # MQBench's own fake-quantizers check theirs, or ignore them.
    if isinstance(quantizer, type) and issubclass(quantizer, SRFakeQuantize):
        for name in config.get(key, {}):
            if name not in (known := ("gradient", *quantizer.kind.options_type.model_fields)):
                raise SrptqError(f"extra_qconfig_dict.{key}: {UnknownNameError('option', name, known)}")


def check_schemes(backend: Any, config: Mapping[str, Any]) -> None:
    """Raise an error for bits that the backend's files cannot hold. Warn of bits that its quantizer changes."""
    largest = 8 if backend.name in EIGHT_BITS else 16
    for side in SIDES:
        scheme = config.get(f"{side}_qscheme")
        if scheme is None and backend.name.startswith("Academic"):
            raise SrptqError(
                f"extra_qconfig_dict.{side}_qscheme: missing; Academic needs bit, symmetry, per_channel and pot_scale"
            )
        bit = (scheme or {}).get("bit", 8)
        if type(bit) is not int or not 2 <= bit <= largest:  # noqa: PLR2004 - one bit has no step between its ends
            raise SrptqError(
                f"extra_qconfig_dict.{side}_qscheme.bit: {backend.name} cannot take {bit!r}; give 2 to {largest}"
            )
        if backend.name == FORCED and side == "w" and bit != 8:  # noqa: PLR2004
            logger.warning(
                "extra_qconfig_dict.w_qscheme.bit: MQBench's OPENVINO takes -64..63 for weights, not %s bits", bit
            )


def _try(make: Callable[[], object], where: str) -> None:
    """Make one quantizer now, so that a wrong option does not wait for the first image."""
    try:
        make()
    except (TypeError, SrptqError) as error:
        raise SrptqError(f"{where}: {error}") from error


@contextmanager
def _restored_defaults(backend: Any) -> Generator[None]:
    """Restore MQBench's table of defaults, into which it writes the observer options of a config."""
    schemes = [s for key in ("w_qscheme", "a_qscheme") if (s := platform.ParamsTable[backend].get(key)) is not None]
    before = [dict(scheme.kwargs) for scheme in schemes]
    try:
        yield
    finally:
        for scheme, kwargs in zip(schemes, before, strict=True):
            scheme.kwargs = kwargs
