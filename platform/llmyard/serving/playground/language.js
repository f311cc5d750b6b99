// What the page says, in English and Chinese. A node remembers what it says, so a switch of language says all of it anew.
import en from "./texts_en.js";
import zh from "./texts_zh.js";

const TEXTS = { en, zh };
const LOCALES = { en: "en", zh: "zh-CN" };
const spoken = new WeakMap(); // node → property → [key, values]
const followers = [];
let language = "en";

export const current = () => language;
export const locale = () => LOCALES[language];

/** Returns a text; `{name}` in it stands for a value: a number, a string, a time, or another text as `{ key, values }`. */
export function text(key, values = {}) {
  let form = TEXTS[language][key];
  if (form === undefined) throw new Error(`there is no text ${key}`);
  if (typeof form !== "string") form = form[new Intl.PluralRules(locale()).select(values.count)] ?? form.other;
  return form.replace(/\{(\w+)\}/g, (_, name) => shown(values[name]));
}

function shown(value) {
  if (value instanceof Date)
    return new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" }).format(value);
  if (typeof value === "object") return text(value.key, value.values);
  if (typeof value !== "number") return String(value);
  const digits = Number.isInteger(value) ? {} : { maximumSignificantDigits: 3 };
  return new Intl.NumberFormat(locale(), digits).format(value);
}

/** Has a node say a text, as its content or in an attribute, in the language of now and of later. */
export function say(node, key, values, property = "textContent") {
  if (!spoken.has(node)) spoken.set(node, new Map());
  spoken.get(node).set(property, [key, values]);
  node.setAttribute("data-spoken", "");
  put(node, property, text(key, values));
}

/** Has a node show what is in no language of the page: a name, a figure, an answer. */
export function show(node, content) {
  spoken.get(node)?.delete("textContent");
  node.textContent = content;
}

function put(node, property, content) {
  if (property === "textContent") node.textContent = content;
  else node.setAttribute(property, content);
}

export function onSwitch(follower) {
  followers.push(follower);
}

export function switchTo(wanted) {
  language = wanted in TEXTS ? wanted : "en";
  document.documentElement.lang = locale();
  for (const node of document.querySelectorAll("[data-spoken]"))
    for (const [property, [key, values]] of spoken.get(node)) put(node, property, text(key, values));
  for (const follower of followers) follower();
}

/** Returns the `lang` that a text of either language should have: its glyphs and line breaks depend on it. */
export function langOf(content) {
  const letters = content.match(/\p{L}/gu)?.length ?? 0;
  return (content.match(/\p{Script=Han}/gu)?.length ?? 0) * 3 >= Math.max(1, letters) ? LOCALES.zh : LOCALES.en;
}
