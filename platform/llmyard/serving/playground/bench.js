// What the tabs share: a model is chosen, a request made and shown as curl, and the answer stands with its figures.
import { Failure, ask } from "./api.js";
import { KEY_VARIABLE, curl } from "./curl.js";
import { make } from "./dom.js";
import { confirm, failureView } from "./failures.js";
import { langOf } from "./language.js";
import { metrics } from "./metrics.js";
import { ModelChoice } from "./models.js";
import { tokenLegend, tokenView } from "./tokens.js";

const TOP_LOGPROBS = 5;

/** Returns what to say where no model does a task, and which commands make one. */
function absence(key, commands) {
  const said = make("p", { text: key });
  const code = make("pre", { class: "command" }, commands.join("\n"));
  return make("div", { class: "absence", hidden: true }, said, make("p", { class: "note", text: "absence_run" }), code);
}

/**
 * One tab.
 *
 * `settings`: `name` of the tab, `tasks` its models are made for, best first; `commands` that make such a model;
 * `run`, the text of its button; `untold` where its route tells of no tokens. The tab fills `fields`, `result` and `wide` (below both), and gives what differs:
 * `request()` returns `{ path, body }`, `present(answer, body, model)` shows an answer, `changed()` follows the model.
 */
export class Bench {
  constructor(panel, settings) {
    this.settings = settings;
    this.work = null; // what aborts the request under way
    this.shown = null; // [answer, body, model, milliseconds] of the answer that stands here
    this.build(panel);
  }

  build(panel) {
    const { name, tasks, commands, run } = this.settings;
    this.choice = new ModelChoice(tasks, () => this.update());
    this.absence = absence(`none_${name}`, commands);
    this.locked = make("p", { class: "absence", text: "locked" });
    this.fields = make("div", { class: "fields" });
    this.go = make("button", { class: "primary", text: run });
    this.stop = make("button", { type: "button", text: "stop", hidden: true, onclick: () => this.work?.abort() });
    this.copy = make("button", { type: "button", class: "quiet", text: "copy_curl", onclick: () => this.showCurl() });
    this.told = make("input", { type: "checkbox", onchange: () => this.tell() });
    this.tokens = make("label", { class: "switch" }, this.told, make("span", { text: "show_tokens" }));
    const actions = make("div", { class: "actions" }, this.go, this.stop, this.copy);
    this.command = this.commandBox();
    this.form = make("form", { novalidate: true }, this.fields, actions);
    this.result = make("div", { class: "result", "aria-live": "polite" });
    this.figures = make("div", { class: "figures", role: "status" });
    this.answers = make("div", { class: "answers" }, this.result, this.figures);
    this.wide = make("div", { class: "wide" });
    this.legend = tokenLegend();
    this.head = make("div", { class: "head" }, this.choice.node, make("div", { class: "telling" }, this.tokens, this.legend));
    this.body = make("div", { class: "columns" }, this.form, this.answers, this.command, this.wide);
    panel.append(this.head, this.choice.card, this.locked, this.absence, this.body);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.go.disabled) this.run();
    });
    this.form.addEventListener("input", () => this.renewCurl());
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
  }

  get model() {
    return this.choice.model;
  }

  /** Follows the choice of a model. */
  update() {
    const { connected } = this.choice;
    const { untold = false } = this.settings;
    this.head.hidden = !this.model;
    this.locked.hidden = connected;
    this.absence.hidden = !connected || this.model !== undefined;
    this.body.hidden = connected && !this.model;
    this.tokens.hidden = !this.model?.writes || untold;
    this.legend.hidden = this.tokens.hidden || !this.told.checked;
    this.changed?.();
    this.renewCurl();
    this.enable();
  }

  enable() {
    const busy = this.work !== null;
    this.go.disabled = busy || !this.model;
    this.copy.disabled = !this.model;
    this.stop.hidden = !busy;
    this.answers.setAttribute("aria-busy", String(busy));
  }

  /** Follows the switch of the token probabilities. */
  tell() {
    this.update();
    this.again();
  }

  /** Returns what a request says to be told of its tokens. */
  get telling() {
    return this.told.checked && this.model?.writes ? { logprobs: true, top_logprobs: TOP_LOGPROBS } : {};
  }

  clear() {
    this.shown = null;
    this.result.replaceChildren();
    this.figures.replaceChildren();
    this.wide.replaceChildren();
  }

  /** Does some work that may be stopped; what goes wrong is told. */
  async during(work, failed) {
    this.work = new AbortController();
    this.enable();
    try {
      await work(this.work.signal);
    } catch (error) {
      if (!this.work.signal.aborted && !(error instanceof Failure)) console.error(error);
      failed(this.work.signal.aborted ? make("p", { class: "note", text: "stopped" }) : failureView(error));
    } finally {
      this.work = null;
      this.enable();
    }
  }

  async run() {
    const model = this.model;
    const { path, body, missing } = this.request();
    this.clear();
    if (missing) {
      this.result.append(make("p", { class: "note", text: "empty_field" }));
      return missing.focus();
    }
    this.figures.replaceChildren(make("p", { class: "working", text: "working" }));
    await this.during(
      async (signal) => {
        const { answer, milliseconds } = await ask(path, body, signal);
        this.shown = [answer, body, model, milliseconds];
        this.again();
      },
      (told) => {
        this.clear();
        this.result.replaceChildren(told);
      },
    );
  }

  /** Shows the last answer once more, as the switches are now. */
  again() {
    if (!this.shown) return;
    const [answer, body, model, milliseconds] = this.shown;
    const notes = this.present(answer, body, model) ?? [];
    const { usage, finish_reason: finish, artifact } = answer;
    this.figures.replaceChildren(metrics({ milliseconds, usage, finish, notes, artifact }));
    if (this.told.checked && model.writes && !answer.tokens)
      this.figures.append(make("p", { class: "note", text: "tokens_next_time" }));
  }

  /** Returns a written text, as tokens if these are wanted and known. */
  written(text, tokens) {
    if (this.told.checked && tokens?.length) return tokenView(tokens);
    return make("div", { class: "written", lang: langOf(text) }, text);
  }

  commandBox() {
    this.code = make("pre", { tabindex: 0, role: "group", label: "curl_command" });
    const close = make("button", { type: "button", class: "quiet", text: "hide", onclick: () => this.hideCurl() });
    const note = make("p", { class: "note", text: ["curl_key", { variable: KEY_VARIABLE }] });
    return make("div", { class: "curl", hidden: true }, this.code, make("div", { class: "beside" }, note, close));
  }

  async showCurl() {
    this.command.hidden = false;
    this.renewCurl();
    // Not every browser lets a page write there; then it is copied by hand.
    const written = navigator.clipboard?.writeText(this.code.textContent);
    await written?.then(() => confirm(this.copy, "copied", "copy_curl"), () => {});
  }

  /** Keeps the command that stands there that of the form as it is now. */
  renewCurl() {
    if (!this.model) this.command.hidden = true;
    if (this.command.hidden) return;
    const { path, body } = this.request();
    this.code.textContent = curl(path, body);
  }

  hideCurl() {
    this.command.hidden = true;
    this.copy.focus();
  }
}

/** Returns an object without its empty fields: the endpoint refuses null where it wants a number. */
export const filled = (body) =>
  Object.fromEntries(Object.entries(body).filter(([, value]) => value !== "" && value !== null && value !== undefined));

/** Returns the whole number in a field; undefined for none. */
export const numberIn = (input) => (Number.isFinite(input.valueAsNumber) ? input.valueAsNumber : undefined);

export const heading = (key) => make("h2", { text: key });
