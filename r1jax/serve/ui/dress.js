// What blocks wear on top of markdown: maths set by KaTeX, code coloured and copied. Both
// libraries are large and come after the first paint; what was shown before is dressed
// when they have come.

import { copyButton, h } from "./dom.js";
import { purify } from "./markdown.js";

const KATEX = "./vendor/katex-0.19.1/katex.min.js";
const HIGHLIGHT = "./vendor/highlightjs-cdn-assets-11.12.0/highlight.min.js";

const MATHS = {
  throwOnError: false,
  trust: false, // no \href, \includegraphics, \htmlData
  strict: "ignore",
  maxSize: 20,
  maxExpand: 500,
  errorColor: "inherit",
};
const LONGEST_COLOURED = 50_000; // characters

/** Sets of maths already made: a block that grows is made again and again. */
const made = new Map();
const sheet = h("link", { rel: "stylesheet", href: new URL("vendor/katex-0.19.1/katex.min.css", import.meta.url) });
let hljs = null;

/** Loads both libraries, and dresses what is shown already; offline, when that is over. */
export async function loadWardrobe() {
  document.head.append(sheet); // again: fetched again
  let loaded;
  try {
    loaded = await Promise.all([import(KATEX), import(HIGHLIGHT)]);
  } catch {
    addEventListener("online", loadWardrobe, { once: true });
    return;
  }
  hljs = loaded[1].default;
  for (const prose of document.querySelectorAll(".prose")) {
    setMaths(prose);
    colour(prose);
  }
}

/** Sets the maths in some elements. */
export function setMaths(root) {
  const { katex } = globalThis;
  if (!katex) return;
  for (const place of root.querySelectorAll(".maths:not(.set)")) {
    const isDisplay = place.classList.contains("display");
    const key = `${isDisplay}${place.textContent}`;
    if (!made.has(key)) {
      if (made.size > 1000) made.clear();
      made.set(key, set(place.textContent, isDisplay));
    }
    place.replaceChildren(made.get(key).cloneNode(true));
    place.classList.add("set");
  }
}

function set(tex, displayMode) {
  const box = document.createElement("span");
  try {
    globalThis.katex.render(tex, box, { ...MATHS, displayMode });
  } catch {
    box.textContent = tex; // more than KaTeX is let to expand
  }
  return box;
}

/** Gives code its bar with the language and a button to copy, and tables room to scroll. */
export function frame(root) {
  for (const pre of root.querySelectorAll("pre")) {
    const code = pre.firstElementChild;
    const language = code.className.replace("language-", "");
    const bar = h("div.bar", {}, h("span", {}, language || "text"));
    const figure = h("figure.code", {}, bar);
    bar.append(copyButton("Copy code", () => code.textContent));
    pre.tabIndex = 0; // so that keys can scroll it
    pre.replaceWith(figure);
    figure.append(pre);
  }
  for (const table of root.querySelectorAll("table")) {
    const box = h("div.table", { tabindex: 0 });
    table.replaceWith(box);
    box.append(table);
  }
}

/** Colours finished code. */
export function colour(root) {
  for (const code of root.querySelectorAll("pre > code:not(.coloured)")) {
    const language = code.className.replace("language-", "");
    const text = code.textContent;
    if (!hljs?.getLanguage(language) || text.length > LONGEST_COLOURED) continue;
    code.replaceChildren(purify(hljs.highlight(text, { language, ignoreIllegals: true }).value));
    code.classList.add("coloured");
  }
}
