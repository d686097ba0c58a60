"""A further command into the same folder: what it asks for stands beside what earlier ones asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ip2pbatch.plan.edits import Photo, Plan


def apart(plan: Plan, earlier: Plan) -> Plan:
    """`plan` with other names for photos that are called as another file was before: by their folders."""
    paths = {photo.name: photo.path for photo in earlier.photos}
    names = {photo.name: _free(photo, paths) for photo in plan.photos}
    if all(old == new for old, new in names.items()):
        return plan
    photos = {photo.name: replace(photo, name=names[photo.name]) for photo in plan.photos}
    strips = tuple(replace(strip, photo=photos[strip.photo.name]) for strip in plan.strips)
    return replace(plan, photos=tuple(photos.values()), strips=strips)


def _free(photo: Photo, paths: Mapping[str, Path]) -> str:
    name, folder = photo.name, photo.path.resolve().parent
    while paths.get(name, photo.path) != photo.path and folder.name:
        name, folder = f"{folder.name}/{name}", folder.parent
    return name


def beside(plan: Plan, earlier: Plan) -> Plan:
    """Both, the earlier first; of a photo that was replaced since, what `plan` asks of it alone."""
    now = {photo.name: photo for photo in plan.photos}
    old = [strip for strip in earlier.strips if now.get(strip.photo.name, strip.photo).digest == strip.photo.digest]
    own = {(strip.photo.name, strip.id, strip.edits): strip for strip in (*old, *plan.strips)}
    strips = tuple(own.values())
    photos = {strip.photo.name: strip.photo for strip in old} | now
    edits = {edit.key: edit for strip in strips for edit in strip.made}
    name = plan.name if plan.name == earlier.name else "edits"
    return Plan(name, plan.model, tuple(photos.values()), strips, tuple(edits.values()))
