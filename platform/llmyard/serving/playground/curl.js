// A request as a command for a POSIX shell. The key is not in it: commands are pasted, kept in histories and shared.
import { address } from "./api.js";

export const KEY_VARIABLE = "LLMYARD_API_KEY";

/** Returns a text as one word of a shell. */
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

export function curl(path, body) {
  const parts = [
    `curl ${body.stream ? "-N " : ""}${quoted(address(path))}`,
    `-H "Authorization: Bearer $${KEY_VARIABLE}"`,
    `-H 'Content-Type: application/json'`,
    `-d ${quoted(JSON.stringify(body))}`,
  ];
  return parts.join(" \\\n  ");
}
