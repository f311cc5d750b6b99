// Translation, the text and its translation side by side.
import { Bench, filled, heading } from "./bench.js";
import { fill, make, uniqueId, watch } from "./dom.js";
import { current, langOf, onSwitch, say, text } from "./language.js";

const OTHER = { en: "zh", zh: "en" };

export class Translate extends Bench {
  constructor(panel) {
    super(panel, {
      name: "translate",
      tasks: ["translation"],
      commands: ["llmyard run jobs/quickstart.yaml", "llmyard serve translator"],
      run: "translate_run",
    });
    this.target = null; // until one is chosen: from the language of the page into the other
    this.source = watch(make("textarea", { id: uniqueId("source"), rows: 8 }));
    this.from = make("label", { class: "heading", for: this.source.id });
    this.into = heading("target");
    this.swap = make("button", { type: "button", class: "swap", label: "swap", title: "swap", onclick: () => this.turn() });
    this.swap.append(make("span", { "aria-hidden": "true" }, "⇄"));
    this.fields.append(make("div", { class: "beside" }, this.from, this.swap), this.source);
    this.answers.prepend(this.into);
    this.body.classList.add("pair");
    onSwitch(() => this.name());
    this.name();
  }

  get language() {
    return this.target ?? OTHER[current()];
  }

  name() {
    fill(this.source, text(this.language === "zh" ? "example_en" : "example_zh"));
    say(this.from, `language_${OTHER[this.language]}`);
    say(this.into, `language_${this.language}`);
  }

  /** Exchanges the two languages; a translation becomes the text. */
  turn() {
    this.target = OTHER[this.language];
    if (this.shown) {
      this.source.value = this.shown[0].translation;
      this.source.lang = langOf(this.source.value);
      this.source.dataset.written = "";
      this.clear();
    }
    this.name();
    this.renewCurl();
  }

  request() {
    const source = this.source.value;
    const body = filled({ model: this.model?.id, text: source, target_language: this.language, ...this.telling });
    return { path: "v1/translate", body, missing: source.trim() ? null : this.source };
  }

  present(answer) {
    this.result.replaceChildren(this.written(answer.translation, answer.tokens));
  }
}
