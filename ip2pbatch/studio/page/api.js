// What the page asks of its server, and hears from it.
const CLIENT = (crypto.randomUUID?.() ?? String(Math.random()).slice(2)).slice(0, 64);

// A request that was refused, with the server's own words; status 0 where nobody answered.
export class Refused extends Error {
  constructor(status, { error, hint = "", where = "" }) {
    super(error);
    Object.assign(this, { status, hint, where });
  }
}

async function ask(method, path, body, type = "application/json") {
  const headers = { "X-Client": CLIENT };
  if (body !== undefined) headers["Content-Type"] = type;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body });
  } catch {
    throw new Refused(0, { error: "The studio does not answer.", hint: "start it again with ip2pbatch studio: this page goes on by itself" });
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  throw new Refused(answer.status, await answer.json().catch(() => ({ error: `The studio answered with ${answer.status}.` })));
}

const query = (path, values) => `${path}?${new URLSearchParams(values)}`;
const post = (path, body = {}) => ask("POST", path, JSON.stringify(body));
const cell = (key) => `/api/cells/${encodeURIComponent(key)}`;

export const state = () => ask("GET", "/api/state");
export const photos = (values) => ask("GET", query("/api/photos", values));
export const cells = (values) => ask("GET", query("/api/cells", values));
export const upload = (file) => ask("POST", query("/api/photos", { name: file.name }), file, "application/octet-stream");
export const submit = (job) => post("/api/jobs", job);
export const cancel = (job) => ask("DELETE", `/api/jobs/${encodeURIComponent(job)}`);
export const change = (key, what) => ask("PATCH", cell(key), JSON.stringify(what));
export const retry = (key) => post(`${cell(key)}/retry`);
export const look = (key) => post(`${cell(key)}/look`).catch(() => {});
export const check = (text) => post("/api/recipe/check", { text });
export const recipeFrom = (keys) => post("/api/recipe/from", { cells: keys });
export const run = (text) => post("/api/run", { text });
export const pause = (paused) => post("/api/run/pause", { paused });
export const stop = () => post("/api/run/stop");

export const photoPicture = (id, side) => query(`/api/photos/${encodeURIComponent(id)}/picture`, { side });
export const cellPicture = (one, at) => query(`${cell(one.key)}/picture`, { at });
export const cellPreview = (one) => query(`${cell(one.key)}/preview`, { n: one.preview });  // another address for each
// Why an address holds no picture, in the server's words.
export async function why(path) {
  const answer = await fetch(path, { headers: { "X-Client": CLIENT } }).catch(() => null);
  const said = answer && !answer.ok ? await answer.json().catch(() => null) : null;
  return said ? [said.error, said.hint].filter(Boolean).join(" – ") : "The picture did not come.";
}
export const download = (key) => `/api/download/picture/${encodeURIComponent(key)}`;

// Events until the page is closed: `hear(kind, data)`, and `lost(yes, refused)` as the server goes and comes back;
// `refused` where it is there and does not let this page listen.
export function listen(kinds, hear, lost) {
  const source = new EventSource("/api/events");
  for (const kind of kinds) source.addEventListener(kind, (event) => hear(kind, JSON.parse(event.data)));
  source.addEventListener("open", () => lost(false));
  source.addEventListener("error", () => {
    // A refusal ends an EventSource, where a lost line is tried again by itself.
    const refused = source.readyState === EventSource.CLOSED;
    lost(true, refused);
    if (refused) setTimeout(() => listen(kinds, hear, lost), 2000);
  });
}
