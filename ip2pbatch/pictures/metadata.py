"""What a delivered file says: all that the photo's own metadata said, and that, and how, it was edited by AI."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from ip2pbatch import __version__
from ip2pbatch.pictures import exif, photoshop, xmp
from ip2pbatch.pictures.codecs import png
from ip2pbatch.pictures.containers import Blocks, read_blocks
from ip2pbatch.plan.defaults import family_for
from ip2pbatch.plan.editors.composed import brief
from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.families import family_of
from ip2pbatch.plan.formats import FORMATS, Format

# https://cv.iptc.org/newscodes/digitalsourcetype: a photograph edited using generative AI.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_PARAMETERS, _THUMBNAIL = b"parameters\0", b"Thumb::"  # how such texts of a PNG begin
_MOST_TOLD = 6  # names of such texts
SOFTWARE = f"ip2pbatch {__version__}"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a picture comes from: the settings that made it, as its metadata will say.

    `instructions` are the links of the chain up to this picture; `source` is the digest of the photo. Everything in
    it follows from the plan and the model, nothing from the clock: the same picture always gives the same file.
    """

    key: str
    source: str
    instructions: tuple[str, ...]
    text: float
    image: float
    seed: int
    steps: int
    sampler: str
    size: tuple[int, int]
    model: str
    model_digest: str = ""
    approximations: tuple[str, ...] = ()
    family: str = family_of(None).called
    strength: float = 1.0
    negative: str = ""

    @classmethod
    def of(
        cls, chain: Sequence[Edit], model: str, model_digest: str = "", approximations: tuple[str, ...] = (),
        strength: float = 1.0,
    ) -> Provenance:  # fmt: skip
        """Of the last edit of a chain, given from its first link on, delivered at `strength`. Of a model's folder only
        its own name is told.
        """
        first, last = chain[0], chain[-1]
        family = family_for(model).called
        model = brief(model)
        return cls(
            last.key, first.source, tuple(edit.instruction for edit in chain), last.guidance.text, last.guidance.image,
            last.seed, last.steps, last.sampler, last.size, model, model_digest, approximations,
            family, strength, last.negative,
        )  # fmt: skip

    def settings(self, *, prompt: bool) -> str:
        """One text in the form that viewers of generated pictures know: the instruction, then `Name: value, …`."""
        values = [
            f"Steps: {self.steps}", f"Sampler: {self.sampler}", f"CFG scale: {self.text:g}",
            f"Image CFG scale: {self.image:g}", f"Seed: {self.seed}", f"Size: {self.size[0]}x{self.size[1]}",
            *([f"Model hash: {self.model_digest[:12]}"] if self.model_digest else []), f"Model: {self.model}",
            *([f"Approximations: {' '.join(self.approximations)}"] if self.approximations else []),
            *([f"Strength: {self.strength:g}"] if self.strength < 1 else []),
            f"Edit: {self.key}", f"Version: {SOFTWARE}",
        ]  # fmt: skip
        words = ["; then ".join(self.instructions), *([f"Negative prompt: {self.negative}"] if self.negative else [])]
        return "\n".join([*(words if prompt else []), ", ".join(values)])


@dataclass(frozen=True, slots=True)
class Policy:
    """What of the photo's metadata is passed on, whether the instruction is told, and whether the file is signed."""

    gps: Literal["keep", "strip"] = "keep"
    prompt: bool = True
    signed: bool = False


def capture_date(path: Path) -> datetime | None:
    """When the photo was taken, by its EXIF or XMP, in the camera's own time; None where it does not say."""
    blocks = read_blocks(path)
    texts = []
    try:
        block = exif.Block(blocks.exif)
        texts += [block.text(block.get_exif(tag)) for tag in (exif.DATE_TIME_ORIGINAL, exif.DATE_TIME_DIGITIZED)]
    except exif.ExifError:
        pass
    try:
        packet = xmp.Packet(blocks.xmp)
        texts += [packet.get(space, name) for space, name in xmp.DATES]
    except (xmp.XmpError, RecursionError):
        pass
    return next((date for text in texts if (date := _date(text))), None)


