"""Several recipes for one folder as one: what each asks of its own photos stands in it as edits of those photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ip2pbatch.disk.buckets.locations import is_object
from ip2pbatch.plan.families import ModelDefaults
from ip2pbatch.plan.formats import suffixes
from ip2pbatch.plan.globs import exactly
from ip2pbatch.plan.written.ranges import Size
from ip2pbatch.plan.written.recipe import EditSpec, PhotoFolder, Recipe, Seeds
from ip2pbatch.plan.written.slug import free


def one_recipe(recipes: Sequence[Recipe], defaults: ModelDefaults) -> Recipe:
    """What `recipes` ask for, the oldest first, as one; `defaults` are what counts where none of them says anything.

    The settings of files are the last one's. Whoever writes it down compares what it comes to: two folders of one name
    cannot be told apart in it, nor grids that one recipe pairs and another multiplies.
    """
    first, last = recipes[0], recipes[-1]
    places = _Places()
    for recipe in recipes:
        places.add(recipe)
    specs: dict[str, EditSpec] = {}
    for recipe in recipes:
        globs = places.globs(recipe)
        for spec in recipe.edits:
            own = spec.model_copy(update=_settings(spec, recipe, first, defaults))
            _join(specs, own.model_copy(update={"photos": places.renamed(spec.photos, recipe) or globs}))
    names = {recipe.name for recipe in recipes}
    return first.model_copy(
        update={
            "name": names.pop() if len(names) == 1 else "edits", "photos": places.folders(),
            "edits": tuple(specs.values()), "output": last.output, "metadata": last.metadata,
            "safety": any(recipe.safety for recipe in recipes),
        }
    )  # fmt: skip


def _join(specs: dict[str, EditSpec], spec: EditSpec) -> None:
    """Add an edit: to the photos of one that is the same, else under a name of its own."""
    for name, other in specs.items():
        if other.model_copy(update={"id": spec.id, "photos": spec.photos}) == spec:
            every = other.photos is None or spec.photos is None
            photos = None if every else tuple(dict.fromkeys((*(other.photos or ()), *(spec.photos or ()))))
            specs[name] = other.model_copy(update={"photos": photos})
            return
    name = free(spec.id, specs) if spec.id in specs else spec.id
    specs[name] = spec.model_copy(update={"id": name})


def _settings(spec: EditSpec, recipe: Recipe, first: Recipe, defaults: ModelDefaults) -> dict[str, Any]:
    """What `spec` must say itself, because `first` says something else for all."""
    own, shared = _shared(recipe, defaults), _shared(first, defaults)
    return {
        name: own[name] for name in own if getattr(spec, name) is None and own[name] != shared[name]
    }  # fmt: skip


def _shared(recipe: Recipe, defaults: ModelDefaults) -> Mapping[str, tuple[float, ...] | Seeds | Size | int | str]:
    return {
        "text": recipe.guidance.text or (defaults.text,), "image": recipe.guidance.image or (defaults.image,),
        "seeds": recipe.seeds, "steps": recipe.steps or defaults.steps, "sampler": recipe.sampler or defaults.sampler,
        "size": recipe.size or _own_size(defaults),
    }  # fmt: skip


def _own_size(defaults: ModelDefaults) -> Size:
    if defaults.megapixels is not None:
        return Size(megapixels=defaults.megapixels)
    return Size(long_side=defaults.long_side)


@dataclass(slots=True)
class _Places:
    """Folders of photos, each once: `whole` as they are written, of the others some photos by name (None is all)."""

    whole: list[PhotoFolder] = field(default_factory=list)
    some: dict[Path, set[str] | None] = field(default_factory=dict)

    def add(self, recipe: Recipe) -> None:
        for photos in recipe.photos:
            if not _plain(photos):
                self.whole += [photos] if photos not in self.whole else []
                continue
            folder, name = _place(photos)
            known = self.some.setdefault(folder, set())
            if name is None or known is None:
                self.some[folder] = None
            else:
                known.add(name)

    def folders(self) -> tuple[PhotoFolder, ...]:
        """Lone photos stay that, for a folder's name would stand before theirs, unless two have one name."""
        if self._lone:
            return tuple(PhotoFolder(folder=path) for path in self._photos())
        made = (
            PhotoFolder(folder=folder) if names is None
            else PhotoFolder(folder=folder, include=tuple(map(exactly, sorted(names))))
            for folder, names in self.some.items()
        )  # fmt: skip
        return (*self.whole, *made)

    def globs(self, recipe: Recipe) -> tuple[str, ...] | None:
        """What the photos of `recipe` are called; None where they are all."""
        every = Counter(recipe.photos) == Counter(self.folders())
        return None if every else tuple(dict.fromkeys(self._globs(recipe)))

    def renamed(self, globs: tuple[str, ...] | None, recipe: Recipe) -> tuple[str, ...] | None:
        """Globs of `recipe`, whose photos' names begin with their folder's as soon as there are several."""
        if globs is None or not self._several or len(recipe.photos) > 1:
            return globs
        return tuple(exactly(_place(recipe.photos[0])[0].resolve().name) + "/" + glob for glob in globs)

    def _globs(self, recipe: Recipe) -> Iterator[str]:
        for photos in recipe.photos:
            folder, name = _place(photos)
            prefix = exactly(folder.resolve().name) + "/" if self._several else ""
            yield prefix + ("**" if name is None else exactly(name))

    def _photos(self) -> list[Path]:
        return [folder / name for folder, names in self.some.items() for name in sorted(names or ())]

    @property
    def _lone(self) -> bool:
        names = [path.name.casefold() for path in self._photos()]
        return not self.whole and None not in self.some.values() and len(names) == len({*names})

    @property
    def _several(self) -> bool:
        return len(self.whole) + len(self.some) > 1 and not self._lone


def _plain(photos: PhotoFolder) -> bool:
    return photos == PhotoFolder(folder=photos.folder)


def _place(photos: PhotoFolder) -> tuple[Path, str | None]:
    """The folder, and in it the one photo that is meant; None for all of them."""
    folder = photos.folder
    is_folder = folder.suffix.lower() not in suffixes() if is_object(folder) else folder.is_dir()
    return (folder, None) if is_folder else (folder.parent, folder.name)
