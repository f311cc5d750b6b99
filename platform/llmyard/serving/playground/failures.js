// What went wrong, in words that say what to do about it.
import { make } from "./dom.js";
import { say } from "./language.js";

/** Returns the message of a failure; where the endpoint said when to come back, it counts down to that. */
export function failureView(failure) {
  const known = failure.kind !== undefined;
  const view = make("div", { class: "failure", role: "alert" });
  view.append(make("strong", { text: known ? failure.kind : "failed_page" }));
  // What is said of a key is for those who write requests by hand.
  if (failure.message && failure.kind !== "failed_key") view.append(make("p", { class: "said", lang: "en" }, failure.message));
  if (failure.retryAfter !== null && known) view.append(countdown(failure.retryAfter));
  return view;
}

function countdown(seconds) {
  const line = make("p", { "aria-live": "off" });
  const due = Date.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((due - Date.now()) / 1000);
    if (left > 0) say(line, "retry_in", { count: left });
    else say(line, "retry_now");
    if (left <= 0 || !line.isConnected) clearInterval(timer);
  };
  const timer = setInterval(tick, 500);
  say(line, "retry_in", { count: seconds });
  return line;
}

/** Shows for a moment that something was done, then what stood there before. */
export function confirm(node, key, before) {
  say(node, key);
  clearTimeout(node.confirming);
  node.confirming = setTimeout(() => say(node, before), 2000);
}
