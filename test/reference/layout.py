"""Where the units lie in a vector over all entries (METHOD section 2's order)."""

import numpy as np


class Layout:
    """All width entries, unit by unit, then all depth entries: n together.

    width: entries of each width unit; depth: each width unit's depth entry, -1 without one; order: the keep order,
    safest first, as indices into the depth entries (may be negative, as METHOD writes them).
    """

    def __init__(self, width, depth, order):
        self.width = [int(w) for w in width]
        self.depth = [int(d) for d in depth]
        self.order = [int(i) for i in order]
        self.n_width = sum(self.width)
        self.n_depth = len(self.order)
        self.n = self.n_width + self.n_depth

    def slices(self):
        """(slice of the vector, depth entry) of each width unit."""
        start = 0
        for width, depth in zip(self.width, self.depth):
            yield slice(start, start + width), depth
            start += width

    def datasets(self):
        return dict(unit_width=np.int64(self.width), unit_depth=np.int64(self.depth), order=np.int64(self.order))
