// The wall of cells: of one photo by what was asked (rows, grids, chains), or all of them, newest first.
import * as api from "./api.js";
import { links, over, told } from "./cells.js";
import { byId, calmly, choose, chosen, count, node } from "./dom.js";
import { figure, fill } from "./figure.js";
import { settle, windowed } from "./windowed.js";

const GAP = 12;
const [HEAD, LABEL, SIDE] = [46, 24, 52];  // a group's heading, a grid's column heads, its row heads
const [SHORT, LONG] = [36, 76];  // captions: settings alone, and with what was asked
const PAGE = 200;
const MOST_COLUMNS = 10;  // more would put thousands of elements on a large screen

export function wall(app) {
  const [scroller, sheet] = [byId("wall"), byId("results")];
  let [keys, total, turn, asked] = [[], 0, 0, new Set()];
  let [base, heard, known] = [[], new Set(), new Set()];  // of the photo's cells: those read, those told of since, and both
  let laid = null;  // of the photo's cells: items in order, and how high they are

  const flat = () => chosen("show") !== "photo";
  const sought = () => (flat() ? byId("find").value.trim() : "");
  const values = () => (flat()
    ? { ...(chosen("show") === "all" ? {} : { only: chosen("show") }), ...(sought() ? { search: sought() } : {}) }
    : { photo: app.photo?.id ?? "-" });

  // --- which cells ------------------------------------------------------------------------------------------------
  function load() {
    heard.clear();
    put([], 0);
    scroller.scrollTop = 0;
    byId("find").hidden = !flat();
    show();
    return read(false);
  }

  // What was told of since comes first, the newest before the others.
  function put(now, all) {
    base = now;
    known = new Set(now);
    keys = [...[...heard].filter((key) => !known.has(key)).reverse(), ...now];
    keys.forEach((key) => known.add(key));
    [total, laid] = [Math.max(all, keys.length), null];
  }

  // `whole` leaves what stands there until all of it is read.
  async function read(whole) {
    turn += 1;
    const mine = turn;
    asked = new Set();
    const before = [...heard];
    try {
      if (flat()) await part(0, mine);
      else if (app.photo) await app.cells.all(values(), (now, all) => {
        if (mine !== turn) return false;
        const last = now.length >= all;
        if (last) before.forEach((key) => heard.delete(key));
        if (last || !whole) {
          put(now, all);
          show();
        }
        return true;
      });
    } catch (refused) {
      app.refused(refused);
    }
  }

  async function part(page, mine = turn) {
    if (asked.has(page)) return;
    asked.add(page);
    const [all, more] = await app.cells.page(values(), page * PAGE, PAGE);
    if (mine !== turn) return;
    more.forEach((key, place) => { keys[page * PAGE + place] = key; });
    total = all;
    show();
  }

  function show() {
    const name = { all: "All pictures", picked: "Picked", starred: "Starred", failed: "Failed" }[chosen("show")] ?? app.photo?.name ?? "";
    byId("title").replaceChildren(name, " ", node("small", { textContent: total ? count(total, "picture", "pictures") : "" }));
    empty();
    list.draw();
  }

  function empty() {
    byId("empty").hidden = total > 0;
    if (total) return;
    const photoless = app.photos?.total() === 0;
    const words = {
      all: ["Nothing is made yet", "Choose a photo, write what should change, and press Make."],
      picked: ["Nothing is picked yet", "Tick a picture, or press x on it: picks stand here side by side and become the folder's recipe."],
      starred: ["Nothing has stars yet", "Press 1 to 5 on a picture, or give it stars where it is open."],
      failed: ["Nothing has failed", "A picture that could not be made stands here with its reason."],
      photo: photoless ? ["No photos yet", "Drop some here, or press Add photos."]
        : app.photo?.error ? ["This photo cannot be read", app.photo.error] : ["Nothing is made of this photo yet", "Write what should change, and press Make."],
    }[chosen("show")];
    const [said, more] = sought() ? ["No such picture", "Photos' names and instructions are searched."] : words;
    byId("empty").replaceChildren(node("b", { textContent: said }), node("p", { textContent: more }));
  }

  // --- where they stand -------------------------------------------------------------------------------------------
  function measure() {
    const width = sheet.clientWidth;
    const columns = Math.min(MOST_COLUMNS, Math.max(1, Math.round((width + GAP) / (Number(byId("size").value) + GAP))));
    return { width, columns, tile: Math.floor((width - GAP * (columns - 1)) / columns) };
  }

  function layout() {
    const now = measure();
    if (flat()) return even(now);
    if (!laid || laid.width !== now.width || laid.tile !== now.tile) laid = { ...now, ...grouped(now) };
    const { items, high } = laid;
    return {
      extent: [0, high],
      * between({ top, bottom }) {
        let [low, up] = [0, items.length];
        while (low < up) { const middle = (low + up) >> 1; if (items[middle].end < top) low = middle + 1; else up = middle; }
        for (; low < items.length && items[low].y <= bottom; low += 1) yield items[low];
      },
    };
  }

  function even({ columns, tile }) {
    const height = Math.round(tile * 0.75) + LONG;
    return {
      extent: [0, Math.ceil(total / columns) * (height + GAP)],
      * between({ top, bottom }) {
        const first = Math.max(0, Math.floor(top / (height + GAP)));
        for (let at = first * columns; at < Math.min(total, (Math.floor(bottom / (height + GAP)) + 1) * columns); at += 1) {
          const [x, y] = [(at % columns) * (tile + GAP), Math.floor(at / columns) * (height + GAP)];
          part(Math.floor(at / PAGE)).catch((refused) => app.refused(refused));
          if (keys[at]) yield cellItem(keys[at], x, y, tile, height, (cell) => `${cell.photo_name}: ${told(cell)}`, true);
          else {
            yield { key: `?${at}`, x, y, width: tile, height, make: () => node("div", { className: "cell to-come" }), fill: () => {} };
          }
        }
      },
    };
  }

  function cellItem(key, x, y, width, height, what, seed) {
    return {
      key, x, y, width, height, end: y + height, make: () => figure(app, key),
      fill: (element) => { const cell = app.cells.get(key); if (cell) fill(element, cell, what(cell), seed); },
    };
  }

  // By what was asked, the newest first; `high` is where the next thing goes.
  function grouped(now) {
    const groups = new Map();
    for (const key of keys) {
      const cell = app.cells.get(key);
      if (!cell) continue;
      const sort = JSON.stringify([links(cell), cell.negative, cell.strength, cell.region, cell.protect, cell.steps]);
      if (!groups.has(sort)) groups.set(sort, []);
      groups.get(sort).push(cell);
    }
    const shape = app.photo?.width ? Math.min(1.5, Math.max(0.5, app.photo.height / app.photo.width)) : 0.75;
    const page = { items: [], high: 4, shape, ...now };
    for (const [sort, cells] of groups) {
      cells.sort((a, b) => a.seed - b.seed || a.image - b.image || a.text - b.text || a.link - b.link);
      heading(page, sort, cells);
      if (links(cells[0]).length > 1) chained(page, cells);
      else if (!gridded(page, sort, cells)) rows(page, cells, page.columns, () => "", SHORT);
      page.high += 22;
    }
    return page;
  }

  function heading(page, sort, cells) {
    page.items.push({
      key: `h${sort}`, x: 0, y: page.high, width: page.width, height: HEAD, end: page.high + HEAD,
      make: () => node("div", { className: "group" }), fill: (element) => titled(element, sort, cells.map((cell) => cell.key)),
    });
    page.high += HEAD;
  }

  function titled(element, sort, own) {
    const cells = own.map((key) => app.cells.get(key)).filter(Boolean);
    const open = cells.filter((cell) => !over(cell));
    const jobs = [...new Set(open.map((cell) => cell.job).filter(Boolean))];
    const sign = `${sort} ${cells.length} ${open.length} ${jobs}`;
    if (element.dataset.sign === sign || !cells.length) return;
    element.dataset.sign = sign;
    const [one] = cells;
    const rest = [one.strength < 1 ? `strength ${one.strength}` : "", one.region ? "in a region" : "", one.protect ? "a part protected" : "", one.negative ? `without ${one.negative}` : "", open.length ? `${cells.length - open.length} of ${cells.length} made` : ""];
    const stop = node("button", { type: "button", className: "plain", textContent: "Cancel", hidden: !jobs.length });
    stop.addEventListener("click", () => jobs.forEach((job) => api.cancel(job).catch((refused) => app.refused(refused))));
    const asks = links(one).join(" → ");
    element.replaceChildren(node("h3", { textContent: asks, title: asks }), node("span", { textContent: rest.filter(Boolean).join(" · ") }), stop);
  }

  // A row for each seed and pair of scales, a column for each link: one that is asked for alone too stands there.
  function chained(page, cells) {
    const strips = new Map();
    for (const cell of cells) {
      const row = `${cell.seed} ${cell.image} ${cell.text}`;
      if (!strips.has(row)) strips.set(row, []);
      strips.get(row)[cell.link - 1] = cell;
    }
    for (const strip of strips.values()) rows(page, strip, links(cells[0]).length, (cell) => cell.instruction, SHORT + 20);
  }

  function rows(page, cells, columns, what, caption) {
    const across = Math.min(columns, Math.max(1, Math.floor((page.width + GAP) / (110 + GAP))));
    const width = columns > page.columns ? Math.floor((page.width - GAP * (across - 1)) / across) : page.tile;
    const height = Math.round(width * page.shape) + caption;
    const from = page.high;
    const place = (at) => [(at % across) * (width + GAP), from + Math.floor(at / across) * (height + GAP)];
    cells.forEach((cell, at) => page.items.push(cellItem(cell.key, ...place(at), width, height, what, true)));
    page.high += Math.ceil(cells.length / across) * (height + GAP);
  }

  // Text scales across and image scales down, a table a seed; false where the cells are no grid.
  function gridded(page, sort, cells) {
    const [texts, images, seeds] = ["text", "image", "seed"].map((name) => [...new Set(cells.map((cell) => cell[name]))].sort((a, b) => a - b));
    const width = Math.min(page.tile, Math.floor((page.width - SIDE - GAP * (texts.length - 1)) / texts.length));
    if (texts.length < 2 || images.length < 2 || width < 90 || 2 * cells.length < texts.length * images.length * seeds.length) return false;
    const height = Math.round(width * page.shape) + SHORT;
    for (const seed of seeds) {
      texts.forEach((text, column) => label(page, `${sort}${seed}t${text}`, SIDE + column * (width + GAP), width, LABEL, `text ${text}`, "across"));
      page.high += LABEL;
      for (const image of images) {
        label(page, `${sort}${seed}i${image}`, 0, SIDE - 8, height, `image ${image}`, "down");
        for (const cell of cells) {
          if (cell.seed !== seed || cell.image !== image) continue;
          page.items.push(cellItem(cell.key, SIDE + texts.indexOf(cell.text) * (width + GAP), page.high, width, height, () => "", seeds.length > 1));
        }
        page.high += height + GAP;
      }
    }
    return true;
  }

  function label(page, key, x, width, height, text, kind) {
    page.items.push({ key: `l${key}`, x, y: page.high, width, height, end: page.high + height, make: () => node("p", { className: `scale ${kind}`, textContent: text }), fill: () => {} });
  }

  const list = windowed(scroller, sheet, layout, settle);

  // --- what changes it --------------------------------------------------------------------------------------------
  const again = calmly(400, () => read(true));
  const draw = calmly(30, () => list.draw());
  app.addEventListener("cell", ({ detail: { cell, fresh } }) => {
    if (flat()) {
      if (chosen("show") === "all" ? fresh : true) again();
    } else if (cell.photo === app.photo?.id && !known.has(cell.key)) {
      heard.add(cell.key);
      known.add(cell.key);
      later();
    }
    draw();
  });
  const later = calmly(30, () => {  // a large grid tells of very many at once
    if (flat()) return;
    put(base, base.length);
    show();
  });
  app.addEventListener("photos", show);
  app.addEventListener("photo", () => { choose("show", "photo"); load(); });
  document.querySelectorAll("input[name=show]").forEach((input) => input.addEventListener("change", load));
  byId("find").addEventListener("input", calmly(200, load));
  byId("size").addEventListener("input", () => list.draw());

  sheet.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by || !event.target.matches(".open")) return;
    const all = [...sheet.querySelectorAll(".open")];
    all[all.indexOf(event.target) + by]?.focus();
    event.preventDefault();
  });

  const sequence = () => (flat() ? keys : (laid?.items ?? []).map((item) => item.key)).filter((key) => app.cells.get(key) && over(app.cells.get(key)));
  return { load, again, sequence, focus: (key) => list.element(key)?.querySelector(".open")?.focus() };
}
