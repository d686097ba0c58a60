"""From finished pictures to the photographer's files: what is due, what is ours already, what was refused and why.

A delivered file is derived: it can be deleted and written again without the model. One is due where none was
delivered, where the file is gone, or where the settings or its name have changed since.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, islice, starmap
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.disk.atomic import Beside, write_atomic
from ip2pbatch.disk.buckets.locations import is_object
from ip2pbatch.disk.files_at import digest_at, is_taken, is_there, waiting_at
from ip2pbatch.disk.settling import ask_for, ask_for_names
from ip2pbatch.errors import DamagedError, Ip2pError, ResourceError, UnreachableError
from ip2pbatch.pictures import sidecars
from ip2pbatch.pictures.areas.composing import area_of
from ip2pbatch.pictures.deliver import DeliverySettings, Prepared, prepare
from ip2pbatch.pictures.marks.signer import Signer
from ip2pbatch.pictures.metadata import Provenance
from ip2pbatch.pictures.originals import Originals
from ip2pbatch.pictures.placing import Conflict, Place
from ip2pbatch.pictures.sidecars import Sidecar
from ip2pbatch.plan.edits import Edit, Photo, Plan, Strip
from ip2pbatch.plan.names import FileNames, folders_of, paths_of
from ip2pbatch.run import clock
from ip2pbatch.run.directory.kept import Kept, Pixels
from ip2pbatch.run.directory.layout import strip_key
from ip2pbatch.run.directory.ledger import Run
from ip2pbatch.run.directory.lines import Delivery
from ip2pbatch.run.directory.standing_files import Look, digest_now, look_at
from ip2pbatch.run.directory.superseded import Superseded
from ip2pbatch.run.masks import masks_in
from ip2pbatch.run.sources import refuse_other

if TYPE_CHECKING:
    from ip2pbatch.disk.buckets.outgoing import Outgoing

_NUMBERED = "delivered under a name with a number, because another file already had the name"
_THEIRS = "delivered under a name with a number: the file of that name is an earlier picture, and was changed by hand"
_SIDECAR = "a sidecar of the name that its own would have lies beside a file already, and was left as it is"
_TOGETHER = 1024  # files of which it is looked up together what was delivered
log = logging.getLogger("ip2pbatch.run")


@dataclass(frozen=True, slots=True)
class Errand:
    """One file to deliver: link `link` (from 1) of `strip`, at `target` below the output folder, with what of it is
    `refined`.
    """

    strip: Strip
    link: int
    target: str
    refined: Edit | None = None

    @property
    def edit(self) -> Edit:
        return self.strip.edits[self.link - 1]

    @property
    def last(self) -> Edit:
        """The last Edit that is made for it."""
        return self.refined or self.edit


@dataclass(frozen=True, slots=True)
class Ready:
    """A file that is written but for its name, the line about it, and what there is to say of it, in plain words."""

    delivery: Delivery
    file: Beside | Outgoing
    notes: tuple[str, ...]
    sidecar: Sidecar | None = None


def shape_digest(settings: DeliverySettings, target: str, strip: Strip) -> str:
    """Of everything that shapes a file but its picture: the settings, the name that was asked for, the feathers, and
    what is refined.
    """
    feathers = f"\n{strip.feathers}" if strip.feathers else ""
    refined = f"\n{strip.refined.key}" if strip.refined and settings.full_resolution == "refine" else ""
    said = f"{settings.digest}\n{target}{feathers}{refined}"
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_due(
    last: Delivery | None, root: Path, settings: DeliverySettings, target: str, strip: Strip, superseded: Superseded
) -> bool:
    """Whether a file is to be written, after what was last delivered in its place: also where that has another name
    than `target`, which an earlier picture of ours holds.
    """
    if last is None or last.settings != shape_digest(settings, target, strip) or not is_there(root, last.path):
        return True
    if settings.sidecar == "copy" and _lacks_sidecar(last, root, strip.photo):
        return True
    return last.path != target and superseded.replaceable(root, target, strip.photo) is not None


def _lacks_sidecar(last: Delivery, root: Path, photo: Photo) -> bool:
    """Whether none lies beside a file that had one, or whose photo has one by now."""
    if any(is_there(root, path.as_posix()) for path in sidecars.beside(Path(last.path))):
        return False
    return bool(last.sidecar) or sidecars.is_readable(photo.path)


class Deliverer:
    """Delivers the kept links of a plan. `targets` is names.output_names of it; safe to use from several threads.

    `asked` is the plan of which that may be a part: a file of ours that shows what it no longer asks for is replaced.
    In a `queue` of photos, a later one of the same name is another photo, and its file gets a name of its own.
    A `signer` signs what is delivered.
    `reserved` are the names of the whole plan, where `targets` are of a part of it. `swept` are the folders that were
    swept for earlier plans, and get those of this one.
    `refused` collects (file, reason), for what a photo or a name stands in the way of; `left` the files of others
    that the policy `skip` left where they are; `notes` counts what photos or files could not hold, in plain words.
    """

    def __init__(
        self, run: Run, asked: Plan, targets: Mapping[tuple[int, int], str], settings: DeliverySettings,
        on_conflict: Conflict, *, queue: bool = False, signer: Signer | None = None,
        reserved: Container[str] | None = None, swept: set[Path] | None = None,
    ) -> None:  # fmt: skip
        self._superseded = Superseded(run.layout, asked, queue=queue)
        self.run, self.targets, self.settings, self.on_conflict, self.queue = run, targets, settings, on_conflict, queue
        self._signer, self._reserved = signer, paths_of(targets) if reserved is None else reserved
        self._swept = set[Path]() if swept is None else swept
        self._originals, self._masks = Originals(sizing=run.spec.sizing), masks_in(run.layout)
        self._counting, self._ready = threading.Lock(), set[Ready]()
        self._sidecars = dict[Path, Path]()
        self.refused: list[tuple[str, str]] = []
        self.left: list[str] = []
        self.notes: Counter[str] = Counter()

    def close(self) -> None:
        """Let go of the photos in memory, and of files that did not come to appear."""
        self._originals.clear()
        for ready in self._ready:
            ready.file.discard()
        self._ready.clear()

    def sweep(self, *, again: bool = False) -> None:
        """Remove half-written files that a killed process left in the folders of this plan or of earlier ones; of a
        folder once, unless `again` says that more may have been left.
        """
        if is_object(self.run.files):  # what waits does so in a folder of the run
            return
        folders = {self.run.root / name for name in folders_of(self.targets) | self.run.deliveries.folders}
        self.run.sweep(folders if again else folders - self._swept)
        self._swept |= folders

    def errands(self, plan: Plan, wanted: Callable[[str], bool] = lambda key: True) -> Iterator[Errand]:
        """Every file that `plan` asks for, in its order: those of Edits whose keys are `wanted`."""
        for strip, link, target in self._files(enumerate(plan.strips)):
            errand = self._errand(strip, link, target)
            if wanted(errand.last.key):
                yield errand

    def _errand(self, strip: Strip, link: int, target: str) -> Errand:
        refines = self.settings.of(strip, link).full_resolution == "refine"
        return Errand(strip, link, target, strip.refined if refines else None)

    def errands_of(self, key: str, strips: Iterable[tuple[int, Strip]]) -> list[Errand]:
        """The files of one Edit, which these strips of the plan have."""
        found = self._files((number, strip) for number, strip in strips)
        return [errand for errand in starmap(self._errand, found) if errand.last.key == key]

    def count_files(self, key: str, strips: Iterable[tuple[int, Strip]]) -> int:
        """How many these are."""
        return sum(self._errand(strip, link, "").last.key == key for _, strip in strips for link in strip.keep)

    def _files(self, strips: Iterable[tuple[int, Strip]]) -> Iterator[tuple[Strip, int, str]]:
        if isinstance(self.targets, FileNames):
            return self.targets.files(strips)
        return ((strip, link, self.targets[index, link]) for index, strip in strips for link in strip.keep)

    def outstanding(
        self, strips: Iterable[tuple[int, Strip]], are_done: Callable[[Sequence[str]], Iterable[bool]]
    ) -> Iterator[Errand]:
        """The files of done Edits that are due, of strips with their numbers in the plan. What was delivered is looked
        up for many at a time.
        """
        errands = starmap(self._errand, self._files(strips))
        while some := list(islice(errands, _TOGETHER)):
            made = [*compress(some, are_done([errand.last.key for errand in some]))]
            told = self.run.deliveries.each([(strip_key(one.strip), one.edit.key) for one in made])
            yield from (one for one, last in zip(made, told, strict=True) if self._is_due_after(one, last))

    def refuse(self, plan: Plan, damaged: Mapping[str, DamagedError]) -> None:
        """Count the files of pictures that were found damaged among those that are not delivered."""
        found = self.errands(plan, damaged.__contains__) if damaged else ()
        self.refused.extend((errand.target, str(damaged[errand.last.key])) for errand in found)

    def deliver(self, errand: Errand) -> Delivery | None:
        """Write one file and record it; None where it was refused or its name is taken. Raises ResourceError."""
        ready = self.prepare(errand)
        return next(iter(self.place([ready]).values()), None) if ready else None

    def prepare(self, errand: Errand) -> Ready | None:
        """Write one file but for its name; None where it was refused or its name is taken. Raises ResourceError."""
        try:
            done = self._write(errand)
        except (ResourceError, UnreachableError):
            raise
        except DamagedError as error:
            refined = error.path == self.run.layout.picture(errand.last.key)
            self.run.set_aside(errand.last.key if refined else errand.edit.key, error)
            self.refused.append((errand.target, str(error)))
            return None
        except Ip2pError as error:
            self.refused.append((errand.target, str(error)))
            return None
        except Exception as error:
            log.exception("delivering %s", errand.target)
            self.refused.append((errand.target, f"it could not be delivered: {error or type(error).__name__}"))
            return None
        if done.file is None:
            self.left.append(errand.target)
            return None
        sidecar, said = self._free(errand, done.sidecar, done.path) if done.sidecar else (None, ())
        row, notes = self._row(errand, done, sidecar), (*done.notes, *self._numbered(errand, done.path), *said)
        ready = Ready(row, done.file, notes, sidecar)
        with self._counting:
            self._ready.add(ready)
        return ready

    def place(self, files: Sequence[Ready]) -> dict[Ready, Delivery]:
        """Have these files appear and record them. The disk has their bytes and their announcements before, and their
        names before they are said to be delivered: it is asked once for each of these, and not once a file.

        In a bucket those are left out, and refused, whose names somebody took meanwhile. Raises ResourceError,
        UnreachableError.
        """
        deliveries = self._put(files) if is_object(self.run.files) else self._appear(files)
        self.run.deliver(*deliveries.values())
        with self._counting:
            self._ready.difference_update(files)
            self.notes.update(note for ready in deliveries for note in ready.notes)
        for ready in deliveries:
            for note in ready.notes:
                log.info("%s: %s", ready.delivery.path, note)
        return deliveries

    def _appear(self, files: Sequence[Ready]) -> dict[Ready, Delivery]:
        beside = [ready.sidecar for ready in files if ready.sidecar]
        for path, data in beside:  # before the file: where a kill comes between, the same is written again
            write_atomic(path, data, root=self.run.anchor or self.run.root, lasting=False)
        ask_for([*(path for path, _ in beside), *(ready.file.waiting for ready in files)])
        self.run.announce(*(ready.delivery for ready in files))
        for ready in files:
            ready.file.appear()
        ask_for_names(ready.file.path for ready in files)
        return {ready: self._stamped(ready.delivery) for ready in files}

    def _put(self, files: Sequence[Ready]) -> dict[Ready, Delivery]:
        """The same in a bucket, of those whose names nobody else took meanwhile."""
        self.run.announce(*(ready.delivery for ready in files))
        done = dict[Ready, Delivery]()
        try:
            for ready in files:
                if (delivery := self._put_one(ready)) is not None:
                    done[ready] = delivery
        except UnreachableError:
            if done:  # these are there, whatever becomes of the others
                self.run.deliver(*done.values())
            raise
        return done

    def _put_one(self, ready: Ready) -> Delivery | None:
        try:
            if ready.sidecar:
                self._waiting(*ready.sidecar).appear()
            version = ready.file.appear()
        except OSError as error:
            self.refused.append((ready.delivery.path, f"it could not be put: {error.strerror or error}"))
            return None
        assert version is not None, "a bucket's file is put"
        return replace(ready.delivery, bytes=version.size, etag=version.etag.strip('"'))

    def _waiting(self, path: Path, data: bytes) -> Beside | Outgoing:
        name, run = path.relative_to(self.run.files).as_posix(), self.run
        return waiting_at(run.files, name, data, outgoing=run.layout.outgoing, anchor=run.anchor)

    def _numbered(self, errand: Errand, path: Path) -> Iterator[str]:
        """Why a file has not the name that was meant for it."""
        if path.relative_to(self.run.files).as_posix() != errand.target:
            yield _THEIRS if self._superseded.file(errand.target, errand.strip.photo) else _NUMBERED

    def _stamped(self, delivery: Delivery) -> Delivery:
        """With the size and time of its file, by which `status` tells that somebody changed it."""
        try:
            found = (self.run.root / delivery.path).stat()
        except OSError:  # somebody took it already
            return delivery
        return replace(delivery, bytes=found.st_size, time=0.0 if clock.pinned() else round(found.st_mtime, 3))

    def _write(self, errand: Errand) -> Prepared:
        spec, strip, settings = self.run.spec, errand.strip, self.settings.of(errand.strip, errand.link)
        provenance = Provenance.of(
            strip.edits[: errand.link], spec.model, spec.model_digest, spec.approximations, settings.strength
        )
        place = Place(
            self.run.files, errand.target, self.on_conflict, self._ours(errand), self._reserved, self.run.anchor,
            self.run.layout.outgoing,
        )  # fmt: skip
        picture = self.run.picture(errand.edit.key)
        patch = self._patch(errand.refined.key) if errand.refined else None
        try:
            source = self._originals.at(strip.photo.path)
            refuse_other(strip.photo, source.look)
            regions = [edit.region for edit in strip.edits[: errand.link]]
            area = area_of(regions, strip.feathers[: errand.link], self._masks)
            return prepare(source, picture, settings, provenance, place, self._signer, area=area, patch=patch)
        finally:
            self._originals.trim()

    def _patch(self, key: str) -> Pixels:
        """What was refined, uint8 [H, W, 4]. Raises DamagedError."""
        return Kept(self.run.layout.picture(key), self.run.records[key].digest).patch()

    def _free(self, errand: Errand, sidecar: Sidecar, file: Path) -> tuple[Sidecar | None, tuple[str, ...]]:
        """A file's sidecar, unless one that is not ours, or that a program changed since, has its name."""
        path, data = sidecar
        root = self.run.files
        last, name = self.run.deliveries.under(file.relative_to(root).as_posix()), path.relative_to(root).as_posix()
        begun = self.run.announced.get((strip_key(errand.strip), errand.edit.key))
        ours = {hashlib.sha256(data).hexdigest(), *(row.sidecar for row in (last, begun) if row)}
        if is_taken(root, name) and digest_at(root, name) not in ours:
            return None, (_SIDECAR,)
        with self._counting:
            if self._sidecars.setdefault(path, file) != file:
                return None, (_SIDECAR,)
        return sidecar, ()

    def _row(self, errand: Errand, done: Prepared, sidecar: Sidecar | None) -> Delivery:
        name = done.path.relative_to(self.run.files).as_posix()
        share = None if done.gate is None else round(done.gate, 3)
        key, strip, settings = errand.edit.key, strip_key(errand.strip), self._digest(errand)
        beside, at = (
            hashlib.sha256(sidecar[1]).hexdigest() if sidecar else "",
            self.settings.of(errand.strip, errand.link).strength,
        )
        row = Delivery(
            key, strip, name, settings, done.sha256, share, unsigned=done.unsigned, sidecar=beside, strength=at
        )
        if (motion := done.motion) is None:
            return row
        return replace(row, moved=round(motion.distance, 2), scaled=round(motion.scaled, 2))

    def _digest(self, errand: Errand) -> str:
        return shape_digest(self.settings.of(errand.strip, errand.link), errand.target, errand.strip)

    def _is_due_after(self, errand: Errand, last: Delivery | None) -> bool:
        settings = self.settings.of(errand.strip, errand.link)
        return is_due(last, self.run.files, settings, errand.target, errand.strip, self._superseded)

    def _earlier(self, errand: Errand) -> str | None:
        """The sha256 of the file under the errand's name, where it is ours and shows an earlier picture."""
        return self._superseded.replaceable(self.run.files, errand.target, errand.strip.photo)

    def _ours(self, errand: Errand) -> str | None:
        """The sha256 of the file that may be replaced: one that was about to appear when a process was killed, or an
        earlier one under the name that is asked for again, if it is there, or one of ours under that name that shows
        what is no longer asked for, else the one that was delivered last.
        """
        place = (strip_key(errand.strip), errand.edit.key)
        files, begun, last = self.run.files, self.run.announced.get(place), self.run.deliveries.get(place)
        if begun is not None and digest_at(files, begun.path) == begun.sha256:
            return begun.sha256
        earlier = self.run.deliveries.earlier(place).get(errand.target)
        if earlier is not None and digest_at(files, errand.target) == earlier:
            return earlier
        if (last is None or last.path != errand.target) and (shown := self._earlier(errand)) is not None:
            return shown
        if last is None:
            return None
        if last.path == errand.target and (last.time or last.etag) and look_at(files, last) is Look.SAME:
            return digest_now(files, last)  # nobody's work, whatever a disk made of its bytes
        return last.sha256
