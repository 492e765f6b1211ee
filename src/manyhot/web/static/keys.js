// The keyboard: one table of keys that is also what `?` shows.

import { byId, h, openSheet, table } from "./dom.js";

const FIELDS = "input:not([type=range]), select, textarea";

export function listen(keys) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.matches?.(FIELDS)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (byId("sheet").open) return;
    const found = keys.find((one) => one.keys.includes(event.key) && (!one.when || one.when(event)));
    if (found && found.act(event) !== false) event.preventDefault();
  });
  byId("help").addEventListener("click", () => showKeys(keys));
}

export function showKeys(keys) {
  const names = { " ": "Space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
  const rows = keys.filter((one) => one.words).map((one) =>
    [h("span", {}, ...one.keys.flatMap((key) => [h("kbd", {}, names[key] ?? key), " "])), one.words]);
  openSheet("Keys", table(["key", "does"], rows));
}
