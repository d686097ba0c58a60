"""What people type for each family: instructions.yaml, checked, and its `{it}` filled in."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ip2pbatch.errors import RecipeError

IT = "{it}"
BEFORE = "{before}"


class FamilyWordings(BaseModel):
    """One family: wordings to train on, wordings kept out, captions of the edited photo."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wordings: list[str] = Field(min_length=9)
    held_out: list[str] = Field(min_length=3)
    after: list[str] = Field(min_length=1)

    @model_validator(mode="after")
    def _captions_name_the_photo(self) -> FamilyWordings:
        for caption in self.after:
            if BEFORE not in caption:
                raise ValueError(f"the caption {caption!r} must contain {BEFORE}")
        return self


class Wordings(BaseModel):
    """The whole file: fillings of `{it}`, captions of the unedited photo, and the families by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    it: list[str] = Field(min_length=1)
    before: list[str] = Field(min_length=1)
    families: dict[str, FamilyWordings]

    @model_validator(mode="after")
    def _nothing_held_out_is_trained(self) -> Wordings:
        seen: dict[str, str] = {}
        for name, family in self.families.items():
            for wording in self._filled([*family.wordings, *family.held_out]):
                if wording in seen:
                    raise ValueError(f"{wording!r} occurs twice: in {seen[wording]} and in {name}")
                seen[wording] = name
        return self

    def trained(self, name: str) -> list[str]:
        """Every wording of the family to train on, with `{it}` filled in every way.

        A wording without `{it}` is repeated, so that drawing evenly from the list draws evenly from the wordings: else
        "turn this photo into winter" and its like would crowd out a plain "winter".
        """
        wordings = self.families[name].wordings
        return [w.replace(IT, it) for w in wordings for it in self.it]

    def held_out(self, name: str) -> list[str]:
        """Every wording never trained on, with `{it}` filled in every way."""
        return self._filled(self.families[name].held_out)

    def captions(self, name: str) -> list[tuple[str, str]]:
        """(before, after) for every combination of the file's captions."""
        return [(b, a.replace(BEFORE, b)) for b in self.before for a in self.families[name].after]

    def _filled(self, wordings: list[str]) -> list[str]:
        return [w.replace(IT, it) for w in wordings for it in (self.it if IT in w else [""])]


def load(file: Path) -> Wordings:
    """Read and check a wordings file.

    Raises RecipeError for a file that is missing, not YAML, or not as the models above say.
    """
    try:
        return Wordings.model_validate(yaml.safe_load(file.read_text("utf-8")))
    except OSError as error:
        raise RecipeError("cannot be read", file=file, hint="name a file of instruction wordings") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        said, hint = f"not YAML: {error.problem}", "close every bracket and quote, and indent with spaces"
        raise RecipeError(said, file=file, line=line, column=column, hint=hint) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = "each family needs `wordings`, `held_out` and `after`"
        raise RecipeError(first["msg"], file=file, key=key, hint=hint) from error
    except ValueError as error:  # what PyYAML takes for a date, and is none
        raise RecipeError(f"not YAML: {error}", file=file, hint="put texts of digits in quotes") from error