def _date(text: str) -> datetime | None:
    """EXIF's "2024:07:15 18:03:11" or XMP's "2024-07-15T18:03:11.25+02:00", down to the second."""
    digits = text.strip()[:19].replace("T", " ").replace("-", ":")
    for form in ("%Y:%m:%d %H:%M:%S", "%Y:%m:%d %H:%M", "%Y:%m:%d"):
        try:
            return datetime.strptime(digits, form)
        except ValueError:
            continue
    return None


def merge(
    blocks: Blocks,
    provenance: Provenance,
    policy: Policy,
    kind: str,
    size: tuple[int, int],
    photo: tuple[int, int],
    *,
    srgb: bool,
) -> tuple[Blocks, tuple[str, ...]]:
    """The photo's blocks with ours added, ready for a file of `kind` and (width, height) `size`, of a photo that is
    `photo` upright; and what had to be left out, in words.

    Upright (orientation 1), without thumbnails of the old picture, dates as they were. `srgb` says that the pixels
    are written in sRGB, whatever the photo's were. Damaged blocks are left out whole.
    """
    notes: list[str] = []
    takes = FORMATS[kind]
    settings = provenance.settings(prompt=policy.prompt)
    own = blocks.exif if takes.resolution else _with_resolution(blocks.exif, blocks.dpi)
    block = _merged_exif(own, settings, policy, size, takes.most_exif, srgb=srgb, notes=notes)
    scale = (size[0] / photo[0], size[1] / photo[1])
    packet, extended = _merged_xmp(blocks, provenance, policy, takes, scale, notes)
    if blocks.c2pa and not policy.signed:
        notes.append("Content Credentials (C2PA) left out: their signature is of the photo as it was")
    if not takes.text:
        notes.extend(_left_texts(blocks.text))
    merged = replace(
        blocks, exif=block, xmp=packet, xmp_extended=extended,
        text=_png_text(blocks.text, settings) if takes.text else (),
        comment=_fitting(blocks.comment, takes.most_comment, "comment", notes),
        iptc=_fitting(blocks.iptc, takes.most_iptc, "IPTC block", notes),
        photoshop=_merged_resources(blocks, takes, in_place=size == photo, notes=notes),
    )  # fmt: skip
    return merged, tuple(dict.fromkeys((*notes, *(f"{one} left out" for one in blocks.left))))


def _fitting(block: bytes, most: int, called: str, notes: list[str]) -> bytes:
    """The block where the file takes as many bytes; empty, with a note, where it does not."""
    if len(block) <= most:
        return block
    notes.append(f"{called} left out: it has no place in this file (XMP is kept)")
    return b""


def _merged_resources(blocks: Blocks, takes: Format, *, in_place: bool, notes: list[str]) -> bytes:
    """Photoshop's resources, without those that no longer hold."""
    kept, left = photoshop.still_true(blocks.photoshop, in_place=in_place and _turn(blocks.exif) == 1)
    notes.extend(left)
    return _fitting(kept, takes.most_iptc, "Photoshop's block", notes)


def _turn(data: bytes) -> int:
    """The orientation that EXIF says, 1 where it says none."""
    try:
        block = exif.Block(data)
        return block.number(block.get(exif.ORIENTATION), 1)
    except exif.ExifError:
        return 1


def _merged_exif(
    data: bytes, settings: str, policy: Policy, size: tuple[int, int], most: int, *, srgb: bool, notes: list[str]
) -> bytes:
    strip = policy.gps == "strip"
    try:
        block = exif.Block(data)
        # Where the photo's own fills the segment, our settings give way first; then nothing is added at all.
        for told, write in ((settings, block.rewritten), ("", block.rewritten), ("", block.in_place)):
            if len(found := write(*_changes(block, told, size, srgb), strip_gps=strip)) <= most:
                notes.extend(
                    [] if told else ["settings left out of EXIF, which the photo's own fills: they are in XMP"]
                )
                return found
        if block.get_exif(exif.MAKER_NOTE):
            block = exif.Block(block.compacted((), (exif.MAKER_NOTE,)))
            if len(found := block.rewritten(*_changes(block, settings, size, srgb), strip_gps=strip)) <= most:
                notes.append("maker notes left out: with them EXIF has more than 64 KB")
                return found
        notes.append("EXIF of more than 64 KB left out")
    except exif.ExifError as error:
        notes.append(f"damaged EXIF left out: {error}")
    return exif.Block().rewritten(*_changes(exif.Block(), settings, size, srgb))


