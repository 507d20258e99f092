from .utils import deepcopy_graphmodule, is_tracing_state, no_jit_trace

__all__ = ["deepcopy_graphmodule", "is_tracing_state", "no_jit_trace"]
