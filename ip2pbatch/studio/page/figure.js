// One cell as it is seen: its picture, or how far it is, or why there is none. Few elements, for many are seen at once.
import * as api from "./api.js";
import { described, over, scales } from "./cells.js";
import { node } from "./dom.js";
import { address } from "./windowed.js";

const STATES = { running: "being made", left: "not made yet" };
const AGAIN = { left: "Make it" };
const drawn = new WeakMap();  // figure → what it was drawn of

export function figure(app, key) {
  const element = node("figure", { className: "cell" });
  element.dataset.key = key;
  element.addEventListener("click", (event) => {
    if (event.target.closest(".open")) app.viewer.open(key);
    else if (event.target.closest(".again")) app.retry(key);
  });
  element.addEventListener("change", (event) => app.cells.pick(key, event.target.checked));
  element.addEventListener("keydown", (event) => short(app, key, event));
  return element;
}

// On a picture that has the focus: x picks it, 0 to 5 are its stars.
export function short(app, key, event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox], [type=range]), textarea, select")) return false;
  if (event.key === "x") app.cells.pick(key);
  else if (/^[0-5]$/.test(event.key)) app.cells.change(key, { stars: Number(event.key) });
  else return false;
  event.preventDefault();
  return true;
}

export const stars = (number) => "★".repeat(number);

// Bring a figure up to date. `what` is what its caption says beside the settings, "" where a heading says it.
export function fill(element, cell, what, seed) {
  const before = drawn.get(element);
  if (before?.cell === cell && before.what === what) return;
  drawn.set(element, { cell, what });
  element.className = `cell is-${cell.state}${cell.picked ? " picked" : ""}`;
  const focused = element.contains(document.activeElement) ? document.activeElement.className : null;
  const body = cell.state === "done" ? pictured(element, cell) : over(cell) ? why(cell) : growing(element, cell);
  const caption = captioned(cell, what, seed);
  if (body) element.replaceChildren(...body, caption); else element.lastChild.replaceWith(caption);
  if (focused !== null && !element.contains(document.activeElement)) element.querySelector(focused ? `.${focused}` : "input")?.focus();
}

// The parts of a cell with a picture; null where they stand there already.
function pictured(element, cell) {
  if (element.firstChild?.className === "open") return null;
  const image = node("img", { alt: "", decoding: "async" });
  address(image, api.cellPicture(cell, "cell"));
  return [node("button", { type: "button", className: "open", "aria-label": `Compare with the photo: ${described(cell)}` }, image)];
}

function why(cell) {
  const words = AGAIN[cell.state] ?? "Try again";
  const again = node("button", { type: "button", className: "plain again", textContent: words, hidden: cell.state === "flagged", "aria-label": `${words}: ${described(cell)}` });
  const reason = cell.state === "left" ? "" : ` ${cell.reason}`;
  return [node("div", { className: "none" }, node("p", { title: cell.reason }, node("b", { textContent: STATES[cell.state] ?? cell.state }), reason), again)];
}

function growing(element, cell) {
  if (!element.querySelector("progress")) {
    element.replaceChildren(node("div", { className: "none" }), node("progress", { max: 1, "aria-label": `How far it is: ${described(cell)}` }), node("figcaption"));
  }
  const [place, bar] = element.children;
  bar.value = cell.steps ? cell.step / cell.steps : 0;
  if (cell.state === "running" && cell.preview) {
    if (place.className !== "grows") {
      place.replaceChildren(node("img", { alt: "" }));
      place.className = "grows";
    }
    place.firstChild.src = api.cellPreview(cell);
  } else if (!place.querySelector("img")) place.textContent = STATES[cell.state] ?? cell.state;
  return null;
}

function captioned(cell, what, seed) {
  const said = [scales(cell), seed ? `seed ${cell.seed}` : "", cell.mark];
  const rank = `${stars(cell.stars)}${cell.note ? "✎" : ""}`;
  const caption = node("figcaption", {});
  if (what) caption.append(node("span", { className: "what", textContent: what, title: what }));
  caption.append(node("span", { className: "values", textContent: said.filter(Boolean).join("  ") }));
  if (rank) caption.append(node("span", { className: "rank", textContent: rank, title: cell.note }));
  if (cell.state === "done") caption.append(node("input", { type: "checkbox", checked: cell.picked, "aria-label": `Pick: ${described(cell)}` }));
  return caption;
}
