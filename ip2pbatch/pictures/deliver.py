"""Finished picture + source photo → the file the photographer gets: own size, own colours, own metadata, own name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.disk.atomic import Beside
from ip2pbatch.disk.files_at import digest_at, waiting_at
from ip2pbatch.disk.opening import status
from ip2pbatch.pictures import colour, containers, fullres, grey, images, metadata, mixing, registration, sidecars, xmp
from ip2pbatch.pictures.areas.composing import Area, composed
from ip2pbatch.pictures.containers import Blocks, Raster
from ip2pbatch.pictures.images import Picture
from ip2pbatch.pictures.marks.signer import Parent, Signer, unsigned_of
from ip2pbatch.pictures.metadata import Policy, Provenance
from ip2pbatch.pictures.originals import Original
from ip2pbatch.pictures.placing import Place, choose
from ip2pbatch.pictures.registration import Motion
from ip2pbatch.pictures.sidecars import Sidecar
from ip2pbatch.plan.edits import Strip
from ip2pbatch.plan.formats import FORMATS, Format, by_suffix

if TYPE_CHECKING:
    from ip2pbatch.disk.buckets.outgoing import Outgoing

Pixels = NDArray[np.uint8]

# Fields that settings did not always have, as they were.
_LATER = {
    "chroma": "full", "dates": "now", "raw": "jpeg", "sign": "", "sidecar": "none", "strength": 1.0, "register": False,
    "lift": 0,
}  # fmt: skip
GREY = "grey converted to sRGB"
ADDED = "what little colour the model added to a grey photo is left out"
_ROUNDING = 2  # of 255
DELIVERY_VERSION = 2  # raise it when the same settings make another file


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """How pictures become files. `digest` changes with anything that would change a file.

    `sign` is the fingerprint of what signs them, "" where nothing does. `strength` is how much of an edit is delivered:
    0 is the photo, 1 the edit; `lift` the version of the lift (see sizing.py).
    """

    format: str = "same"
    quality: int = 95
    full_resolution: Literal["auto", "off", "refine"] = "auto"
    gps: Literal["keep", "strip"] = "keep"
    prompt: bool = True
    chroma: Literal["full", "source"] = "full"
    dates: Literal["now", "source"] = "now"
    raw: Literal["jpeg", "tiff16"] = "jpeg"
    sign: str = ""
    sidecar: Literal["none", "copy"] = "none"
    strength: float = 1.0
    register: bool = False
    lift: int = 0

    def of(self, strip: Strip, link: int) -> DeliverySettings:
        """The same for the file of a link of a strip, whose edit may have a strength of its own and need not be one
        that is refined.
        """
        own = self if strip.strength is None else replace(self, strength=strip.strength)
        lifts = own.full_resolution == "refine" and strip.refined_at(link) is None
        return replace(own, full_resolution="auto") if lifts else own

    @property
    def policy(self) -> Policy:
        """What the files' metadata may say."""
        return Policy(self.gps, self.prompt, signed=bool(self.sign))

    @property
    def digest(self) -> str:
        """12 hex digits over `recorded` and the version of this module."""
        return _digest(self)

    @property
    def recorded(self) -> dict[str, str | float | bool]:
        """The fields for locks and digests: those that came later only where they are set, so that older ones hold."""
        return {name: value for name, value in asdict(self).items() if _LATER.get(name) != value}


