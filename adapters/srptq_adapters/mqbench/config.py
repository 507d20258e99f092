"""What a user writes in MQBench's config: an alias, names and options checked, keys that nobody reads named."""

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
QCONFIG = frozenset(
    f"{side}_{key}"
    for side in SIDES
    for key in ("observer", "fakequantize", "fakeq_params", "qscheme", "observer_extra_args")
)
QUANTIZER = frozenset(
    {"additional_function_type", "additional_module_type", "additional_node_name"}
    | {"exclude_module_name", "exclude_function_type", "exclude_node_name"}
)
PASSED_ON = ("observer_extra_args", "fakeq_params", "qscheme")
TOP = frozenset(
    {"extra_qconfig_dict", "extra_quantizer_dict", "extra_fuse_dict", "preserve_attr", "concrete_args", "leaf_module"}
)
EIGHT_BITS = ("Tensorrt", "SNPE", "OPENVINO", "QDQ", "PPLCUDA")
"""Backends whose files hold 8-bit types."""
FORCED = "OPENVINO"


def checks() -> Iterator[tuple[str, str, Callable[[], Undo]]]:
    """The wrapped functions: name, summary, how to wrap it."""
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
        given = prepare_custom_config_dict or {}
        _name_ignored("prepare_custom_config_dict", given, TOP)
        _name_ignored("extra_quantizer_dict", given.get("extra_quantizer_dict", {}), QUANTIZER)
        prepared = stock(model, deploy_backend, given, *args, **keywords)
        name_sites(prepared)
        return prepared

    return swapped(platform, "prepare_by_platform", prepare_by_platform)


def name_sites(prepared: nn.Module) -> None:
    """Tell our quantizers and observers where they are, for their messages."""
    for name, module in prepared.named_modules():
        if isinstance(module, SRFakeQuantize):
            module.core.name = name
        elif isinstance(module, SRObserver):
            module.site = name.removesuffix(".activation_post_process")


def _wrap_qconfig() -> Undo:
    stock = platform.get_qconfig_by_platform

    def get_qconfig_by_platform(deploy_backend: Any, extra_qparams: Mapping[str, Any]) -> Any:
        given = with_alias(extra_qparams)
        _name_ignored("extra_qconfig_dict", given, QCONFIG)
        check_names(given)
        check_schemes(deploy_backend, given)
        with _own_options(deploy_backend):
            qconfig = stock(deploy_backend, given)
        for side, role in SIDES.items():
            _try(getattr(qconfig, role), f"extra_qconfig_dict: {', '.join(f'{side}_{key}' for key in PASSED_ON)}")
        return qconfig

    return swapped(platform, "get_qconfig_by_platform", get_qconfig_by_platform)


def with_alias(given: Mapping[str, Any]) -> dict[str, Any]:
    """`observer` is the activations' observer.

    >>> with_alias({"observer": "dbdc"})
    {'a_observer': 'dbdc'}
    """
    known = dict(given)
    alias = known.pop("observer", None)
    if alias is not None and known.setdefault("a_observer", alias) != alias:
        raise SrptqError(
            f"extra_qconfig_dict: observer is {alias!r} and a_observer {known['a_observer']!r}; "
            "they are the same key, give one"
        )
    return known


def _name_ignored(where: str, given: Mapping[str, Any], known: frozenset[str]) -> None:
    for key in given:
        if key not in known:
            logger.warning("%s: MQBench ignores the key %r; it reads %s", where, key, ", ".join(sorted(known)))


def check_names(given: Mapping[str, Any]) -> None:
    """Refuse observers and fake-quantizers that nobody registered."""
    tables = {"observer": platform.ObserverDict, "fakequantize": platform.FakeQuantizeDict}
    for side in SIDES:
        for key, table in tables.items():
            name = given.get(f"{side}_{key}")
            if name and name not in table:
                raise SrptqError(f"extra_qconfig_dict.{side}_{key}: {UnknownNameError(key, name, table)}")
        _check_options(f"{side}_fakeq_params", given, platform.FakeQuantizeDict.get(given.get(f"{side}_fakequantize")))
    name = given.get("w_fakequantize")
    if name and getattr(getattr(platform.FakeQuantizeDict[name], "kind", None), "dynamic", False):
        raise SrptqError(f"extra_qconfig_dict.w_fakequantize: {name} is for activations here; give BoundedFakeQuantize")


def _check_options(key: str, given: Mapping[str, Any], made: Any) -> None:
    """Refuse what one of our fake-quantizers does not know; MQBench's own take what they like."""
    if isinstance(made, type) and issubclass(made, SRFakeQuantize):
        for name in given.get(key, {}):
            if name not in (known := ("gradient", *made.kind.choices)):
                raise SrptqError(f"extra_qconfig_dict.{key}: {UnknownNameError('option', name, known)}")


def check_schemes(backend: Any, given: Mapping[str, Any]) -> None:
    """Refuse bits that the backend's files cannot hold; name those that its quantizer changes."""
    largest = 8 if backend.name in EIGHT_BITS else 16
    for side in SIDES:
        scheme = given.get(f"{side}_qscheme")
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
    """Make one now: an option that is wrong must not wait for the first image."""
    try:
        make()
    except (TypeError, SrptqError) as error:
        raise SrptqError(f"{where}: {error}") from error


@contextmanager
def _own_options(backend: Any) -> Generator[None]:
    """MQBench writes a config's observer options into its table of defaults; take them out again."""
    schemes = [s for key in ("w_qscheme", "a_qscheme") if (s := platform.ParamsTable[backend].get(key)) is not None]
    before = [dict(scheme.kwargs) for scheme in schemes]
    try:
        yield
    finally:
        for scheme, kwargs in zip(schemes, before, strict=True):
            scheme.kwargs = kwargs
