"""Whatever happens to the files of a run directory: no command breaks, and a run brings back what was delivered.

40 mutations here; `make soak` draws 10,000, these among them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import CommandLine, Said
from runs import digests, make_photos, many, unsealed

from ip2pbatch import jobs
from ip2pbatch.jobs import session
from ip2pbatch.run.machine import Machine

RECIPE = """
photos: photos
edits: [make it winter, {id: trip, chain: [make it rain, make it dark], keep: [1, 2]}]
output: {folder: out, name: "{n}_{stem}_{edit}_{link}"}
size: 64
"""
PORTIONS, EACH = many(2, 100), many(20, 100)
REFUSED, DIFFERS = (2, 7), 4
Damage = Callable[[Path, random.Random], None]


def flipped(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 3, 40))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def cut(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])


def beheaded(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[chance.randrange(len(data)) :])


def zeroed(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    start, size = chance.randrange(len(data)), chance.choice((1, 16, 512, 4096))
    block = bytes(min(size, len(data) - start))
    path.write_bytes(data[:start] + block + data[start + len(block) :])


def doubled(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"".join(line * chance.choice((1, 2, 3)) for line in _lines(path)))


def shuffled(path: Path, chance: random.Random) -> None:
    lines = [line if line.endswith(b"\n") else line + b"\n" for line in _lines(path)]
    chance.shuffle(lines)
    path.write_bytes(b"".join(lines))


def missing_lines(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"".join(line for line in _lines(path) if chance.random() < 0.5))


def joined(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"", chance.choice((1, -1))))


def other_shape(path: Path, chance: random.Random) -> None:
    odd = (b"[]", b"null", b"3", b'"x"', b"{}", b'{"event":"begin"}', b'{"event":3}', b'{"edit":[]}', b'{"format":1}')
    _put(path, chance, chance.choice(odd))


def nested(path: Path, chance: random.Random) -> None:
    _put(path, chance, chance.choice((b"[", b'{"a":')) * chance.choice((2_000, 200_000)))


def out_of_range(path: Path, chance: random.Random) -> None:
    """A number in a line becomes another that no such line has."""
    lines = _lines(path)
    place = chance.randrange(len(lines))
    numbers = (b"1e999", b"-1", b"NaN", b"9" * 5_000, b"-0.5", b"1e308", b"true")
    digits = [n for n, byte in enumerate(lines[place]) if 48 <= byte < 58]
    if digits:
        at = chance.choice(digits)
        lines[place] = lines[place][:at] + chance.choice(numbers) + lines[place][at + 1 :]
    path.write_bytes(b"".join(lines))


def not_text(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    at = chance.randrange(len(data))
    path.write_bytes(data[:at] + b"\xff\xfe\xed\xa0\x80" + data[at + 5 :])


def emptied(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"\n" * chance.choice((0, 1, 5)))


def missing(path: Path, chance: random.Random) -> None:
    path.unlink()


def foreign(path: Path, chance: random.Random) -> None:
    """Another file of the run in its place."""
    others = [other for other in sorted(path.parent.rglob("*")) if other.is_file()]
    path.write_bytes(chance.choice(others).read_bytes())


def folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()
    if chance.random() < 0.5:
        (path / "something").write_bytes(b"x")


def link(path: Path, chance: random.Random) -> None:
    """To the same bytes elsewhere, to nothing, to itself."""
    elsewhere = path.parents[len(path.parts) - path.parts.index("out") - 1] / f"elsewhere-{path.name}"
    path.replace(elsewhere)
    where = chance.choice((elsewhere, elsewhere.with_name("nowhere"), path))
    path.symlink_to(where)


IN_ITS_PLACE = (folder, link)
DAMAGES: tuple[Damage, ...] = (
    flipped, flipped, cut, beheaded, zeroed, doubled, shuffled, missing_lines, joined, other_shape, nested,
    out_of_range, not_text, emptied, missing, foreign, *IN_ITS_PLACE,
)  # fmt: skip


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def _put(path: Path, chance: random.Random, line: bytes) -> None:
    """A line in the place of another, or beside it."""
    lines = _lines(path)
    at = chance.randrange(len(lines))
    lines[at : at + chance.randrange(2)] = [line + b"\n"]
    path.write_bytes(b"".join(lines))


@dataclass(frozen=True)
class Pristine:
    """A finished run in `folder`, a copy of its output folder, and what it delivered."""

    folder: Path
    copy: Path
    delivered: dict[str, str]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    def put_back(self) -> None:
        shutil.rmtree(self.out)
        shutil.copytree(self.copy, self.out)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Pristine:
    folder = tmp_path_factory.mktemp("shoot")
    make_photos(folder / "photos", 2)
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for limit in (1, None):
            assert jobs.run(folder / "recipe.yaml", machine=Machine(backend="fake"), limit=limit).exit_code == 0
    shutil.copytree(folder / "out", folder / "copy")
    return Pristine(folder, folder / "copy", delivered(folder / "out"))


def delivered(out: Path) -> dict[str, str]:
    return {name: sha for name, sha in digests(out).items() if name.endswith(".jpg") and "sheets" not in name}


class Trial:
    """One seed: what it damages, and the commands that meet it."""

    def __init__(self, command: CommandLine, run: Pristine, seed: int) -> None:
        self._command, self._run, self._chance = command, run, random.Random(seed)
        self._story = [f"seed {seed}"]
        self._damaged: list[Path] = []
        commands = ["status", "report", "check", "verify", "deliver"]
        self._chance.shuffle(commands)
        place = self._chance.randrange(1, 5)
        self.before, self.after = commands[:place], commands[place:]

    def __repr__(self) -> str:
        return "\n".join(self._story)

    def damage(self) -> None:
        """Usually one file, sometimes two."""
        files = sorted(path for path in (self._run.out / ".ip2pbatch").rglob("*") if path.is_file())
        kinds = sorted({_kind(path) for path in files})
        for _ in range(self._chance.choice((1, 1, 1, 2))):
            kind = self._chance.choice(kinds)
            path = self._chance.choice([path for path in files if _kind(path) == kind])
            if path.is_symlink() or not path.is_file() or not path.stat().st_size:
                continue
            damage = self._chance.choice(DAMAGES)
            damage(path, self._chance)
            self._damaged.append(path)
            self._story.append(f"{path.relative_to(self._run.out)} {damage.__name__}")

    def say(self, *words: str) -> Said:
        said = self._command(words[0], self._run.recipe, *words[1:])
        self._story.append(f"{words[0]}: {said.code} {said.err}")
        assert said.code in (0, 2, 3, 4, 5, 7), self
        assert "Traceback" not in said.err + said.out, self
        assert said.code not in REFUSED or "hint: " in said.err, self
        return said

    def make_good(self) -> bool:
        """Run; where it refuses, do as it says: what stands in a file's place is removed. Whether that could be: where
        run.json and all sessions are gone at once, nothing says any more what the run was.
        """
        said = self.say("run", "--backend", "fake")
        while said.code == 7:  # of two, one is named at a time
            named = {path for path in self._damaged if (path.is_symlink() or path.is_dir()) and path.name in said.err}
            assert named, self
            for path in named:
                path.unlink() if path.is_symlink() else shutil.rmtree(path)
            said = self.say("run", "--backend", "fake")
        if said.code == 2 and {"run.json", "sessions.jsonl"} <= {path.name for path in self._damaged}:
            assert "no session of the run says" in said.err, self
            return False
        assert said.code == 0, self
        return True


def _kind(path: Path) -> str:
    return (
        path.name if path.parent.name == ".ip2pbatch" else path.parts[path.parts.index(".ip2pbatch") + 1] + path.suffix
    )


@pytest.mark.parametrize("portion", range(PORTIONS))
def test_no_damage_breaks_a_command_or_a_delivered_file(
    command: CommandLine, pristine: Pristine, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    monkeypatch.setattr(session, "MOST_CELLS", 0)  # sheets take half of the time, and `report` reads the same pictures
    for seed in range(portion * EACH, (portion + 1) * EACH):
        pristine.put_back()
        trial = Trial(command, pristine, seed)
        trial.damage()
        for name in trial.before:
            trial.say(name)
        if not trial.make_good():
            continue
        assert delivered(pristine.out) == pristine.delivered, trial
        for name in trial.after:
            assert trial.say(name).code in ((0, DIFFERS) if name == "check" else (0,)), trial
        assert trial.say("check", "--repair").code == 0, trial  # sources and latents that no link needed are left to it


@pytest.mark.parametrize("portion", range(PORTIONS))
def test_no_damage_to_an_older_run_breaks_a_command(
    command: CommandLine, pristine: Pristine, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    """Its lines have no checksums and are taken as they are: a changed name is the name. A tenth of the size."""
    monkeypatch.setattr(session, "MOST_CELLS", 0)
    for seed in range(portion * EACH, portion * EACH + EACH // 10):
        pristine.put_back()
        for journal in (pristine.out / ".ip2pbatch").glob("*.json*"):
            journal.write_text(unsealed(journal), "utf-8")
        trial = Trial(command, pristine, seed)
        trial.damage()
        for words in (*trial.before, "run", *trial.after):
            trial.say(words, *(("--backend", "fake") if words == "run" else ()))
