// The whole state of the page is its address: back and forward work, a link opens the same view.

const DEFAULTS = {
  view: "gallery", class: "", order: "top", show: "", with: "", t: "", at: "0", row: "", sort: "table", find: "",
  layers: "truth,found", of: "", opacity: "0.6", cut: "0", q: "", seek: "",
};

// What lies on a picture, and how: changes nothing else.
export const ON_PICTURES = ["layers", "of", "opacity", "cut"];

function read() {
  const asked = new URLSearchParams(location.search);
  const found = { ...DEFAULTS };
  for (const key of Object.keys(DEFAULTS)) if (asked.has(key)) found[key] = asked.get(key);
  return found;
}

export const state = read();
const listeners = [];

export const subscribe = (listener) => listeners.push(listener);

export function address(changes) {
  const next = { ...state, ...changes };
  const shown = Object.entries(next).filter(([key, value]) => value !== DEFAULTS[key]);
  return `?${new URLSearchParams(shown)}`;
}

// Changes the state; `replace` for what moves in small steps and deserves no place in the history.
export function set(changes, { replace = false } = {}) {
  const text = Object.fromEntries(Object.entries(changes).map(([key, value]) => [key, String(value)]));
  if (Object.entries(text).every(([key, value]) => state[key] === value)) return;
  write(address(text), replace);
  const before = { ...state };
  Object.assign(state, text);
  for (const listener of listeners) listener(before);
}

// Browsers refuse more than some hundred changes of the address in half a minute: small steps wait for each other.
let waiting;
function write(text, replace) {
  clearTimeout(waiting);
  waiting = undefined;
  if (!replace) history.pushState(null, "", text);
  else waiting = setTimeout(() => history.replaceState(null, "", text), 200);
}

addEventListener("popstate", () => {
  clearTimeout(waiting);
  const before = { ...state };
  Object.assign(state, read());
  for (const listener of listeners) listener(before);
});