@lru_cache(maxsize=64)  # it is asked for with every file of a run, and a run has few
def _digest(settings: DeliverySettings) -> str:
    text = json.dumps([DELIVERY_VERSION, metadata.SOFTWARE, settings.recorded], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A file's bytes; `gate` is the share of the photo's detail that came back, None where nothing was lifted; `motion`
    is what was taken back of what the model moved.
    """

    data: bytes
    format: str
    gate: float | None
    notes: tuple[str, ...]
    motion: Motion | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is to be written where: `file` is there but for its name. None where `skip` left somebody's file alone;
    `sha256` is then theirs.

    `unsigned` is the sha256 of a signed file as it was before: a signature is never the same again, and what was
    signed is. `sidecar` is what is to be put beside the file, and where.
    """

    path: Path
    sha256: str
    gate: float | None
    file: Beside | Outgoing | None
    notes: tuple[str, ...] = ()
    unsigned: str = ""
    sidecar: Sidecar | None = None
    motion: Motion | None = None


def prepare(
    source: Original, edited: Pixels, settings: DeliverySettings, provenance: Provenance, place: Place,
    signer: Signer | None = None, *, area: Area | None = None, patch: Pixels | None = None,
) -> Prepared:  # fmt: skip
    """Writes the file for one picture below `place.root` and never onto the photo, under a temporary name: whoever
    keeps books notes it for its own before it appears, and has the disk take several at once.

    Register, lift, refine, region, strength, metadata, sign: in this order, each as far as it is asked for, in memory.

    `edited` is the model's uint8 [h, w, 3], of which `area` is delivered, None for all of it; `patch` what of it was
    refined, [H, W, 4] at the photo's size. Raises PhotoError where
    photo or mask is gone or damaged, the name leads outside, or the policy is `error` and a file is there;
    ResourceError where the disk does not take it.
    """

    root = place.root

    @cache
    def made() -> tuple[Rendered, str, str]:
        rendered, unsigned = render(source, edited, settings, provenance, area, patch), ""
        if signer is not None:
            unsigned = hashlib.sha256(rendered.data).hexdigest()
            rendered = _signed(rendered, signer, source, provenance, settings.policy)
        return rendered, hashlib.sha256(rendered.data).hexdigest(), unsigned

    def is_same(name: str) -> bool:
        rendered, digest, unsigned = made()
        known = digest_at(root, name) == digest
        return known or bool(unsigned and unsigned_of(root / name, rendered.format) == unsigned)

    target = choose(place, source.path, is_same)
    if target is None:
        return Prepared(root / place.name, digest_at(root, place.name) or "", None, None)
    rendered, digest, unsigned = made()
    modified = status(source.path).st_mtime_ns if settings.dates == "source" else None
    file = waiting_at(
        root, target, rendered.data, outgoing=place.outgoing, anchor=place.anchor, modified=modified
    )  # fmt: skip
    copies = settings.sidecar == "copy"
    sidecar, said = _sidecar(source.path, root / target, settings, provenance) if copies else (None, ())
    notes = (*rendered.notes, *said)
    return Prepared(root / target, digest, rendered.gate, file, notes, unsigned, sidecar, rendered.motion)


def _sidecar(
    photo: Path, target: Path, settings: DeliverySettings, provenance: Provenance
) -> tuple[Sidecar | None, tuple[str, ...]]:
    """What is to be put beside a file, and where, and what that leaves out; a damaged sidecar was named before."""
    found = sidecars.find(photo)
    if found is None:
        return None, ()
    try:
        data, said = metadata.sidecar(found[1], provenance, settings.policy)
    except (xmp.XmpError, RecursionError):
        return None, ()
    return (sidecars.named_as(found[0], photo, target), data), said


def _signed(
    rendered: Rendered, signer: Signer, source: Original, provenance: Provenance, policy: Policy
) -> Rendered:  # fmt: skip
    parent = Parent(source.path, source.picture.format, source.blocks.c2pa)
    signed = signer.sign(rendered.data, rendered.format, parent, provenance, policy)
    return replace(rendered, data=signed.data, notes=(*rendered.notes, *signed.notes))


def render(
    source: Original, edited: Pixels, settings: DeliverySettings, provenance: Provenance, area: Area | None = None,
    patch: Pixels | None = None,
) -> Rendered:  # fmt: skip
    """The bytes of the file, nothing written. The same arguments always give the same bytes."""
    photo, kind = source.picture, _kind(source, settings)
    raster, gate, motion, said = _raster(source, edited, settings, FORMATS[kind], area, patch)
    blocks, notes = metadata.merge(
        source.blocks, provenance, settings.policy, kind,
        (raster.pixels.shape[1], raster.pixels.shape[0]), (photo.pixels.shape[1], photo.pixels.shape[0]),
        srgb=raster.icc is None or (photo.icc is not None and not source.managed),
    )  # fmt: skip
    blocks = blocks if settings.chroma == "source" else replace(blocks, chroma=(1, 1))
    data = containers.encode(raster, blocks, kind, settings.quality)
    told = (*photo.notes, *said, *notes, *_read_only(photo, settings), *_coded(photo, blocks, kind))
    return Rendered(data, kind, gate, told, motion)


def _raster(
    source: Original,
    edited: Pixels,
    settings: DeliverySettings,
    takes: Format,
    area: Area | None,
    patch: Pixels | None,
) -> tuple[Raster, float | None, Motion | None, tuple[str, ...]]:
    """What the file shows, the share of the photo's detail that came back, how the edit had moved, and what the format
    could not hold.
    """
    photo, size = source.picture, (edited.shape[1], edited.shape[0])
    added = _added(edited, settings.strength) if photo.grey is not None and takes.grey else None
    own = colour.from_srgb(edited, photo.icc) if source.managed and photo.icc else edited
    own, motion = _registered(own, source, settings)
    raster, gate = Raster(own, photo.alpha, photo.icc), None
    deep = takes.deep if added is None else takes.grey > 8
    whole = photo.deep if photo.deep is not None and deep else photo.pixels
    if settings.full_resolution != "off" and (motion or not _is_whole(source, edited, whole)):
        pixels, gate = fullres.lift(own, source.seen(size), whole, version=settings.lift)
        raster = replace(raster, pixels=pixels)
    elif photo.alpha is not None:
        raster = replace(raster, alpha=images.resize(photo.alpha, size))
    if patch is not None:
        raster = replace(raster, pixels=_refined(raster.pixels, patch, source))
    if area is not None:
        raster = replace(raster, pixels=_within(area, raster.pixels, source, whole))
    if settings.strength < 1:
        shown = whole if settings.full_resolution != "off" else source.seen(size)
        raster = replace(raster, pixels=mixing.mix(shown, raster.pixels, settings.strength, raster.icc))
    if added is not None:
        raster = replace(raster, pixels=grey.luma(raster.pixels))
        if photo.grey and takes.profiles:
            raster = replace(raster, pixels=grey.from_srgb(raster.pixels, photo.grey), icc=photo.grey)
    elif raster.icc is not None and not takes.profiles:
        pixels = images.in_srgb(raster.pixels.astype(np.uint8, copy=False), raster.icc)
        raster = replace(raster, pixels=pixels, icc=None)
    said = *_lost_bits(photo, raster, takes), *_flattened(photo, takes), *_converted(photo, raster, takes, added)
    return raster, gate, motion, said


def _registered(edited: Pixels, source: Original, settings: DeliverySettings) -> tuple[Pixels, Motion | None]:
    """The edit where its photo is, and how it had moved; as it is where that is not asked for or not called for."""
    if not settings.register or settings.full_resolution == "off":
        return edited, None
    return registration.register(edited, source.seen((edited.shape[1], edited.shape[0])))


def _refined(lifted: NDArray[Any], patch: Pixels, source: Original) -> NDArray[Any]:
    """What was lifted, with what was refined in its place: where nothing was, to the bit."""
    shown = patch[..., :3]
    if source.managed and source.picture.icc:
        shown = colour.from_srgb(shown, source.picture.icc)
    deeper = lifted.dtype.type(_levels(lifted) // _levels(shown))
    return composed(shown.astype(lifted.dtype, copy=False) * deeper, lifted, patch[..., 3])


def _levels(pixels: NDArray[Any]) -> int:
    return int(np.iinfo(pixels.dtype).max)


def _within(area: Area, edit: NDArray[Any], source: Original, whole: NDArray[Any]) -> NDArray[Any]:
    """The edit where it was asked for, and around it the photo, at the edit's size."""
    size = edit.shape[1], edit.shape[0]
    photo = whole if whole.shape == edit.shape and whole.dtype == edit.dtype else source.seen(size)
    return composed(edit, photo, area.share(size))


def _added(edited: Pixels, strength: float) -> float | None:
    """What colour the model gave a grey photo and the file leaves out; None where it shows."""
    return grey.added_colour(edited) if strength else 0.0


def _kind(source: Original, settings: DeliverySettings) -> str:
    """The file's format. Where a suffix promises what is only read, the name has another one, whatever is inside."""
    if settings.format != "same":
        return settings.format
    promised = by_suffix(source.path.suffix)
    own = promised if promised is not None and not promised.written else FORMATS[source.picture.format]
    return own.delivered(settings.raw)


def _is_whole(source: Original, edited: Pixels, whole: NDArray[Any]) -> bool:
    """Whether the cell's picture is the file's as it is: nothing has to be enlarged, and the photo has no more bits.

    Runs from before Lanczos lifted such a picture too, and their files stay as they are.
    """
    return source.sizing != "bicubic" and whole.shape == edited.shape and whole.dtype == edited.dtype


def _lost_bits(photo: Picture, raster: Raster, takes: Format) -> Iterator[str]:
    """What the file has fewer bits of than the photo, whose 16 were at hand."""
    bits = 8 if raster.pixels.dtype == np.uint8 else takes.bits
    if photo.deep is not None and bits < photo.bits:
        yield images.SHALLOW.format(photo.bits, bits)
    elif photo.deep is not None and photo.alpha is not None and ((photo.alpha > 0) & (photo.alpha < 255)).any():
        yield images.SHALLOW_ALPHA


def _flattened(photo: Picture, takes: Format) -> Iterator[str]:
    if photo.alpha is not None and not takes.alpha:
        yield f"transparency laid on white: {takes.title} has none"


def _converted(photo: Picture, raster: Raster, takes: Format, added: float | None) -> Iterator[str]:
    """What became of the photo's colours; `added` is what the model gave a grey one, None where that shows."""
    if photo.grey is not None and added is None:
        yield GREY
    elif raster.icc is None and (
        (photo.icc and not colour.is_srgb(photo.icc)) or (photo.grey and not grey.is_srgb(photo.grey))
    ):
        yield f"colours converted to sRGB: {takes.title} is written without a profile"
    if added is not None and added > _ROUNDING:
        yield ADDED


def _coded(photo: Picture, blocks: Blocks, kind: str) -> Iterator[str]:
    """That a photo stored without loss comes back with some, where its format's writer knows no other way."""
    takes = FORMATS[kind]
    if kind == photo.format and blocks.lossless and takes.lossy and not takes.lossless:
        yield f"stored without loss, delivered as {takes.title} with some: it is written so only (format: png has none)"


def _read_only(photo: Picture, settings: DeliverySettings) -> Iterator[str]:
    """That `same` could not be had, where the photo's format is one that is not written."""
    own = FORMATS[photo.format]
    if settings.format == "same" and not own.written:
        why = f"written with an extra ({own.unwritten()})" if own.encode else "read only"
        yield f"{own.title} is {why}: delivered as {FORMATS[own.delivered(settings.raw)].title}"
