// Asking the server, with faults in words.

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The gallery's server does not answer. Is “manyhot browse” still running?");
  }
  if (response.ok) return response;
  let detail = `The server answered ${response.status}.`;
  try {
    detail = (await response.json()).detail ?? detail;
  } catch { /* no JSON: the number must do */ }
  throw new Error(detail);
}

export const getJson = async (path, options) => (await ask(path, options)).json();
export const getBytes = async (path, options) => (await ask(path, options)).arrayBuffer();

export async function post(path, body) {
  const headers = { "content-type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body ?? {}) })).json();
}

// A file as the body, as it is; `options` may hold a signal.
export const sendFile = (path, file, options) =>
  ask(path, { method: "POST", headers: { "content-type": "application/octet-stream" }, body: file, ...options });

export const thumbnail = (row) => `/api/pictures/${row}/thumbnail?placeholder=1`;
export const large = (row) => `/api/pictures/${row}/image?placeholder=1`;

// Ids of pictures, asked for many at a time and kept.
const names = new Map();
const KEPT = 20000;

async function namesOf(rows) {
  const missing = rows.filter((row) => !names.has(row)).slice(0, 500);
  if (missing.length) {
    const found = await getJson(`/api/pictures?rows=${missing.join(",")}`);
    if (names.size > KEPT) names.clear();
    missing.forEach((row, i) => names.set(row, found[i]));
  }
}

// Calls `written` once the name of a picture is known; what is asked for at about the same time is asked for at once.
let waiting;
let timer;
export function whenNamed(row, written) {
  waiting ??= new Map();
  waiting.set(row, written);
  clearTimeout(timer);
  timer = setTimeout(async () => {
    const asked = waiting;
    waiting = undefined;
    try {
      await namesOf([...asked.keys()]);
    } catch {
      return; // pictures stay numbered; the next request will say what is wrong
    }
    for (const write of asked.values()) write();
  }, 120);
}

export const nameOf = (row) => names.get(row);
