// Questions, answered from a given text or from the passages that the endpoint finds in its index.
import { Bench, filled, heading, numberIn } from "./bench.js";
import { field, fill, make, uniqueId, watch } from "./dom.js";
import { langOf, onSwitch, text } from "./language.js";
import { marked } from "./spans.js";

export class Answer extends Bench {
  constructor(panel) {
    super(panel, {
      name: "answer",
      tasks: ["question_answering"],
      commands: ["llmyard run jobs/smallworld-answers-and-summaries.yaml", "llmyard serve answers"],
      run: "answer_run",
    });
    this.question = watch(make("input", { type: "text" }));
    this.context = watch(make("textarea", { rows: 8 }));
    this.passages = make("input", { type: "number", min: 1, max: 20, value: 5 });
    this.inText = field("context", this.context);
    this.inIndex = field("passages", this.passages, make("p", { class: "note", text: "index_note" }));
    this.fields.append(field("question", this.question), this.where(), this.inText, this.inIndex);
    this.answers.prepend(heading("answer"));
    onSwitch(() => this.example());
    this.example();
    this.look();
  }

  /** Returns the choice of where to look. */
  where() {
    const name = uniqueId("where");
    const option = (value, key) => {
      const input = make("input", { type: "radio", name, value, onchange: () => this.look() });
      input.checked = value === "text";
      return make("label", {}, input, make("span", { text: key }));
    };
    const options = [option("text", "in_text"), option("index", "in_index")];
    this.places = make("fieldset", { class: "segments" }, make("legend", { class: "unseen", text: "where" }), ...options);
    return this.places;
  }

  get searches() {
    return this.places.querySelector(":checked").value === "index";
  }

  look() {
    this.inText.hidden = this.searches;
    this.inIndex.hidden = !this.searches;
    this.renewCurl();
  }

  example() {
    fill(this.question, text("example_question"));
    fill(this.context, text("example_context"));
  }

  request() {
    const question = this.question.value;
    const place = this.searches ? { passages: numberIn(this.passages) } : { context: this.context.value };
    const body = filled({ model: this.model?.id, question, ...place, ...this.telling });
    const empty = [this.question, ...(this.searches ? [] : [this.context])].find((each) => !each.value.trim());
    return { path: "v1/answer", body, missing: empty };
  }

  present(answer, body) {
    const found = answer.answer !== "";
    const said = found ? this.written(answer.answer, answer.tokens) : make("p", { class: "note", text: "no_answer" });
    said.classList.add("short");
    this.result.replaceChildren(said);
    if (body.context !== undefined && answer.start !== null) {
      this.result.append(make("h3", { text: "found_in_text" }), spanned(body.context, answer));
    }
    if (answer.passages?.length) this.result.append(make("h3", { text: "passages_read" }), passages(answer));
    const notes = [];
    if (answer.score !== null && answer.score !== undefined) notes.push(["score", { count: answer.score }]);
    return notes;
  }
}

function spanned(content, { start, end }) {
  const spans = start === null || start === undefined ? [] : [[start, end]];
  const parts = marked(content, spans, (part) => make("mark", { class: "chosen" }, part));
  return make("div", { class: "written source", lang: langOf(content) }, ...parts);
}

/** Returns the passages that were read, the cited one with the answer marked in it. */
function passages(answer) {
  const items = answer.passages.map((passage) => {
    const cited = passage.id === answer.cited;
    const name = make("p", { class: "name" }, make("span", { class: "code" }, passage.document));
    if (cited) name.append(" ", make("strong", { class: "badge", text: "cited" }));
    return make("li", { class: cited ? "cited" : null }, name, spanned(passage.text, cited ? answer : { start: null }));
  });
  return make("ol", { class: "passages" }, ...items);
}
