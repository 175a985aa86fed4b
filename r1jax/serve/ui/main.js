// Puts the page together: views, keys, and what the server says of itself.

import { Chat, examples } from "./chat.js";
import { Composer } from "./composer.js";
import { toast } from "./dom.js";
import { loadWardrobe } from "./dress.js";
import { Follower } from "./scroll.js";
import { askKey, openSettings, Settings, switchTheme } from "./settings.js";
import { Sidebar, toggleSidebar } from "./sidebar.js";
import { Store } from "./store.js";
import { modelCard } from "./stream.js";

const ASK_AGAIN = 3000; // milliseconds, while the server does not answer

const byId = (id) => document.getElementById(id);
const settings = new Settings();
const store = await new Store().open();
/** @type {?{id: string, max_model_len: number, reasoning?: boolean}} */
let model = null;

const chat = new Chat({
  store,
  settings,
  follower: new Follower(byId("scroller"), byId("log"), byId("to-end")),
  model: () => model,
  onchange: () => sidebar.refresh(chat.conversation.id),
});
const composer = new Composer({
  onsend: (text) => chat.send(text),
  onstop: () => chat.stop(),
  onthink: (isOn) => {
    settings.thinks = isOn;
    settings.save();
  },
});
const sidebar = new Sidebar(store, {
  onopen: async (id) => {
    await chat.open(id);
    opened();
  },
  ongone: (id) => {
    chat.forget(id);
    sidebar.current = chat.conversation.id;
  },
  onback: (id) => chat.restored(id),
  onrename: (conversation) => chat.renamed(conversation),
});

store.onother = (id) => {
  chat.changedElsewhere(id);
  sidebar.refresh();
};

function opened() {
  toggleSidebar(false);
  sidebar.refresh(chat.conversation.id);
  composer.focus();
}

function startChat() {
  chat.start();
  opened();
}

/** Learns what the server serves, as often as it takes. */
async function meetServer() {
  try {
    model = await modelCard(settings.key);
  } catch (error) {
    if (error.status === 401) {
      if (await askKey(settings, error.message)) return meetServer();
      return showBanner("This server asks for an API key: see Settings.");
    }
    showBanner(error.status ? error.message : "The server does not answer. Asking again…");
    return setTimeout(meetServer, ASK_AGAIN);
  }
  showBanner("");
  const name = model.id.split("/").filter(Boolean).at(-1);
  byId("model").textContent = name;
  byId("model").title = `${model.id}, ${model.max_model_len.toLocaleString("en")} tokens of context`;
  byId("hello").textContent = name;
  byId("motto").textContent = model.reasoning
    ? "It thinks before it answers. Ask it something hard."
    : "Ask it something.";
  composer.setReasons(model.reasoning === true);
  if (model.reasoning) composer.setThinking(settings.thinks);
  return undefined;
}

function showBanner(text) {
  byId("banner").textContent = text;
  byId("banner").hidden = !text;
}

function key(event) {
  const { key: letter, ctrlKey, metaKey } = event;
  if ((ctrlKey || metaKey) && letter.toLowerCase() === "k") startChat();
  else if (letter !== "Escape" || document.querySelector("dialog[open]")) return;
  else if (document.body.classList.contains("listing")) toggleSidebar(false);
  else if (chat.run) chat.stop();
  else return;
  event.preventDefault();
}

chat.onrun = (isRunning) => composer.setRunning(isRunning);
composer.setThinking(settings.thinks);
byId("examples").append(...examples((text) => chat.send(text)));
byId("new").addEventListener("click", startChat);
byId("theme").addEventListener("click", switchTheme);
byId("settings").addEventListener("click", async () => {
  if ((await openSettings(settings)) && !model) meetServer();
});
byId("menu").addEventListener("click", () => toggleSidebar());
byId("shade").addEventListener("click", () => toggleSidebar(false));
document.addEventListener("keydown", key);
addEventListener("offline", () => showBanner("This device is offline."));
addEventListener("online", meetServer);
if (!store.lasts) toast("This browser keeps nothing for this page: conversations end with it.");

meetServer();
sidebar.refresh(chat.conversation.id);
composer.focus();
setTimeout(loadWardrobe, 100); // after the first paint
