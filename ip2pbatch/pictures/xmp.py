"""The XMP packet: what was there stays, what this project knows about the picture is added."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias
from xml.dom import Node
from xml.parsers.expat import ExpatError

from defusedxml import DefusedXmlException, minidom

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMP = "http://ns.adobe.com/xap/1.0/"
MM = "http://ns.adobe.com/xap/1.0/mm/"
REF = "http://ns.adobe.com/xap/1.0/sType/ResourceRef#"
NOTE = "http://ns.adobe.com/xmp/note/"
EXIF = "http://ns.adobe.com/exif/1.0/"
TIFF = "http://ns.adobe.com/tiff/1.0/"
IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
OURS = "urn:ip2pbatch:1.0/"
DATES = ((EXIF, "DateTimeOriginal"), ("http://ns.adobe.com/photoshop/1.0/", "DateCreated"), (XMP, "CreateDate"))
_XMLNS = "http://www.w3.org/2000/xmlns/"

_GOOGLE = "http://ns.google.com/photos/1.0/"
PANORAMA = f"{_GOOGLE}panorama/"
_CAMERA = f"{_GOOGLE}camera/"
_PREFIXES = {
    XMP: "xmp", MM: "xmpMM", REF: "stRef", IPTC_EXT: "Iptc4xmpExt", OURS: "ip2p", NOTE: "xmpNote", PANORAMA: "GPano",
}  # fmt: skip
_PANORAMA_PARTS = ("FullPano", "CroppedAreaImage", "CroppedArea")
# Pictures and sounds beside the old pixels, and pointers to them. They no longer show what the file shows.
_GAIN_MAP, _VIDEO, _DEPTH = "HDR gain map", "video of a motion photo", "depth map"
_STALE_SPACES = {
    "http://ns.adobe.com/hdr-gain-map/1.0/": _GAIN_MAP,
    "http://ns.apple.com/HDRGainMap/1.0/": _GAIN_MAP,
    "http://ns.apple.com/HDRToneMap/1.0/": _GAIN_MAP,
    f"{_GOOGLE}depthmap/": _DEPTH,
    f"{_GOOGLE}dynamicdepth": _DEPTH,
    "http://ns.google.com/photos/dd/1.0/": _DEPTH,
    "http://ns.apple.com/depthData/1.0/": _DEPTH,
    "http://ns.apple.com/portraitEffectsMatte/1.0/": _DEPTH,
    "http://ns.apple.com/semanticSegmentationMatte/1.0/": _DEPTH,
    f"{_GOOGLE}image/": "a further picture",
    f"{_GOOGLE}audio/": "sound",
    f"{_GOOGLE}container/": "",
    "http://ns.adobe.com/xap/1.0/g/img/": "",
    OURS: "",
}
_DEVELOPING = (
    "http://ns.adobe.com/camera-raw-settings/1.0/", "http://ns.adobe.com/camera-raw-saved-settings/1.0/",
    "http://ns.adobe.com/camera-raw-defaults/1.0/", "http://darktable.sf.net/",
)  # fmt: skip
_VIDEO_NAMES = ("MotionPhoto", "MicroVideo")  # how Google's camera says that a video follows
_STALE = {
    (TIFF, "Orientation"), (TIFF, "ImageWidth"), (TIFF, "ImageLength"),
    (EXIF, "PixelXDimension"), (EXIF, "PixelYDimension"), (XMP, "Thumbnails"), (NOTE, "HasExtendedXMP"),
}  # fmt: skip
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_MOST_MARKS = 600_000  # of elements and attributes; brush strokes of Lightroom's masks fill a tenth
_MAIN_LIMIT = 65_502  # bytes of XMP in one APP1 segment of a JPEG

Element: TypeAlias = Any  # a node of minidom, whose own types say less than DOM's documentation
Property = str | Sequence[str] | Mapping[tuple[str, str], str]


class XmpError(Exception):
    """A packet that is no XMP, or XML that is not safe to read."""


class Packet:
    """An XMP packet to be read, cleaned and added to. Without bytes, an empty one."""

    def __init__(self, data: bytes = b"", extended: bytes = b"") -> None:
        self._document = _parse(data) if data else _empty()
        self._rdf = _rdf(self._document)
        if extended:
            for child in [*_elements(_rdf(_parse(extended)))]:
                self._rdf.appendChild(_uprooted(child))

    def get(self, space: str, name: str) -> str:
        """A simple property's text, "" where there is none."""
        for description in self._descriptions():
            if text := description.getAttributeNS(space, name):
                return str(text)
            for child in _elements(description):
                if (child.namespaceURI, child.localName) == (space, name):
                    return "".join(node.data for node in child.childNodes if node.nodeType == Node.TEXT_NODE).strip()
        return ""

    def has(self, space: str, name: str) -> bool:
        """Whether there is such a property, whatever it holds."""
        return any(
            element.hasAttributeNS(space, name)
            or any((child.namespaceURI, child.localName) == (space, name) for child in _elements(element))
            for element in self._descriptions()
        )

    def adopt(self, other: Packet, wanted: Collection[tuple[str, str]]) -> bool:
        """Copies the properties of another packet that are `wanted` by (namespace, name); whether there were any."""
        taken = False
        for theirs in other._descriptions():
            attributes = [
                one for one in (theirs.attributes or {}).values() if (one.namespaceURI, one.localName) in wanted
            ]
            children = [one for one in _elements(theirs) if (one.namespaceURI, one.localName) in wanted]
            if not attributes and not children:
                continue
            taken, ours = True, self._describe(())
            for attribute in attributes:
                ours.setAttributeNS(_XMLNS, f"xmlns:{attribute.prefix}", attribute.namespaceURI)
                ours.setAttributeNS(attribute.namespaceURI, attribute.name, attribute.value)
            for child in children:
                ours.appendChild(self._document.importNode(_uprooted(child), True))
        return taken

    def clean(self, *, strip_gps: bool) -> tuple[str, ...]:
        """Drops what is no longer true of the pixels, and the position where asked.

        Returns what can no longer be reached, in words: what it stood for is not in an edited file.
        """
        gone: dict[str, None] = {}

        def stale(space: str, name: str) -> bool:
            kind = _kind_of_stale(space, name)
            gone.update({kind: None} if kind else {})
            return kind is not None or (space, name) in _STALE

        self._drop(stale)
        if strip_gps:
            self._drop(lambda space, name: space == EXIF and name.startswith("GPS"))
        return tuple(gone)

    def undeveloped(self) -> bool:
        """Drops how Camera Raw, Lightroom or darktable developed the photo: they would do it to the edit once more.
        Whether there was anything.
        """
        before = len(self.tobytes())
        self._drop(lambda space, _: space in _DEVELOPING)
        return len(self.tobytes()) != before

    def enlarge(self, factor: tuple[float, float]) -> None:
        """A panorama's figures in pixels (https://developers.google.com/streetview/spherical-metadata), for a picture
        that is `factor` times as wide and as high as the photo.
        """
        changes: dict[tuple[str, str], Property] = {}
        for name in [f"{part}{side}Pixels" for part in _PANORAMA_PARTS for side in ("Width", "Height", "Left", "Top")]:
            if (number := self.get(PANORAMA, name)).isdecimal():
                scale = factor[0] if name.endswith(("WidthPixels", "LeftPixels")) else factor[1]
                changes[PANORAMA, name] = str(round(int(number) * scale))
        if changes:
            self.put(changes)

    def put(self, properties: Mapping[tuple[str, str], Property]) -> None:
        """Sets properties by (namespace, name): a text, a list (rdf:Seq), or a structure of texts."""
        self._drop(lambda space, name: (space, name) in properties)
        spaces = {space for space, _ in properties}
        spaces |= {inner for value in properties.values() if isinstance(value, Mapping) for inner, _ in value}
        description = self._describe(sorted(spaces))
        for (space, name), value in properties.items():
            description.appendChild(self._property(space, name, value))

    def tobytes(self) -> bytes:
        """The whole packet, UTF-8, with its wrapper."""
        body = str(next(_elements(self._document)).toxml())
        head = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        return (head + body + '\n<?xpacket end="w"?>').encode("utf-8", "xmlcharrefreplace")

    def split(self) -> tuple[bytes, bytes]:
        """For a JPEG: the packet, and what did not fit in one segment as extended XMP ("" where all of it fits).

        The largest properties move out first (XMP specification part 3, 1.1.3.1).
        """
        whole = self.tobytes()
        if len(whole) <= _MAIN_LIMIT:
            return whole, b""
        rest = Packet()
        room = len(whole) - _MAIN_LIMIT + 512
        properties = [p for d in self._descriptions() for p in _elements(d)]
        for element in sorted(properties, key=lambda p: -len(p.toxml())):
            if room > 0 and element.namespaceURI not in (IPTC_EXT, OURS):
                room -= len(element.toxml().encode())
                description = rest._describe(())
                description.appendChild(_uprooted(element))
        extended = next(_elements(rest._document)).toxml().encode()
        self.put({(NOTE, "HasExtendedXMP"): hashlib.md5(extended, usedforsecurity=False).hexdigest().upper()})
        return self.tobytes(), extended

    def _describe(self, spaces: Iterable[str]) -> Element:
        """A new rdf:Description of the same subject, with the namespaces that its properties will need."""
        about = next((d.getAttributeNS(RDF, "about") for d in self._descriptions()), "")
        description = self._document.createElementNS(RDF, "rdf:Description")
        description.setAttributeNS(_XMLNS, "xmlns:rdf", RDF)
        description.setAttributeNS(RDF, "rdf:about", about)
        for space in spaces:
            description.setAttributeNS(_XMLNS, f"xmlns:{_PREFIXES[space]}", space)
        self._rdf.appendChild(description)
        return description

    def _descriptions(self) -> list[Element]:
        return [e for e in _elements(self._rdf) if (e.namespaceURI, e.localName) == (RDF, "Description")]

    def _drop(self, stale: Callable[[str, str], bool]) -> None:
        """Removes every element and attribute, however deep, of which `stale(namespace, name)` is true."""
        waiting = self._descriptions()
        while waiting:
            element = waiting.pop()
            for attribute in [*(element.attributes or {}).values()]:
                if attribute.namespaceURI and stale(attribute.namespaceURI, attribute.localName):
                    element.removeAttributeNode(attribute)
            for child in [*_elements(element)]:
                if stale(child.namespaceURI or "", child.localName):
                    element.removeChild(child)
                else:
                    waiting.append(child)

    def _property(self, space: str, name: str, value: Property) -> Element:
        element = self._document.createElementNS(space, f"{_PREFIXES[space]}:{name}")
        if isinstance(value, str):
            element.appendChild(self._document.createTextNode(_ILLEGAL.sub("", value)))
        elif isinstance(value, Mapping):
            element.setAttributeNS(RDF, "rdf:parseType", "Resource")
            for (inner, key), text in value.items():
                element.appendChild(self._property(inner, key, text))
        else:
            sequence = element.appendChild(self._document.createElementNS(RDF, "rdf:Seq"))
            for text in value:
                item = sequence.appendChild(self._document.createElementNS(RDF, "rdf:li"))
                item.appendChild(self._document.createTextNode(_ILLEGAL.sub("", text)))
        return element


