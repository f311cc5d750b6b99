// What a model is, and what it was made from.
import { ask } from "./api.js";
import { make } from "./dom.js";
import { failureView } from "./failures.js";
import { percentage } from "./tokens.js";

const moment = (when) => ["moment", { when: new Date(when) }];

/** Returns the card of a model; its lineage is asked for now. */
export function modelCard(model) {
  const facts = make("dl", {}, ...factsOf(model).flatMap(([key, value]) => [make("dt", { text: key }), value]));
  const lineage = make("div", { class: "lineage" }, make("h3", { text: "lineage" }));
  const waiting = make("p", { class: "note", text: "loading" });
  lineage.append(waiting);
  ask(`v1/models/${encodeURIComponent(model.id)}`).then(
    ({ answer }) => waiting.replaceWith(tree(answer.lineage)),
    (failure) => waiting.replaceWith(failureView(failure)),
  );
  return make("div", {}, facts, lineage);
}

function factsOf(model) {
  const said = (value) => make("dd", {}, value);
  const facts = [
    ["artifact", make("dd", { class: "code" }, model.artifact)],
    ["alias", model.alias ? make("dd", { class: "code" }, model.alias) : make("dd", { text: "no_alias" })],
    ["task", make("dd", { text: `task_${model.task}` })],
    ["family", said(model.family)],
    ["engine", said(model.engine)],
  ];
  if (model.canary) {
    const { artifact, weight, left_because: reason } = model.canary;
    const said = reason ? ["canary_left", { artifact, reason }] : ["canary_answers", { artifact, share: percentage(weight) }];
    facts.push(["canary", make("dd", { text: said })]);
  }
  if (model.created) facts.push(["created", make("dd", { text: moment(model.created * 1000) })]);
  return facts;
}

/** Returns artifacts as a tree, the model at its root; one that several were made from is opened once. */
function tree(lineage) {
  if (!lineage.length) return make("p", { class: "note", text: "no_lineage" });
  const known = new Map(lineage.map((each) => [each.artifact, each]));
  const opened = new Set();
  const item = (artifact) => {
    const entry = known.get(artifact);
    const line = make("li", {}, make("span", { class: "code" }, artifact));
    if (entry?.created) line.append(" ", make("span", { class: "note", text: moment(entry.created) }));
    if (!entry?.parents.length) return line;
    if (opened.has(artifact)) line.append(" ", make("span", { class: "note", text: "see_above" }));
    else {
      opened.add(artifact);
      line.append(make("ul", {}, ...entry.parents.map(item)));
    }
    return line;
  };
  return make("ul", { class: "tree" }, item(lineage[0].artifact));
}
