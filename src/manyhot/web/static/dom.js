// Elements without markup in strings: whatever a class or a file is called, it stays text.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const h = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);
export const s = (tag, properties = {}, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

// Sets text only where it changed: the page is not laid out anew for nothing.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let fading;
export function toast(text) {
  say(byId("toast"), text);
  clearTimeout(fading);
  fading = setTimeout(() => say(byId("toast"), ""), 4000);
}

// A sheet over the page with a heading and whatever stands below it.
export function openSheet(heading, ...content) {
  const sheet = byId("sheet");
  const close = h("button", { type: "button", onclick: () => sheet.close() }, "Close");
  sheet.replaceChildren(h("div", { class: "sheet-head" }, h("h2", {}, heading), close), ...content);
  sheet.setAttribute("aria-label", heading);
  if (!sheet.open) sheet.showModal();
}

export function table(headings, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" },
    h("table", { class: headings.length === 2 ? "words-table" : "" },
      h("thead", {}, h("tr", {}, ...headings.map((one) => h("th", { scope: "col" }, one)))),
      h("tbody", {}, ...rows.map((row) => h("tr", {},
        ...row.map((cell, i) => (i ? h("td", {}, cell) : h("th", { scope: "row" }, cell))))))));
}

export const number = (value) => value.toLocaleString("en");
export const fixed = (value, digits = 3) =>
  value === null || value === undefined || Number.isNaN(value) ? "–" : value.toFixed(digits);
