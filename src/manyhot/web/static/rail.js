// The classes: found, sorted, each with its AP, positives, threshold and a bar.

import { byId, fixed, h, number, say } from "./dom.js";
import { set, state } from "./state.js";
import { Virtual } from "./virtual.js";

const HEIGHT = 46;

export class Rail {
  constructor(about, choose) {
    this.classes = about.classes.map((name, index) => ({ index, name, threshold: about.thresholds[index] }));
    this.choose = choose;
    this.box = byId("rail");
    this.list = this.classes;
    this.virtual = new Virtual(this.box, {
      layout: (width) => ({ columns: 1, width: Math.max(width, 1), height: HEIGHT }),
      create: () => h("div", { class: "class", role: "option" },
        h("span", { class: "name" }), h("span", { class: "figure" }),
        h("span", { class: "track", "aria-hidden": "true" }, h("span")), h("span", { class: "more" })),
      update: (element, place) => this.#update(element, this.list[place], place),
    });
    this.box.addEventListener("click", (event) => {
      const item = event.target.closest(".class");
      if (item) choose(Number(item.dataset.class));
    });
    this.box.addEventListener("keydown", (event) => this.#key(event));
    byId("find").addEventListener("input", () => set({ find: byId("find").value }, { replace: true }));
    byId("find").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && this.list.length) choose(this.list[0].index);
      if (event.key === "ArrowDown") { event.preventDefault(); this.box.focus(); }
    });
    byId("sort").addEventListener("change", () => set({ sort: byId("sort").value }));
  }

  measured(measures) {
    measures.forEach((one, i) => Object.assign(this.classes[i], one, { measured: true }));
    this.render();
  }

  render() {
    const find = state.find.trim().toLowerCase();
    if (byId("find").value !== state.find) byId("find").value = state.find;
    byId("sort").value = state.sort;
    const orders = {
      name: (a, b) => a.name.localeCompare(b.name),
      ap: (a, b) => (b.ap ?? -1) - (a.ap ?? -1),
      worst: (a, b) => (a.ap ?? 2) - (b.ap ?? 2),
      positives: (a, b) => (b.n_positive ?? 0) - (a.n_positive ?? 0),
    };
    this.list = this.classes.filter((one) => one.name.toLowerCase().includes(find));
    if (orders[state.sort]) this.list.sort(orders[state.sort]);
    const place = this.list.findIndex((one) => one.name === state.class);
    this.virtual.reset(this.list.length, 0);
    if (place >= 0) this.virtual.reveal(place);
    this.#point(place);
    const all = this.classes.length;
    say(byId("rail-count"), this.list.length ? `${number(this.list.length)} of ${number(all)} classes`
      : `No class of ${number(all)} is called so.`);
  }

  // The class before or behind the chosen one, in the order of the rail.
  neighbour(step) {
    const place = this.list.findIndex((one) => one.name === state.class);
    return this.list[Math.max(0, Math.min(place + step, this.list.length - 1))]?.index;
  }

  #key(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 };
    if (!(event.key in steps) || !this.list.length) return;
    event.preventDefault();
    event.stopPropagation();
    this.choose(this.neighbour(steps[event.key]));
  }

  #point(place) {
    const element = this.virtual.element(place);
    if (element) this.box.setAttribute("aria-activedescendant", element.id);
    else this.box.removeAttribute("aria-activedescendant");
  }

  #update(element, one, place) {
    const [name, figure, track, more] = element.children;
    say(name, one.name);
    say(figure, one.measured ? fixed(one.ap) : "…");
    track.firstChild.style.width = `${(one.ap ?? 0) * 100}%`;
    const positives = one.measured ? `${number(one.n_positive)} positive${one.n_positive === 1 ? "" : "s"}` : "measuring";
    const threshold = one.threshold >= 1 ? "never predicted" : `above ${fixed(one.threshold, 2)}`;
    say(more, `${positives} · ${threshold}`);
    element.id = `class-${one.index}`;
    element.title = one.name;
    element.dataset.class = one.index;
    element.setAttribute("aria-selected", one.name === state.class);
    element.setAttribute("aria-posinset", place + 1);
    element.setAttribute("aria-setsize", this.list.length);
    element.setAttribute("aria-label", `${one.name}, AP ${one.measured ? fixed(one.ap) : "not measured yet"}, ${positives}, ${threshold}`);
  }
}
