"""How many replays the learner can afford: all of them while it keeps up, none while it is far behind."""

BEHIND_S = 5.0  # a backlog that takes longer than this at the present pace is too large
CAUGHT_UP_S = 0.5  # one that takes less with one replay more is as good as gone
NEWEST_SHARE = 0.1  # of the newest measurement in the running mean


class Pace:
    """Replays R of each example, from the backlog and from the time that an example was measured to take at each R."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._example_s: dict[int, float] = {}  # by R
        self.replays = most

    def note(self, examples: int, took_s: float) -> None:
        """So many examples took so long with the present R."""
        if examples:
            measured = took_s / examples
            before = self._example_s.get(self.replays, measured)
            self._example_s[self.replays] = before + NEWEST_SHARE * (measured - before)

    def adapt(self, backlog: int) -> None:
        """R is one lower if the backlog (examples) is too large, one higher if it is gone, else as it was."""
        if self.replays > 0 and backlog * self._expected_s(self.replays) > BEHIND_S:
            self.replays -= 1
        elif self.replays < self._most and backlog * self._expected_s(self.replays + 1) < CAUGHT_UP_S:
            self.replays += 1

    def _expected_s(self, replays: int) -> float:
        """What an example takes with so many replays; without a measurement, as many steps as in the nearest R."""
        if not self._example_s:
            return 0.0
        nearest = min(self._example_s, key=lambda measured: abs(measured - replays))
        return self._example_s[nearest] * (replays + 1) / (nearest + 1)
