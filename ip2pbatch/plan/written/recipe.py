"""A recipe: what pictures should exist, as a person wrote it, read from YAML or put together from flags.

Every shorthand (a string for an edit, a number for seeds, a range for a scale) is brought to one form while it is
read, so that nobody further on asks which form it was. A mistake is a RecipeError with its place and a hint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from ip2pbatch.errors import RecipeError
from ip2pbatch.plan.defaults import DEFAULT_MODEL
from ip2pbatch.plan.edits import Carry
from ip2pbatch.plan.formats import suffixes
from ip2pbatch.plan.written.addresses import is_address
from ip2pbatch.plan.written.choices import Sampler
from ip2pbatch.plan.written.compared import Compared, model_path, refuse_clashes, with_path
from ip2pbatch.plan.written.outputs import Metadata, Output, Sheet, Strength
from ip2pbatch.plan.written.overlays import KEYS, laid_over
from ip2pbatch.plan.written.part import PathOrLocation, RecipePath, Written
from ip2pbatch.plan.written.ranges import Scales, Size, Steps, read_numbers
from ip2pbatch.plan.written.slug import free, name_of
from ip2pbatch.plan.written.where import Protected, Where
from ip2pbatch.plan.written.yaml_source import Mistake, parse_yaml, read_text, suggest, validate

Pair = Literal["product", "zip"]
Pairs = Literal["jpeg", "raw", "both"]

MAX_SEED = 2**63 - 1
DEFAULT_SEED = 1371
MAX_INSTRUCTION, _SHORT = 2000, "use fewer words"
PHOTO_GLOBS = tuple(f"**/*{suffix}" for suffix in suffixes())

# What other tools call it, for the hint at an unknown key.
OTHER_NAMES = {
    "scheduler": "sampler", "prompt": "instruction", "edit": "edits", "num_inference_steps": "steps",
    "resolution": "size", "input": "photos", "inputs": "photos",
    "cfg_text": "guidance: {text: 7.5}", "text_cfg": "guidance: {text: 7.5}", "guidance_scale": "guidance: {text: 7.5}",
    "cfg_image": "guidance: {image: 1.5}", "image_cfg": "guidance: {image: 1.5}",
    "image_guidance_scale": "guidance: {image: 1.5}",
}  # fmt: skip

Seed = Annotated[StrictInt, Field(ge=0, le=MAX_SEED)]


def _scale(value: Any) -> float:
    numbers = read_numbers(value)
    if len(numbers) != 1:
        raise Mistake("one number here: a link of a chain has no grid of its own", hint="put the grid in guidance")
    return numbers[0]


Scale = Annotated[float, BeforeValidator(_scale), WithJsonSchema({"type": "number"})]


def _some(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


class PhotoFolder(Written):
    """One folder of photos, one photo, or a manifest. Globs are relative to the folder; `**` crosses folders."""

    folder: PathOrLocation = Field(
        description="a folder, read recursively, or one photo; relative to the recipe, or s3://bucket/prefix. "
        "With `manifest`: of its photos"
    )
    manifest: RecipePath | None = Field(
        None,
        description="CSV with the column name (and path, digest, size): the photos, in order; of its own folder",
    )
    include: tuple[str, ...] = Field(
        default=PHOTO_GLOBS, description="globs of the photos wanted, case does not matter"
    )
    exclude: tuple[str, ...] = Field(default=(), description="globs of photos or folders to leave out")
    instructions: RecipePath | None = Field(
        None, description="CSV of edits for single photos: columns photo, instruction, and id, text, image and more"
    )
    pairs: Pairs = Field(
        default="jpeg", description="of a shot's JPEG, HEIC and raw file: the most finished, the rawest, or both"
    )
    follow_links: StrictBool = Field(
        default=False, description="whether links that lead out of the folder are followed"
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, (str, Path)):
            return {"folder": value}
        if isinstance(value, dict):
            value = value | {key: [value[key]] for key in ("include", "exclude") if isinstance(value.get(key), str)}
            return value if value.get("manifest") is None else {"folder": _folder_of(value["manifest"])} | value
        raise Mistake("should be a folder or a photo, a list of them, or a mapping", hint="photos: {folder: shoot}")

    @model_validator(mode="after")
    def _lists(self) -> PhotoFolder:
        for key in ("pairs", "follow_links") if self.manifest else ():
            if key in self.model_fields_set:
                raise Mistake("is for folders, and a manifest says which photos", hint=f"remove {key}", at=(key,))
        return self


def _folder_of(manifest: Any) -> Any:
    """The folder that a manifest lies in, as it is written; what is no path is told of where it stands."""
    is_path = isinstance(manifest, (str, Path)) and not is_address(str(manifest))
    return Path(manifest).parent if is_path else "."


class Link(Written):
    """One instruction of a chain, with what it does differently from the rest."""

    instruction: Annotated[str, Field(min_length=1, max_length=MAX_INSTRUCTION)]
    text: Scale | None = Field(default=None, description="its own text scale")
    image: Scale | None = Field(default=None, description="its own image scale")
    region: Where | None = Field(default=None, description="its own region instead of the chain's")
    protect: Protected | None = Field(default=None, description="what it leaves as it is, instead of the chain's")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, dict) and "strength" in value:
            why = "a link has no strength: it is of what is delivered, and the next link starts from all of this one"
            raise Mistake(why, hint="write it beside chain: {chain: […], strength: 0.6}", at=("strength",))
        return {"instruction": value} if isinstance(value, str) else value


class EditSpec(Written):
    """One edit of a recipe: a chain of links, most often of one. `keep` holds the delivered links, counted from 1."""

    ALSO_WRITTEN: ClassVar = ("instruction",)

    id: Annotated[str, Field(min_length=1, max_length=80)] = Field(description="its name in file names and on sheets")
    chain: tuple[Link, ...] = Field(min_length=1, max_length=64)
    keep: tuple[int, ...]
    carry: Carry | None = Field(
        default=None, description="what a link hands to the next: its latent (drifts less) or pixels"
    )
    text: Scales | None = Field(default=None, description="its own text scales instead of guidance.text")
    image: Scales | None = Field(default=None, description="its own image scales instead of guidance.image")
    seeds: Seeds | None = Field(default=None, description="its own seeds")
    steps: Steps | None = Field(default=None, description="its own step count")
    sampler: Sampler | None = Field(default=None, description="its own sampler")
    size: Size | None = Field(default=None, description="the size the model works at for it")
    negative: Annotated[str, Field(min_length=1, max_length=MAX_INSTRUCTION)] | None = Field(
        default=None, description="what it should not become, in the place of the model's null text"
    )
    strength: Strength | None = Field(
        default=None, description="how much of it is delivered, instead of output.strength"
    )
    photos: Annotated[tuple[str, ...], BeforeValidator(_some), Field(min_length=1)] | None = Field(
        default=None, description="globs of the photos that get it, instead of all"
    )
    region: Where | None = Field(default=None, description="the part of a photo that is edited, instead of all of it")
    protect: Protected | None = Field(
        default=None, description="the part of a photo that stays as it is, such as faces"
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"instruction": value}
        elif isinstance(value, list):
            value = {"chain": value}
        if not isinstance(value, dict):
            raise Mistake("an edit is an instruction, a list of links or a mapping", hint="put numbers in quotes")
        if ("instruction" in value) == ("chain" in value):
            for key in value:
                if key not in cls.model_fields and suggest(str(key), ("instruction", "chain")):
                    raise Mistake("unknown key", hint=suggest(key, ("instruction", "chain")), at=(key,))
            raise Mistake("an edit has either an instruction or a chain", hint="{instruction: make it winter}")
        return _chain(value) if "chain" in value else _single(value)

    @model_validator(mode="after")
    def _one_feather(self) -> EditSpec:
        """How far a link fades out is said once, by its region where it has one."""
        for place, link in enumerate(self.chain):
            region, protect = link.region or self.region, link.protect or self.protect
            if region and protect and "feather" in protect.model_fields_set:
                at = ("chain", place, "protect") if link.protect and len(self.chain) > 1 else ("protect",)
                raise Mistake("region says it for the whole edit", hint="write feather there", at=(*at, "feather"))
        return self


def _single(value: dict[str, Any]) -> dict[str, Any]:
    for key in ("keep", "carry"):
        if key in value:
            raise Mistake("belongs to a chain, this edit is a single instruction", hint=f"remove {key}", at=(key,))
    rest = {key: item for key, item in value.items() if key != "instruction"}
    words = value["instruction"]
    if not isinstance(words, str) or not words.strip():
        hint = "say what to do, in words" if isinstance(words, str) else "put numbers in quotes"
        raise Mistake("an instruction is a text, such as make it winter", hint=hint, at=("instruction",))
    if len(words) > MAX_INSTRUCTION:
        raise Mistake(f"an instruction has at most {MAX_INSTRUCTION:,} characters", hint=_SHORT, at=("instruction",))
    return {"id": name_of([words]), **rest, "chain": [{"instruction": words}], "keep": (1,)}


def _chain(value: dict[str, Any]) -> dict[str, Any]:
    links = value["chain"]
    if not isinstance(links, list) or not links:
        raise Mistake("a chain is a list of instructions", hint="chain: [make it winter, add fog]", at=("chain",))
    for place, link in enumerate(links):
        if not isinstance(link, (str, dict)) or link == "":
            raise Mistake("a link is an instruction or a mapping", hint="put numbers in quotes", at=("chain", place))
    rest = {key: item for key, item in value.items() if key not in ("chain", "keep")}
    words = [link if isinstance(link, str) else str(link.get("instruction", "")) for link in links]
    return {"id": name_of(words), **rest, "chain": links, "keep": _keep(value.get("keep", "last"), len(links))}


def _keep(keep: Any, links: int) -> tuple[int, ...]:
    if keep == "last":
        return (links,)
    if keep == "all":
        return tuple(range(1, links + 1))
    numbers = keep if isinstance(keep, list) else [keep]
    for place, number in enumerate(numbers):
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= links:
            at: tuple[str | int, ...] = ("keep", place) if isinstance(keep, list) else ("keep",)
            raise Mistake(
                f"{number!r} is not a link from 1 to {links}", hint="numbers of links, `all` or `last`", at=at
            )
    if not numbers:
        raise Mistake("keeps no link", hint="numbers of links, `all` or `last`", at=("keep",))
    return tuple(sorted(set(numbers)))


class GuidanceSpec(Written):
    """The scales of every edit that has none of its own; None is the model's default."""

    text: Scales | None = Field(default=None, description="s_T: higher follows the instruction more (7.5)")
    image: Scales | None = Field(default=None, description="s_I: higher keeps the photo more (1.5)")
    pair: Pair = Field(
        default="product", description="every text with every image, or the first with the first and so on"
    )


