// Helpers, and what the page is set to: it stands in the address's fragment, so that a link shows the same.
const $ = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const data = JSON.parse($("data").textContent);
const say = (text) => { $("status").textContent = text; };
const minus = (text) => text.replace("-", "−");
const element = (html) => { const t = document.createElement("template"); t.innerHTML = html; return t.content.firstElementChild; };
const listeners = { inserted: [], cells: [], restored: [] }; // elements came in; other cells are shown; the fragment changed
const tell = (what, ...more) => listeners[what].forEach((listener) => listener(...more));

const state = new Map();
let anchor = "";
function readState() {
  state.clear();
  anchor = "";
  for (const part of location.hash.slice(1).split("&")) {
    const at = part.indexOf("=");
    try {
      if (at > 0) state.set(part.slice(0, at), decodeURIComponent(part.slice(at + 1)));
      else if (part) anchor = decodeURIComponent(part);
    } catch { /* a broken escape says nothing */ }
  }
}
function writeState() {
  const parts = [...state].map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  const fragment = [...(anchor ? [encodeURIComponent(anchor)] : []), ...parts].join("&");
  if (fragment !== location.hash.slice(1)) history.replaceState(null, "", fragment ? `#${fragment}` : location.pathname + location.search);
}
function keep(name, value) {
  if (value === "" || value === null || value === undefined) state.delete(name); else state.set(name, String(value));
  writeState();
}
readState();
