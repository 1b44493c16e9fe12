"""What the users of a batch did in the experiment that runs, for their rows."""

from collections.abc import Collection, Mapping

from store.experiments import UserCounts
from streams.events import UserClick
from streams.experiment_ranking import Listed
from streams.experiments import Trial


class ExperimentCounts:
    """Of one batch. An event counts if it happened while the experiment ran, for whoever takes part."""

    def __init__(self, trial: Trial | None) -> None:
        """None: no experiment runs, and nothing counts."""
        self._trial = trial
        self._of_user: dict[str, UserCounts] = {}

    def note_click(self, click: UserClick) -> None:
        """An event that was applied for the first time. Only what came out of a list of the experiment is owed to it;
        of what was put into the basket and bought, all is counted besides."""
        trial = self._trial
        if trial is None or click.occurred_at.timestamp() < trial.started_at:
            return
        arm = trial.arm_of(click.user_id)
        if arm is None:
            return
        counts = self._counts(trial, click.user_id, arm)
        owed = trial.attribute(arm, click.list_id, click.position)
        if click.event == "add_to_cart":
            counts.all_carts += 1
            counts.carts += owed is not None
        elif click.event == "purchase":
            counts.all_purchases += 1
            counts.purchases += owed is not None
        elif owed is not None:
            counts.clicks += 1
            counts.first_team += owed.team == 0
            counts.second_team += owed.team == 1

    def note_lists(self, made: Mapping[str, Listed], changed: Collection[str]) -> None:
        """These lists are published after clicks, by user; a list that is made again for a replay counts no more.

        changed  the users whose rows are written
        """
        trial = self._trial
        if trial is None:
            return
        for user_id in changed:
            listed, arm = made.get(user_id), trial.arm_of(user_id)
            # An experiment that was started or stopped since this batch began made no list of this one's.
            if listed is not None and arm is not None and listed.experiment == trial.mark(arm):
                self._counts(trial, user_id, arm).lists += 1

    def forget(self, user_id: str) -> None:
        """What she did so far in this batch goes with the rest of her."""
        self._of_user.pop(user_id, None)

    def all(self) -> list[UserCounts]:
        return list(self._of_user.values())

    def _counts(self, trial: Trial, user_id: str, arm: int) -> UserCounts:
        if user_id not in self._of_user:
            self._of_user[user_id] = UserCounts(user_id, trial.name, trial.variant_name(arm) or "")
        return self._of_user[user_id]
