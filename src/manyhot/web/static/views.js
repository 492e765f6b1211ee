// The pictures that a run logs while it trains, the newest first; found by their name.

import { getJson } from "./api.js";
import { byId, h, number, openSheet, say } from "./dom.js";
import { set, state } from "./state.js";

const PAGE = 60;

const source = ([name, time], large) => `/api/views/${encodeURIComponent(name)}?t=${time}${large ? "&large=1" : ""}`;

export class LoggedViews {
  constructor() {
    this.last = PAGE;
    this.tiles = new Map();
    this.input = h("input", { type: "search", placeholder: "Find by name", "aria-label": "Find a picture of the run by name", autocomplete: "off", spellcheck: "false",
      oninput: () => { this.last = PAGE; set({ seek: this.input.value }, { replace: true }); } });
    this.count = h("output", { class: "quiet" });
    this.list = h("div", { class: "views" });
    this.more = h("button", { type: "button", hidden: true, onclick: () => { this.last += PAGE; this.ask(); } }, "Show older ones");
    this.words = h("p", { class: "words" });
    this.box = h("section", { class: "logged", "aria-label": "Pictures of the run" },
      h("div", { class: "tools" }, h("h2", {}, "Pictures of the run"), this.input, this.count), this.words, this.list, this.more);
  }

  async ask() {
    if (this.input.value !== state.seek) this.input.value = state.seek;
    const turn = (this.turn = {});
    const found = await getJson(`/api/views?${new URLSearchParams({ find: state.seek, last: Math.min(this.last, 1000) })}`);
    if (turn === this.turn) this.#draw(found);
  }

  #draw({ n, found, views }) {
    say(this.count, n ? `${number(found)} of ${number(n)}` : "");
    this.input.hidden = !n;
    this.words.hidden = found > 0;
    say(this.words, n ? `No picture of ${number(n)} is called so.` : "The run has logged no picture yet.");
    this.more.hidden = views.length >= found || this.last >= 1000;
    const text = JSON.stringify(views);
    if (text === this.text) return;
    this.text = text;
    const before = this.tiles;
    this.tiles = new Map(views.reverse().map((one) => [one.join("/"), before.get(one.join("/")) ?? tile(one)]));
    const focused = document.activeElement;
    this.list.replaceChildren(...this.tiles.values());
    if (focused !== document.body && this.list.contains(focused)) focused.focus();
  }
}

function tile(one) {
  const [name] = one;
  return h("figure", { class: "view-tile" },
    h("button", { type: "button", "aria-label": `Show ${name}`, onclick: () => {
      openSheet(name, h("img", { class: "view-large", src: source(one, true), alt: name }));
      byId("sheet").querySelector("button").focus();
    } }, h("img", { src: source(one), alt: "", loading: "lazy", decoding: "async" })),
    h("figcaption", { title: name }, name));
}