def _kind_of_stale(space: str, name: str) -> str | None:
    """What a property of these stood for, "" where nobody misses it; None where it still holds."""
    if space == _CAMERA and name.startswith(_VIDEO_NAMES):
        return _VIDEO
    return next((kind for start, kind in _STALE_SPACES.items() if space.startswith(start)), None)


def _parse(data: bytes) -> Element:
    """XML without entities or a document type; XmpError for anything else."""
    if data.count(b"<") + data.count(b"=") > _MOST_MARKS:
        raise XmpError("the XMP has more elements than any photo's")
    try:
        return minidom.parseString(data.strip(b"\0 \r\n\t"), forbid_dtd=True)
    except (ExpatError, DefusedXmlException, ValueError, LookupError) as error:
        raise XmpError("the XMP is damaged") from error


def _empty() -> Element:
    return _parse(f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"/></x:xmpmeta>'.encode())


def _rdf(document: Element) -> Element:
    found = document.getElementsByTagNameNS(RDF, "RDF")
    if not found:
        raise XmpError("the XMP holds no RDF")
    return found[0]


def _elements(node: Element) -> Iterator[Element]:
    return (child for child in node.childNodes if child.nodeType == Node.ELEMENT_NODE)


def _uprooted(element: Element) -> Element:
    """The element out of its document, with the namespaces that were in force around it."""
    around: dict[str, str] = {}
    node = element
    while node is not None and node.nodeType == Node.ELEMENT_NODE:
        around = {**{k: v for k, v in node.attributes.items() if k.startswith("xmlns:")}, **around}
        node = node.parentNode
    element.parentNode.removeChild(element)
    for name, uri in around.items():
        element.setAttributeNS(_XMLNS, name, uri)
    return element
