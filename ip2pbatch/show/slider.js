// Before and after in one place: a line that is dragged, or moved by the range's own keys. The report has this text
// within its one file, the studio imports it.
export function slider(stage, range) {
  function split(percent) {
    range.value = String(percent);
    stage.style.setProperty("--split", `${percent}%`);
    range.setAttribute("aria-valuetext", `${Math.round(percent)} percent before, ${100 - Math.round(percent)} percent after`);
  }
  range.addEventListener("input", () => split(Number(range.value)));
  return split;
}
