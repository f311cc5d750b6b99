// One answer of a conversation, while it is written and afterwards.
import { make } from "./dom.js";
import { langOf } from "./language.js";
import { metrics } from "./metrics.js";
import { tokenView } from "./tokens.js";

export class Reply {
  constructor(model) {
    this.model = model;
    this.content = "";
    this.tokens = []; // what the endpoint told of them
    this.began = performance.now();
    this.first = null; // milliseconds to the first piece of text
    this.usage = this.finish = this.slots = null;
    this.written = document.createTextNode("");
    this.body = make("div", { class: "written" }, this.written);
    this.figures = make("div", { class: "figures" });
    const author = make("p", { class: "author" }, model.id);
    this.node = make("article", { class: "reply", "aria-busy": "true" }, author, this.body, this.figures);
  }

  /** Takes an event of the stream. */
  take({ choices, usage }) {
    this.usage = usage ?? this.usage;
    for (const { delta, logprobs, finish_reason: finish } of choices) {
      this.tokens.push(...(logprobs?.content ?? []));
      this.finish = finish ?? this.finish;
      this.add(delta.content ?? "");
    }
  }

  add(content) {
    if (!content) return;
    this.first ??= performance.now() - this.began;
    this.content += content;
  }

  /** Draws what has come since it was drawn last. */
  draw() {
    if (this.written.length < 200) this.body.lang = langOf(this.content); // by then it is known
    this.written.appendData(this.content.slice(this.written.length));
  }

  /** Takes an answer that came whole. */
  takeWhole(answer) {
    this.content = answer.reply;
    this.tokens = answer.tokens ?? [];
    this.slots = answer.slots;
    this.usage = answer.usage;
    this.finish = answer.finish_reason;
  }

  /** Shows the figures of an answer that has ended, with notes on how. */
  end(notes = []) {
    this.milliseconds = performance.now() - this.began;
    this.notes = notes;
    this.node.setAttribute("aria-busy", "false");
    this.show();
  }

  /** Shows the answer once more, as tokens or not. */
  show(asTokens = false) {
    if (this.milliseconds === undefined) return; // still being written
    const known = asTokens && this.tokens.length > 0;
    this.body.lang = langOf(this.content);
    this.body.replaceChildren(known ? tokenView(this.tokens) : this.content);
    if (this.slots) this.body.append(slotTable(this.slots));
    const { milliseconds, first, usage, finish, notes } = this;
    this.figures.replaceChildren(metrics({ milliseconds, first, usage, finish, notes }));
    if (asTokens && !known) this.figures.append(make("p", { class: "note", text: "tokens_next_time" }));
  }
}

/** Returns what the user wants so far, as a table. */
function slotTable(slots) {
  const rows = Object.entries(slots).map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, String(value))),
  );
  if (!rows.length) return make("p", { class: "note", text: "no_slots" });
  return make("table", { class: "slots" }, make("caption", { text: "slots" }), make("tbody", {}, ...rows));
}
