// How long an answer took, and how fast it was written.
import { make } from "./dom.js";

const duration = (milliseconds) =>
  milliseconds < 1000
    ? { key: "milliseconds", values: { count: Math.round(milliseconds) } }
    : { key: "seconds", values: { count: milliseconds / 1000 } };

/**
 * Returns what stands below an answer.
 *
 * `milliseconds` is the whole time, `first` the time to the first token of a stream, `usage` what the endpoint counted
 * (null for models that label), `finish` why the answer ended, `artifact` the version that gave it, where that is told:
 * under one name two may answer. A stream's speed is that of the tokens behind the first.
 */
export function metrics({ milliseconds, first = null, usage = null, finish = null, notes = [], artifact = null }) {
  const parts = [["took", { time: duration(milliseconds) }]];
  if (first !== null) parts.push(["first_token", { time: duration(first) }]);
  const written = usage?.completion_tokens ?? 0;
  if (usage) {
    parts.push(["tokens_written", { count: written }]);
    const [count, time] = first === null ? [written, milliseconds] : [written - 1, milliseconds - first];
    if (count > 0 && time > 0) parts.push(["tokens_per_second", { count: (1000 * count) / time }]);
  }
  if (finish === "length") parts.push(["cut_at_length"]);
  const line = make("p", { class: "metrics" }, ...[...parts, ...notes].map((said) => make("span", { text: said })));
  const source = artifact === null ? null : make("p", { class: "note source-of", text: ["answered_by", { artifact }] });
  return make("div", {}, line, source);
}
