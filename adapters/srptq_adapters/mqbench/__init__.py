"""MQBench: our observers and fake-quantizer by name, PaC as a reconstruction pattern, deploy files that are right.

Importing anything in here imports MQBench, also where torch has moved what it imports.
"""

from importlib import import_module

from srptq_adapters.mqbench.torch_compat import old_names

with old_names():
    for part in ("prepare_by_platform", "custom_quantizer", "advanced_ptq", "convert_deploy"):
        import_module(f"mqbench.{part}")
