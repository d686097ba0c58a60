"""Results as Markdown, and the part of BENCHMARKS.md that is theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ip2pbatch.engine.bench.contenders import Entry
from ip2pbatch.engine.bench.rates import Rate
from ip2pbatch.engine.bench.results import Results, load
from ip2pbatch.engine.bench.suites import SUITES, Floor, Suite
from ip2pbatch.engine.bench.timing import Spread, ratios
from ip2pbatch.errors import UsageError

BEGIN = "<!-- ip2pbatch bench: begin. What stands between these two comments is generated: change it by measuring. -->"
END = "<!-- ip2pbatch bench: end -->"


def rewrite(page: Path, results: Path) -> None:
    """Put the tables of every result file in the folder `results` into `page`, and leave the rest of it alone.

    Raises UsageError where the page has no place for them.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"{page} has no generated part", hint=f"add the lines\n{BEGIN}\n{END}")
    tables = "\n\n".join(render(load(file)) for file in sorted(results.glob("*.json")))
    page.write_text(f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}", encoding="utf-8")


def render(results: Results) -> str:
    """One suite's section: what was measured on what, and its tables."""
    suite = SUITES.get(results.suite)
    parts = [f"### `{results.suite}`: {results.identity['says']}", " ".join(_about(results))]
    floors = tuple(_held_to(results, suite.floors)) if suite and results.identity["as_defined"] else ()
    if results.passes:
        parts += ["\n".join(_race(results, floors)), "\n".join(_checks(results))]
    if results.rates:
        parts.append("\n".join(_rates(results, floors)))
    if results.start:
        parts.append("\n".join(_start(results, floors)))
    if results.facts.get("refused"):
        lines = [f"- `{step}` is not in: {why}." for step, why in results.facts["refused"].items()]
        parts.append("\n".join(lines))
    if results.identity.get("remark"):
        parts.append(str(results.identity["remark"]))
    if not results.finished:
        parts.append("*Not finished: start the same command again to go on.*")
    return "\n\n".join(parts)


def missed(results: Results, suite: Suite) -> list[str]:
    """The floors that the figures do not keep to, in words."""
    found = ((floor, figure(results, floor)) for floor in _held_to(results, suite.floors))
    return [f"{floor.subject}: {value:.2f}, should be {floor}" for floor, value in found
            if value is not None and not floor.met(value)]  # fmt: skip


def beyond(results: Results) -> list[str]:
    """The figures above what the device gives at its best, in words: such a limit is none, and the bench fails."""
    raced = {name: _raced_tflops(results, name) for name, passes in results.passes.items() if passes}
    rated = {f"{name} at {one.rows} rows": one.tflops for name, some in results.rates.items() for one in some}
    found = []
    for name, tflops in {**raced, **rated}.items():
        best = results.products[Entry.parse(name.partition(" ")[0]).precision]
        if tflops > best:
            found.append(f"{name}: {tflops:.3g} TFLOP/s, where the device's best was measured as {best:.3g}")
    return found


def _raced_tflops(results: Results, name: str) -> float:
    """The UNet's, of the rows that a contender asked for, over the time in the model."""
    flops = [one.rows * results.facts["flops_per_row"] / one.model_seconds for one in results.passes[name]]
    return Spread.of(flops).median / 1e12


def _shared(results: Results, name: str, tflops: float) -> str:
    """A rate as a share of the device's best; no share where that is above it."""
    best = results.products[Entry.parse(name).precision]
    return f"{tflops / best:.0%}" if tflops <= best else f"**above {best:.3g}**"


def figure(results: Results, floor: Floor) -> float | None:
    """What was measured of a floor's subject, None where it was not."""
    if floor.by == "seconds":
        return results.start.get(floor.subject)
    if floor.by == "tflops":
        return max((_least(some, int(floor.subject)) for some in results.rates.values()), default=None)
    if floor.by == "gigabytes":
        return results.fresh[floor.subject]["gpu_bytes"] / 1e9 if floor.subject in results.fresh else None
    passes = results.passes.get(floor.subject, [])
    if floor.by == "busy":
        return Spread.of([one.model_seconds / one.seconds for one in passes]).median if passes else None
    return max(_medians(results, floor).values(), default=None)


def _held_to(results: Results, floors: Iterable[Floor]) -> Iterator[Floor]:
    """Those that are meant for this device."""
    return (floor for floor in floors if not floor.units or floor.units in results.facts.get("units", ()))


def _medians(results: Results, floor: Floor) -> dict[str, float]:
    """How many times faster each contender is that a floor is about, where it was measured."""
    found = {name: _ratio(results, name, floor.by, floor.against) for name in floor.subjects}
    return {name: ratio.median for name, ratio in found.items() if ratio is not None}


def _least(rates: Sequence[Rate], rows: int) -> float:
    return min((one.tflops for one in rates if one.rows >= rows), default=0.0)


# What a ratio is of → the field of a Pass.
_SECONDS = {"folder": "seconds", "model": "model_seconds", "cpu": "cpu_seconds"}


def _ratio(results: Results, name: str, by: str, against: str = "") -> Spread | None:
    """Times faster than `against`, or than the first contender, picture for picture."""

    def seconds(of: str) -> list[float]:
        return [getattr(one, _SECONDS[by]) / one.pictures for one in results.passes.get(of, [])]

    return ratios(seconds(against or next(iter(results.checked), "")), seconds(name))


