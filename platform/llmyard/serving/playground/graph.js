// Facts as a graph: names in boxes, relations on arrows. A name is chosen by click or Enter, and dragged about.
import { make, makeSvg, uniqueId } from "./dom.js";
import { text } from "./language.js";
import { keepInside, layout } from "./layout.js";

const TALL = 16; // half of a box's height
const LONGEST = 22; // characters of a name that are drawn
const FONT = "500 14px system-ui, sans-serif"; // as in the style sheet: boxes are as wide as their names
const SMALL = "12.5px system-ui, sans-serif"; // of relations
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
// Where a label may stand on its arrow, best first: nearer the subject, as arrows cross in the middle.
const SHARES = [0.4, 0.5, 0.3, 0.6, 0.7];
const pen = document.createElement("canvas").getContext("2d");

function boxOf(name) {
  const characters = Array.from(name);
  const label = characters.length > LONGEST ? `${characters.slice(0, LONGEST - 1).join("")}…` : name;
  return { label, half: widthOf(label, FONT) / 2 + 14, tall: TALL };
}

function widthOf(content, font) {
  pen.font = font;
  return pen.measureText(content).width;
}

/** Returns the facts by their two names: several relations between the same two share an arrow. */
export function arrowsOf(triples) {
  const arrows = new Map();
  triples.forEach(({ subject, object, relation }, index) => {
    const key = JSON.stringify([subject, object]);
    if (!arrows.has(key)) arrows.set(key, { subject, object, relations: [], facts: [] });
    arrows.get(key).relations.push(relation);
    arrows.get(key).facts.push(index);
  });
  return [...arrows.values()];
}

export class Graph {
  /**
   * @param triples Of an answer.
   * @param look `classOf(name)` for the box's colour, `labelOf(name)` for who cannot see it, `choose(name)` on a click;
   *   null for none.
   */
  constructor(triples, look) {
    this.look = look;
    this.names = [...new Set(triples.flatMap((triple) => [triple.subject, triple.object]))];
    this.boxes = this.names.map(boxOf);
    this.arrows = arrowsOf(triples);
    this.node = make("div", { class: "graph" });
    this.width = 0;
    this.watcher = new ResizeObserver(() => this.fit());
    this.watcher.observe(this.node);
  }

  close() {
    this.watcher.disconnect();
  }

  /** Draws anew where the room has changed; a hidden tab has none. */
  fit() {
    const width = this.node.clientWidth;
    if (width < 40 || Math.abs(width - this.width) < 8) return;
    this.width = width;
    const index = new Map(this.names.map((name, i) => [name, i]));
    this.ends = this.arrows.map(({ subject, object, relations }) => [
      index.get(subject), index.get(object), widthOf(relations.join(", "), SMALL),
    ]);
    Object.assign(this, layout(this.boxes, this.ends, width)); // places and height
    this.draw();
  }

