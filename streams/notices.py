"""What happened to which rows, told to readers that come by now and then."""

from collections import deque
from itertools import islice


class Notices:
    """Rows in the order in which something happened to them; each reader keeps its own position, the oldest rows go."""

    def __init__(self, most: int) -> None:
        self.end = 0  # the position behind the newest
        self._kept: deque[int] = deque(maxlen=most)

    def add(self, row: int) -> None:
        """It happened to this row."""
        self._kept.append(row)
        self.end += 1

    def since(self, position: int) -> tuple[list[int], bool]:
        """The rows from this position on, oldest first, and whether none of them has gone."""
        count = self.end - position
        newest_first = islice(reversed(self._kept), count)
        return list(newest_first)[::-1], count <= len(self._kept)
