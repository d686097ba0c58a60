// One picture over its photo, or over another picture of it: dragged, or moved by the keyboard.
import * as api from "./api.js";
import { scales, told } from "./cells.js";
import { byId, choose, node } from "./dom.js";
import { short } from "./figure.js";
import { mixed } from "./mixing.js";
import { slider } from "./slider.js";

export function viewer(app) {
  const dialog = byId("viewer");
  const split = slider(byId("stage"), byId("split"));
  let [key, whole, turn, asked] = [null, false, 0, 0];
  const cell = () => app.cells.get(key);

  for (let number = 0; number <= 5; number += 1) {
    const label = node("label", {}, node("input", { type: "radio", name: "stars", value: String(number), "aria-label": number ? `${number} of 5 stars` : "no stars" }), node("span", { textContent: number ? "★" : "○", "aria-hidden": true }));
    label.firstChild.addEventListener("change", () => app.cells.change(key, { stars: number }));
    byId("stars").append(label);
  }

  function open(which) {
    whole = false;
    show(which);
    if (!dialog.open) dialog.showModal();
    byId("split").focus();
  }

  function show(which) {
    key = which;
    const now = cell();
    api.look(key);
    byId("mix").value = String(now.strength);
    choices();
    facts();
    pictures();
    split(50);
  }

  function facts() {
    const now = cell();
    byId("viewer-title").textContent = `${now.photo_name}: ${told(now)}`;
    byId("viewer-facts").textContent = [scales(now), `seed ${now.seed}`, now.negative ? `without ${now.negative}` : "", now.steps ? `${now.steps} steps` : "", now.seconds ? `${now.seconds.toFixed(1)} s` : "", now.mark].filter(Boolean).join(" · ");
    byId("viewer-pick").checked = now.picked;
    choose("stars", String(now.stars));
    if (document.activeElement !== byId("note")) byId("note").value = now.note;
    byId("file").href = api.download(key);
    const done = now.state === "done";
    byId("stage").hidden = !done;
    byId("why").hidden = done;
    byId("why").textContent = done ? "" : now.reason || now.state;
    byId("retry").hidden = done || now.state === "flagged";
    for (const id of ["file", "use", "mix-label", "whole", "against"]) byId(id).hidden = !done;
    byId("against").parentElement.hidden = !done;
  }

  // --- pictures ---------------------------------------------------------------------------------------------------
  // At the model's size at once; the full size takes its place when it is lifted.
  function pictures() {
    asked += 1;
    byId("whole").setAttribute("aria-pressed", String(whole));
    if (cell().state !== "done") return;
    put(false);
    mix();
    if (whole) lift(asked);
  }

  function addresses(full) {
    const [now, other] = [cell(), app.cells.get(byId("against").value)];
    const photo = full ? now.photo && api.photoPicture(now.photo, "full") : api.cellPicture(now, "before");
    return [api.cellPicture(now, full ? "full" : "cell"), other ? api.cellPicture(other, full ? "full" : "cell") : photo];
  }

  function put(full) {
    const [now, other] = [cell(), app.cells.get(byId("against").value)];
    const [after, before] = addresses(full);
    dialog.classList.toggle("is-whole", full);
    Object.assign(byId("after"), { src: after, alt: `${now.photo_name}, ${told(now)}` });
    if (before) Object.assign(byId("before"), { src: before, alt: other ? told(other) : `${now.photo_name}, before any edit` });
    byId("before").hidden = !before;
    byId("left").textContent = other ? `${scales(other)}, seed ${other.seed}` : "photo";
    byId("right").textContent = `${scales(now)}, seed ${now.seed}`;
    doing("");
  }

  async function lift(mine) {
    doing("Bringing it to the photo's own size …");
    for (const address of addresses(true).filter(Boolean)) {
      const there = await Object.assign(new Image(), { src: address }).decode().then(() => true, () => false);
      const reason = there ? "" : await api.why(address);
      if (mine !== asked) return;
      if (!there) { doing(reason); whole = false; byId("whole").setAttribute("aria-pressed", "false"); return; }
    }
    put(true);
    mix();
    await byId("after").decode().catch(() => {});
    const frame = byId("frame");
    if (mine === asked) frame.scrollTo((frame.scrollWidth - frame.clientWidth) / 2, (frame.scrollHeight - frame.clientHeight) / 2);
  }

  function doing(words) {
    byId("doing").textContent = words;
    byId("doing").hidden = !words;
  }

  byId("after").addEventListener("error", async () => {
    const [address, mine] = [byId("after").getAttribute("src"), asked];
    if (!address || !dialog.open) return;
    const reason = await api.why(address);
    if (mine === asked) doing(reason);
  });

  async function mix() {
    const [now, share] = [cell(), Number(byId("mix").value)];
    turn += 1;
    const mine = turn;
    byId("mix-value").textContent = share.toFixed(2);
    byId("keep-mix").hidden = share === now.strength;
    byId("mix").disabled = whole;  // the full size comes at its own strength
    if (share === 1 || whole) { byId("mixed").hidden = true; return; }
    const picture = await mixed(api.cellPicture(now, "cell"), api.cellPicture(now, "before"), share).catch(() => null);
    if (mine !== turn || !picture) return;
    Object.assign(byId("mixed"), { width: picture.width, height: picture.height, hidden: false });
    byId("mixed").getContext("2d").putImageData(picture, 0, 0);
  }

  function choices() {
    const now = cell();
    const others = app.wall.sequence().map(app.cells.get).filter((other) => other.key !== key && other.photo === now.photo && other.state === "done");
    byId("against").replaceChildren(node("option", { value: "", textContent: "the photo" }),
      ...others.slice(0, 200).map((other) => node("option", { value: other.key, textContent: `${told(other)} (${scales(other)}, seed ${other.seed})` })));
  }

  function step(by) {
    const seen = app.wall.sequence();
    if (seen.length) show(seen[(Math.max(0, seen.indexOf(key)) + by + seen.length) % seen.length]);
  }

  // At full size the picture is moved by dragging it, and the line by its handle.
  let grip = null;
  byId("stage").addEventListener("pointerdown", (event) => {
    if (!whole || event.button) return;
    const area = byId("stage").getBoundingClientRect();
    const line = area.left + (area.width * Number(byId("split").value)) / 100;
    grip = { line: Math.abs(event.clientX - line) < 24, x: event.clientX, y: event.clientY, left: byId("frame").scrollLeft, top: byId("frame").scrollTop };
    byId("stage").setPointerCapture(event.pointerId);
    byId("split").focus({ preventScroll: true });
    event.preventDefault();
  });
  byId("stage").addEventListener("pointermove", (event) => {
    if (!grip) return;
    const area = byId("stage").getBoundingClientRect();
    if (grip.line) split(Math.min(100, Math.max(0, (100 * (event.clientX - area.left)) / area.width)));
    else byId("frame").scrollTo(grip.left + grip.x - event.clientX, grip.top + grip.y - event.clientY);
  });
  byId("stage").addEventListener("pointerup", () => { grip = null; });
  byId("stage").addEventListener("pointercancel", () => { grip = null; });

  function full() {
    whole = !whole;
    if (whole) byId("mix").value = String(cell().strength);  // it comes at its own
    pictures();
  }

  function pan(event) {
    const by = { ArrowLeft: [-80, 0], ArrowRight: [80, 0], ArrowUp: [0, -80], ArrowDown: [0, 80] }[event.key];
    if (!by || !whole || !event.shiftKey || event.target.matches("#note, select")) return false;
    byId("frame").scrollBy(...by);
    return true;
  }

  async function keepMix() {
    const now = cell();
    const { instruction, region, protect, chain, carry } = now;
    const words = chain ? { chain, ...(carry ? { carry } : {}) } : { instruction, ...(region ? { region } : {}), ...(protect ? { protect } : {}) };
    try {
      await app.submit({
        photos: [now.photo], text: [now.text], image: [now.image], seeds: [now.seed], ...(now.steps ? { steps: now.steps } : {}),
        edits: [{ ...words, strength: Number(byId("mix").value), ...(now.negative ? { negative: now.negative } : {}) }],
      });
      dialog.close();
    } catch (refused) {
      app.refused(refused);
    }
  }

  byId("viewer-pick").addEventListener("change", () => app.cells.pick(key, byId("viewer-pick").checked));
  byId("note").addEventListener("change", () => app.cells.change(key, { note: byId("note").value }));
  byId("mix").addEventListener("input", mix);
  byId("against").addEventListener("change", pictures);
  byId("whole").addEventListener("click", full);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => dialog.close());
  byId("again").addEventListener("click", () => { dialog.close(); app.composer.take(cell()); });
  byId("use").addEventListener("click", () => { dialog.close(); app.plan.open([key]); });
  byId("retry").addEventListener("click", () => { dialog.close(); app.retry(key); });
  byId("keep-mix").addEventListener("click", keepMix);
  dialog.addEventListener("keydown", (event) => {
    if (pan(event)) { event.preventDefault(); return; }
    if (short(app, key, event) || event.target.matches("#note, select")) return;
    const does = { PageDown: () => step(1), n: () => step(1), PageUp: () => step(-1), p: () => step(-1), f: full }[event.key];
    if (does) { does(); event.preventDefault(); }
  });
  dialog.addEventListener("close", () => {
    asked += 1;
    for (const id of ["after", "before"]) byId(id).removeAttribute("src");
    app.wall.focus(key);
  });
  app.addEventListener("cell", ({ detail: { cell: changed } }) => { if (dialog.open && changed.key === key) facts(); });
  return { open };
}