class Seeds(Written):
    """`fixed`: every photo gets exactly these. `per_photo`: each photo gets its own, made from these numbers."""

    fixed: tuple[Seed, ...] = Field(default=(), description="seeds that every photo gets, as in diffusers")
    per_photo: tuple[Seed, ...] = Field(default=(), description="numbers from which each photo's own seed is made")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"per_photo": [value]}
        if isinstance(value, list):
            return {"fixed": value}
        if isinstance(value, dict):
            return {key: [item] if isinstance(item, int) else item for key, item in value.items()}
        raise Mistake("should be a number, a list of numbers, or {fixed: …} or {per_photo: …}", hint="seeds: 7")

    @model_validator(mode="after")
    def _either(self) -> Seeds:
        if bool(self.fixed) == bool(self.per_photo):
            raise Mistake("either fixed or per_photo, with at least one number", hint="seeds: 7, or seeds: [1, 2, 3]")
        return self


def _numbered(specs: tuple[EditSpec, ...]) -> tuple[EditSpec, ...]:
    """`specs`, where names that come from the instructions are one and the instructions are not, with numbers."""
    known = {spec.id: spec for spec in reversed(specs)}
    numbered = []
    for spec in specs:
        first = known[spec.id]
        if spec.chain != first.chain and spec.id == name_of([link.instruction for link in spec.chain]):
            name = free(spec.id, known)
            spec = known[name] = spec.model_copy(update={"id": name})
        numbered.append(spec)
    return tuple(numbered)


