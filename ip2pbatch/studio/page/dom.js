// Elements. Text from people, files and models enters the page through textContent and properties only, never as markup.
export const byId = (id) => document.getElementById(id);

// An element with properties ("className", "textContent", …), attributes ("role", "aria-…", "data-…") and children.
export function node(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "role" || name.includes("-")) made.setAttribute(name, String(value)); else made[name] = value;
  }
  made.append(...children);
  return made;
}

export const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

export function choose(name, value) {
  document.querySelector(`input[name="${name}"][value="${value}"]`).checked = true;
}

// Said to a screen reader, when it has come to rest.
let saying;
export function say(text) {
  clearTimeout(saying);
  saying = setTimeout(() => { byId("heard").textContent = text; }, 300);
}

export const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// At most one call in `wait` milliseconds, the last one included.
export function calmly(wait, call) {
  let timer = null;
  return () => { timer ??= setTimeout(() => { timer = null; call(); }, wait); };
}
