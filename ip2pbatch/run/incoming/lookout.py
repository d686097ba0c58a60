"""A folder that is looked at again and again, each time a bounded part of it, however much lies there.

What the system tells of is looked at first. Beside it the whole folder is gone through, a part a look, round after
round: network file systems tell nothing, and a queue that ran over loses things.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from ip2pbatch.errors import PlanError
from ip2pbatch.plan.folder_walk import FolderWalk, Walk
from ip2pbatch.plan.unedited import Broken, Passed
from ip2pbatch.plan.written.recipe import PhotoFolder
from ip2pbatch.run.incoming.arrivals import Arrivals
from ip2pbatch.run.incoming.notices import NOT_INSTALLED, Notices

_PART, _ALONE = 1_000, 5_000  # names a look where the system tells what is new, and where it does not
_HEARD = 10_000  # paths that the system may have told of before the folder is gone through instead
_AGAIN = 1.0  # seconds after which a new folder is gone through once more: its first files came before it was watched


class Lookout:
    """Tells `arrivals` what lies in `folder`; `note` hears of what a person should know."""

    def __init__(
        self, folder: PhotoFolder, arrivals: Arrivals, note: Callable[[str], None], *, notices: Notices | None = None,
        part: int = _PART, alone: int = _ALONE,
    ) -> None:  # fmt: skip
        self._folder, self._arrivals, self._note = folder, arrivals, note
        self._notices, self._part, self._alone = notices or Notices(), part, alone
        self._heard: deque[str] = deque()
        self._errands: deque[tuple[Walk, Iterator[None]]] = deque()
        self._later: deque[tuple[float, str]] = deque()
        self._unread: dict[str, int] = {}
        self._identity: tuple[int, int] | None = None
        self._calm = -1
        self._rounds = 0
        self.away = self._hurry = self._asked = False
        self.passed: tuple[Passed, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.mended: tuple[str, ...] = ()
        self._begin(hurry=True)

    def close(self) -> None:
        """Let go of the folder."""
        self._notices.close()

    def look(self) -> bool:
        """A part of the folder; whether files may have gone since the last look. Raises PlanError for one never there.

        `away` says whether the folder is not there, as that of a card or share; `mended` which folders, of those that
        could not be read, now can.
        """
        self.mended = ()
        if not self._is_there():
            return True
        self._listen()
        went = sum(self._by_name(self._heard.popleft()) for _ in range(min(len(self._heard), self._part))) > 0
        while self._later and self._later[0][0] <= self._arrivals.clock():
            self._errand(self._later.popleft()[1])
        return self._walk_on() or went

    @property
    def hurries(self) -> bool:
        """Whether the next look should follow at once: not all of the folder was seen since something told of it."""
        return (self._hurry or bool(self._errands or self._heard)) and self._arrivals.has_room and not self.away

    @property
    def is_calm(self) -> bool:
        """Whether all of the folder was gone through since anything was new, or is not there."""
        return self.away or self._calm == self._arrivals.news

    def hurry(self) -> None:
        """Go through the rest of the folder without a pause."""
        self._hurry = True

    def _is_there(self) -> bool:
        try:
            status = self._folder.folder.stat()
        except OSError as error:
            if self._identity is None:
                why = f"{self._folder.folder}: {error.strerror or error}"
                raise PlanError(why, hint="watch takes the folder that photos arrive in") from None
            if not self.away:
                self._note(f"{self._folder.folder} is gone; waiting for it to come back")
            self.away = True
            return False
        identity = status.st_dev, status.st_ino
        if self.away or identity != self._identity:
            self._anew(identity)
        return True

    def _anew(self, identity: tuple[int, int]) -> None:
        """Another folder is there than before, or the same one again: the system tells nothing of it by itself."""
        self._identity, self.away, self._asked = identity, False, False
        self._finder = FolderWalk(Walk(), self._folder)
        self._arrivals.rivals = self._finder.rivals
        self._notices.close()
        for queue in (self._heard, self._errands, self._later):
            queue.clear()
        self._begin(hurry=True)

    def _begin(self, *, hurry: bool) -> None:
        """Another round."""
        self._hurry, self._looks, self._begun = hurry, 0, self._arrivals.news
        self._walk = Walk()
        self._round = FolderWalk(self._walk, self._folder).steps()

    def _listen(self) -> None:
        heard, why = self._notices.hear()
        self._tell(why)
        if str(self._folder.folder) in heard and self._identity:  # it went and is there again, as another one
            self._anew(self._identity)
        elif len(heard) + len(self._heard) > _HEARD:
            self._heard.clear()
            self._begin(hurry=True)
        else:
            self._heard.extend(heard)

    def _by_name(self, path: str) -> bool:
        """Look at one thing; whether it is gone."""
        if not os.path.lexists(path):
            self._heard.extend(self._arrivals.gone(path))
            return True
        walk = self._finder.walk = Walk()
        if self._finder.one(path):
            self._errand(path)
            self._later.append((self._arrivals.clock() + _AGAIN, path))
        self._report(walk)
        return False

    def _errand(self, path: str) -> None:
        """Go through a folder in it."""
        walk = Walk()
        self._errands.append((walk, FolderWalk(walk, self._folder).steps(path)))

    def _walk_on(self) -> bool:
        """A part of what is to be gone through; whether a round came to its end."""
        left = self._part if self._notices.is_open else self._alone
        while left > 0 and self._arrivals.has_room:
            walk, steps = self._errands[0] if self._errands else (self._walk, self._round)
            taken = sum(1 for _ in islice(steps, left))
            self._report(walk)
            if taken == left:
                break
            left -= taken
            if not self._errands:
                self._looks += 1
                self._end()
                return True
            self._errands.popleft()
        self._looks += 1
        return False

    def _report(self, walk: Walk) -> None:
        for name, path, status in walk.files:
            self._arrivals.see(name, path, status, walk.passed)
        for broken in walk.broken:
            self._see_broken(broken, walk)
        walk.files.clear()
        walk.broken.clear()
        walk.unwanted.clear()

    def _see_broken(self, broken: Broken, walk: Walk) -> None:
        path = str(broken.path)
        try:
            status = os.lstat(path)
        except OSError:  # what went meanwhile is nobody's trouble
            return
        if Path(path).is_dir():
            self._unread[path] = self._rounds
        self._arrivals.see(broken.name, path, status, walk.passed, broken)

    def _end(self) -> None:
        """A round is over: what was there and is nothing to edit is known, and whether anything was new."""
        self.passed, self.notes = self._walk.passed.kinds(), self._walk.notes()
        self.mended = tuple(path for path, seen in self._unread.items() if seen < self._rounds)
        for path in self.mended:
            del self._unread[path]
            self._arrivals.sightings.forget(path)
        self._rounds += 1
        if self._begun == self._arrivals.news:
            self._calm = self._begun
        if not self._asked:
            self._open()
        self._begin(hurry=False)

    def _open(self) -> None:
        """Ask the system to tell what is new, once what lies there is known: it follows links that lead away."""
        self._asked = True
        if self._walk.outside:
            self._tell("a link leads out of it, which the system would follow")
        else:
            self._tell(self._notices.open(self._folder.folder))

    def _tell(self, why: str) -> None:
        """Say that new files are looked for, where that takes long or the system cannot be asked."""
        if why and (why != NOT_INSTALLED or self._looks > 1):
            self._note(f"new files are found by going through {self._folder.folder}, not told by the system: {why}")
