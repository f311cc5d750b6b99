// The models of the endpoint, and the choice of one.
import { ask } from "./api.js";
import { field, make } from "./dom.js";
import { modelCard } from "./lineage.js";
import { say } from "./language.js";

let models = null; // null: not asked yet, or not allowed to
const followers = [];

/** Asks for the models; a failure leaves none. */
export async function loadModels() {
  try {
    const { answer } = await ask("v1/models");
    models = answer.data;
  } catch (error) {
    models = null;
    throw error;
  } finally {
    for (const follower of followers) follower();
  }
  return models;
}

export function forgetModels() {
  models = null;
  for (const follower of followers) follower();
}

/** The choice of a model among those made for some tasks, best task first, and what there is to know of it. */
export class ModelChoice {
  constructor(tasks, changed) {
    this.tasks = tasks;
    this.changed = changed;
    this.select = make("select", { onchange: () => this.update() });
    this.card = make("div", { class: "card", hidden: true });
    this.about = make("button", { type: "button", class: "quiet", text: "about_model", "aria-expanded": "false" });
    this.about.addEventListener("click", () => this.open(this.card.hidden));
    this.node = make("div", { class: "choice" }, field("model", this.select), this.about);
    followers.push(() => this.refresh());
  }

  /** The chosen model; undefined where none fits. */
  get model() {
    return (models ?? []).find((each) => each.id === this.select.value);
  }

  get connected() {
    return models !== null;
  }

  refresh() {
    const before = this.select.value;
    const fitting = this.tasks.flatMap((task) => (models ?? []).filter((each) => each.task === task));
    this.select.replaceChildren(...fitting.map((each) => new Option(each.id, each.id)));
    if (fitting.some((each) => each.id === before)) this.select.value = before;
    this.update();
  }

  update() {
    if (!this.model) this.open(false);
    else if (!this.card.hidden) this.open(true);
    this.changed();
  }

  open(wanted) {
    this.card.hidden = !wanted;
    this.about.setAttribute("aria-expanded", String(wanted));
    say(this.about, wanted ? "hide_model" : "about_model");
    if (wanted) this.card.replaceChildren(modelCard(this.model));
  }
}
