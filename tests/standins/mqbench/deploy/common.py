import onnx


class ONNXGraph:
    """A file with its initializers by name, which ordering the nodes takes for what exists."""

    def __init__(self, path: str) -> None:
        self.graph = onnx.load(path).graph
        self.initializer: dict[str, object] = {}
        self.prepare_initializer()

    def prepare_initializer(self) -> None:
        self.initializer = {each.name: (each, place) for place, each in enumerate(self.graph.initializer)}
