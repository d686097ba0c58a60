"""The parent's loop: who is idle is dealt to, what workers say is written and told, what one leaves is dealt again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ip2pbatch.errors import ResourceError
from ip2pbatch.plan.edits import Plan, Strip
from ip2pbatch.plan.large.byte_marks import Marked
from ip2pbatch.plan.large.holders import Holders
from ip2pbatch.plan.names import paths_of
from ip2pbatch.run.deliveries import Errand
from ip2pbatch.run.devices.clerk import Clerk
from ip2pbatch.run.devices.crew import LOOK, Crew, EditCrew
from ip2pbatch.run.devices.dealing import Dealer
from ip2pbatch.run.devices.member import Member
from ip2pbatch.run.devices.wire import (
    Ask,
    Beat,
    Dealt,
    Drain,
    Entry,
    Finished,
    Portion,
    Reserved,
    Told,
    Trouble,
    Written,
)
from ip2pbatch.run.directory.ledger import Run
from ip2pbatch.run.directory.lines import Status
from ip2pbatch.run.events import Events
from ip2pbatch.run.execute import Options, Summary
from ip2pbatch.run.states import AlreadyDone, already_done
from ip2pbatch.run.stop import Stop

_SLOW = 0.5  # of what the others make in the same time, below which a worker is named
_ENOUGH = 20.0  # seconds of work of a worker and of the others by which that is judged


def share_out(
    plan: Plan, asked: Plan, run: Run, crew: EditCrew, options: Options, events: Events, stop: Stop, *,
    stays: bool = False,
) -> Summary:  # fmt: skip
    """What `run_plan` does, by a crew whose engines are loaded; `asked` has all edits of the photos of `plan`.
    A crew that `stays` is not closed, for another plan of the same run.

    Raises WorkerError where no worker can go on.
    """
    deliver = options.deliver
    assert deliver is not None, "a run of several processes delivers"
    deliver.sweep()
    done = already_done(plan, run)
    todo = _left(plan, run, done, options.redo)

    def owed(strips: Iterable[tuple[int, Strip]]) -> Iterator[Errand]:
        return deliver.outstanding(strips, lambda keys: (state == "done" for state in run.records.statuses(keys)))

    dealer = Dealer(plan, asked, deliver.targets, todo, owed)
    events.started(len(todo), len(done))
    names = paths_of(deliver.targets)
    clerk = Clerk(plan, run, dealer, events, options.clock, options.then, names, settled=crew.is_apart)
    fallen = crew.fallen
    summary = Foreman(crew, dealer, clerk).work(stop, stays=stays)
    if crew.fallen > fallen:  # they may have left half-written files
        run.sweep(run.layout.folders())
        deliver.sweep(again=True)
    return summary


def _left(plan: Plan, run: Run, done: AlreadyDone, redo: Collection[Status]) -> Marked:
    """The numbers of the Edits to be made: neither done, nor failed, nor hanging on one that failed."""
    left, place_of, holders = Marked(len(plan.edits), done.lacking()), plan.places(), Holders(plan)
    for record in run.records.failed():
        if record.status in redo:
            continue
        lost = {record.edit}
        for _, strip in holders.of(record.edit):  # parents first
            for edit in strip.made:
                if edit.source in lost:
                    lost.add(edit.key)
        for place in map(place_of, lost):
            if place is not None:
                left.discard(place)
    return left


Sum_co = TypeVar("Sum_co", covariant=True)


class Deals(Protocol):
    """What a foreman asks of a dealer, of whatever kind: see Dealer."""

    @property
    def is_empty(self) -> bool: ...
    @property
    def is_looking(self) -> bool: ...
    def deal(self, workers: int) -> Any | None: ...
    def deal_ahead(self, workers: int, beside: Any) -> Any | None: ...
    def take_back(self, group: Any, reason: str) -> Sequence[Any]: ...


class Books(Protocol[Sum_co]):
    """What a foreman asks of a clerk, of whatever kind: see Clerk."""

    def deal(self, epoch: int, group: Any) -> Dealt: ...
    def write(self, words: Sequence[Any]) -> ResourceError | None: ...
    def over(self, word: Any) -> None: ...
    def give_up(self, victim: Any) -> None: ...
    def told(self, name: str, word: Told) -> None: ...
    def remark(self, text: str) -> None: ...
    def is_name(self, name: str) -> bool: ...
    def tell_ahead(self, doing: dict[str, str]) -> None: ...
    def summary(self, stopped: int) -> Sum_co: ...
    def end(self, error: str) -> None: ...


class Foreman(Generic[Sum_co]):
    """Has `crew` make what `dealer` has."""

    def __init__(self, crew: Crew[Any, Any], dealer: Deals, clerk: Books[Sum_co]) -> None:
        self._crew, self._dealer, self._clerk = crew, dealer, clerk
        self._draining = False

    def work(self, stop: Stop, *, stays: bool = False) -> Sum_co:
        """Until all is made, or `stop` is asked and what workers are at is written. Raises the WorkerError of the
        first that could not go on, where none is left and something is.
        """
        error: BaseException | None = None
        try:
            if stays:  # who ended while there was nothing to do is replaced before anything is dealt to it
                self._listen()
            while self._deal(stop):
                self._listen()
            if not stays:
                self._crew.close()
        except BaseException as ended:
            error = ended
            raise
        finally:
            self._clerk.end(str(error or ""))
        return self._clerk.summary(stop.exit_code)

    def _deal(self, stop: Stop) -> bool:
        """Give who is idle something to do; whether anything is still to come."""
        crew = self._crew
        if stop.asked.is_set() and not self._draining:
            self._draining = True
            for member in crew.at_work:
                member.say(Drain())
        while not self._draining and (dealt := self._next()) is not None:
            member, group = dealt
            deal = self._clerk.deal(next(crew.epochs), group)
            if not member.deals:
                member.state, member.begun, member.doing = "busy", crew.clock(), group.name
            member.deals[deal.epoch] = deal
            member.say(deal)
        if any(member.deals for member in crew.members):
            return True
        if self._draining or self._dealer.is_empty:
            return False
        if not crew.at_work and crew.trouble:
            raise crew.trouble
        return True

    def _next(self) -> tuple[Member, Portion] | None:
        """Whom to deal to, and what: first to who is idle, then to who comes to an end of the one group it has."""
        workers, members = len(self._crew.at_work), self._crew.members
        for member in (one for one in members if one.state == "idle"):
            if group := self._dealer.deal(workers):
                return member, group
        for member in (one for one in members if len(one.deals) == 1 and not self._dealer.is_empty):
            (beside,) = member.deals.values()
            if group := self._dealer.deal_ahead(workers, beside.group):
                return member, group
        return None

    def _listen(self) -> None:
        """Hear everybody, and write what all of them said with one wait for the disk, before the rest is answered."""
        looks = self._dealer.is_looking and any(member.state == "idle" for member in self._crew.members)
        heard = list(self._crew.words(0.0 if looks else LOOK))
        writes = [(m, w) for m, w in heard if isinstance(w, Entry) and w.epoch in m.deals]
        trouble = self._clerk.write([word for _, word in writes]) if writes else None
        for member, written in writes:
            member.say(Written(written.number, trouble))
            if written.has_made:
                self._crew.lives(member)
        for member, word in heard:
            if not isinstance(word, Entry):
                self._hear(member, word)
        if heard:
            doing = {member.name: member.doing for member in self._crew.at_work if member.doing}
            self._clerk.tell_ahead(doing)

    def _hear(self, member: Member, word: object) -> None:
        if isinstance(word, Beat):
            member.doing = word.doing or member.doing
        elif isinstance(word, Finished):
            self._over(member, word)
        elif isinstance(word, Ask):
            member.say(Reserved(word.number, self._clerk.is_name(word.name)))
        elif isinstance(word, Trouble | str):
            self._ended(member, word)
        elif isinstance(word, Told) and word.event != "said":
            self._clerk.told(member.name, word)
        else:
            self._crew.hear(member, word)

    def _over(self, member: Member, word: Finished) -> None:
        if (deal := member.deals.pop(word.epoch, None)) is None:
            return
        self._clerk.over(word)
        member.made += deal.group.size
        member.worked += word.seconds
        if not member.deals:
            member.state, member.doing = "idle", ""
        self._crew.lives(member)
        self._name_slow(member)

    def _ended(self, member: Member, word: Trouble | str) -> None:
        """A worker is no more, and what it had is dealt again; one of a device that never worked is not replaced."""
        deals, member.deals = member.deals, {}
        if isinstance(word, str) and (member.ready or member.starts) and not self._draining:
            self._crew.died(member, word)
        else:
            self._crew.fell(member, word)
        reason = f"{member.name} {word}" if isinstance(word, str) else ""
        for deal in deals.values() if not self._draining else ():
            for victim in self._dealer.take_back(deal.group, reason):
                self._clerk.give_up(victim)

    def _name_slow(self, member: Member) -> None:
        others = [one for one in self._crew.members if one is not member]
        worked, made = sum(one.worked for one in others), sum(one.made for one in others)
        if member.slow or member.worked < _ENOUGH or worked < _ENOUGH or not made:
            return
        own, theirs = member.made / member.worked, made / worked
        if own < _SLOW * theirs:
            member.slow = True
            self._clerk.remark(
                f"{member.name} is slow: {own:.2g} edits a second, where a worker beside it makes {theirs:.2g}"
            )
