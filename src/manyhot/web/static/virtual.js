// A list of any length of which only the part in sight exists. Browsers end a page at some 30 million pixels; a list
// that would be longer gets a shorter scroll bar: small moves are exact, drags and jumps are in proportion.

const LONGEST = 8_000_000;
const AHEAD = 1; // rows kept above and below the part in sight

export class Virtual {
  // layout(width, height) → {columns, width, height} of an item with its gap; create() → element; update(element, index).
  constructor(scroller, { layout, create, update, moved = () => {} }) {
    Object.assign(this, { scroller, layout, create, update, moved, count: 0, top: 0, last: 0 });
    this.space = document.createElement("div");
    this.space.className = "space";
    this.space.setAttribute("role", "presentation");
    scroller.append(this.space);
    this.shown = new Map();
    this.free = [];
    this.measure();
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    new ResizeObserver(() => this.resize()).observe(scroller);
  }

  get #full() { return Math.max(0, Math.ceil(this.count / this.columns) * this.itemHeight - this.visible); }
  get #span() { return Math.max(0, Math.min(this.#full + this.visible, LONGEST) - this.visible); }

  get first() { return Math.min(Math.round(this.top / this.itemHeight) * this.columns, Math.max(0, this.count - 1)); }

  get rowsInSight() { return Math.max(1, Math.floor(this.visible / this.itemHeight)); }

  measure() {
    this.visible = this.scroller.clientHeight;
    const found = this.layout(this.scroller.clientWidth, this.visible);
    Object.assign(this, { columns: found.columns, itemWidth: found.width, itemHeight: found.height });
  }

  resize() {
    const first = this.first;
    this.measure();
    this.#extend();
    this.toIndex(first);
    this.refresh();
  }

  #extend() {
    const height = `${this.#span + this.visible}px`;
    if (this.space.style.height !== height) this.space.style.height = height;
  }

  // A list of another length or content, from item `at` on.
  reset(count, at = 0) {
    this.count = count;
    this.#extend();
    this.toIndex(at);
    this.refresh();
  }

  // Writes all items in sight anew.
  refresh() {
    for (const [index, element] of this.shown) if (index < this.count) this.update(element, index);
    this.#draw();
  }

  toIndex(index) { this.#move(Math.floor(index / this.columns) * this.itemHeight); }

  // Scrolls as little as brings an item into sight.
  reveal(index) {
    const y = Math.floor(index / this.columns) * this.itemHeight;
    if (y < this.top) this.#move(y);
    else if (y + this.itemHeight > this.top + this.visible) this.#move(y + this.itemHeight - this.visible);
    this.#draw();
  }

  element(index) { return this.shown.get(index); }

  #move(top) {
    this.top = Math.max(0, Math.min(top, this.#full));
    this.#settle();
    this.#later();
  }

  // Puts the scroll bar where it belongs.
  #settle() {
    const place = this.#full > 0 ? (this.top / this.#full) * this.#span : 0;
    if (Math.abs(place - this.scroller.scrollTop) >= 1) this.scroller.scrollTop = place;
    this.last = this.scroller.scrollTop;
  }

  #scrolled() {
    const now = this.scroller.scrollTop;
    const step = now - this.last;
    this.last = now;
    const [full, span] = [this.#full, this.#span];
    if (Math.abs(step) >= 0.5) {
      if (full <= span) this.top = now;
      else if (now <= 0) this.top = 0;
      else if (now >= span - 1) this.top = full;
      else if (Math.abs(step) < 2 * this.visible) this.top = Math.max(0, Math.min(this.top + step, full));
      else this.top = (now / span) * full;
      clearTimeout(this.settling);
      this.settling = setTimeout(() => { if (full > span) { this.#settle(); this.#later(); } this.moved(); }, 150);
    }
    this.#later();
  }

  #later() {
    this.frame ??= requestAnimationFrame(() => { this.frame = undefined; this.#draw(); });
  }

  #release(element) {
    element.hidden = true;
    element.removeAttribute("id");
    this.free.push(element);
  }

  #draw() {
    if (!this.visible) return;
    const from = Math.max(0, Math.floor(this.top / this.itemHeight) - AHEAD) * this.columns;
    const rows = Math.ceil(this.visible / this.itemHeight) + 1 + 2 * AHEAD;
    const to = Math.min(this.count, from + rows * this.columns);
    for (const [index, element] of this.shown) {
      if (index < from || index >= to) {
        this.shown.delete(index);
        this.#release(element);
      }
    }
    const shift = this.scroller.scrollTop - this.top;
    for (let index = from; index < to; index++) {
      let element = this.shown.get(index);
      if (!element) {
        element = this.free.pop() ?? this.space.appendChild(this.create());
        element.hidden = false;
        this.shown.set(index, element);
        this.update(element, index);
      }
      const y = Math.floor(index / this.columns) * this.itemHeight + shift;
      element.style.transform = `translate(${(index % this.columns) * this.itemWidth}px, ${y}px)`;
      element.style.width = `${this.itemWidth}px`;
      element.style.height = `${this.itemHeight}px`;
    }
    while (this.free.length > 2 * this.columns) this.free.pop().remove();
  }
}
