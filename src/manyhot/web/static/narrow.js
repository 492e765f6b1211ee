// On a narrow screen the classes and the curves wait behind a button.

import { byId } from "./dom.js";

export function narrow(opened) {
  const small = matchMedia("(max-width: 60rem)");
  const fit = () => { byId("panel").open = !small.matches; };
  small.addEventListener("change", fit);
  fit();
  byId("classes-toggle").addEventListener("click", () => {
    const open = byId("rail-box").classList.toggle("open");
    byId("classes-toggle").setAttribute("aria-expanded", String(open));
    if (open) requestAnimationFrame(() => requestAnimationFrame(opened)); // once the list has a height
  });
}