def _with_resolution(data: bytes, dpi: tuple[float, float]) -> bytes:
    """EXIF that says the resolution where it does not, for a file that has no other place for it."""
    try:
        block = exif.Block(data)
    except exif.ExifError:
        return data
    if min(dpi) <= 0 or block.get(exif.X_RESOLUTION):
        return data
    told: dict[int, exif.Value | None] = {
        exif.X_RESOLUTION: block.rational(dpi[0]), exif.Y_RESOLUTION: block.rational(dpi[1]),
        exif.RESOLUTION_UNIT: block.short(2),
    }  # fmt: skip
    return block.rewritten(told, {})


def _changes(
    block: exif.Block, settings: str, size: tuple[int, int], srgb: bool
) -> tuple[dict[int, exif.Value | None], dict[int, exif.Value | None]]:
    """What becomes of the main directory and of Exif's own; a comment only where there are settings to tell."""
    root: dict[int, exif.Value | None] = {
        exif.ORIENTATION: block.short(1),
        exif.SOFTWARE: exif.Value(2, len(SOFTWARE) + 1, SOFTWARE.encode() + b"\0"),
        # Some cameras repeat the picture's size here, before it was turned.
        **{tag: None for tag in (0x0100, 0x0101) if block.get(tag)},
    }
    details: dict[int, exif.Value | None] = {exif.PIXEL_X: block.long(size[0]), exif.PIXEL_Y: block.long(size[1])}
    if settings:
        comment = "\n".join(part for part in (_old_comment(block), settings) if part)
        encoded = b"UNICODE\0" + comment.encode("utf-16-le" if block.order == "<" else "utf-16-be", "replace")
        details = {exif.USER_COMMENT: exif.Value(7, len(encoded), encoded), **details}
    if srgb and block.get_exif(exif.COLOR_SPACE):
        details[exif.COLOR_SPACE] = block.short(1)
    return root, details


def _old_comment(block: exif.Block) -> str:
    """A comment by the photographer; cameras leave blanks here, and an earlier delivery our own settings."""
    value = block.get_exif(exif.USER_COMMENT)
    data = value.data if value else b""
    if data[:8] == b"UNICODE\0":
        text = data[8:].decode("utf-16-le" if block.order == "<" else "utf-16-be", "replace")
    else:
        text = data[8:].decode("ascii", "replace") if data[:8] == b"ASCII\0\0\0" else ""
    text = text.replace("\0", "").strip()
    return "" if _is_ours(text) else text


def _merged_xmp(
    blocks: Blocks, provenance: Provenance, policy: Policy, takes: Format, scale: tuple[float, float], notes: list[str]
) -> tuple[bytes, bytes]:
    try:
        packet = xmp.Packet(blocks.xmp, blocks.xmp_extended)
        notes.extend(f"{one} left out" for one in packet.clean(strip_gps=policy.gps == "strip"))
        if scale != (1.0, 1.0):
            packet.enlarge(scale)
        packet.put(_properties(provenance, packet, policy))
        return packet.split() if takes.extended_xmp else (packet.tobytes(), b"")
    except (xmp.XmpError, RecursionError) as error:
        notes.append(f"damaged XMP left out: {error}")
        packet = xmp.Packet()
        packet.put(_properties(provenance, packet, policy))
        return packet.tobytes(), b""


def sidecar(found: bytes, provenance: Provenance, policy: Policy) -> tuple[bytes, tuple[str, ...]]:
    """A photo's sidecar as that of its edit, marked as that is, and what it leaves out, in plain words.

    Raises XmpError, RecursionError.
    """
    packet = xmp.Packet(found)
    developed = packet.undeveloped()
    packet.clean(strip_gps=policy.gps == "strip")
    packet.put(_properties(provenance, packet, policy))
    return packet.tobytes(), ("how the photo was developed left out of the sidecar",) if developed else ()


