// The cells that the page knows, by key, and those that are picked.
import * as api from "./api.js";
import { say } from "./dom.js";

const PAGE = 500;
export const over = (cell) => !["waiting", "running"].includes(cell.state);

export function knownCells(app) {
  const known = new Map();
  const picked = new Set();
  const heard = new Map();  // key → the number of its last event
  let events = 0;

  function put(cell) {
    const fresh = !known.has(cell.key);
    known.set(cell.key, cell);
    if (cell.picked) picked.add(cell.key); else picked.delete(cell.key);
    return fresh;
  }

  // A cell as an event has it.
  function hear(cell) {
    events += 1;
    heard.set(cell.key, events);
    tell(cell);
  }

  // The answer to a request may be older than events that came before it: of cells that were heard of in between, the
  // events are believed. Gives the answer, and whether a cell in it is news.
  async function answered(request) {
    const before = events;
    const answer = await request;
    return [answer, (cell) => (heard.get(cell.key) ?? 0) <= before];
  }

  // A cell as the server tells it; whoever shows cells hears whether it is new.
  function tell(cell) {
    app.dispatchEvent(new CustomEvent("cell", { detail: { cell, fresh: put(cell) } }));
  }

  // One page of a list: [total, keys].
  async function page(values, offset, limit = PAGE) {
    const [found, isNews] = await answered(api.cells({ ...values, offset, limit }));
    found.cells.filter(isNews).forEach(put);
    return [found.total, found.cells.map((cell) => cell.key)];
  }

  // A whole list, page after page, each handed on as soon as it is there; `on` says whether it is still wanted. What
  // comes meanwhile moves the pages: a cell may be in two of them.
  async function all(values, on) {
    const keys = new Set();
    for (let [offset, total] = [0, 1]; offset < total;) {
      const [now, more] = await page(values, offset);
      more.forEach((key) => keys.add(key));
      offset += more.length;
      total = more.length ? now : offset;
      if (on([...keys], offset < total ? total : keys.size) === false) return;
    }
  }

  async function change(key, what) {
    const before = known.get(key);
    tell({ ...before, ...what });  // at once, and again as the server has it
    try {
      const [changed, isNews] = await answered(api.change(key, what));
      if (isNews(changed)) tell(changed);
    } catch (refused) {
      tell(before);
      app.refused(refused);
    }
  }

  function pick(key, on = !picked.has(key)) {
    say(on ? "Picked" : "No longer picked");
    return change(key, { picked: on });
  }

  return { get: (key) => known.get(key), forget: () => { known.clear(); picked.clear(); }, picked, tell, hear, answered, page, all, change, pick };
}

// What a person reads of a cell.
const short = (number) => Number(number.toFixed(3));
export const scales = (cell) => `text ${short(cell.text)}, image ${short(cell.image)}`;
export const links = (cell) => (cell.links.length ? cell.links : [cell.instruction]);
export const told = (cell) => links(cell).slice(0, cell.link).join(" → ");  // up to it, of a chain

export function described(cell) {
  const chain = links(cell);
  const link = chain.length > 1 ? `link ${cell.link} of ${chain.length}, ` : "";
  return `${cell.photo_name}, ${link}${cell.instruction}, ${scales(cell)}, seed ${cell.seed}`;
}
