// The key: asked for, tried, kept for this tab of the browser, forgotten.
import { forgetKey, keepKey, readKey } from "./api.js";
import { find } from "./dom.js";
import { failureView } from "./failures.js";
import { say } from "./language.js";
import { forgetModels, loadModels } from "./models.js";

export function beginConnection() {
  const form = find("access");
  const field = find("key");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    keepKey(field.value.trim());
    connect();
  });
  find("forget").addEventListener("click", () => {
    forgetKey();
    field.value = "";
    forgetModels();
    show(null);
    field.focus();
  });
  if (readKey()) connect();
  else {
    forgetModels();
    show(null);
  }
}

async function connect() {
  say(find("status"), "connecting");
  find("refusal").replaceChildren();
  try {
    show(await loadModels());
  } catch (failure) {
    if (failure.kind === "failed_key") forgetKey();
    show(null);
    say(find("status"), "not_connected");
    find("refusal").replaceChildren(failureView(failure));
  }
}

function show(models) {
  const status = find("status");
  find("access").hidden = models !== null;
  find("forget").hidden = models === null;
  status.dataset.state = models === null ? "none" : "ready";
  find("refusal").replaceChildren();
  if (models === null) say(status, "need_key");
  else say(status, "connected", { count: models.length });
}
