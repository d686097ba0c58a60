// The folder's recipe: written of picks, edited with its mistakes at their lines, its cost before it starts.
import * as api from "./api.js";
import { byId, count, duration, node, say } from "./dom.js";

export function planner(app) {
  const [dialog, text, gutter] = [byId("plan"), byId("recipe"), byId("gutter")];
  let [turn, timer] = [0, null];

  async function open(keys) {
    try {
      edit((await api.recipeFrom(keys)).text);
    } catch (refused) {
      app.refused(refused);
    }
  }

  function edit(recipe) {
    text.value = recipe;
    numbered([]);
    dialog.showModal();
    text.focus();
    text.setSelectionRange(0, 0);
    check();
  }

  async function check() {
    turn += 1;
    const mine = turn;
    byId("start").disabled = true;
    byId("cost").textContent = "Checking …";
    try {
      const found = await api.check(text.value);
      if (mine === turn) show(found);
    } catch (refused) {
      if (mine === turn) byId("cost").textContent = refused.message;
    }
  }

  function show({ messages, plan }) {
    const mistakes = messages.filter((message) => !message.warning);
    numbered(mistakes.map((message) => message.line));
    byId("mistakes").replaceChildren(...messages.map((message) => {
      const to = node("button", { type: "button", className: "plain", textContent: message.line ? `line ${message.line}` : "recipe" });
      to.addEventListener("click", () => select(message.line ?? 1));
      return node("li", { className: message.warning ? "is-warning" : "" }, to, node("span", { textContent: `${message.error}${message.hint ? ` – ${message.hint}` : ""}` }));
    }));
    text.setAttribute("aria-invalid", String(mistakes.length > 0));
    byId("start").disabled = mistakes.length > 0 || !plan || Boolean(app.state?.running);
    byId("cost").textContent = plan ? costs(plan) : count(mistakes.length, "mistake", "mistakes");
  }

  function costs(plan) {
    const parts = [count(plan.photos, "photo", "photos"), count(plan.edits, "picture", "pictures")];
    if (plan.edits_left < plan.edits) parts.push(`${plan.edits_left.toLocaleString("en")} still to make`);
    if (plan.seconds !== null) parts.push(`about ${duration(plan.seconds)}`);
    return [parts.join(", "), ...plan.notes, app.state.running ? "Another run is at work." : ""].filter(Boolean).join(". ");
  }

  function numbered(wrong) {
    const bad = new Set(wrong);
    const lines = text.value.split("\n").length;
    gutter.replaceChildren(...Array.from({ length: Math.min(lines, 2000) }, (_, at) => (bad.has(at + 1) ? node("b", { textContent: `${at + 1}\n` }) : `${at + 1}\n`)));
    gutter.scrollTop = text.scrollTop;
  }

  function select(line) {
    const lines = text.value.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
    text.focus();
    text.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
    text.scrollTop = Math.max(0, (line - 5) * 20);
  }

  async function start() {
    byId("start").disabled = true;
    try {
      await api.run(text.value);
      say("The run has started");
      dialog.close();
    } catch (refused) {
      byId("start").disabled = false;
      byId("cost").textContent = [refused.message, refused.hint].filter(Boolean).join(" – ");
    }
  }

  text.addEventListener("input", () => { numbered([]); clearTimeout(timer); timer = setTimeout(check, 350); });
  text.addEventListener("scroll", () => { gutter.scrollTop = text.scrollTop; });
  byId("plan-close").addEventListener("click", () => dialog.close());
  byId("start").addEventListener("click", start);
  byId("recipe-file").addEventListener("click", () => {
    const file = URL.createObjectURL(new Blob([text.value], { type: "text/yaml" }));
    byId("recipe-file").href = file;
    setTimeout(() => URL.revokeObjectURL(file), 10000);
  });
  byId("use-recipe").addEventListener("click", () => edit(app.state.recipe));
  byId("use-picks").addEventListener("click", () => open([...app.cells.picked]));
  return { open };
}