def _properties(provenance: Provenance, packet: xmp.Packet, policy: Policy) -> dict[tuple[str, str], xmp.Property]:
    """IPTC Photo Metadata 2025.1's fields for AI, XMP's for origin, and the settings in our own namespace."""
    parent = packet.get(xmp.MM, "DocumentID") or f"sha256:{provenance.source}"
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{xmp.OURS}{provenance.source}/{provenance.key}")
    version = " / ".join(part for part in (provenance.model_digest[:12], SOFTWARE) if part)
    values: dict[tuple[str, str], xmp.Property] = {
        (xmp.IPTC_EXT, "DigitalSourceType"): SOURCE_TYPE,
        (xmp.IPTC_EXT, "AISystemUsed"): f"{provenance.family} ({provenance.model})",
        (xmp.IPTC_EXT, "AISystemVersionUsed"): version,
        (xmp.XMP, "CreatorTool"): SOFTWARE,
        (xmp.MM, "DocumentID"): f"xmp.did:{identity}",
        (xmp.MM, "InstanceID"): f"xmp.iid:{identity}",
        (xmp.MM, "DerivedFrom"): {(xmp.REF, "documentID"): parent},
        (xmp.OURS, "edit"): provenance.key,
        (xmp.OURS, "textGuidance"): f"{provenance.text:g}",
        (xmp.OURS, "imageGuidance"): f"{provenance.image:g}",
        (xmp.OURS, "seed"): str(provenance.seed),
        (xmp.OURS, "steps"): str(provenance.steps),
        (xmp.OURS, "sampler"): provenance.sampler,
        (xmp.OURS, "size"): f"{provenance.size[0]}x{provenance.size[1]}",
        (xmp.OURS, "model"): provenance.model,
    }
    if provenance.model_digest:
        values[xmp.OURS, "modelDigest"] = provenance.model_digest
    if provenance.strength < 1:
        values[xmp.OURS, "strength"] = f"{provenance.strength:g}"
    if provenance.approximations:
        values[xmp.OURS, "approximations"] = provenance.approximations
    if policy.prompt:
        values[xmp.IPTC_EXT, "AIPromptInformation"] = "; then ".join(provenance.instructions)
        values[xmp.OURS, "instructions"] = provenance.instructions
        if provenance.negative:
            values[xmp.OURS, "negative"] = provenance.negative
    return values


def _png_text(chunks: Sequence[tuple[bytes, bytes]], settings: str) -> tuple[tuple[bytes, bytes], ...]:
    """The photo's own texts but for thumbnails, and `parameters` with our settings behind those of others."""
    kept = [(kind, data) for kind, data in chunks if not data.startswith((_PARAMETERS, _THUMBNAIL))]
    earlier = [png.text_of(kind, data) for kind, data in chunks if data.startswith(_PARAMETERS)]
    told = "\n".join([*(text for text in earlier if not _is_ours(text)), settings])
    return (*kept, (b"iTXt", _PARAMETERS + b"\0\0\0\0" + told.encode("utf-8", "replace")))


def _left_texts(chunks: Sequence[tuple[bytes, bytes]]) -> Iterator[str]:
    """That a PNG's texts have no place in the file, by their keywords."""
    names = dict.fromkeys(
        data.partition(b"\0")[0] for kind, data in chunks
        if not data.startswith(_THUMBNAIL) and not (data.startswith(_PARAMETERS) and _is_ours(png.text_of(kind, data)))
    )  # fmt: skip
    told = [re.sub(r"[^ -~]", "?", name.decode("latin-1")) for name in names]
    if told:
        more = f" and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
        yield f"the PNG's texts left out: {', '.join(told[:_MOST_TOLD])}{more}"


def _is_ours(text: str) -> bool:
    """Whether an earlier delivery wrote it."""
    return "Version: ip2pbatch" in text
