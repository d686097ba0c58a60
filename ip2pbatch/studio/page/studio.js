// The studio's page: its parts, what they share, and what the server tells all of them.
import * as api from "./api.js";
import { beside } from "./beside.js";
import { knownCells, over } from "./cells.js";
import { composer } from "./compose.js";
import { byId, calmly, count, say } from "./dom.js";
import { photoList } from "./photos.js";
import { planner } from "./plan.js";
import { banner, progress, unbanner } from "./progress.js";
import { wall } from "./results.js";
import { viewer } from "./viewer.js";

const NO_KEY = "This page has lost its key, as a studio makes up a new one when it starts. Open the address that ip2pbatch studio has printed: this page goes on then, too.";
const NO_ANSWER = "The studio does not answer. What was made is kept: start ip2pbatch studio again, and this page goes on by itself.";
const app = Object.assign(new EventTarget(), { state: null, photo: null, chosen: [], banner, unbanner });

app.refused = (refused, about = "refused") => {
  if (!(refused instanceof api.Refused)) throw refused;
  if (refused.status === 0) { gone(true); return; }
  const words = refused.status === 401 ? NO_KEY : refused.message;
  banner(about, [words, refused.status === 401 ? "" : refused.hint].filter(Boolean).join(" – "));
};

app.cells = knownCells(app);
app.composer = composer(app);
app.wall = wall(app);
app.photos = photoList(app);
app.viewer = viewer(app);
app.plan = planner(app);
beside(app);
const run = progress(app);

// Cells that were asked for stand on the wall at once.
app.submit = async (wanted) => {
  const [job, isNews] = await app.cells.answered(api.submit(wanted));
  job.cells.filter(isNews).forEach(app.cells.tell);
  byId("save").hidden = false;
  if (Object.keys(job.broken).length) banner("broken", "Photos that cannot be read were left out:", Object.values(job.broken));
  byId("wall").scrollTop = 0;
  if (matchMedia("(max-width: 760px)").matches) document.querySelector(".wall").scrollIntoView();
  say(`${job.cells.length === 1 ? "One picture is" : `${job.cells.length} pictures are`} being made`);
};

app.retry = async (key) => {
  try {
    const [cell, isNews] = await app.cells.answered(api.retry(key));
    if (cell?.key && isNews(cell)) app.cells.tell(cell);
  } catch (refused) {
    app.refused(refused);
  }
};

const picks = calmly(30, () => {
  const number = app.cells.picked.size;
  byId("picks").hidden = byId("picks-file").hidden = !number;
  byId("picked").textContent = `${number} picked`;
  byId("compare").disabled = number < 2;
});

byId("unpick").addEventListener("click", () => [...app.cells.picked].forEach((key) => app.cells.pick(key, false)));

function told(state) {
  const another = app.state && state.boot !== app.state.boot;
  app.state = state;
  byId("folder").textContent = byId("folder").title = state.folder || state.out;
  byId("model").textContent = state.loading ? `${state.model} is being loaded …` : state.model;
  if (state.problem) banner("problem", [state.problem.error, state.problem.hint].filter(Boolean).join(" – ")); else unbanner("problem");
  byId("save").hidden = !state.cells;
  byId("cut").hidden = !state.cut;
  byId("cut").textContent = `This run holds more than the ${count(state.cells, "picture", "pictures")} that stand here: ip2pbatch status counts all of them.`;
  byId("use-recipe").hidden = !state.recipe;
  run.show(state.running);
  app.composer.fit();
  return another;
}

const finished = calmly(600, () => {
  const open = app.wall.sequence().length;
  if (open) say(`${open} pictures are there`);
});

app.addEventListener("cell", ({ detail: { cell } }) => { picks(); if (over(cell) && cell.photo === app.photo?.id) finished(); });

// --- what the server tells ------------------------------------------------------------------------------------------
let latest = {};  // what events have said of the state since it was last asked for

async function everything() {
  const first = !app.state;
  latest = {};
  const answer = await api.state();
  // An answer may be older than the events that came before it: what was heard of in between is believed.
  const another = told({ ...answer, ...latest });
  if (another) app.cells.forget();
  if (first || another) await app.photos.load(); else app.photos.again();
  app.wall.again();
  await app.cells.all({ only: "picked" }, picks);
  picks();
}

const anew = calmly(200, () => everything().then(() => gone(false), (refused) => app.refused(refused)));

const HEARD = {
  cell: (cell) => app.cells.hear(cell),
  job: (job) => {
    if (job.state === "cancelled") app.wall.again();
    if (job.state === "failed") app.banner("form", [job.error, job.hint].filter(Boolean).join(" – "));
  },
  run: (now) => {
    latest.running = now;
    if (app.state) run.show(now);
  },
  state: (state) => {
    latest = state;
    if (told(state)) anew();
  },
  photos: () => app.photos.again(),
  reset: () => anew(),
};

// A line that is back within two seconds is no news.
let [lost, waits] = [false, null];
function gone(yes, refused = false) {
  if (!yes) {
    clearTimeout(waits);
    waits = null;
    unbanner("gone");
    unbanner("refused");
    if (lost) { lost = false; anew(); }
    return;
  }
  waits ??= setTimeout(() => {
    lost = true;
    banner("gone", NO_ANSWER);
  }, 2000);
  if (refused) deny();
}

// The studio is there, and does not let this page listen.
async function deny() {
  const why = await api.state().then(() => "Too many pages of this studio are open: close some, and this one goes on by itself.", ({ status }) => (status === 401 ? NO_KEY : null));
  if (waits === null || !why) return;
  lost = true;
  banner("gone", why);
}

// Only a page that listens asks: nothing happens unheard between an answer and the first event.
const listens = new Promise((settled) => {
  api.listen(Object.keys(HEARD), (kind, data) => HEARD[kind](data), (isLost, refused) => { settled(); gone(isLost, refused); });
});
listens.then(everything).catch((refused) => app.refused(refused));
