// What is asked for: instruction, scales, how many, where. The form and nothing that was made.
import * as api from "./api.js";
import { byId, choose, chosen, count, node } from "./dom.js";
import { links } from "./cells.js";
import { regionTool } from "./region.js";

const MOST_LINKS = 8;
const DIALS = ["text", "image", "strength"];

export function composer(app) {
  const tool = regionTool(app);

  // --- the instruction, or a chain of them ------------------------------------------------------------------------
  const fields = () => [...byId("links").querySelectorAll("textarea")];

  function add(text = "") {
    const field = node("textarea", { rows: 1, value: text, spellcheck: true, maxLength: 4000 });
    const remove = node("button", { type: "button", className: "plain", textContent: "×" });
    remove.addEventListener("click", () => { field.parentElement.remove(); number(); fields().at(-1).focus(); });
    field.addEventListener("input", changed);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); byId("form").requestSubmit(); }
    });
    byId("links").append(node("li", {}, field, remove));
    number();
    return field;
  }

  function number() {
    const all = fields();
    all.forEach((field, at) => {
      field.setAttribute("aria-label", all.length > 1 ? `Instruction, step ${at + 1}` : "Instruction");
      field.placeholder = at ? "then …" : "What should change? For example: make it winter";
      field.nextSibling.hidden = all.length === 1;
      field.nextSibling.setAttribute("aria-label", `Remove step ${at + 1}`);
    });
    byId("links").classList.toggle("is-chain", all.length > 1);
    byId("then").hidden = all.length >= MOST_LINKS;
    changed();
  }

  // --- dials ------------------------------------------------------------------------------------------------------
  for (const name of DIALS) {
    const [dial, written] = [byId(name), byId(`${name}-number`)];
    dial.addEventListener("input", () => { written.value = dial.value; changed(); });
    written.addEventListener("input", () => { dial.value = written.value; changed(); });
  }
  const set = (name, value) => { byId(name).value = byId(`${name}-number`).value = value; };
  const read = (name) => Number(byId(`${name}-number`).value);

  // --- how many ---------------------------------------------------------------------------------------------------
  const numbers = (id) => byId(id).value.split(/[\s,;]+/).filter(Boolean).map(Number);
  const near = (name, share) => {
    const by = Math.max(0.05, Math.round(20 * share * app.state.defaults[name]) / 20);
    return [-1, 0, 1].map((step) => Math.max(0, Math.round(100 * (read(name) + step * by)) / 100)).join(", ");
  };

  function asked() {
    const many = chosen("many");
    const grid = many === "grid";
    const scale = (name) => (!app.state?.scales[name] ? [app.state?.defaults[name] ?? 1] : grid ? numbers(`grid-${name}`) : [read(name)]);
    const first = Number(byId("seed").value);
    const seeds = many === "seeds" ? Array.from({ length: Math.min(64, Number(byId("count").value)) }, (_, at) => first + at) : [first];
    return { text: scale("text"), image: scale("image"), seeds };
  }

  function changed() {
    fields().forEach(grow);
    const { text, image, seeds } = asked();
    const total = text.length * image.length * seeds.length * fields().length * Math.max(1, app.chosen.length);
    byId("total").textContent = total > 1 ? count(total, "picture", "pictures") : "";
    byId("of-seeds").hidden = chosen("many") !== "seeds";
    byId("of-grid").hidden = chosen("many") !== "grid";
    lacks("");
    keep();
  }

  function grow(field) {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight + 2, 170)}px`;
  }

  // --- a draft outlives a reload of this tab ----------------------------------------------------------------------
  const keep = () => sessionStorage.setItem("draft", JSON.stringify(fields().map((field) => field.value)));
  const draft = () => { try { return JSON.parse(sessionStorage.getItem("draft")) ?? []; } catch { return []; } };

  // --- asking -----------------------------------------------------------------------------------------------------
  function job() {
    const chain = fields().map((field) => field.value.trim()).filter(Boolean);
    const region = tool.region();
    const edit = {
      ...(chain.length > 1 ? { chain } : { instruction: chain[0] }),
      ...(app.state.negative && byId("negative").value.trim() ? { negative: byId("negative").value.trim() } : {}),
      ...(read("strength") < 1 ? { strength: read("strength") } : {}), ...(region ? { region } : {}),
    };
    const steps = Number(byId("steps").value);
    return { photos: app.chosen.filter((photo) => !photo.error).map((photo) => photo.id), edits: [edit], ...asked(), ...(steps ? { steps } : {}) };
  }

  const readable = () => app.chosen.some((photo) => !photo.error);

  // Why nothing can be made at the moment; "" where it can.
  function lack() {
    if (!fields().some((field) => field.value.trim())) return "Write what should change first.";
    if (app.photos.total() === null) return "The photos are being read: it is made as soon as they are here.";
    if (!app.chosen.length) return "Add a photo first.";
    return readable() ? "" : "This photo cannot be read: choose another one.";
  }

  function lacks(words) {
    byId("lack").textContent = words;
    byId("lack").hidden = !words;
  }

  let waits = false;  // asked for before there was a photo
  async function make(event) {
    event.preventDefault();
    if (byId("make").getAttribute("aria-busy")) return;
    lacks(lack());
    waits = app.photos.total() === null && !byId("lack").hidden;
    if (!byId("lack").hidden) {
      if (!waits && !fields().some((field) => field.value.trim())) fields()[0].focus();
      return;
    }
    let wanted;
    try { wanted = job(); } catch (mistake) { app.banner("form", mistake.message); return; }
    app.unbanner("form");
    byId("make").setAttribute("aria-busy", "true");
    try {
      await app.submit(wanted);
    } catch (refused) {
      app.refused(refused, "form");
    } finally {
      byId("make").removeAttribute("aria-busy");
    }
  }

  byId("form").addEventListener("submit", make);
  app.addEventListener("photos", () => { if (waits) byId("form").requestSubmit(); });
  byId("then").addEventListener("click", () => add().focus());
  byId("form").addEventListener("input", changed);
  document.querySelectorAll("input[name=many]").forEach((input) => input.addEventListener("change", () => {
    if (chosen("many") !== "grid") return;
    byId("grid-text").value = near("text", 1 / 3);
    byId("grid-image").value = near("image", 1 / 6);
    changed();
  }));

  // --- the photo it is about --------------------------------------------------------------------------------------
  app.addEventListener("photo", () => {
    const { photo } = app;
    byId("look").hidden = !photo;
    byId("unread").hidden = !photo?.error;
    byId("photo").hidden = !photo || Boolean(photo.error);
    byId("of").textContent = photo ? `${photo.name}${app.chosen.length > 1 ? ` and ${app.chosen.length - 1} more` : ""}` : "";
    if (photo?.error) byId("unread").textContent = `This photo cannot be read: ${photo.error}`;
    else if (photo) Object.assign(byId("photo"), { src: api.photoPicture(photo.id, 1024), alt: `${photo.name}, before any edit`, width: photo.width, height: photo.height });
    changed();
  });

  function fit() {  // what the model has
    const { defaults, scales, negative, regions } = app.state;
    for (const name of ["text", "image"]) {
      byId(`dial-${name}`).hidden = !scales[name];
      byId(`grid-${name}-label`).hidden = !scales[name];
    }
    byId("negative-label").hidden = !negative;
    byId("where").hidden = !regions;
    if (byId("text-number").value === "") {
      for (const name of ["text", "image"]) byId(name).max = String(Math.ceil(2.6 * Math.max(1, defaults[name])));
      set("text", defaults.text);
      set("image", defaults.image);
      set("strength", defaults.strength);
      byId("steps").value = defaults.steps;
      byId("seed").value = defaults.seed;
    }
    tool.show();
    changed();
  }

  // The settings of a cell, to go on from.
  function take(cell) {
    byId("links").replaceChildren();
    links(cell).slice(0, cell.link).forEach((text) => add(text));
    set("text", cell.text);
    set("image", cell.image);
    set("strength", cell.strength);
    byId("seed").value = cell.seed;
    byId("negative").value = cell.negative;
    byId("steps").value = cell.steps || app.state.defaults.steps;
    choose("many", "one");
    const left = [...(tool.take(cell.region) ? [] : ["Its region"]), ...(cell.protect ? ["What it protects"] : [])];
    if (left.length) app.banner("form", `${left.join(" and ")} cannot be drawn here, and is left out: a recipe can say it.`);
    changed();
    fields()[0].focus();
  }

  const kept = draft();
  (kept.length ? kept : [""]).slice(0, MOST_LINKS).forEach((text) => add(text));
  return { fit, take, changed };
}
