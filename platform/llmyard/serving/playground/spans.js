// Places in a text are counted in characters (code points), not in the UTF-16 units of JavaScript.

/** Returns a text cut wherever a span begins or ends: `{ text, spans }`, with the indices of the spans over it. */
export function segments(text, spans) {
  const characters = Array.from(text);
  const clamp = (place) => Math.min(Math.max(place, 0), characters.length);
  const held = spans.map(([start, end]) => [clamp(start), clamp(end)]);
  const cuts = [...new Set([0, characters.length, ...held.flat()])].sort((one, two) => one - two);
  return cuts.slice(1).map((end, i) => ({
    text: characters.slice(cuts[i], end).join(""),
    spans: held.flatMap(([from, to], index) => (from <= cuts[i] && end <= to ? [index] : [])),
  }));
}

/** Returns the nodes of a text; `mark(text, index, spans)` makes those under spans, of the shortest one there. */
export function marked(text, spans, mark) {
  const length = (index) => spans[index][1] - spans[index][0];
  return segments(text, spans).map((part) => {
    if (!part.spans.length) return document.createTextNode(part.text);
    const inner = part.spans.reduce((one, two) => (length(two) < length(one) ? two : one));
    return mark(part.text, inner, part.spans);
  });
}
