// Where the boxes of a graph stand. There is no chance in it: a text's graph is drawn alike whenever it is drawn.
const ACROSS = 215; // pixels that an arrow is long, level and upright: names are wide and low
const DOWN = 92;
const ROUNDS = 60;
const GAP = 16;
const LINE = 44; // between two boxes one upon the other, with a label on the arrow between them
const MARGIN = 10;

/**
 * Returns the centre of each box, and the height that the drawing needs.
 *
 * Distances between boxes are to be as many arrows as lie between them: stress, lessened pair by pair (Zheng, Pawar and
 * Goodman 2018). Then boxes that lie upon each other are moved apart.
 *
 * @param {{half: number, tall: number}[]} boxes Half of each box's width and height.
 * @param {[number, number, number][]} links Pairs of boxes with an arrow between them, and the width of its label.
 */
export function layout(boxes, links, width) {
  const steps = stepsBetween(boxes.length, links);
  const places = boxes.map((_, i) => {
    const angle = 2.4 * i; // the golden angle: no two in one direction
    return { x: Math.cos(angle) * Math.sqrt(i + 1), y: Math.sin(angle) * Math.sqrt(i + 1) };
  });
  for (let round = 0; round < ROUNDS; round++) relax(places, steps, round / ROUNDS);
  lay(places, width > 480);
  const across = span(places, "x");
  const scale = Math.min(ACROSS, (width - 2 * (MARGIN + Math.max(...boxes.map((box) => box.half)))) / (across.size || 1));
  const down = span(places, "y");
  for (const place of places) {
    place.x = width / 2 + (place.x - across.middle) * Math.max(scale, 20);
    place.y = (place.y - down.middle) * DOWN;
  }
  const labels = new Map(links.flatMap(([i, j, label]) => [[`${i} ${j}`, label], [`${j} ${i}`, label]]));
  for (let round = 0; round < 300 && separate(places, boxes, labels); round++)
    places.forEach((place, i) => (place.x = held(place.x, boxes[i].half, width)));
  const top = Math.min(...places.map((place) => place.y)) - boxes[0].tall - 3 * MARGIN;
  for (const place of places) place.y -= top;
  const height = Math.max(...places.map((place) => place.y)) + boxes[0].tall + 3 * MARGIN;
  const least = 190;
  if (height < least) for (const place of places) place.y += (least - height) / 2;
  return { places, height: Math.max(height, least) };
}

/** Returns how many arrows lie between each two boxes; a little more than the farthest where nothing joins them. */
function stepsBetween(count, links) {
  const near = Array.from({ length: count }, () => new Set());
  for (const [i, j] of links) {
    near[i].add(j);
    near[j].add(i);
  }
  const steps = near.map((_, from) => {
    const row = new Array(count).fill(Infinity);
    row[from] = 0;
    for (const queue = [from]; queue.length; ) {
      const i = queue.shift();
      for (const j of near[i]) {
        if (row[j] !== Infinity) continue;
        row[j] = row[i] + 1;
        queue.push(j);
      }
    }
    return row;
  });
  const farthest = Math.max(...steps.flat().filter(Number.isFinite));
  return steps.map((row) => row.map((step) => (Number.isFinite(step) ? step : 0.9 + farthest / 2)));
}

/** Moves each pair nearer to the distance it should have: by all of what lacks at first, by ever less later. */
function relax(places, steps, progress) {
  const rate = Math.exp(-4 * progress);
  for (let i = 0; i < places.length; i++)
    for (let j = 0; j < i; j++) {
      const dx = places[i].x - places[j].x;
      const dy = places[i].y - places[j].y;
      const distance = Math.hypot(dx, dy) || 1e-6;
      const share = Math.min(1, rate / steps[i][j] ** 2 + 0.02) * ((distance - steps[i][j]) / (2 * distance));
      places[i].x -= dx * share;
      places[i].y -= dy * share;
      places[j].x += dx * share;
      places[j].y += dy * share;
    }
}

/** Turns the drawing so that it is longest across where there is width, and down where there is none. */
function lay(places, wide) {
  const middle = (axis) => places.reduce((sum, place) => sum + place[axis], 0) / places.length;
  const [x, y] = [middle("x"), middle("y")];
  let [xx, yy, xy] = [0, 0, 0];
  for (const place of places) {
    place.x -= x;
    place.y -= y;
    xx += place.x ** 2;
    yy += place.y ** 2;
    xy += place.x * place.y;
  }
  const angle = Math.atan2(2 * xy, xx - yy) / 2 + (wide ? 0 : Math.PI / 2);
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  for (const place of places)
    [place.x, place.y] = [place.x * cos + place.y * sin, place.y * cos - place.x * sin];
}

function span(places, axis) {
  const all = places.map((place) => place[axis]);
  const [least, most] = [Math.min(...all), Math.max(...all)];
  return { size: most - least, middle: (least + most) / 2 };
}

/** Moves boxes that lie upon each other, or upon the label between them, apart the shorter way; returns whether any did. */
function separate(places, boxes, labels) {
  let moved = false;
  for (let i = 0; i < places.length; i++)
    for (let j = 0; j < i; j++) {
      const dx = places[i].x - places[j].x;
      const dy = places[i].y - places[j].y;
      const label = labels.get(`${i} ${j}`);
      const [beside, below] = label === undefined ? [GAP, GAP] : [label + 2 * GAP, LINE];
      const across = boxes[i].half + boxes[j].half + beside - Math.abs(dx);
      const down = boxes[i].tall + boxes[j].tall + below - Math.abs(dy);
      if (across <= 0 || down <= 0) continue;
      moved = true;
      const axis = down <= across ? "y" : "x";
      const push = (Math.min(across, down) / 2 + 0.5) * ((axis === "y" ? dy : dx) < 0 ? -1 : 1);
      places[i][axis] += push;
      places[j][axis] -= push;
    }
  return moved;
}

const held = (value, half, size) => Math.min(Math.max(value, half + MARGIN), Math.max(size - half - MARGIN, half + MARGIN));

/** Keeps a box inside the drawing. */
export function keepInside(place, box, width, height) {
  place.x = held(place.x, box.half, width);
  place.y = held(place.y, box.tall, height);
}
