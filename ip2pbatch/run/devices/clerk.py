"""The one who writes for all workers: their records and deliveries, each group of them with one wait for the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from ip2pbatch.errors import ResourceError
from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.large.byte_marks import Marked
from ip2pbatch.plan.large.holders import Holders
from ip2pbatch.run.devices.dealing import Dealer, Group, Victim
from ip2pbatch.run.devices.wire import Deal, Over, Told, Write
from ip2pbatch.run.directory.layout import strip_key
from ip2pbatch.run.directory.ledger import Run
from ip2pbatch.run.directory.lines import Delivery, Record, Status
from ip2pbatch.run.events import Events
from ip2pbatch.run.execute import Summary, not_tried
from ip2pbatch.run.pace import Ahead, Pace, Then
from ip2pbatch.run.states import states_of

Known = TypeVar("Known")


class Clerk:
    """Keeps the books of `run` for its workers, and counts what they did; `names` are the plan's files. Used from one
    thread. Where pictures are `settled`, workers have the disk take them before they tell of them.
    """

    def __init__(
        self, plan: Plan, run: Run, dealer: Dealer, events: Events, clock: Callable[[], float],
        then: Then | None = None, names: Container[str] = (), *, settled: bool = False,
    ) -> None:  # fmt: skip
        self._names, self._settled = names, settled
        self._plan, self._run, self._dealer, self._events, self._clock = plan, run, dealer, events, clock
        self._place_of, self._holders = plan.places(), Holders(plan)
        self._announced: dict[tuple[str, str], Delivery] = dict(run.announced)
        self._begun = self._carried = clock()
        self._pace = Pace(clock, dealer.left, self._promised(), self._files_of, 1, then)
        self._own = Marked(len(plan.edits))
        self._waiting = self._made = self._delivered = self._shrunk = 0
        self._undelivered: dict[str, str] = {}
        self._notes: Counter[str] = Counter()
        self._busy: Counter[str] = Counter()
        self._seconds = 0.0

    def _files_of(self, key: str) -> int:
        """How many files an Edit is delivered as."""
        return sum(strip.edits[link - 1].key == key for _, strip in self._holders.of(key) for link in strip.keep)

    def _promised(self) -> int:
        """Those of all Edits that are left."""
        if self._dealer.left == len(self._plan.edits):
            return self._dealer.files
        return sum(map(self._files_of, self._dealer.waiting))

    def _is_own(self, key: str) -> bool:
        """Whether an Edit was made in this session."""
        place = self._place_of(key)
        return place is not None and place in self._own

    def deal(self, epoch: int, group: Group) -> Deal:
        """A group with what is known of it: also what a worker that is gone has announced or delivered."""
        run, plan = self._run, group.plan
        places = [(strip_key(strip), strip.edits[link - 1].key) for strip in plan.strips for link in strip.keep]
        records = {edit.key: run.records[edit.key] for edit in plan.edits if edit.key in run.records}
        return Deal(
            epoch, group, records, _those(run.deliveries, places), _those(self._announced, places),
            {place: earlier for place in places if (earlier := run.deliveries.earlier(place))},
        )  # fmt: skip

    def write(self, words: Sequence[Write]) -> ResourceError | None:
        """Write what workers said at the same time; why the disk did not take it, where it did not."""
        records = [record for word in words for record in word.records]
        deliveries = [delivery for word in words for delivery in word.deliveries]
        try:
            self._run.enter(*records, settled=self._settled) if records else None
            self._deliver(deliveries)
        except ResourceError as error:
            return error
        for record in records:
            self._tell(record)
        return None

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        announced = [one for one in deliveries if one.begun]
        delivered = [one for one in deliveries if not one.begun]
        if announced:
            self._run.announce(*announced)
            self._announced.update({(one.strip, one.edit): one for one in announced})
        if delivered:
            self._run.deliver(*delivered)
        for one in delivered:
            self._announced.pop((one.strip, one.edit), None)
            self._count_delivered(one)

    def _count_delivered(self, delivery: Delivery) -> None:
        now = self._clock()
        self._pace.carried(now - self._carried)
        self._carried = now
        self._delivered += 1
        self._waiting -= self._is_own(delivery.edit)
        self._events.delivered(delivery)

    def _tell(self, record: Record) -> None:
        """Count a record, and tell of it where it is the one that its Edit was waited for with."""
        if not self._dealer.settle(record.edit):
            if record.status != "done" and self._is_own(record.edit):
                self._dealer.reopen(record.edit)
            return
        place = self._place_of(record.edit)
        assert place is not None, "what was left is one of the plan's"
        if record.status == "done":
            self._made += 1
            self._own.add(place)
            self._waiting += self._files_of(record.edit)
        self._pace.ended(record.edit)
        self._events.finished(self._plan.edits[place], record)

    def give_up(self, victim: Victim) -> None:
        """A photo that several workers have ended over: a failed row an Edit, and the files that are not there."""
        own = {edit.key: edit for edit in victim.edits}
        for edit in victim.edits:
            if parent := own.get(edit.source):
                self._fail(edit, "skipped", not_tried(parent, "failed"))
            else:
                self._fail(edit, "failed", victim.reason)
        self._undelivered.update(dict.fromkeys(victim.files if not victim.edits else (), victim.reason))

    def _fail(self, edit: Edit, status: Status, reason: str) -> None:
        self._tell(self._run.fail(edit.key, status, reason))

    def over(self, word: Over) -> None:
        """A group is done with."""
        self._undelivered.update(word.undelivered)
        self._notes.update(word.notes)
        self._shrunk += word.shrunk
        self._seconds += word.seconds
        self._busy.update({work: share * word.seconds for work, share in word.busy.items()})
        self._waiting = max(0, self._waiting - len(word.undelivered))

    def told(self, name: str, word: Told) -> None:
        """What the worker of that name notes down, or has to say."""
        if word.event == "remark":
            self._events.note(str(word.detail["text"]))
        elif word.event == "limits":
            self._events.shrunk(word.detail["limits"])
        else:
            self._run.note(word.event, **word.detail, worker=name)

    def remark(self, text: str) -> None:
        """Something that a person may want to know."""
        self._events.note(text)

    def is_name(self, name: str) -> bool:
        """Whether a name is one of the plan's files."""
        return name in self._names

    def tell_ahead(self, doing: Mapping[str, str]) -> None:
        """Say how much is left, and what workers are at."""
        self._events.ahead(replace(self.ahead(), workers=doing))

    def ahead(self) -> Ahead:
        """What is left, of edits and of the files of those that were made in this session."""
        return self._pace.ahead(max(0, self._waiting))

    def summary(self, stopped: int) -> Summary:
        """How the run ended, as `run_plan` says it."""
        busy = (
            {work: round(seconds / self._seconds, 4) for work, seconds in self._busy.items()} if self._seconds else {}
        )
        return Summary(
            states_of(self._plan, self._run), self._made, self._delivered, tuple(self._undelivered.items()),
            self._shrunk, self._clock() - self._begun, stopped, busy, dict(self._notes),
        )  # fmt: skip

    def end(self, error: str) -> None:
        """The last line of the session."""
        summary = self.summary(0)
        self._run.note(
            "end", error=error, states=dict(summary.states), delivered=self._delivered,
            seconds=round(summary.seconds, 3), busy=dict(summary.busy),
        )  # fmt: skip


def _those(known: Mapping[tuple[str, str], Known], places: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Known]:
    return {place: known[place] for place in places if place in known}
