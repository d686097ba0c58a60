// The photos at the side: a list of any length, of which pages are asked for as they are seen.
import * as api from "./api.js";
import { byId, calmly, count, node, say } from "./dom.js";
import { address, settle, windowed } from "./windowed.js";

const PAGE = 100;
const GAP = 6;

export function photoList(app) {
  const [rail, sheet] = [byId("rail"), byId("photos")];
  let [have, asked, total, turn] = [[], new Set(), null, 0];
  // Photos are meant by their ids: their places shift as others come.
  let [current, anchor] = [{ at: -1 }, { at: -1 }];  // the place, and the id of the photo that is there
  const chosen = new Map();  // id → photo

  const phone = matchMedia("(max-width: 760px)");
  const tile = () => (phone.matches ? 84 : Math.floor((sheet.clientWidth - GAP) / 2));
  const list = windowed(rail, sheet, layout, settle);

  function layout() {
    const side = tile();
    const step = side + GAP;
    const lanes = phone.matches ? 1 : 2;
    const long = Math.ceil((total ?? 0) / lanes) * step;
    return {
      extent: phone.matches ? [long, side] : [0, long],
      * between(area) {
        const [from, to] = phone.matches ? [area.left, area.right] : [area.top, area.bottom];
        const first = Math.max(0, Math.floor(from / step)) * lanes;
        const last = Math.min(total ?? 0, (Math.floor(to / step) + 1) * lanes);
        for (let at = first; at < last; at += 1) {
          const [along, lane] = [Math.floor(at / lanes) * step, (at % lanes) * step];
          wanted(at);
          yield {
            key: at, width: side, height: side, make: () => option(at), fill: (element) => fill(element, at),
            ...(phone.matches ? { x: along, y: 0 } : { x: lane, y: along }),
          };
        }
      },
    };
  }

  function wanted(at) {
    const page = Math.floor(at / PAGE);
    if (have[at] || asked.has(page)) return;
    asked.add(page);
    load(page);
  }

  async function load(page) {
    const mine = turn;
    try {
      const found = await api.photos({ offset: page * PAGE, limit: PAGE, search: byId("search").value });
      if (mine !== turn) return;
      found.photos.forEach((photo, place) => put(photo, page * PAGE + place));
      total = found.total;
      counted();
      list.draw();
      if (page === 0 && !app.photo && total) choose(Math.max(0, have.findIndex((photo) => photo && !photo.error)));
      if (page === 0) app.dispatchEvent(new Event("photos"));
    } catch (refused) {
      asked.delete(page);
      app.refused(refused);
    }
  }

  function put(photo, at) {
    have[at] = photo;
    if (photo.id === current.id) current.at = at;
    if (photo.id === anchor.id) anchor.at = at;
    if (chosen.has(photo.id)) chosen.set(photo.id, photo);
    if (photo.id === app.photo?.id && ["error", "width", "height"].some((fact) => photo[fact] !== app.photo[fact])) tell(photo);
  }

  function counted() {
    byId("photo-count").textContent = `${count(total, "photo", "photos")}${chosen.size > 1 ? `, ${chosen.size} chosen` : ""}`;
  }

  function option(at) {
    const made = node("div", { className: "photo", role: "option", id: `photo-${at}`, "aria-posinset": at + 1 }, node("img", { alt: "", decoding: "async" }));
    made.dataset.at = String(at);
    return made;
  }

  function fill(element, at) {
    const photo = have[at];
    const on = Boolean(photo) && chosen.has(photo.id);
    element.setAttribute("aria-selected", String(on));
    element.setAttribute("aria-setsize", String(total));
    element.classList.toggle("is-chosen", on);
    element.classList.toggle("is-current", at === current.at);
    if (!photo || element.dataset.id === photo.id) return;
    element.dataset.id = photo.id;
    element.classList.toggle("is-unread", Boolean(photo.error));
    element.setAttribute("aria-label", photo.error ? `${photo.name}: ${photo.error}` : photo.name);
    element.title = photo.error ? `${photo.name}: ${photo.error}` : photo.name;
    if (!photo.error) address(element.firstChild, api.photoPicture(photo.id, 256));
    else element.firstChild.removeAttribute("src");
  }

  // --- choosing ---------------------------------------------------------------------------------------------------
  function choose(at, { also = false, through = false } = {}) {
    if (at < 0 || at >= (total ?? 0) || !have[at]) return;
    const photo = have[at];
    if (!also && !through) chosen.clear();
    if (through && anchor.at >= 0) {
      have.slice(Math.min(anchor.at, at), Math.max(anchor.at, at) + 1).filter(Boolean).forEach((one) => chosen.set(one.id, one));
    } else if (also && chosen.has(photo.id) && chosen.size > 1) {
      chosen.delete(photo.id);
    } else {
      chosen.set(photo.id, photo);
    }
    if (!through) anchor = { at, id: photo.id };
    current = { at, id: photo.id };
    sheet.setAttribute("aria-activedescendant", `photo-${at}`);
    counted();
    list.draw();
    tell(chosen.has(photo.id) ? photo : chosen.values().next().value);
  }

  function tell(photo) {
    app.photo = photo;
    app.chosen = [...chosen.values()];
    app.dispatchEvent(new Event("photo"));
  }

  function reveal(at) {
    const [step, lanes] = [tile() + GAP, phone.matches ? 1 : 2];
    const place = Math.floor(at / lanes) * step;
    if (phone.matches) rail.scrollLeft = Math.min(Math.max(rail.scrollLeft, place + step - rail.clientWidth), place);
    else rail.scrollTop = Math.min(Math.max(rail.scrollTop, place + step - rail.clientHeight), place);
  }

  sheet.addEventListener("click", (event) => {
    const element = event.target.closest(".photo");
    if (!element) return;
    sheet.focus({ preventScroll: true });
    const area = element.getBoundingClientRect();  // its corner holds a mark that adds it to what is chosen
    const corner = event.clientX > area.right - 32 && event.clientY < area.top + 32;
    choose(Number(element.dataset.at), { also: event.ctrlKey || event.metaKey || corner, through: event.shiftKey });
  });

  const KEYS = { ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: (lanes) => lanes, ArrowUp: (lanes) => -lanes, PageDown: (lanes) => 5 * lanes, PageUp: (lanes) => -5 * lanes };
  sheet.addEventListener("keydown", (event) => {
    const by = KEYS[event.key]?.(phone.matches ? 1 : 2);
    const next = current.at < 0 ? 0 : current.at + by;
    const to = { Home: 0, End: (total ?? 1) - 1 }[event.key] ?? (by ? Math.min(Math.max(next, 0), (total ?? 1) - 1) : null);
    if (to !== null) go(to, event.shiftKey);
    else if (event.key === " ") choose(current.at, { also: true });
    else return;
    event.preventDefault();
  });

  function go(to, through = false) {
    reveal(to);
    if (have[to]) choose(to, { through });
    else { wanted(to); current = { at: to }; }
  }

  // --- searching and adding ---------------------------------------------------------------------------------------
  function reload() {
    turn += 1;
    [have, asked, total] = [[], new Set(), null];
    current.at = anchor.at = -1;
    sheet.removeAttribute("aria-activedescendant");
    rail.scrollTo(0, 0);
    asked.add(0);
    return load(0);
  }

  function again() {
    turn += 1;
    [have, asked] = [[], new Set()];
    wanted(Math.max(0, current.at));
    list.draw();
  }

  const search = calmly(200, reload);
  byId("search").addEventListener("input", search);
  byId("search").addEventListener("keydown", (event) => {
    if (!["Enter", "ArrowDown"].includes(event.key) || !have.length) return;
    sheet.focus();
    go(0);
    event.preventDefault();
  });

  async function add(files) {
    const refusals = [];
    let added = 0;
    for (const file of files) {
      say(`Adding ${count(files.length, "photo", "photos")}`);
      byId("photo-count").textContent = `Adding ${added + refusals.length + 1} of ${files.length} …`;
      try {
        await api.upload(file);
        added += 1;
      } catch (refused) {
        refusals.push(`${file.name}: ${refused.message}${refused.hint ? ` (${refused.hint})` : ""}`);
      }
    }
    say(`${count(added, "photo", "photos")} added`);
    if (refusals.length) app.banner("adding", `${count(refusals.length, "file was", "files were")} not added`, refusals);
    again();
  }

  byId("add").addEventListener("click", () => byId("files").click());
  byId("files").addEventListener("change", () => { add([...byId("files").files]); byId("files").value = ""; });
  let inside = 0;  // dragenter and dragleave come for every element that is crossed
  const dropping = (on) => { byId("drop").hidden = !on; };
  addEventListener("dragenter", (event) => { if (event.dataTransfer?.types.includes("Files")) { inside += 1; dropping(true); } });
  addEventListener("dragleave", () => { inside = Math.max(0, inside - 1); if (!inside) dropping(false); });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    dropping(false);
    if (event.dataTransfer?.files.length) add([...event.dataTransfer.files]);
  });

  return {
    load: reload, total: () => total,
    // More photos came by another way: read what is seen anew, and keep what is chosen.
    again,
  };
}
