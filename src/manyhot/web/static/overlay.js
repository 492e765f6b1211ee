// A picture with what lies on it: true objects, boxes that were found, heat of a class; and the controls of these.

import { HEAT } from "./colours.js";
import { fixed, h, number, s, say } from "./dom.js";
import { set, state } from "./state.js";

const WAIT = 120; // ms before heat is asked for: who leafs through pictures asks for none
const KEPT = 12;
const WEAK = 0.1; // of the score of a class's best box: a detector leaves dozens of such, and they hide the picture
const LETTER = 13; // pixels on the screen
const LAYERS = [["truth", "true objects"], ["found", "detections"], ["heat", "heat map"]];

export const isShown = (layer) => state.layers.split(",").includes(layer);

export function toggleLayers(...layers) {
  const now = state.layers.split(",").filter(Boolean);
  const on = layers.some((one) => now.includes(one));
  const rest = now.filter((one) => !layers.includes(one));
  set({ layers: (on ? rest : [...rest, ...layers]).join(",") }, { replace: true });
}

export class Overlay {
  constructor() {
    this.figure = h("figure", { class: "large" });
    this.heat = s("image", { class: "heat", preserveAspectRatio: "none" });
    this.buttons = LAYERS.map(([layer]) => h("button", {
      type: "button", class: "filter", "data-action": layer, onclick: () => toggleLayers(layer),
    }));
    this.classes = h("select", { "aria-label": "Class of the heat map", onchange: () => set({ of: this.classes.value }, { replace: true }) });
    this.opacity = this.#slider("opacity", "Opacity");
    this.cut = this.#slider("cut", "From heat");
    this.words = h("p", { class: "quiet", role: "status" });
    this.settings = h("div", { class: "heat-settings" },
      h("label", { class: "inline" }, "Class", this.classes), this.opacity.label, this.cut.label, scale(), this.words);
    this.controls = h("div", { class: "layers", role: "group", "aria-label": "Shown on the picture" },
      h("div", { class: "acts" }, ...this.buttons), this.settings);
    this.maps = new Map();
    new ResizeObserver(() => this.#letter()).observe(this.figure);
  }

  // one: {key, id, href, size, trouble, image, boxes, found, by, classes, c, order, heat(c, signal) → bytes, or why not}.
  show(one) {
    if (this.one?.key !== one.key || this.one.c !== one.c) this.#draw(one);
    this.one = one;
    this.#letter();
    this.update();
  }

  // What the address says of layers, class, opacity and cut-off.
  update() {
    const { one } = this;
    if (!one) return;
    const [strong, all] = [strongest(one.found).length, one.found.length];
    const counts = { truth: number(one.boxes.length), found: strong < all ? `${number(strong)} of ${number(all)}` : number(all) };
    const left = strong < all ? "; left out: boxes below a tenth of the best score of their class" : "";
    LAYERS.forEach(([layer, words], i) => {
      const count = counts[layer];
      say(this.buttons[i], count === undefined ? words : `${words} ${count}`);
      this.buttons[i].hidden = count === "0" || Boolean(one.trouble);
      this.buttons[i].title = layer === "found" && one.by ? `by ${one.by}${left}` : "";
      this.buttons[i].setAttribute("aria-pressed", isShown(layer));
      const drawn = this.figure.querySelector(`.${layer}-layer`);
      if (drawn) drawn.style.display = isShown(layer) ? "" : "none";
    });
    const on = isShown("heat") && !one.trouble;
    this.settings.hidden = !on;
    this.heat.style.display = on ? "" : "none";
    if (on) this.#heat();
    else this.asking?.abort();
  }

  // The class whose heat is shown: the one in the address, else the picture's own.
  get c() {
    const asked = this.one.classes.indexOf(state.of);
    return asked < 0 ? this.one.c : asked;
  }

  #draw(one) {
    this.asking?.abort();
    this.asking = this.painted = undefined;
    this.heat.removeAttribute("href");
    delete this.figure.dataset.heat;
    if (one.trouble || !one.size) {
      this.figure.className = "large gone";
      this.figure.replaceChildren(h("b", {}, one.trouble ?? "no picture"), h("span", {}, one.image));
      return;
    }
    const [width, height] = one.size;
    const name = one.classes[one.c];
    for (const [key, value] of [["width", width], ["height", height]]) this.heat.setAttribute(key, value);
    const told = one.boxes.length ? `, with ${one.boxes.length} true object${one.boxes.length === 1 ? "" : "s"}` : "";
    this.figure.className = "large";
    this.figure.replaceChildren(s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${one.id}${told}` },
      s("image", { href: one.href, width, height }), this.heat,
      s("g", { class: "found-layer" }, ...strongest(one.found).reverse().flatMap((box) => drawn(box, {
        kind: `found${box.name === name ? " own" : ""}`, words: `${box.name} ${fixed(box.score, 2)}`, below: true }))),
      s("g", { class: "truth-layer" }, ...one.boxes.flatMap((box) => drawn(box, {
        kind: `${box.name === name ? "own" : ""}${box.difficult ? " difficult" : ""}`,
        words: box.name + (box.difficult ? " (difficult)" : "") })))));
    this.classes.replaceChildren(...one.order.map((i) => h("option", { value: one.classes[i] }, one.classes[i])));
  }

  // Names of boxes keep their size on the screen, however large the picture is drawn.
  #letter() {
    const drawing = this.figure.querySelector("svg");
    if (!drawing || !drawing.clientWidth) return;
    const [width, height] = this.one.size;
    const scale = Math.min(drawing.clientWidth / width, drawing.clientHeight / height);
    drawing.style.setProperty("--letter", `${LETTER / scale}px`);
  }

  #slider(key, words) {
    const output = h("output", {});
    const input = h("input", { type: "range", min: 0, max: 1, step: 0.01, "data-action": key,
      oninput: () => set({ [key]: input.value }, { replace: true }) });
    return { input, output, label: h("label", { class: "slider" }, h("span", {}, words), input, output) };
  }

  async #heat() {
    const { one, c } = this;
    this.classes.value = one.classes[c];
    for (const [key, { input, output }] of [["opacity", this.opacity], ["cut", this.cut]]) {
      if (document.activeElement !== input) input.value = share(state[key]);
      say(output, fixed(share(state[key]), 2));
    }
    this.heat.style.opacity = share(state.opacity);
    if (typeof one.heat !== "function") { say(this.words, one.heat); return; }
    const key = `${one.key}/${c}`;
    if (this.maps.has(key)) { this.#paint(key); return; }
    if (this.asked === key && this.asking && !this.asking.signal.aborted) return;
    this.asking?.abort();
    const { signal } = (this.asking = new AbortController());
    this.asked = key;
    this.heat.removeAttribute("href");
    this.painted = undefined;
    delete this.figure.dataset.heat;
    say(this.words, "The model looks at the picture …");
    try {
      await new Promise((go) => { setTimeout(go, WAIT); });
      signal.throwIfAborted();
      const map = await one.heat(c, signal);
      this.maps.set(key, map);
      if (this.maps.size > KEPT) this.maps.delete(this.maps.keys().next().value);
      if (!signal.aborted) this.#paint(key);
    } catch (error) {
      if (signal.aborted) return;
      this.asking = undefined; // the next change asks anew
      say(this.words, error.message);
    }
  }

  #paint(key) {
    const cut = Math.round(255 * share(state.cut));
    if (this.painted === `${key}/${cut}`) return;
    this.painted = `${key}/${cut}`;
    const bytes = this.maps.get(key);
    const [width, height] = new Uint32Array(bytes, 0, 2);
    const heat = new Uint8Array(bytes, 8);
    const pixels = new ImageData(width, height);
    for (let i = 0; i < heat.length; i++) {
      for (let k = 0; k < 3; k++) pixels.data[4 * i + k] = HEAT[3 * heat[i] + k];
      pixels.data[4 * i + 3] = heat[i] >= cut ? 255 : 0;
    }
    const canvas = h("canvas", { width, height });
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    const wanted = this.painted;
    canvas.toBlob((blob) => {
      if (this.painted !== wanted) return;
      if (this.url) URL.revokeObjectURL(this.url);
      this.url = URL.createObjectURL(blob);
      this.heat.setAttribute("href", this.url);
      this.figure.dataset.heat = key;
      this.figure.dataset.cut = cut;
    });
    say(this.words, `Heat of ${this.one.classes[this.c]}: up to ${fixed(heat.reduce((a, b) => Math.max(a, b), 0) / 255, 2)}, what the model would say of this place alone.`);
  }
}

// Boxes of each class that come near its best one, best first.
function strongest(found) {
  const best = {};
  for (const { name, score } of found) best[name] = Math.max(best[name] ?? 0, score);
  return found.filter(({ name, score }) => score >= WEAK * best[name]);
}

const share = (text) => { const value = Number(text); return value >= 0 && value <= 1 ? value : 0; };

function drawn(box, { kind, words, below }) {
  return [
    s("rect", { class: `box ${kind}`, x: box.x0, y: box.y0, width: Math.max(0, box.x1 - box.x0), height: Math.max(0, box.y1 - box.y0) }),
    s("text", { class: `box-name ${kind}`, x: box.x0, y: below ? box.y1 : box.y0, dx: "0.3em", dy: below ? "-0.4em" : "1.1em" }, words)];
}

// What colour stands for what heat.
function scale() {
  const canvas = h("canvas", { width: 256, height: 1, "aria-hidden": "true" });
  const pixels = new ImageData(256, 1);
  for (let i = 0; i < 256; i++) pixels.data.set([HEAT[3 * i], HEAT[3 * i + 1], HEAT[3 * i + 2], 255], 4 * i);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return h("div", { class: "scale", role: "img", "aria-label": "Colours of heat: dark blue is 0, green the middle, yellow is 1" },
    canvas, h("div", { "aria-hidden": "true" }, h("span", {}, "0"), h("span", {}, "0.5"), h("span", {}, "1")));
}
