// A picture from outside: dropped or chosen, shown with its scores and its heat, and forgotten.

import { getJson, sendFile } from "./api.js";
import { byId, fixed, h, say } from "./dom.js";
import { bars, byScore } from "./facts.js";
import { isShown, Overlay, toggleLayers } from "./overlay.js";
import { state } from "./state.js";

export class TryPage {
  constructor(about) {
    Object.assign(this, { about, box: byId("try"), overlay: new Overlay(), number: 0 });
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) addEventListener(kind, (event) => this.#drag(event));
  }

  async show(visible) {
    this.visible = visible;
    if (!visible) return;
    document.title = `Try it · ${this.about.title}`;
    if (this.one) { this.overlay.show(this.one); return; }
    const heading = h("h1", {}, "Try a picture");
    try {
      this.model = await getJson("/api/model");
    } catch (error) {
      this.model = { model: false, why: error.message };
    }
    if (!this.model.model) { this.box.replaceChildren(heading, h("p", { class: "words" }, this.model.why)); return; }
    this.words ??= h("p", { class: "quiet", role: "status" });
    this.result ??= h("div", {});
    this.box.replaceChildren(heading,
      h("p", { class: "quiet" }, "The model of this run scores it on this machine. The picture is not stored."), this.#zone(), this.words, this.result);
  }

  #zone() {
    const input = h("input", { type: "file", accept: "image/*", hidden: true, "aria-label": "Picture",
      onchange: () => { if (input.files.length) this.take(input.files[0]); input.value = ""; } });
    return (this.zone ??= h("div", { class: "drop" },
      h("button", { type: "button", "data-action": "choose", onclick: () => input.click() }, "Choose a picture"),
      h("span", {}, "or drop one here"), input));
  }

  #drag(event) {
    if (!this.visible || !event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault(); // else the browser would leave the page and open the file
    this.zone?.classList.toggle("over", event.type === "dragenter" || event.type === "dragover");
    if (event.type === "drop" && this.model?.model && event.dataTransfer.files.length) this.take(event.dataTransfer.files[0]);
  }

  async take(file) {
    const turn = (this.turn = {});
    this.one = undefined;
    this.result.replaceChildren();
    if (file.size > this.model.limit) {
      say(this.words, `“${file.name}” is too large: a picture may have ${this.model.limit / 2 ** 20} MiB.`);
      return;
    }
    say(this.words, `The model looks at “${file.name}” …`);
    try {
      const seen = await (await sendFile("/api/try/scores", file)).json();
      const drawing = await (await sendFile("/api/try/image", file)).blob();
      if (turn === this.turn) this.#draw(file, seen, drawing);
    } catch (error) {
      if (turn === this.turn) say(this.words, `“${file.name}”: ${error.message}`);
    }
  }

  #draw(file, { size, scores }, drawing) {
    const { classes, thresholds } = this.model;
    const order = byScore(scores);
    const above = order.filter((i) => scores[i] > thresholds[i]);
    say(this.words, `${file.name}: ${above.length ? above.map((i) => `${classes[i]} ${fixed(scores[i])}`).join(", ") : "no class is above its threshold"}`);
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = URL.createObjectURL(drawing);
    this.one = {
      key: `tried ${++this.number}`, id: file.name, href: this.url, size, boxes: [], found: [], by: "", classes, c: order[0], order,
      heat: async (c, signal) => (await sendFile(`/api/try/heat?class_index=${c}`, file, { signal })).arrayBuffer(),
    };
    this.overlay.show(this.one);
    this.result.replaceChildren(h("div", { class: "picture-body" }, this.overlay.figure,
      h("div", { class: "side" }, this.overlay.controls, bars({ scores, classes, thresholds }, order[0]))));
    if (!isShown("heat") && state.layers !== "") toggleLayers("heat");
  }
}
