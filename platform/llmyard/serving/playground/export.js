// A graph as files, in the formats of llmyard: `kind: triples` reads the table back, and the Turtle has the same names
// as that of an evaluation.
import { langOf } from "./language.js";

const TSV_HEAD = "# llmyard triples 1: subject, relation, object, count, documents";
const SIGNS = { "\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0", "|": "\\p" };
const BASE = "urn:llmyard:graph:";
const PREFIXES = {
  rdf: "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
  rdfs: "http://www.w3.org/2000/01/rdf-schema#",
};
const ESCAPES = { '"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f" };
const distinct = (values) => [...new Set(values)].sort();

export function tsv({ triples }) {
  const cell = (text) => text.replace(/[\\\t\n\r\0|]/g, (sign) => SIGNS[sign]);
  const rows = distinct(triples.map((each) => [each.subject, each.relation, each.object].map(cell).join("\t")));
  return `${[TSV_HEAD, ...rows.map((row) => `${row}\t1\t`)].join("\n")}\n`;
}

export function json(text, { model, artifact, entities, triples }) {
  return `${JSON.stringify({ model, artifact, text, entities, triples }, null, 2)}\n`;
}

/** Returns the graph as RDF 1.1 Turtle, a statement a line. */
export function turtle({ entities, triples }) {
  const types = new Map(); // of a name that has several, the first
  for (const { text, type } of entities) if (!types.has(text)) types.set(text, type);
  const names = distinct([...types.keys(), ...triples.flatMap((each) => [each.subject, each.object])]);
  const lines = Object.entries(PREFIXES).map(([prefix, iri]) => `@prefix ${prefix}: <${iri}> .`);
  for (const type of distinct(types.values()).filter(Boolean)) lines.push(`${iri("type", type)} a rdfs:Class ; rdfs:label ${literal(type)} .`);
  for (const relation of distinct(triples.map((each) => each.relation)))
    lines.push(`${iri("relation", relation)} a rdf:Property ; rdfs:label ${literal(relation)} .`);
  for (const name of names) {
    const type = types.get(name) ? `a ${iri("type", types.get(name))} ; ` : "";
    lines.push(`${iri("entity", name)} ${type}rdfs:label ${literal(name)} .`);
  }
  const facts = triples.map((each) => [iri("entity", each.subject), iri("relation", each.relation), iri("entity", each.object)]);
  return `${[...lines, ...distinct(facts.map((fact) => `${fact.join(" ")} .`))].join("\n")}\n`;
}

function iri(kind, name) {
  const hex = (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`;
  const path = encodeURIComponent(name.toWellFormed()).replace(/[!'()*]/g, hex);
  // A segment of dots would lead out of the path.
  return `<${BASE}${kind}/${/^\.+$/.test(path) ? path.replaceAll(".", "%2E") : path}>`;
}

function literal(text) {
  const escape = (sign) => ESCAPES[sign] ?? `\\u${sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  const said = text.toWellFormed().replace(/[\x00-\x1f"\\\x7f]/g, escape);
  return `"${said}"@${langOf(text).slice(0, 2)}`;
}
