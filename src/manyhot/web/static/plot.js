// Plots as SVG of our own: a line or bars, what stands under the pointer in words, colours of the page.

import { fixed, h, s, say } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [300, 178, 38, 10, 8, 32];

function ticks([low, high], n = 5) {
  const raw = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((one) => one >= raw);
  const found = [];
  for (let x = Math.ceil(low / step - 1e-9) * step; x <= high + step * 1e-6; x += step) found.push(Number(x.toPrecision(10)));
  return found;
}

// lines: [{name, points: [[x, y]…], second}]; point: [x, y] to mark; xs, ys: ranges; whole: x counts something.
export function linePlot({ title, xLabel, lines, point, xs = [0, 1], ys = [0, 1], empty, pick, step, whole }) {
  const x = (value) => LEFT + ((value - xs[0]) / (xs[1] - xs[0] || 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - ys[0]) / (ys[1] - ys[0] || 1)) * (HEIGHT - TOP - BOTTOM);
  const drawing = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", role: "img", "aria-label": alt() });
  for (const value of ticks(ys)) {
    drawing.append(s("line", { class: "gridline", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
      s("text", { class: "tick", x: LEFT - 5, y: y(value) + 3.5, "text-anchor": "end" }, short(value)));
  }
  for (const value of ticks(xs).filter((one) => !whole || Number.isInteger(one))) {
    drawing.append(s("text", { class: "tick", x: x(value), y: HEIGHT - BOTTOM + 13, "text-anchor": "middle" }, short(value)));
  }
  drawing.append(s("text", { class: "axis", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, xLabel));
  for (const { points, second } of lines) {
    drawing.append(s("path", { class: second ? "line second" : "line", d: path(points) }));
    if (points.length === 1) drawing.append(s("circle", { class: second ? "dot second" : "dot", r: 3, cx: x(points[0][0]), cy: y(points[0][1]) }));
  }
  const marked = s("circle", { class: "point", r: 4.5 });
  const hover = s("line", { class: "hover", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  drawing.append(hover, marked);
  if (empty) drawing.append(s("text", { class: "tick", x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, empty));
  const words = h("span", { class: "under" });
  drawing.addEventListener("pointermove", (event) => {
    const value = at(event);
    if (value === null || empty) return;
    hover.setAttribute("x1", x(value));
    hover.setAttribute("x2", x(value));
    hover.setAttribute("visibility", "visible");
    say(words, lines.map((line) => nearest(line, value)).join(" · "));
  });
  drawing.addEventListener("pointerleave", () => { hover.setAttribute("visibility", "hidden"); say(words, ""); });
  if (pick) drawing.addEventListener("click", (event) => { const value = at(event); if (value !== null) pick(value); });
  const mark = (place) => {
    marked.setAttribute("visibility", place && place.every(Number.isFinite) ? "visible" : "hidden");
    if (place && place.every(Number.isFinite)) { marked.setAttribute("cx", x(place[0])); marked.setAttribute("cy", y(place[1])); }
  };
  mark(point);
  return { content: [h("figcaption", {}, h("b", {}, title), " ", words), drawing], mark };

  function path(points) {
    if (!step) return points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
    return points.map(([a, b], i) => {
      const from = step === "before" ? (i ? points[i - 1][0] : xs[0]) : a;
      const to = step === "before" ? a : points[i + 1]?.[0] ?? a;
      return `${i ? "L" : "M"}${x(from).toFixed(1)} ${y(b).toFixed(1)}H${x(to).toFixed(1)}`;
    }).join("");
  }
  function at(event) {
    const box = drawing.getBoundingClientRect();
    const value = xs[0] + (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT) * (xs[1] - xs[0]);
    return value < xs[0] || value > xs[1] ? null : value;
  }
  function nearest(line, value) {
    if (!line.points.length) return "";
    const found = line.points.reduce((best, one) => (Math.abs(one[0] - value) < Math.abs(best[0] - value) ? one : best));
    return `${line.name} ${precise(found[1])} at ${precise(found[0])}`;
  }
  function alt() {
    if (empty) return `${title}: ${empty}`;
    return `${title}: ${lines.map((line) => `${line.name} from ${precise(line.points[0]?.[1])} to ${precise(line.points.at(-1)?.[1])}`).join(", ")}`;
  }
}

function short(value) {
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(0).replace("e-", "e−");
  return Math.abs(value) >= 10000 ? `${Number((value / 1000).toPrecision(4))}k` : String(Number(value.toPrecision(4)));
}

function precise(value) {
  if (value === undefined) return "–";
  return Number.isInteger(value) ? String(value) : Math.abs(value) < 1e-3 ? value.toExponential(2) : fixed(value);
}
