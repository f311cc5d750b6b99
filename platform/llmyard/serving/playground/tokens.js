// The tokens of an answer, shaded by how likely each was; on hover or focus, what else could have stood there.
import { make, uniqueId } from "./dom.js";
import { current, langOf } from "./language.js";

// Lower ends of the shades, in the order of the style sheet.
const LEVELS = [0.9, 0.7, 0.5, 0.3, 0.1, 0];
const SIGNS = { " ": "␣", "\n": "↵", "\t": "⇥" };
const levelOf = (share) => LEVELS.findIndex((least) => share >= least);

/**
 * Returns tokens in groups that stand for whole characters: of a rare character each token is only some of its bytes.
 * A group is `{ text, tokens, share }`, its share the product of the tokens'.
 */
export function grouped(tokens) {
  const groups = [];
  let held = [];
  for (const token of tokens) {
    held.push(token);
    const read = textOf(held);
    if (read === undefined) continue;
    groups.push(group(held, read));
    held = [];
  }
  return held.length ? [...groups, group(held, null)] : groups;
}

function group(tokens, read) {
  const share = Math.exp(tokens.reduce((sum, token) => sum + token.logprob, 0));
  return { text: read ?? tokens.map((token) => token.token).join(""), tokens, share };
}

/** Returns what tokens spell; undefined where their last character has only begun, null where they spell none. */
function textOf(tokens) {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let read;
  try {
    read = decoder.decode(Uint8Array.from(tokens.flatMap((token) => token.bytes)), { stream: true });
  } catch {
    return null;
  }
  try {
    return read + decoder.decode();
  } catch {
    return undefined;
  }
}

/** Returns a percentage as it is read: "0 %" would be said of what did happen. */
export function percentage(share) {
  const options = { style: "percent", maximumFractionDigits: share > 0.0995 ? 0 : 1 };
  return share < 0.001 ? "< 0.1%" : new Intl.NumberFormat(current(), options).format(share);
}

/** Returns how a token is spelled out: blanks are seen, and parts of characters are bytes. */
function spelled(token) {
  if (typeof textOf([token]) !== "string")
    return token.bytes.map((byte) => `0x${byte.toString(16).toUpperCase().padStart(2, "0")}`).join(" ");
  return token.token.replace(/^\s+|\s+$/g, (blanks) => Array.from(blanks, (each) => SIGNS[each] ?? "␣").join("")) || "∅";
}

/** Returns the answer as tokens. It is one stop of the Tab key; arrows go from token to token. */
export function tokenView(tokens) {
  const view = make("div", { class: "tokens", role: "toolbar", label: "token_list" });
  const bubble = make("div", { class: "bubble", role: "tooltip", id: uniqueId("bubble"), hidden: true });
  const groups = grouped(tokens);
  const nodes = groups.map((each, i) => {
    const node = make("span", { class: "token", role: "button", tabindex: i ? -1 : 0, "aria-describedby": bubble.id });
    node.dataset.level = levelOf(each.share);
    // A line feed breaks the line by itself; without a sign it could not be pointed at.
    node.textContent = each.text.replaceAll("\n", "↵\n") || "∅";
    return node;
  });
  const at = (event) => nodes.indexOf(event.target.closest(".token"));
  const open = (index) => {
    if (index >= 0) place(bubble, nodes[index], contents(groups[index]));
  };
  const close = () => {
    bubble.hidden = true;
  };
  view.addEventListener("pointerover", (event) => open(at(event)));
  view.addEventListener("pointerleave", () => {
    close();
    open(nodes.indexOf(document.activeElement));
  });
  view.addEventListener("focusin", (event) => {
    nodes.forEach((node) => node.setAttribute("tabindex", node === event.target ? 0 : -1));
    open(at(event));
  });
  view.addEventListener("focusout", close);
  view.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return close();
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -nodes.length, End: nodes.length };
    if (!(event.key in step)) return;
    event.preventDefault();
    nodes[Math.min(Math.max(at(event) + step[event.key], 0), nodes.length - 1)].focus();
  });
  view.append(...nodes, bubble);
  view.lang = langOf(groups.map((each) => each.text).join(""));
  return view;
}

function contents({ tokens, share }) {
  const parts = [];
  if (tokens.length > 1)
    parts.push(make("p", { text: ["token_parts", { count: tokens.length, share: percentage(share) }] }));
  for (const token of tokens) {
    const others = token.top_logprobs.filter((each) => !same(each, token));
    const ranked = [token, ...others].sort((one, two) => two.logprob - one.logprob);
    const rows = ranked.map((each) => row(each, each === token));
    parts.push(make("table", {}, make("tbody", {}, ...rows)));
  }
  return parts;
}

const same = (one, two) => one.token === two.token && String(one.bytes) === String(two.bytes);

function row(token, taken) {
  const share = Math.exp(token.logprob);
  const bar = make("span", { class: "bar" });
  bar.style.setProperty("--share", share);
  const name = make("th", { scope: "row", lang: langOf(token.token) }, make("bdi", {}, spelled(token)));
  if (taken) name.append(make("span", { class: "unseen", text: "token_taken" }));
  const cells = [name, make("td", {}, percentage(share)), make("td", { "aria-hidden": "true" }, bar)];
  return make("tr", { class: taken ? "taken" : null }, ...cells);
}

/** Puts the bubble below a token, or above where there is no room, and wholly inside the window. */
function place(bubble, node, parts) {
  bubble.replaceChildren(...parts);
  bubble.hidden = false;
  const box = node.getClientRects()[0];
  const { offsetWidth: width, offsetHeight: height } = bubble;
  const left = Math.min(Math.max(box.left, 8), document.documentElement.clientWidth - width - 8);
  const below = box.bottom + 6;
  const top = below + height > window.innerHeight && box.top > height + 6 ? box.top - height - 6 : below;
  bubble.style.setProperty("left", `${left}px`);
  bubble.style.setProperty("top", `${top}px`);
}

window.addEventListener("scroll", () => {
  for (const bubble of document.querySelectorAll(".bubble")) bubble.hidden = true;
}, { passive: true });

/** Returns what the shades mean. */
export function tokenLegend() {
  const shades = LEVELS.map((least, level) => {
    const range = level < LEVELS.length - 1 ? `≥ ${percentage(least)}` : `< ${percentage(LEVELS[level - 1])}`;
    const shade = make("span", { class: "token" }, range);
    shade.dataset.level = level;
    return shade;
  });
  return make("p", { class: "shades", role: "group", label: "token_legend" }, ...shades);
}
