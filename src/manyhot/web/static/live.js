// How training goes: asks every two seconds while it is in sight, and goes on asking through a restart of the run.

import { getJson } from "./api.js";
import { byId, fixed, h, table } from "./dom.js";
import { linePlot } from "./plot.js";
import { LoggedViews } from "./views.js";

const EVERY = 2000;

export class LivePage {
  constructor(about) {
    Object.assign(this, { about, content: h("div", {}), views: new LoggedViews() });
    byId("live").append(this.content, this.views.box);
  }

  show(visible) {
    this.visible = visible;
    clearTimeout(this.timer);
    if (visible) this.#ask();
  }

  async #ask() {
    clearTimeout(this.timer);
    try {
      const found = await getJson("/api/live");
      const text = JSON.stringify(found.history);
      if (text !== this.text || !this.status) this.#draw(found);
      this.text = text;
      this.status.textContent = words(found);
      await this.views.ask();
    } catch (error) {
      this.status ??= this.content.appendChild(h("p", { class: "words", role: "status" }));
      this.status.textContent = error.message;
    }
    if (this.visible) this.timer = setTimeout(() => this.#ask(), EVERY);
  }

  #draw({ history }) {
    const open = this.content.querySelector("details")?.open;
    this.status = h("p", { class: "quiet", role: "status" });
    const parts = [h("h1", {}, `Learning: ${this.about.title}`), this.status];
    if (!this.about.n) parts.push(h("p", { class: "words" }, `No split is evaluated yet. After training: manyhot ${this.about.measured_by} RUN, then start the gallery anew.`));
    if (!history.length) parts.push(h("p", { class: "words" }, "No epoch is done yet. The first point comes with the first epoch."));
    else parts.push(h("div", { class: "plots" }, ...plots(history)), this.#table(history, open));
    this.content.replaceChildren(...parts);
  }

  #table(history, open) {
    const columns = [["train_loss", "training loss"], ["val_loss", "validation loss"], ["val_map", "validation mAP"], ["lr", "learning rate"],
      ["images_per_second", "images/s"]];
    const rows = history.slice(-30).reverse().map((line) => [String(line.epoch), ...columns.map(([key]) => figure(line[key]))]);
    return h("details", { open }, h("summary", {}, "The last 30 epochs as a table"), table(["epoch", ...columns.map((one) => one[1])], rows));
  }
}

function words({ history, epochs, quiet }) {
  const done = `${history.length} of ${epochs} epochs done`;
  if (quiet === null) return `${done}. The run has written nothing yet.`;
  const ago = quiet < 90 ? `${Math.round(quiet)} s` : quiet < 5400 ? `${Math.round(quiet / 60)} min` : `${Math.round(quiet / 3600)} h`;
  return `${done}. The run last wrote ${ago} ago.`;
}

function plots(history) {
  const line = (key, name, second) => ({ name, second, points: history.filter((one) => Number.isFinite(one[key])).map((one) => [one.epoch, one[key]]) });
  const found = [
    plot("Loss", [line("train_loss", "training", true), line("val_loss", "validation")]),
    plot("Validation mAP", [line("val_map", "mAP")], [0, 1]),
    plot("Learning rate", [line("lr", "learning rate")]),
    plot("Images a second", [line("images_per_second", "images/s")]),
  ].filter(Boolean);
  const last = history.at(-1).val_ap ?? {};
  const classes = Object.keys(last).sort((a, b) => (last[b] ?? -1) - (last[a] ?? -1));
  for (const name of classes.slice(0, 24)) {
    const points = history.filter((one) => Number.isFinite(one.val_ap?.[name])).map((one) => [one.epoch, one.val_ap[name]]);
    found.push(plot(`AP of ${name}`, [{ name: "AP", points }], [0, 1]));
  }
  return found.filter(Boolean);
}

function plot(title, lines, ys) {
  const kept = lines.filter((one) => one.points.length);
  if (!kept.length) return null;
  const all = kept.flatMap((one) => one.points);
  const [low, high] = [Math.min(...all.map((one) => one[1])), Math.max(...all.map((one) => one[1]))];
  const epochs = [Math.min(...all.map((one) => one[0])), Math.max(...all.map((one) => one[0]))];
  if (epochs[0] === epochs[1]) epochs[0] -= 1;
  const range = ys ?? (low === high ? [Math.min(0, low), high || 1] : [Math.min(low, low > 0 && low < high / 2 ? 0 : low), high]);
  const { content } = linePlot({ title, xLabel: "epoch", lines: kept, xs: epochs, ys: range, whole: true });
  const names = kept.length > 1 ? [h("span", { class: "legend" }, ...kept.map((one) => h("span", { class: one.second ? "second" : "" }, one.name)))] : [];
  return h("figure", { class: "plot-box" }, ...content, ...names);
}

const figure = (value) => (Number.isFinite(value) ? (value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2) : value > 100 ? value.toFixed(0) : fixed(value, 4)) : "–");
