"""MQBench: our observers and fake-quantizers by name, PaC as a reconstruction pattern, correct deploy files.

Importing anything in here imports MQBench, also where torch has moved modules that MQBench imports.
"""

from importlib import import_module

from srptq_adapters.mqbench.torch_compat import old_names

with old_names():
    for part in ("prepare_by_platform", "custom_quantizer", "advanced_ptq", "convert_deploy"):
        import_module(f"mqbench.{part}")

from srptq_adapters.mqbench.backends import MQBenchConfig, config_from

__all__ = ["MQBenchConfig", "config_from"]
