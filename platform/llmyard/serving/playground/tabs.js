// Tabs after the pattern of the ARIA practices: one stop of the Tab key, arrows go from one to the next.
import { find } from "./dom.js";

export function beginTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const select = (chosen) => {
    for (const tab of tabs) {
      const here = tab === chosen;
      tab.setAttribute("aria-selected", String(here));
      tab.tabIndex = here ? 0 : -1;
      find(tab.getAttribute("aria-controls")).hidden = !here;
    }
    chosen.scrollIntoView({ block: "nearest", inline: "center" });
  };
  const named = () => tabs.find((tab) => `#${tab.dataset.tab}` === location.hash) ?? tabs[0];
  const open = (tab) => {
    history.replaceState(null, "", `${location.search}#${tab.dataset.tab}`);
    select(tab);
  };
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => open(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key] ?? 0;
      const goal = { Home: 0, End: tabs.length - 1 }[event.key] ?? (i + step + tabs.length) % tabs.length;
      if (goal === i) return;
      event.preventDefault();
      open(tabs[goal]);
      tabs[goal].focus();
    });
  });
  addEventListener("hashchange", () => select(named()));
  select(named());
}