def _about(results: Results) -> Iterator[str]:
    identity, facts = results.identity, results.facts
    yield f"{identity['device_name']}; " + ", ".join(f"{k} {v}" for k, v in identity["versions"].items()) + "."
    size = " at {} × {} pixels".format(*facts["size"]) if "size" in facts else ""
    yield f"Model {identity['model']}{size}, {identity['steps']} steps."
    if any(results.passes.values()):
        count = max(len(some) for some in results.passes.values())
        where = ", each in a process of its own" if identity.get("apart") else ""
        pictures = max(one.pictures for some in results.passes.values() for one in some)
        yield f"{count} passes of {pictures} pictures each{where}, in mirrored order (ABBA);"
        yield "medians, the smallest and largest in brackets."
    for precision, each in results.limits.items():
        best = max(each, key=lambda one: each[one])
        yield f"The device's best in {precision}: {each[best]:.3g} TFLOP/s, {best}."
    if results.products and not results.limits:
        yield "As the device's best counts a matrix product alone."


def _race(results: Results, floors: Sequence[Floor]) -> Iterator[str]:
    base = next(iter(results.checked))
    yield from _head(
        "contender", "seconds a picture", "pictures an hour", "in the model", "rows a picture",
        "UNet TFLOP/s, of the device's best", f"times `{base}`: folder", "model", "CPU time", "floor",
    )  # fmt: skip
    for name, passes in results.passes.items():
        if not passes:
            continue
        each = Spread.of([one.seconds / one.pictures for one in passes])
        busy = Spread.of([one.model_seconds / one.seconds for one in passes]).median
        rows = passes[0].rows / passes[0].pictures
        rate = _raced_tflops(results, name)
        times = [_ratio(results, name, by) for by in ("folder", "model", "cpu")]
        shown = [one.show() if one and name != base else "1" for one in times]
        yield _line(
            _shown(name, results.checked), each.show(3), f"{3600 / each.median:,.0f}", f"{busy:.0%}", f"{rows:.1f}",
            f"{rate:.3g}, {_shared(results, name, rate)}", *shown, _floors(results, floors, name),
        )  # fmt: skip


def _checks(results: Results) -> Iterator[str]:
    yield from _head(
        "contender", "PSNR to our float32, worst", "largest difference", "equal pixels", "load", "first call",
        "new process: first pictures", "host memory", "GPU memory",
    )  # fmt: skip
    for name, one in results.checked.items():
        fresh = results.fresh.get(name)
        cells = ["", "", ""]
        if fresh:
            gpu = f"{fresh['gpu_bytes'] / 1e9:.2f} GB" if fresh["gpu_bytes"] else ""
            cells = [f"{fresh['first']:.1f} s", f"{fresh['host_bytes'] / 1e9:.2f} GB", gpu]
        verdict = "" if one.passed else f", below {one.floor:.0f}: not timed"
        likeness = one.likeness
        yield _line(
            _shown(name, results.checked), f"{likeness.psnr:.1f} dB{verdict}", str(likeness.largest),
            f"{likeness.equal:.1%}", f"{one.load_seconds:.1f} s", f"{one.first_seconds:.1f} s", *cells,
        )  # fmt: skip


def _rates(results: Results, floors: Sequence[Floor]) -> Iterator[str]:
    yield from _head("contender", "rows a call", "seconds a call", "TFLOP/s", "of the device's best", "floor")
    for name, some in results.rates.items():
        for one in some:
            floor = next((floor for floor in floors if floor.by == "tflops" and int(floor.subject) <= one.rows), None)
            bound = "" if floor is None else f"{floor} {_verdict(floor, one.tflops)}"
            share = f"{_shared(results, name, one.tflops)} of {results.products[Entry.parse(name).precision]:.3g}"
            yield _line(f"`{name}`", str(one.rows), f"{one.seconds:.4g}", f"{one.tflops:.3g}", share, bound)


def _start(results: Results, floors: Sequence[Floor]) -> Iterator[str]:
    yield from _head("what", "seconds", "floor")
    for what, seconds in results.start.items():
        yield _line(what, f"{seconds:.2f}", _floors(results, floors, what))


def _shown(name: str, names: Iterable[str]) -> str:
    """A contender's name; on a ladder the step that it has more than the one before it."""
    before = next((one for one in names if name.startswith(f"{one}+") and "+" not in name[len(one) + 1 :]), None)
    return f"`{name}`" if before is None or "plain" not in before else f"… `{name[len(before) :]}`"


def _head(*names: str) -> Iterator[str]:
    yield _line(*names)
    yield "|" + "---|" * len(names)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _floors(results: Results, floors: Sequence[Floor], subject: str) -> str:
    cells = []
    for floor in floors:
        value = figure(results, floor)
        if value is not None and subject == _shown_at(results, floor):
            cells.append(f"{floor} {_verdict(floor, value)}")
    return ", ".join(cells)


def _shown_at(results: Results, floor: Floor) -> str:
    """The contender whose line has the verdict: where several may be the best, the one that is."""
    if len(floor.subjects) == 1:
        return floor.subject
    found = _medians(results, floor)
    return max(found, key=lambda name: found[name])


def _verdict(floor: Floor, value: float) -> str:
    return "met" if floor.met(value) else "**missed**"
