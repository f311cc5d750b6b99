// Summaries: written, or chosen from the sentences of the text, which are then marked in it.
import { Bench, filled, heading, numberIn } from "./bench.js";
import { field, fill, make, watch } from "./dom.js";
import { langOf, onSwitch, text } from "./language.js";
import { marked } from "./spans.js";

export class Summarize extends Bench {
  constructor(panel) {
    super(panel, {
      name: "summarize",
      tasks: ["summarization"],
      commands: ["llmyard run jobs/smallworld-answers-and-summaries.yaml", "llmyard serve summaries"],
      run: "summarize_run",
    });
    this.text = watch(make("textarea", { rows: 10 }));
    this.query = watch(make("input", { type: "text", placeholder: "query_placeholder" }));
    this.least = make("input", { type: "number", min: 0, placeholder: "by_itself" });
    this.most = make("input", { type: "number", min: 1, placeholder: "by_itself" });
    this.sentences = make("input", { type: "number", min: 1, max: 20, placeholder: "by_itself" });
    this.ofWriters = make("div", { class: "row" }, field("min_tokens", this.least), field("max_tokens", this.most));
    this.ofChoosers = make("div", { class: "row" }, field("sentences", this.sentences));
    this.fields.append(field("text", this.text), field("query", this.query), this.ofWriters, this.ofChoosers);
    this.answers.prepend(heading("summary"));
    onSwitch(() => this.example());
    this.example();
  }

  example() {
    fill(this.text, text("example_summary"));
  }

  changed() {
    this.ofWriters.hidden = this.model?.writes === false;
    this.ofChoosers.hidden = !this.ofWriters.hidden;
  }

  request() {
    const length = this.model?.writes
      ? { min_tokens: numberIn(this.least), max_tokens: numberIn(this.most) }
      : { sentences: numberIn(this.sentences) };
    const said = { model: this.model?.id, text: this.text.value, query: this.query.value.trim() };
    const body = filled({ ...said, ...length, ...this.telling });
    return { path: "v1/summarize", body, missing: this.text.value.trim() ? null : this.text };
  }

  present(answer, body) {
    this.result.replaceChildren(this.written(answer.summary, answer.tokens));
    if (!answer.spans) return [];
    const chosen = marked(body.text, answer.spans, (part) => make("mark", { class: "chosen" }, part));
    const source = make("div", { class: "written source", lang: langOf(body.text) }, ...chosen);
    this.result.append(make("h3", { text: "chosen_in_text" }), source);
    return [["sentences_chosen", { count: answer.spans.length }]];
  }
}
