// A conversation of several turns, streamed.
import { ask, events } from "./api.js";
import { Bench, filled, numberIn } from "./bench.js";
import { field, fill, make, watch } from "./dom.js";
import { langOf, onSwitch, say, text } from "./language.js";
import { Reply } from "./reply.js";

export class Chat extends Bench {
  constructor(panel) {
    super(panel, {
      name: "chat",
      tasks: ["dialogue", "instruction", "preference", "causal_lm"],
      commands: ["llmyard run jobs/finetune/smallworld-dialogue.yaml", "llmyard serve replies"],
      run: "send",
    });
    this.turns = []; // what the model is told: { role, content }
    this.replies = [];
    this.failed = []; // the nodes of an exchange that is no part of the conversation
    this.kind = make("p", { class: "note kind" });
    this.log = make("div", { class: "log", role: "log", tabindex: 0, label: "conversation" });
    this.message = watch(make("textarea", { rows: 2, placeholder: "message_placeholder" }));
    this.message.addEventListener("keydown", (event) => this.typed(event));
    const renew = make("button", { type: "button", class: "quiet", text: "new_conversation", onclick: () => this.forget() });
    this.copy.before(renew);
    this.fields.append(field("message", this.message));
    this.result.replaceWith(this.kind, this.sampling(), this.log);
    this.body.classList.add("conversation");
    this.body.prepend(this.answers); // what was said stands above what is being written
    onSwitch(() => this.example());
    this.example();
    this.forget();
  }

  sampling() {
    this.temperature = make("input", { type: "range", min: 0, max: 2, step: 0.1, value: 0 });
    this.seed = make("input", { type: "number", min: 0, value: 0 });
    this.most = make("input", { type: "number", min: 1, placeholder: "by_itself" });
    const shown = make("output", {}, "0");
    const warm = field("temperature", this.temperature);
    shown.setAttribute("for", this.temperature.id);
    this.temperature.addEventListener("input", () => {
      shown.textContent = this.temperature.value;
      this.temperature.setAttribute("aria-valuetext", this.temperature.value);
    });
    warm.firstChild.append(" ", shown);
    return make("div", { class: "row sampling" }, warm, field("seed", this.seed), field("max_tokens", this.most));
  }

  example() {
    fill(this.message, text("example_message"));
  }

  changed() {
    this.kind.hidden = this.model?.task !== "causal_lm";
    if (!this.kind.hidden) say(this.kind, "base_model");
  }

  typed(event) {
    // While Chinese is being composed, Enter takes the characters offered.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.form.requestSubmit();
  }

  /** Begins a new conversation. */
  forget() {
    this.work?.abort();
    this.turns = [];
    this.replies = [];
    this.failed = [];
    this.log.replaceChildren(make("p", { class: "note empty", text: "conversation_empty" }));
    this.figures.replaceChildren();
  }

  request() {
    const content = this.message.value;
    const said = content.trim() ? [...this.turns, { role: "user", content }] : this.turns.slice(0, -1);
    const sampling = { max_tokens: numberIn(this.most), temperature: this.temperature.valueAsNumber };
    const body = filled({
      model: this.model?.id, messages: said, ...sampling, seed: numberIn(this.seed), ...this.telling,
    });
    const missing = content.trim() ? null : this.message;
    // What the user wants so far is known when all of it is written: there is nothing to stream.
    if (this.model?.task_config?.slots) return { path: "v1/chat", body, missing };
    const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
    return { path: "v1/chat/completions", body: streamed, missing };
  }

  async run() {
    const { path, body, missing } = this.request();
    if (missing) return missing.focus();
    for (const node of this.failed) node.remove();
    this.failed = [];
    const asked = body.messages.at(-1);
    const reply = new Reply(this.model);
    const question = this.question(asked.content);
    this.log.querySelector(".empty")?.remove();
    this.log.append(question, reply.node);
    this.message.value = "";
    this.message.dataset.written = "";
    this.log.scrollTop = this.log.scrollHeight;
    await this.during(
      async (signal) => {
        await this.listen(reply, path, body, signal);
        this.keep(asked, reply);
      },
      (told) => this.breakOff(asked, reply, question, told),
    );
  }

  question(content) {
    const author = make("p", { class: "author", text: "you" });
    return make("article", { class: "question" }, author, make("div", { class: "written", lang: langOf(content) }, content));
  }

  async listen(reply, path, body, signal) {
    if (!body.stream) return reply.takeWhole((await ask(path, body, signal)).answer);
    let frame = 0;
    const draw = () => {
      frame = 0;
      const { scrollTop, scrollHeight, clientHeight } = this.log;
      reply.draw();
      // Who has scrolled up to read is left there.
      if (scrollHeight - scrollTop - clientHeight < 40) this.log.scrollTop = this.log.scrollHeight;
    };
    try {
      // Once a frame: a fast model writes many tokens in one, and drawing each would leave no time for the user's clicks.
      for await (const event of events(path, body, signal)) {
        reply.take(event);
        frame ||= requestAnimationFrame(draw);
      }
    } finally {
      cancelAnimationFrame(frame);
      draw();
    }
  }

  keep(asked, reply, notes = []) {
    if (!reply.node.isConnected) return; // a new conversation has begun
    this.turns.push(asked, { role: "assistant", content: reply.content });
    this.replies.push(reply);
    reply.end(notes);
    if (this.told.checked) reply.show(true);
  }

  /** What was written when the user stopped it stays a part of the conversation; what failed does not. */
  breakOff(asked, reply, question, told) {
    if (!question.isConnected) return; // a new conversation has begun
    if (this.work.signal.aborted && reply.content) return this.keep(asked, reply, [["stopped"]]);
    reply.end();
    reply.figures.replaceChildren(told, make("p", { class: "note", text: "not_kept" }));
    this.failed = [question, reply.node];
    if (!this.message.value) this.message.value = asked.content;
  }

  again() {
    for (const reply of this.replies) reply.show(this.told.checked);
  }
}
