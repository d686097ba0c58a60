"""What the API says and is told, as models: requests are checked by them, and the OpenAPI schema is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ip2pbatch.jobs.exploring.board import Only, State
from ip2pbatch.jobs.exploring.exploration import RequestState
from ip2pbatch.jobs.exploring.folder_run import RunState
from ip2pbatch.plan.edits import Carry
from ip2pbatch.plan.written.recipe import MAX_INSTRUCTION, MAX_SEED
from ip2pbatch.run.chosen.stars import MOST_NOTE, MOST_STARS

CELL, PHOTO, JOB = r"^[0-9a-f]{32}(-[0-9]{1,4})?$", r"^[0-9a-f]{16}$", r"^[0-9a-f]{6,16}$"
MOST_TEXT = 200_000
"""Letters of a recipe."""

Words = Annotated[str, Field(min_length=1, max_length=MAX_INSTRUCTION)]
Key = Annotated[str, Field(pattern=CELL)]
Scale = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]


class Told(BaseModel):
    """What comes in: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class Said(BaseModel):
    """What goes out."""

    model_config = ConfigDict(extra="forbid")


class Refused(Said):
    """Why a request is refused, and what to do; `where` names the part of it that is wrong."""

    error: str
    hint: str | None = None
    where: str | None = None


class Scales(Said):
    text: bool
    image: bool


class Defaults(Said):
    text: float
    image: float
    steps: int
    sampler: str
    size: int
    seed: int
    strength: float


class Limits(Said):
    upload_bytes: int
    upload_pixels: int


class Running(Said):
    """How a run of the folder stands."""

    state: RunState
    done: int
    left: int
    failed: int
    rate: float
    seconds_left: float | None
    message: str
    hint: str


class Problem(Said):
    """Why nothing can be made at the moment."""

    error: str
    hint: str | None = None


class StudioState(Said):
    """All that a page needs to begin with. `boot` changes with each start; `busy` names what takes a moment; `cut` says
    that the run holds more cells than a studio shows, which are no cells here.
    """

    version: str
    boot: str
    model: str
    defaults: Defaults
    scales: Scales
    negative: bool
    regions: bool
    folder: str
    out: str
    recipe: str
    photos: int
    cells: int
    cut: bool
    waiting: int
    running: Running | None
    loading: bool
    busy: str
    problem: Problem | None
    notes: list[str]
    limits: Limits


class Photo(Said):
    id: str
    name: str
    width: int
    height: int
    cells: int = 0
    error: str | None = None


class Photos(Said):
    total: int
    photos: list[Photo]


class Page(Told):
    offset: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    limit: Annotated[int, Field(ge=1, le=500)] = 100
    search: Annotated[str, Field(max_length=500)] = ""


class CellPage(Page):
    photo: Annotated[str, Field(pattern=PHOTO)] | None = None
    only: Only | None = None
    order: Literal["newest", "oldest"] = "newest"


class PhotoSide(Told):
    side: Literal["256", "1024", "full"] = "1024"


class PictureAt(Told):
    at: Literal["cell", "before", "full"] = "cell"


class Growing(Told):
    """`n` and `step` only make the address another one."""

    n: int | None = None
    step: int | None = None


class Upload(Told):
    name: Annotated[str, Field(max_length=500)] = "photo"


class ChainLink(Told):
    instruction: Words
    text: Scale | None = None
    image: Scale | None = None
    region: dict[str, Any] | None = None
    protect: dict[str, Any] | None = None


class EditAsked(Told):
    """One edit, in a recipe's words: an instruction, or a chain of them."""

    instruction: Words | None = None
    chain: Annotated[list[Words | ChainLink], Field(min_length=1, max_length=64)] | None = None
    keep: Literal["all", "last"] | None = None
    carry: Carry | None = None
    negative: Words | None = None
    strength: Annotated[float, Field(ge=0, le=1)] | None = None
    region: dict[str, Any] | None = None
    protect: dict[str, Any] | None = None


class JobAsked(Told):
    """Cells to make: each photo with each edit at each pair of scales with each seed."""

    photos: Annotated[list[Annotated[str, Field(pattern=PHOTO)]], Field(min_length=1, max_length=500)]
    edits: Annotated[list[EditAsked], Field(min_length=1, max_length=100)]
    text: Annotated[list[Scale], Field(max_length=50)] = []
    image: Annotated[list[Scale], Field(max_length=50)] = []
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=MAX_SEED)]], Field(max_length=100)] = []
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None


class Cell(Said):
    """A picture, made or to be made. `link` counts from 1 among `links`; of a further one, `chain` are those so far in
    a recipe's words, and `carry` is what is handed on; `picture` is its address once it is there.
    """

    key: str
    photo: str | None
    photo_name: str
    instruction: str
    links: list[str]
    link: int
    chain: list[dict[str, Any]] | None
    carry: Carry | None
    negative: str
    region: dict[str, Any] | None
    protect: dict[str, Any] | None
    text: float
    image: float
    seed: int
    strength: float
    state: State
    reason: str
    step: int
    steps: int
    preview: int
    width: int
    height: int
    job: str | None
    client: str | None
    seconds: float
    mark: str
    picked: bool
    stars: int
    note: str
    picture: str | None


class Cells(Said):
    """`cut` says that the run holds more cells than a studio shows, of which `total` counts none."""

    total: int
    cut: bool
    cells: list[Cell]


class JobSaid(Said):
    id: str
    state: RequestState
    cells: list[Cell]
    error: str | None = None
    hint: str | None = None
    broken: dict[str, str] = {}


class Chosen(Told):
    """What a person thinks of a cell; what is left out stays."""

    picked: bool | None = None
    stars: Annotated[int, Field(ge=0, le=MOST_STARS)] | None = None
    note: Annotated[str, Field(max_length=MOST_NOTE)] | None = None


class RecipeText(Told):
    text: Annotated[str, Field(max_length=MOST_TEXT)]


class Picked(Told):
    cells: Annotated[list[Key], Field(min_length=1, max_length=1000)]


class Paused(Told):
    paused: bool = True


class Mistake(Said):
    """`warning` stops nothing."""

    line: int
    column: int
    error: str
    hint: str | None = None
    warning: bool = False


class Cost(Said):
    """What a run of the recipe would make; `seconds` is None where nothing was measured yet."""

    photos: int
    edits: int
    edits_left: int
    files: int
    rows: int
    disk: int
    seconds: float | None
    notes: list[str]


class Checked(Said):
    messages: list[Mistake]
    plan: Cost | None


class RecipeSaid(Said):
    text: str


class Nothing(Said):
    """Done, and there is nothing to say."""

    ok: bool = True