class Recipe(Written):
    """What pictures should exist. Paths are absolute; every shorthand is spelled out; None is the model's default."""

    ALSO_WRITTEN: ClassVar = KEYS

    name: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        default="edits", description="title of sheets and report"
    )
    model: Annotated[str, Field(min_length=1, max_length=4000)] = Field(
        DEFAULT_MODEL, description="hub id (@revision pins it), short name, folder, .safetensors file, or tiny"
    )
    compare: Annotated[tuple[Compared, ...], BeforeValidator(_some), AfterValidator(refuse_clashes)] = Field(
        default=(), description="models instead of one: a run each, with sheets and a report that join them"
    )
    photos: Annotated[tuple[PhotoFolder, ...], BeforeValidator(_some), Field(min_length=1)]
    edits: Annotated[tuple[EditSpec, ...], BeforeValidator(_some), AfterValidator(_numbered)] = ()
    guidance: GuidanceSpec = Field(default_factory=GuidanceSpec)
    seeds: Seeds = Field(default=Seeds(per_photo=(DEFAULT_SEED,)))
    steps: Steps | None = Field(default=None, description="network steps a picture")
    sampler: Sampler | None = Field(default=None, description="as named in diffusers; model: its own")
    size: Size | None = Field(default=None, description="the size the model works at")
    output: Output = Field(default_factory=dict, validate_default=True)
    metadata: Metadata = Field(default_factory=Metadata)
    safety: bool = Field(default=True, description="run the model's safety checker where it ships one")
    sheet: Sheet = Field(default_factory=Sheet)

    @model_validator(mode="before")
    @classmethod
    def _model(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, dict):
            return value
        if "model" in value and value.get("compare"):
            raise Mistake("either model or compare", hint="put it into the list: compare: [tiny, …]", at=("model",))
        if isinstance(value.get("model"), str):
            value = value | {"model": model_path(value["model"], _base(info))}
        value = laid_over(value, _base(info))
        if isinstance(compared := value.get("compare"), (list, tuple)):
            value = value | {"compare": [with_path(one, place, _base(info)) for place, one in enumerate(compared)]}
        return value

    @model_validator(mode="after")
    def _edits(self) -> Recipe:
        if not self.edits and not any(folder.instructions for folder in self.photos):
            raise Mistake("no edit", hint="edits: [make it winter], or photos: {…, instructions: notes.csv}")
        seen: dict[str, int] = {}
        for place, spec in enumerate(self.edits):
            self._pairs(spec)
            if spec.id in seen:
                why = f"the id {spec.id!r} is taken by edit {seen[spec.id] + 1}"
                raise Mistake(why, hint="give one of them another id", at=("edits", place, "id"))
            seen[spec.id] = place
        return self

    def _pairs(self, spec: EditSpec) -> None:
        texts, images = spec.text or self.guidance.text or (0,), spec.image or self.guidance.image or (0,)
        if self.guidance.pair == "zip" and 1 not in (len(texts), len(images)) and len(texts) != len(images):
            why = f"{spec.id} has {len(texts)} text and {len(images)} image scales, which do not pair"
            raise Mistake(
                why, hint="give both one length, or leave `pair` out for all with all", at=("guidance", "pair")
            )


def _base(info: ValidationInfo) -> Path:
    return info.context if isinstance(info.context, Path) else Path.cwd()


def load_recipe(path: Path) -> Recipe:
    """The Recipe in a YAML file; relative paths are from its folder. Raises RecipeError."""
    return read_recipe(path)[0]


def read_recipe(path: Path) -> tuple[Recipe, str]:
    """The Recipe in a YAML file, and its text, each line ended as here. Raises RecipeError."""
    text = read_text(path)
    return parse_recipe(text, path), _lines(text)


def parse_recipe(text: str, path: Path) -> Recipe:
    """The Recipe of a file's text, which was read already. Raises RecipeError."""
    data, locate = parse_yaml(text, path)
    if isinstance(data, dict):
        if {"lock", "recipe"} <= data.keys():
            raise RecipeError("this is a lock and no recipe", file=path, hint=f"give {data['recipe']} instead")
        data = {"name": path.stem} | data
    return validate(Recipe, data, locate, context=path.absolute().parent, other_names=OTHER_NAMES)


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
