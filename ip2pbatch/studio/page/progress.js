// The folder's run in the head of the page, and what a person must be told.
import * as api from "./api.js";
import { byId, duration, node, say } from "./dom.js";

const WORDS = { waiting: "Waiting", paused: "Paused", stopping: "Stopping after the pictures at hand", done: "Done", failed: "The run ended", stopped: "Stopped" };

export function progress(app) {
  let [ended, closed] = ["", ""];  // a run that is over, and the one of these that a person has seen enough of
  function show(run) {
    const tried = run ? run.done + run.failed : 0;
    const all = run ? tried + run.left : 0;
    app.state.running = run && ["waiting", "running", "paused", "stopping"].includes(run.state) ? run : null;
    const over = run && !app.state.running;
    byId("run").hidden = !run || (over && closed === JSON.stringify(run));
    byId("run-close").hidden = !over;
    ended = over ? JSON.stringify(run) : "";
    document.title = app.state.running ? `${tried} of ${all} – ip2pbatch studio` : "ip2pbatch studio";
    if (!run) return;
    Object.assign(byId("run-bar"), { max: all || 1, value: tried });
    const seconds = run.seconds_left;
    const parts = [WORDS[run.state] ?? "", `${run.done.toLocaleString("en")} of ${all.toLocaleString("en")}`, run.failed ? `${run.failed} failed` : "", run.state === "running" && seconds ? `${duration(seconds)} left` : "", run.message];
    byId("run-text").textContent = parts.filter(Boolean).join(" · ");
    byId("run-pause").hidden = !["running", "paused"].includes(run.state);
    byId("run-pause").textContent = run.state === "paused" ? "Go on" : "Pause";
    byId("run-stop").hidden = !app.state.running || run.state === "stopping";
    if (!app.state.running) say(byId("run-text").textContent);
  }

  const asked = (does) => does().catch((refused) => app.refused(refused));
  byId("run-pause").addEventListener("click", () => asked(() => api.pause(app.state.running?.state !== "paused")));
  byId("run-close").addEventListener("click", () => { closed = ended; byId("run").hidden = true; });
  byId("run-stop").addEventListener("click", () => asked(api.stop));
  return { show };
}

// A message under the head, one for each `about`: closed by the person, or by `unbanner` when it no longer holds.
export function banner(about, text, list = []) {
  unbanner(about);
  [...byId("banners").children].filter((one) => one.querySelector("p").textContent === text).forEach((one) => one.remove());
  const close = node("button", { type: "button", className: "plain", textContent: "×", "aria-label": "Close this message" });
  const made = node("div", { className: "banner bad", role: "alert" }, node("div", {}, node("p", { textContent: text })), close);
  if (list.length) made.firstChild.append(node("ul", {}, ...list.slice(0, 50).map((one) => node("li", { textContent: one }))));
  made.dataset.about = about;
  close.addEventListener("click", () => made.remove());
  byId("banners").append(made);
}

export function unbanner(about) {
  document.querySelector(`.banner[data-about="${about}"]`)?.remove();
}
