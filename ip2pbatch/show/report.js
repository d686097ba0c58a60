// Text from the run reaches the page through textContent, value and option labels only: never as markup.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const cells = data.cells;
  const figures = new Map([...document.querySelectorAll("figure[data-cell]")].map((f) => [Number(f.dataset.cell), f]));
  const rows = new Map([...document.querySelectorAll("tr[data-row]")].map((r) => [Number(r.dataset.row), r]));
  const sources = new Map([...document.querySelectorAll("img[data-source]")].map((i) => [Number(i.dataset.source), i]));
  const picked = new Set();
  const strengths = cells.map((cell) => cell.strength);
  let visible = cells.map((_, at) => at);
  let current = -1;

  const image = (at) => figures.get(at)?.querySelector("img");
  const node = (tag, properties) => Object.assign(document.createElement(tag), properties);

  // --- filter -----------------------------------------------------------------------------------------------------
  const fields = ["words", "photo", "instruction", "state", "model"].map(byId).filter(Boolean);
  const wanted = () => {
    const [words, photo, instruction, state, model] = fields.map((field) => field.value);
    const parts = words.toLowerCase().split(/\s+/).filter(Boolean);
    return (cell) =>
      (!photo || cell.photo === photo) &&
      (!model || cell.model === model) &&
      (!instruction || cell.instruction === instruction) &&
      (!state || (state === "marked" ? cell.mark !== "" : cell.state === state)) &&
      parts.every((part) => cell.words.includes(part));
  };

  function filter() {
    const test = wanted();
    const shown = new Set(cells.map((_, at) => at).filter((at) => test(cells[at])));
    figures.forEach((figure, at) => {
      const box = figure.parentElement.tagName === "LI" ? figure.parentElement : figure;
      box.hidden = !shown.has(at);
    });
    rows.forEach((row, at) => { row.hidden = !shown.has(at); });
    for (const part of document.querySelectorAll("#gallery .photo, .block, .scroll:has(.grid), .models tbody tr")) {
      part.hidden = ![...part.querySelectorAll("figure[data-cell]")].some((figure) => !figure.closest("li[hidden], figure[hidden]"));
    }
    order();
    byId("shown").textContent = `${shown.size} of ${cells.length} shown`;
    byId("nothing").hidden = shown.size > 0;
  }

  function order() {  // the viewer goes through what is on the screen, in its order
    const tabled = document.documentElement.classList.contains("tabled");
    const sequence = tabled ? [...document.querySelectorAll("tr[data-row]")].map((row) => Number(row.dataset.row)) : [...figures.keys()];
    visible = sequence.filter((at) => !rows.get(at).hidden);
  }

  fields.forEach((field) => field.addEventListener("input", filter));
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", () => { fields.forEach((field) => { field.value = ""; }); filter(); });

  function fit() {  // as many whole columns as there is room for, the source's among them, with nothing left over
    const inner = getComputedStyle(byId("main"));
    const room = byId("main").clientWidth - parseFloat(inner.paddingLeft) - parseFloat(inner.paddingRight);
    const gap = parseFloat(inner.getPropertyValue("--gap"));
    const columns = Math.max(2, Math.round(room / (Number(byId("size").value) + gap)));
    document.documentElement.style.setProperty("--cell", `${Math.floor(room / columns - gap)}px`);
  }
  byId("size").addEventListener("input", fit);
  window.addEventListener("resize", fit);

  // --- table ------------------------------------------------------------------------------------------------------
  function view(tabled) {
    document.documentElement.classList.toggle("tabled", tabled);
    byId("as-table").setAttribute("aria-pressed", String(tabled));
    byId("as-gallery").setAttribute("aria-pressed", String(!tabled));
    if (tabled) thumbs();
    order();
  }

  function thumbs() {
    rows.forEach((row, at) => {
      if (row.querySelector(".thumb")) return;
      const place = node("td", { className: "thumb" });
      const picture = image(at);
      if (picture) {
        const button = node("button", { type: "button" });
        button.setAttribute("aria-label", `Compare with the photo: ${picture.alt}`);
        button.append(node("img", { src: picture.src, alt: "", loading: "lazy" }));
        button.addEventListener("click", () => open(at));
        place.append(button);
      }
      row.prepend(place);
      const box = node("td", {});
      box.append(checkbox(at, `Pick: ${cells[at].alt}`));
      row.prepend(box);
    });
  }

  function checkbox(at, name) {
    const box = node("input", { type: "checkbox", checked: picked.has(at) });
    box.dataset.pick = String(at);
    box.setAttribute("aria-label", name);
    box.addEventListener("change", () => pick(at, box.checked));
    return box;
  }

  function sort(header) {
    const key = header.dataset.key;
    const descending = header.getAttribute("aria-sort") === "ascending";
    document.querySelectorAll("th[aria-sort]").forEach((other) => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const compare = (a, b) => {
      const [x, y] = [cells[a].sort[key], cells[b].sort[key]];
      if (x === null || y === null) return (x === null) - (y === null);  // what is not there comes last either way
      const found = typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return (descending ? -found : found) || a - b;
    };
    const body = document.querySelector(".list tbody");
    [...rows.keys()].sort(compare).forEach((at) => body.append(rows.get(at)));
    order();
  }

  function headers() {
    const line = document.querySelector(".list thead tr");
    for (const header of line.querySelectorAll("th[data-key]")) {
      const button = node("button", { type: "button", textContent: header.textContent });
      header.classList.toggle("right", cells.some((cell) => typeof cell.sort[header.dataset.key] === "number"));
      header.replaceChildren(button);
      button.addEventListener("click", () => sort(header));
    }
    for (const name of ["Picture", "Pick"]) {
      line.prepend(node("th", { scope: "col", textContent: name }));
    }
  }

  byId("as-table").addEventListener("click", () => view(true));
  byId("as-gallery").addEventListener("click", () => view(false));

  // --- viewer -----------------------------------------------------------------------------------------------------
  function open(at) {
    show(at);
    if (!byId("viewer").open) byId("viewer").showModal();
    byId("split").focus();
  }

  function show(at) {
    current = at;
    const cell = cells[at];
    put("after", image(at), whole(at));
    byId("stage").classList.toggle("real", whole(at) !== "");
    byId("viewer-title").textContent = `${cell.photo}: ${cell.instruction}${cell.model && ` (${cell.model})`}`;
    byId("viewer-facts").textContent = [cell.facts, cell.mark, cell.said].filter(Boolean).join(" · ");
    byId("viewer-pick").checked = picked.has(at);
    byId("right").textContent = cell.short;
    choices(at);
    against();
    byId("whole").hidden = !cell.number;
    byId("applied").textContent = "";
    byId("real").hidden = !SHOWN.test(cell.file);
    byId("strengths").hidden = whole(at) !== "" || !sources.get(cell.source);
    byId("strength").value = String(strengths[at]);
    unmixed();  // it is of the picture before
    mix();
    const file = byId("file");
    file.hidden = !cell.file;
    if (cell.file) file.href = cell.file;
    split(50);
  }

  function choices(at) {
    const select = byId("against");
    const options = [node("option", { value: "", textContent: "the photo" })];
    cells.forEach((other, place) => {
      if (place !== at && other.source === cells[at].source && image(place)) {
        options.push(node("option", { value: String(place), textContent: `${other.instruction} (${other.short})` }));
      }
    });
    select.replaceChildren(...options);
  }

  function against() {
    const value = byId("against").value;
    const before = value === "" ? sources.get(cells[current].source) : image(Number(value));
    const file = whole(current) && (value === "" ? cells[current].original : whole(Number(value)));
    byId("before").hidden = !before || (whole(current) !== "" && !file);
    if (before) put("before", before, file);
    byId("left").textContent = value === "" ? "source" : cells[Number(value)].short;
  }

  const split = slider(byId("stage"), byId("split"));  // of slider.js, which stands before this text in the page

  // --- 1:1 --------------------------------------------------------------------------------------------------------
  // The delivered file and the photo's, asked for when they are wanted; the place stays from cell to cell.
  const SHOWN = /\.(jpe?g|jpe|jfif|png|webp|avif)$/i;  // what browsers show
  const place = [50, 50];
  let real = false;

  function put(id, small, file) {
    byId(id).alt = small.alt;
    if (file) {
      byId(id).removeAttribute("src");  // else a screen of two pixels a point may take it
      byId(id).srcset = `${file} ${devicePixelRatio}x`;
    } else {
      byId(id).removeAttribute("srcset");
      byId(id).src = small.src;
    }
  }

  const whole = (at) => (real && SHOWN.test(cells[at].file) ? cells[at].file : "");

  function exact(on) {
    real = on;
    byId("real").setAttribute("aria-pressed", String(on));
    show(current);
  }

  function move(x, y) {  // by points of the screen
    const { clientWidth: wide, clientHeight: high, naturalWidth, naturalHeight } = byId("after");
    [[x, naturalWidth - wide], [y, naturalHeight - high]].forEach(([by, room], axis) => {
      if (room > 0) place[axis] = Math.min(100, Math.max(0, place[axis] + (100 * by) / room));
      byId("stage").style.setProperty(axis ? "--y" : "--x", `${place[axis]}%`);
    });
  }

  byId("real").addEventListener("click", () => exact(!real));
  byId("stage").addEventListener("pointermove", (event) => {
    if (whole(current) && event.buttons === 1 && event.target !== byId("split")) move(-event.movementX, -event.movementY);
  });
  byId("stage").addEventListener("dragstart", (event) => event.preventDefault());
  byId("stage").addEventListener("wheel", (event) => {
    if (whole(current)) { move(event.deltaX, event.deltaY); event.preventDefault(); }
  }, { passive: false });
  byId("viewer").addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (whole(current) && way && event.shiftKey) { move(100 * way[0], 100 * way[1]); event.preventDefault(); }
  });
  byId("after").addEventListener("error", () => {
    if (!real) return;
    exact(false);
    byId("applied").textContent = "The file cannot be shown here: it was moved, or the browser does not read it.";
  });
  byId("before").addEventListener("error", () => {
    byId("before").hidden = true;
    byId("left").textContent = "not shown: its file was moved, or the browser does not read it";
  });

  // --- strength ---------------------------------------------------------------------------------------------------
  function unmixed() {
    byId("mixed").hidden = true;
    byId("after").classList.remove("mixing");
  }

  // A browser hands out no pixels of files beside a page from the disk, but shows them through a filter, whose eight
  // bits of light are some levels off where it is dark.
  function filtered(photo, share) {
    byId("light-photo").setAttribute("href", photo.src);
    byId("light-mix").setAttribute("k2", String(share));
    byId("light-mix").setAttribute("k3", String(1 - share));
    byId("mixed").hidden = true;
    byId("after").classList.add("mixing");
  }

  async function mix() {
    const [at, share] = [current, strengths[current]];
    const photo = whole(at) ? undefined : sources.get(cells[at].source);
    const still = () => at === current && share === strengths[at];
    byId("strong").textContent = share.toFixed(2);
    if (share === 1 || !photo) { unmixed(); return; }
    let picture;
    try {
      picture = await mixed(image(at).src, photo.src, share);  // of mixing.js
    } catch {
      if (still()) filtered(photo, share);
      return;
    }
    if (!still()) return;
    Object.assign(byId("mixed"), { width: picture.width, height: picture.height, hidden: false });
    byId("mixed").getContext("2d").putImageData(picture, 0, 0);
    byId("mixed").dataset.strength = String(share);
  }

  byId("strength").addEventListener("input", (event) => { strengths[current] = Number(event.target.value); mix(); });

  function step(by) {
    const seen = visible.filter((at) => image(at));
    if (seen.length) show(seen[(seen.indexOf(current) + by + seen.length) % seen.length]);
  }

  byId("against").addEventListener("change", against);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => byId("viewer").close());
  byId("viewer").addEventListener("keydown", (event) => {
    if (event.key === "PageDown" || event.key === "n") { step(1); event.preventDefault(); }
    if (event.key === "PageUp" || event.key === "p") { step(-1); event.preventDefault(); }
  });
  byId("viewer").addEventListener("close", () => {
    if (real) exact(false);
    document.querySelector(`[data-open="${current}"]`)?.focus();
  });
  document.querySelectorAll("[data-open]").forEach((button) => {
    button.addEventListener("click", () => open(Number(button.dataset.open)));
  });

  // The command that does to the other photos what was done to this one.
  byId("whole").addEventListener("click", () => {
    const text = `${data.runs[cells[current].run].apply} --cell ${cells[current].number}`;
    byId("applied").textContent = text;
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => { byId("applied").textContent = `Copied: ${text}`; }, () => {});
  });

  // --- picking ----------------------------------------------------------------------------------------------------
  function pick(at, on) {
    if (on) picked.add(at); else picked.delete(at);
    document.querySelectorAll(`[data-pick="${at}"]`).forEach((box) => { box.checked = on; });
    figures.get(at).classList.toggle("picked", on);
    rows.get(at).classList.toggle("picked", on);
    if (at === current) byId("viewer-pick").checked = on;
    byId("picks").hidden = picked.size === 0;
    byId("picked").textContent = `${picked.size} picked`;
  }

  // JSON is YAML, but for these characters, which YAML wants escaped.
  const quote = (value) => JSON.stringify(value).replace(/[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);

  function recipe(run) {
    const chosen = [...picked].filter((place) => cells[place].run === run).sort((a, b) => a - b).map((place) => [place, cells[place]]);
    const folders = new Map();
    const edits = new Map();
    const at = (map, key, fresh) => map.get(key) ?? map.set(key, fresh).get(key);
    const several = new Set(chosen.map(([, cell]) => cell.folder)).size > 1;  // then names begin with their folder's
    for (const [place, cell] of chosen) {
      const strength = strengths[place] === data.runs[run].strength ? "" : `, strength: ${strengths[place]}`;
      at(folders, cell.folder, new Set()).add(cell.glob);
      at(edits, cell.recipe + strength, { id: cell.edit, photos: new Set() }).photos.add(several ? `${cell.prefix}/${cell.glob}` : cell.glob);
    }
    // A photo is named with its folder where it gets every edit that is picked, else with its edits.
    const photos = [...folders.values()].reduce((sum, names) => sum + names.size, 0);
    const alike = [...edits.values()].every((edit) => edit.photos.size === photos);
    const list = (set) => `[${[...set].map(quote).join(", ")}]`;
    const taken = new Set();
    const unique = (id) => {
      let name = id;
      for (let n = 2; taken.has(name); n += 1) name = `${id}-${n}`;
      taken.add(name);
      return name;
    };
    const lines = [data.runs[run].head, "photos:"];
    folders.forEach((names, folder) => {
      lines.push(`  - {folder: ${quote(folder)}, ${alike ? `include: ${list(names)}` : "pairs: both"}}`);
    });
    lines.push("edits:");
    edits.forEach((edit, body) => {
      lines.push(`  - {id: ${quote(unique(edit.id))}, ${body}${alike ? "" : `, photos: ${list(edit.photos)}`}}`);
    });
    return `${lines.join("\n")}\n`;
  }

  function copyOut() {
    const runs = [...new Set([...picked].map((place) => cells[place].run))].sort((a, b) => a - b);
    const named = new Map(cells.map((cell) => [cell.run, cell.model]));
    byId("of-models").hidden = runs.length < 2;
    byId("of-model").replaceChildren(...runs.map((run) => node("option", { value: String(run), textContent: named.get(run) })));
    byId("made").showModal();
    write(runs[0]);
  }

  function write(run) {
    const text = byId("yaml");
    text.value = recipe(run);
    byId("copied").textContent = "";
    text.focus();
    text.select();
    // Not every browser hands the clipboard to a page from the disk: the text is selected as well.
    const done = () => { byId("copied").textContent = "Copied."; };
    const ask = () => { byId("copied").textContent = "Selected: press Ctrl+C (⌘C) to copy it."; };
    if (navigator.clipboard) navigator.clipboard.writeText(text.value).then(done, ask); else ask();
  }

  document.querySelectorAll("[data-pick]").forEach((box) => {
    box.addEventListener("change", () => pick(Number(box.dataset.pick), box.checked));
  });
  byId("viewer-pick").addEventListener("change", (event) => pick(current, event.target.checked));
  byId("unpick").addEventListener("click", () => [...picked].forEach((at) => pick(at, false)));
  byId("recipe").addEventListener("click", copyOut);
  byId("of-model").addEventListener("change", (event) => write(Number(event.target.value)));
  byId("made-close").addEventListener("click", () => byId("made").close());

  document.documentElement.classList.add("js");
  document.querySelectorAll("#tools, figcaption .pick").forEach((part) => { part.hidden = false; });
  cells.forEach((cell, at) => { if (cell.picked) pick(at, true); });
  headers();
  fit();
  filter();
})();
