// A text's facts: names marked in it, a graph, a table, files. What is chosen in one of them is shown in all.
import { Bench, filled, heading } from "./bench.js";
import { download, field, fill, make, watch } from "./dom.js";
import { json, tsv, turtle } from "./export.js";
import { Graph } from "./graph.js";
import { langOf, onSwitch, say, text } from "./language.js";
import { marked } from "./spans.js";

const COLOURS = 8;

export class Extract extends Bench {
  constructor(panel) {
    super(panel, {
      name: "extract",
      tasks: ["knowledge_graph"],
      commands: ["llmyard run jobs/quickstart.yaml", "llmyard serve triples"],
      run: "extract_run",
      untold: true, // the route tells of no tokens
    });
    this.text = watch(make("textarea", { rows: 7 }));
    this.fields.append(field("text", this.text));
    this.answers.prepend(heading("entities"));
    onSwitch(() => this.example());
    onSwitch(() => {
      this.graph?.name();
      if (this.said) this.tell(this.chosen);
    });
    this.example();
  }

  example() {
    fill(this.text, text("example_facts"));
  }

  request() {
    const body = filled({ model: this.model?.id, text: this.text.value });
    return { path: "v1/extract", body, missing: this.text.value.trim() ? null : this.text };
  }

  present(answer, body) {
    this.answer = answer;
    this.types = [...new Set(answer.entities.map((entity) => entity.type))].sort();
    this.result.replaceChildren(this.markedText(body.text), this.typeLegend());
    this.wide.replaceChildren(...(answer.triples.length ? this.facts(body.text) : []));
    this.choose({});
    return [["facts_found", { count: answer.triples.length }]];
  }

  clear() {
    super.clear();
    this.graph?.close();
    this.answer = this.graph = this.rows = this.said = null;
  }

  classOf(name) {
    const type = this.answer.entities.find((entity) => entity.text === name)?.type;
    return type === undefined ? "kind-none" : `kind-${this.types.indexOf(type) % COLOURS}`;
  }

  /** Returns the text, each entity in it a button; and what the chosen fact names, where no entity was found. */
  markedText(content) {
    const { entities, triples } = this.answer;
    const spans = entities.map((entity) => [entity.start, entity.end]);
    const ends = triples.flatMap((triple) => [triple.subject_span, triple.object_span]);
    this.marks = [];
    const parts = marked(content, [...spans, ...ends.map((span) => span ?? [0, 0])], (part, inner, over) => {
      const entity = over.filter((index) => index < entities.length).at(-1);
      const facts = over.filter((index) => index >= entities.length).map((index) => (index - entities.length) >> 1);
      const mark = entity === undefined ? make("span", {}, part) : this.mark(part, entities[entity]);
      this.marks.push({ node: mark, name: entities[entity]?.text, facts });
      return mark;
    });
    return make("div", { class: "written source", lang: langOf(content) }, ...parts);
  }

  mark(part, { text: name, type }) {
    const mark = make("mark", { class: this.classOf(name), role: "button", tabindex: 0, "aria-pressed": "false" }, part);
    mark.title = type;
    const press = () => this.choose(this.chosen.name === name ? {} : { name });
    mark.addEventListener("click", press);
    mark.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return this.choose({});
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      press();
    });
    return mark;
  }

  typeLegend() {
    const items = this.types.map((type, i) => make("li", {}, make("span", { class: `swatch kind-${i % COLOURS}` }), type));
    return make("ul", { class: "legend", label: "types" }, ...items);
  }

  facts(content) {
    this.graph = new Graph(this.answer.triples, {
      classOf: (name) => this.classOf(name),
      labelOf: (name) => this.described(name),
      choose: (name) => this.choose(name === null ? {} : { name }),
    });
    this.said = make("p", { class: "chosen-facts", role: "status" });
    const drawing = make("div", { class: "drawing" }, heading("graph"), this.graph.node, make("p", { class: "note", text: "graph_hint" }));
    return [drawing, make("div", { class: "table" }, heading("facts"), this.said, this.table(), this.exports(content))];
  }

  table() {
    const head = ["subject", "relation", "object"].map((key) => make("th", { scope: "col", text: key }));
    this.rows = this.answer.triples.map((triple, fact) => {
      const button = (content, chosen) => make("button", { type: "button", onclick: () => this.choose(chosen) }, content);
      const name = (content) => make("td", { lang: langOf(content) }, button(content, { name: content }));
      const relation = make("td", { class: "code" }, button(triple.relation, { fact }));
      return make("tr", {}, name(triple.subject), relation, name(triple.object));
    });
    return make("table", { class: "facts" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...this.rows));
  }

  exports(content) {
    const offer = (label, ending, type, make_) =>
      make("button", { type: "button", onclick: () => download(`graph.${ending}`, type, make_()) }, label);
    return make(
      "div", { class: "row exports" }, make("span", { class: "note", text: "export" }),
      offer("TSV", "tsv", "text/tab-separated-values", () => tsv(this.answer)),
      offer("JSON", "json", "application/json", () => json(content, this.answer)),
      offer("Turtle", "ttl", "text/turtle", () => turtle(this.answer)),
    );
  }

  described(name) {
    const facts = this.answer.triples.filter(({ subject, object }) => [subject, object].includes(name)).length;
    const mentions = this.answer.entities.filter((entity) => entity.text === name).length;
    const said = [text("count_facts", { count: facts }), text("count_mentions", { count: mentions })];
    const type = this.answer.entities.find((entity) => entity.text === name)?.type;
    return [name, type, ...said].filter(Boolean).join(" · ");
  }

  /** Shows what is chosen: `{ name }`, `{ fact }` by its index, or `{}` for nothing. */
  choose(chosen) {
    const { triples } = this.answer;
    this.chosen = chosen;
    const any = chosen.name !== undefined || chosen.fact !== undefined;
    this.graph?.mark(chosen);
    for (const { node, name, facts } of this.marks) {
      const wanted = (name !== undefined && name === chosen.name) || facts.includes(chosen.fact) || this.names(chosen, name);
      node.classList.toggle("chosen", wanted);
      node.classList.toggle("aside", any && !wanted);
      if (node.hasAttribute("aria-pressed")) node.setAttribute("aria-pressed", String(name === chosen.name));
    }
    (this.rows ?? []).forEach((row, fact) => {
      const wanted = fact === chosen.fact || [triples[fact].subject, triples[fact].object].includes(chosen.name);
      row.classList.toggle("chosen", wanted);
      row.classList.toggle("aside", any && !wanted);
    });
    if (this.said) this.tell(chosen);
  }

  /** Returns whether a fact whose places in the text are not known names an entity. */
  names({ fact }, name) {
    const triple = this.answer.triples[fact];
    if (triple === undefined) return false;
    return (!triple.subject_span && triple.subject === name) || (!triple.object_span && triple.object === name);
  }

  tell({ name, fact }) {
    const triple = this.answer.triples[fact];
    if (name !== undefined) say(this.said, "about_name", { about: this.described(name) });
    else if (triple) say(this.said, "about_name", { about: `${triple.subject} — ${triple.relation} → ${triple.object}` });
    else say(this.said, "choose_hint");
  }
}
