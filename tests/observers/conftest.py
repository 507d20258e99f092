from collections.abc import Iterator

import pytest

from srptq_plugin.utils import devices


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Use one thread. More cost time on tensors this small."""
    with devices.one_thread():
        yield
