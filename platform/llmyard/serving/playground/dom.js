// Nodes without a framework.
import { langOf, say } from "./language.js";

const SAID = { text: "textContent", label: "aria-label", placeholder: "placeholder", title: "title" };
let numbered = 0;

export const find = (id) => document.getElementById(id);
export const uniqueId = (stem) => `${stem}-${++numbered}`;

/**
 * Returns an element. Of the options `text`, `label`, `placeholder` and `title` name a text, as `key` or
 * `[key, values]`; `onclick` and its like listen; the others are attributes.
 */
export function make(name, options = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key in SAID) {
      const [said, values] = [value].flat();
      say(node, said, values, SAID[key]);
    } else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else attribute(node, key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function makeSvg(name, options = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(options)) attribute(node, key, value);
  node.append(...children);
  return node;
}

function attribute(node, key, value) {
  if (typeof value === "boolean" && !key.startsWith("aria-")) node.toggleAttribute(key, value);
  else if (value !== null && value !== undefined) node.setAttribute(key, value);
}

/** Returns a field with its label above it. */
export function field(key, input, hint) {
  input.id ||= uniqueId("field");
  const label = make("label", { for: input.id }, make("span", { text: key }));
  if (!hint) return make("div", { class: "field" }, label, input);
  hint.id ||= uniqueId("hint");
  input.setAttribute("aria-describedby", hint.id);
  return make("div", { class: "field" }, label, input, hint);
}

/** Fills a field with an example of the page's language, until something is written there. */
export function fill(input, content) {
  if (input.dataset.written !== undefined) return;
  input.value = content;
  input.lang = langOf(content);
}

/** Keeps in mind that a field was written in, and the language of what stands there. */
export function watch(input) {
  input.addEventListener("input", () => {
    input.dataset.written = "";
    input.lang = langOf(input.value);
  });
  return input;
}

/** Offers a text as a file. */
export function download(name, type, content) {
  const url = URL.createObjectURL(new Blob([content], { type: `${type};charset=utf-8` }));
  const link = make("a", { href: url, download: name });
  document.body.append(link); // Firefox follows no link that is not in the page
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