  draw() {
    const head = uniqueId("head");
    const tip = makeSvg("path", { d: "M0 0L8 4L0 8z" });
    const shape = { viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" };
    const marker = makeSvg("marker", { id: head, class: "tip", ...shape }, tip);
    this.lines = this.arrows.map(() => makeSvg("path", { class: "line", "marker-end": `url(#${head})` }));
    this.labels = this.arrows.map(({ relations }) => {
      const label = makeSvg("text", { class: "relation" });
      label.textContent = relations.join(", ");
      return label;
    });
    this.nodes = this.names.map((name, i) => this.drawBox(name, i));
    this.svg = makeSvg("svg", { viewBox: `0 0 ${this.width} ${this.height}`, role: "group" });
    this.svg.append(makeSvg("defs", {}, marker), ...this.lines, ...this.labels, ...this.nodes);
    this.node.replaceChildren(this.svg);
    this.name();
    this.names.forEach((_, i) => this.move(i));
    this.mark(this.chosen ?? {});
  }

  drawBox(name, i) {
    const { label, half, tall } = this.boxes[i];
    const box = makeSvg("rect", { x: -half, y: -tall, width: 2 * half, height: 2 * tall, rx: tall });
    const written = makeSvg("text");
    written.textContent = label;
    const title = makeSvg("title");
    title.textContent = name;
    const role = { role: "button", tabindex: i ? -1 : 0, "aria-pressed": "false" };
    const node = makeSvg("g", { class: `name ${this.look.classOf(name)}`, ...role }, title, box, written);
    node.addEventListener("keydown", (event) => this.key(event, i));
    node.addEventListener("focus", () => this.nodes.forEach((each, j) => each.setAttribute("tabindex", i === j ? 0 : -1)));
    this.drag(node, i);
    return node;
  }

  /** Names the drawing and its boxes in the language of the page. */
  name() {
    this.svg?.setAttribute("aria-label", text("graph"));
    this.nodes?.forEach((node, i) => node.setAttribute("aria-label", this.look.labelOf(this.names[i])));
  }

  /** Lets a box be dragged; a press that hardly moved is a click. */
  drag(node, i) {
    let from = null;
    node.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      node.setPointerCapture(event.pointerId);
      from = { x: event.clientX, y: event.clientY, place: { ...this.places[i] }, moved: false };
    });
    node.addEventListener("pointermove", (event) => {
      if (!from) return;
      const scale = this.width / this.svg.clientWidth;
      const [dx, dy] = [(event.clientX - from.x) * scale, (event.clientY - from.y) * scale];
      from.moved ||= Math.hypot(dx, dy) > 4;
      if (from.moved) this.put(i, from.place.x + dx, from.place.y + dy);
    });
    node.addEventListener("pointercancel", () => (from = null));
    node.addEventListener("pointerup", () => {
      if (from && !from.moved) this.toggle(i);
      from = null;
    });
  }

  key(event, i) {
    if (event.key === "Enter" || event.key === " ") this.toggle(i);
    else if (event.key === "Escape") this.look.choose(null);
    else if (event.key in ARROWS) {
      const [dx, dy] = ARROWS[event.key];
      if (event.shiftKey) this.put(i, this.places[i].x + 12 * dx, this.places[i].y + 12 * dy);
      else this.nodes[this.nearest(i, dx, dy)].focus();
    } else return;
    event.preventDefault();
  }

  /** Returns the box that is nearest in a direction; the box itself where there is none. */
  nearest(i, dx, dy) {
    let [best, least] = [i, Infinity];
    this.places.forEach((place, j) => {
      const [x, y] = [place.x - this.places[i].x, place.y - this.places[i].y];
      const along = x * dx + y * dy;
      const cost = along + 2 * Math.abs(x * dy - y * dx);
      if (along > 1 && cost < least) [best, least] = [j, cost];
    });
    return best;
  }

  toggle(i) {
    this.look.choose(this.chosen?.name === this.names[i] ? null : this.names[i]);
  }

  /** Shows what is chosen: `name`, or `fact` by its index; nothing without either. */
  mark(chosen) {
    this.chosen = chosen;
    if (!this.nodes) return;
    const any = chosen.name !== undefined || chosen.fact !== undefined;
    const near = new Set();
    this.arrows.forEach(({ subject, object, facts }, a) => {
      const wanted = [subject, object].includes(chosen.name) || facts.includes(chosen.fact);
      if (wanted) near.add(subject).add(object);
      for (const node of [this.lines[a], this.labels[a]]) {
        node.classList.toggle("chosen", wanted);
        node.classList.toggle("aside", any && !wanted);
      }
    });
    this.nodes.forEach((node, i) => {
      node.classList.toggle("chosen", this.names[i] === chosen.name);
      node.classList.toggle("aside", any && !near.has(this.names[i]) && this.names[i] !== chosen.name);
      node.setAttribute("aria-pressed", String(this.names[i] === chosen.name));
    });
  }

  put(i, x, y) {
    Object.assign(this.places[i], { x, y });
    keepInside(this.places[i], this.boxes[i], this.width, this.height);
    this.move(i);
  }

  /** Draws a box where it stands now, and the arrows from and to it. */
  move(i) {
    const { x, y } = this.places[i];
    this.nodes[i].setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
    this.ends.forEach(([one, two, width], a) => {
      if (one !== i && two !== i) return;
      const { path, along } = curve(this.places[one], this.boxes[one], this.places[two], this.boxes[two], one === two);
      const at = SHARES.map(along).find((place) => this.free(place, width / 2)) ?? along(SHARES[0]);
      this.lines[a].setAttribute("d", path);
      this.labels[a].setAttribute("x", at.x.toFixed(1));
      this.labels[a].setAttribute("y", at.y.toFixed(1));
    });
  }

  /** Returns whether a label would lie upon no box. */
  free(place, half) {
    const away = ({ x, y }, box) => Math.abs(x - place.x) > box.half + half || Math.abs(y - place.y) > box.tall + 8;
    return this.places.every((each, i) => away(each, this.boxes[i]));
  }
}

/** Returns the path of an arrow between two boxes, and what gives the point at a share of it. */
function curve(one, oneBox, two, twoBox, same) {
  if (same) {
    const [x, y] = [one.x, one.y - oneBox.tall];
    const path = `M${x - 14} ${y}C${x - 34} ${y - 44} ${x + 34} ${y - 44} ${x + 14} ${y - 3}`;
    return { path, along: () => ({ x, y: y - 40 }) };
  }
  const dx = two.x - one.x;
  const dy = two.y - one.y;
  const long = Math.hypot(dx, dy) || 1;
  // The bend keeps two arrows in opposite directions apart.
  const bend = { x: (one.x + two.x) / 2 - (dy / long) * 26, y: (one.y + two.y) / 2 + (dx / long) * 26 };
  const from = border(one, oneBox, bend);
  const to = border(two, twoBox, bend);
  const at = (share, axis) =>
    (1 - share) ** 2 * from[axis] + 2 * share * (1 - share) * bend[axis] + share ** 2 * to[axis];
  const point = ({ x, y }) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  const along = (share) => ({ x: at(share, "x"), y: at(share, "y") });
  return { path: `M${point(from)}Q${point(bend)} ${point(to)}`, along };
}

/** Returns where the line to a point leaves a box. */
function border(place, box, toward) {
  const dx = toward.x - place.x;
  const dy = toward.y - place.y;
  const reach = [(box.half + 3) / Math.abs(dx || 1e-9), (box.tall + 3) / Math.abs(dy || 1e-9), 1];
  const share = Math.min(...reach);
  return { x: place.x + dx * share, y: place.y + dy * share };
}
