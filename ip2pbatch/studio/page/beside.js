// Picked pictures side by side, zoomed and moved together.
import * as api from "./api.js";
import { scales, told } from "./cells.js";
import { byId, node } from "./dom.js";
import { stars } from "./figure.js";

const MOST = 12;

export function beside(app) {
  const [dialog, list] = [byId("beside"), byId("beside-list")];
  let [across, down] = [50, 50];

  function open() {
    const cells = [...app.cells.picked].map(app.cells.get).filter((cell) => cell?.state === "done").slice(0, MOST);
    list.replaceChildren(...cells.map(one));
    list.style.setProperty("--columns", String(Math.min(cells.length, cells.length > 4 ? 4 : cells.length === 4 ? 2 : 3)));
    byId("beside-title").textContent = app.cells.picked.size > MOST ? `The first ${MOST} of ${app.cells.picked.size} picked, side by side` : "Picked, side by side";
    byId("zoom").value = "1";
    move(50, 50);
    dialog.showModal();
    list.focus();
  }

  function one(cell) {
    const drop = node("button", { type: "button", className: "plain", textContent: "Unpick", "aria-label": `Unpick ${told(cell)}` });
    const made = node("figure", {},
      node("div", { className: "pane" }, node("img", { src: api.cellPicture(cell, "cell"), alt: `${cell.photo_name}, ${told(cell)}` })),
      node("figcaption", {}, node("span", { className: "what", textContent: `${told(cell)} ${stars(cell.stars)}` }), node("span", { className: "values", textContent: `${cell.photo_name} · ${scales(cell)}, seed ${cell.seed}${cell.note ? ` · ${cell.note}` : ""}` }), drop));
    drop.addEventListener("click", () => { app.cells.pick(cell.key, false); made.remove(); if (!list.children.length) dialog.close(); });
    return made;
  }

  function move(x, y) {
    [across, down] = [x, y].map((share) => Math.min(100, Math.max(0, share)));
    list.style.setProperty("--zoom", byId("zoom").value);
    list.style.setProperty("--at", `${across}% ${down}%`);
  }

  list.addEventListener("pointermove", (event) => {
    const pane = event.target.closest(".pane")?.getBoundingClientRect();
    if (pane && (event.pointerType === "mouse" || event.buttons)) move((100 * (event.clientX - pane.left)) / pane.width, (100 * (event.clientY - pane.top)) / pane.height);
  });
  list.addEventListener("wheel", (event) => {
    if (!event.target.closest(".pane")) return;
    byId("zoom").value = String(Number(byId("zoom").value) - Math.sign(event.deltaY) * 0.3);
    move(across, down);
    event.preventDefault();
  }, { passive: false });
  list.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-5, 0], ArrowRight: [5, 0], ArrowUp: [0, -5], ArrowDown: [0, 5] }[event.key];
    if (!by || event.target !== list) return;
    move(across + by[0], down + by[1]);
    event.preventDefault();
  });
  byId("zoom").addEventListener("input", () => move(across, down));
  byId("beside-close").addEventListener("click", () => dialog.close());
  byId("compare").addEventListener("click", open);
  return { open };
}
