// What the reader chose: sampling, theme, key. Kept in this browser alone.

import { h } from "./dom.js";

/**
 * @typedef {Object} Sampling values for the server; an empty text leaves one out
 * @property {number} temperature
 * @property {number} top_p
 * @property {number|""} max_tokens
 * @property {number|""} seed
 * @property {string} system
 */

/** R1's recommendations: no system prompt, temperature 0.5 to 0.7, top-p 0.95. */
export const RECOMMENDED = { temperature: 0.6, top_p: 0.95, max_tokens: "", seed: "", system: "" };

const FIELDS = [
  ["temperature", "Temperature", "R1: 0.5 to 0.7, best 0.6", { min: 0, max: 2, step: "any" }],
  ["top_p", "Top-p", "R1: 0.95", { min: 0.01, max: 1, step: "any" }],
  ["max_tokens", "Max tokens", "thinking included; empty: as many as fit", { min: 1, step: 1 }],
  ["seed", "Seed", "the same seed gives the same answer; empty: a new one", { min: 0, max: 2 ** 31 - 1, step: 1 }],
];

export class Settings {
  constructor() {
    /** @type {Sampling} */
    this.sampling = { ...RECOMMENDED, ...readJson("r1jax.sampling") };
    this.thinks = localStorage.getItem("r1jax.thinks") !== "no";
    this.key = localStorage.getItem("r1jax.key") ?? "";
  }

  save() {
    localStorage.setItem("r1jax.sampling", JSON.stringify(this.sampling));
    localStorage.setItem("r1jax.thinks", this.thinks ? "yes" : "no");
    if (this.key) localStorage.setItem("r1jax.key", this.key);
    else localStorage.removeItem("r1jax.key");
  }

  /** @returns {Object} the fields of a request */
  request() {
    const { system, ...numbers } = this.sampling;
    return Object.fromEntries(Object.entries(numbers).filter(([, value]) => value !== ""));
  }
}

function readJson(name) {
  try {
    const fits = ([key, item]) =>
      key in RECOMMENDED && (typeof item === "string" ? key === "system" || item === "" : Number.isFinite(item));
    return Object.fromEntries(Object.entries(JSON.parse(localStorage.getItem(name) ?? "{}")).filter(fits));
  } catch {
    return {};
  }
}

/** Opens the form of settings. @returns {Promise<boolean>} whether it was saved */
export function openSettings(settings) {
  const inputs = {};
  const rows = FIELDS.map(([name, label, hint, limits]) => {
    inputs[name] = h("input", { type: "number", name, ...limits, "aria-describedby": `hint-${name}` });
    return h("label", {}, h("span", {}, label), inputs[name], h("small", { id: `hint-${name}` }, hint));
  });
  inputs.system = h("textarea", { name: "system", rows: 3, "aria-describedby": "hint-system" });
  const advice = "R1 was trained without one: put all instructions in the question";
  rows.push(
    h("label", {}, h("span", {}, "System prompt"), inputs.system, h("small", { id: "hint-system" }, advice)),
  );
  const key = h("input", { type: "password", name: "key", autocomplete: "off", "aria-describedby": "hint-key" });
  key.value = settings.key;
  rows.push(
    h("label", {}, h("span", {}, "API key"), key, h("small", { id: "hint-key" }, "kept in this browser only")),
  );
  const fill = (values) => Object.entries(inputs).forEach(([name, input]) => (input.value = values[name]));
  fill(settings.sampling);
  const reset = h("button", { type: "button", onclick: () => fill(RECOMMENDED) }, "Reset to R1’s");
  return openDialog("Settings", rows, { label: "Save", extra: reset }, () => {
    for (const [name] of FIELDS) settings.sampling[name] = number(inputs[name], RECOMMENDED[name]);
    settings.sampling.system = inputs.system.value.trim();
    settings.key = key.value.trim();
    settings.save();
  });
}

function number(input, otherwise) {
  return input.value === "" ? otherwise : Number(input.value);
}

/** Asks for the API key. @returns {Promise<boolean>} whether one was given */
export function askKey(settings, message) {
  const key = h("input", { type: "password", name: "key", autocomplete: "off", required: true });
  key.value = settings.key;
  const rows = [h("p", {}, message), h("label", {}, h("span", {}, "API key"), key, h("small", {}, "kept in this browser only"))];
  return openDialog("This server asks for a key", rows, { label: "Use this key" }, () => {
    settings.key = key.value.trim();
    settings.save();
  });
}

/** Opens a form over the page. @returns {Promise<boolean>} whether it was saved */
function openDialog(title, rows, { label, extra = null }, save) {
  const buttons = h(
    "footer",
    {},
    extra,
    h("span.grow"),
    h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
    h("button.primary", { type: "submit" }, label),
  );
  const form = h("form", {}, h("h2", { id: "dialog-title" }, title), ...rows, buttons);
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
  document.body.append(dialog);
  return new Promise((resolve) => {
    let isSaved = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault(); // not "dialog": the policy lets no form go anywhere
      save();
      isSaved = true;
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(isSaved);
    });
    dialog.showModal();
  });
}

/** Goes from the system's theme to the other one, and back. */
export function switchTheme() {
  const { dataset } = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const theme = (dataset.theme ?? system) === "dark" ? "light" : "dark";
  if (theme === system) {
    localStorage.removeItem("r1jax.theme");
    delete dataset.theme;
  } else {
    localStorage.setItem("r1jax.theme", theme);
    dataset.theme = theme;
  }
}
