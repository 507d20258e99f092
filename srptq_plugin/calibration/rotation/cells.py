"""Sets of channels of feature maps that need the same matrix."""

from collections.abc import Sequence


class Cells:
    """Sets of channels that need the same matrix, as a union-find structure.

    A cell that a pixel shuffle gathers has several adjacent channels, its copies, for each channel of the root.
    """

    def __init__(self) -> None:
        self.channels: list[int] = []
        self._parents: list[tuple[int, int]] = []
        self._fixed: set[int] = set()

    def new(self, channels: int) -> int:
        """Add a cell of its own, and return its number."""
        self.channels.append(channels)
        self._parents.append((len(self._parents), 1))
        return len(self._parents) - 1

    def root(self, cell: int) -> tuple[int, int]:
        """Return the root of a cell, and the cell's copies of each of its channels."""
        copies = 1
        while self._parents[cell][0] != cell:
            cell, factor = self._parents[cell]
            copies *= factor
        return cell, copies

    def fixed_roots(self) -> set[int]:
        """Return the roots of fixed cells, whose channels all stay as they are."""
        return {self.root(cell)[0] for cell in self._fixed}

    def fix(self, cells: Sequence[int]) -> None:
        """Let the channels of cells stay as they are."""
        self._fixed.update(cells)

    def alike(self, first: Sequence[int], second: Sequence[int]) -> bool:
        """Tell whether two maps have cells of the same sizes and copies, in the same order."""
        sizes = [[(self.channels[cell], self.root(cell)[1]) for cell in cells] for cells in (first, second)]
        return sizes[0] == sizes[1]

    def join(self, first: int, second: int) -> None:
        """Give two cells that are alike the same root."""
        (one, _), (other, _) = self.root(first), self.root(second)
        self._parents[one] = (other, 1)

    def gather(self, cell: int, into: int) -> None:
        """Link the cell that a pixel shuffle reads to the one that it makes."""
        root, copies = self.root(cell)
        if copies > 1 or self.channels[cell] % self.channels[into]:
            self.fix([cell, into])
        else:
            self._parents[root] = (into, self.channels[cell] // self.channels[into])
