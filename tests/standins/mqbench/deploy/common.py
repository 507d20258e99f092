import onnx


class ONNXGraph:
    """A file with its initializers by name. Ordering the nodes starts from these."""

    def __init__(self, path: str) -> None:
        self.graph = onnx.load(path).graph
        self.initializer: dict[str, object] = {}
        self.prepare_initializer()

    def prepare_initializer(self) -> None:
        self.initializer = {tensor.name: (tensor, index) for index, tensor in enumerate(self.graph.initializer)}
