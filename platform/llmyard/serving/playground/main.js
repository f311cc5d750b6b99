// The playground: asks the endpoint that it came from. See index.html for the frame and style.css for the looks.
import { Answer } from "./answer.js";
import { Chat } from "./chat.js";
import { beginConnection } from "./connection.js";
import { find } from "./dom.js";
import { Extract } from "./extract.js";
import { current, say, switchTo } from "./language.js";
import { Summarize } from "./summarize.js";
import { beginTabs } from "./tabs.js";
import { Translate } from "./translate.js";

const wanted = new URLSearchParams(location.search).get("lang");
switchTo(wanted ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
for (const node of document.querySelectorAll("[data-text]")) say(node, node.dataset.text);
for (const node of document.querySelectorAll("[data-label]")) say(node, node.dataset.label, undefined, "aria-label");

new Translate(find("panel-translate"));
new Summarize(find("panel-summarize"));
new Answer(find("panel-answer"));
new Chat(find("panel-chat"));
new Extract(find("panel-extract"));

for (const button of document.querySelectorAll("[data-language]")) {
  const press = () => {
    for (const each of document.querySelectorAll("[data-language]"))
      each.setAttribute("aria-pressed", String(each.dataset.language === current()));
  };
  button.addEventListener("click", () => {
    switchTo(button.dataset.language);
    const query = new URLSearchParams(location.search);
    query.set("lang", current());
    history.replaceState(null, "", `?${query}${location.hash}`);
    press();
  });
  press();
}
beginTabs();
beginConnection();
