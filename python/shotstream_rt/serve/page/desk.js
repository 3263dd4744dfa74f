// The desk: a film that is directed while it plays. One socket, one <video>, no other host.
// Messages are those of /v1/schema; `frame` counts what the stream has shown, `index` the film's frames.

import { $, make } from "./elements.js";
import { Pictures } from "./pictures.js";
import { Player } from "./player.js";

const still = matchMedia("(prefers-reduced-motion: reduce)");
const apple = /Mac|iPhone|iPad/.test(navigator.platform);
const SLOTS = 6;

// ---- what the page knows ------------------------------------------------------------------------

const hash = new URLSearchParams(location.hash.slice(1));
const token = hash.get("token") || "";
let session = hash.get("session");
let socket, welcome, patience = 500, joined = false, closedForGood = false;
const takes = new Map();        // "shot.take" -> take message
let kept = null, remembered = [];
const asked = new Map();        // asks not answered or not applied: id -> {message, at, frame}
const awaited = [];             // applied asks whose frame is not on the glass yet
const pictures = new Pictures((text) => toast(text, true));
const prefix = Array.from(crypto.getRandomValues(new Uint8Array(6)), (b) => b.toString(16).padStart(2, "0")).join("");
let hiddenAt = -1, count = 0, frame = -1, lastShown = 0, stalls = [], playing = false, history = [];
// For tests, and for the curious: what was measured on this page.
const desk = window.desk = { glass: [], shown: 0, frame: -1, messages: [], get bufferedS() { return player.bufferedS; }, get lagS() { return player.lagS; }, get last() { return player.last; } };

const player = new Player($("video"), (now, meta) => {
  frame = desk.frame = Math.round(meta.mediaTime * welcome.frame_rate_hz);
  desk.shown += 1;
  const shownAt = meta.expectedDisplayTime || now, interval = 1000 / welcome.frame_rate_hz;
  const gap = shownAt - lastShown;
  if (lastShown && playing && !player.reviewing && !document.hidden) stalls.push([shownAt, gap > 1.8 * interval ? gap - interval : 0]);
  lastShown = shownAt;
  while (stalls.length && stalls[0][0] < shownAt - 30000) stalls.shift();
  for (const ask of awaited.splice(0)) {
    if (frame < ask.frame) { awaited.push(ask); continue; }
    const measured = { id: ask.id, kind: ask.kind, ms: shownAt - ask.at, stale: ask.frame - 1 - ask.seen, after: ask.frame - ask.sent };
    desk.glass.push(measured);
    // A page that nobody looked at meanwhile tells nothing of how long somebody waited.
    if (ask.at > hiddenAt && measured.ms < 60000) send("glass", { ask: ask.id, ms: measured.ms });
    $("glass").textContent = `${Math.round(measured.ms)} ms`;
  }
  // What was there before a connection was lost is still played, and hides nothing that is said.
  if (joined) $("veil").hidden = $("hint").hidden = true;
  $("readout").hidden = false;
  showPlace();
});

// ---- talking to the server ------------------------------------------------------------------------

function connect() {
  const opened = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/live`);
  socket = opened;
  opened.binaryType = "arraybuffer";
  joined = false;
  // Who comes back to a film says which frame came last, seen or not, and gets what was sent since.
  const after = welcome && welcome.session === session && player.last >= 0 ? { after: player.last } : {};
  opened.onopen = () => opened.send(JSON.stringify({ type: "hello", token, session, ...after }));
  opened.onmessage = ({ data }) => {
    if (typeof data !== "string") return player.push(data);
    const message = JSON.parse(data);
    desk.messages.push(message.picture ? { ...message, picture: "" } : message);
    if (desk.messages.length > 500) desk.messages.shift();
    heard[message.type]?.(message);
  };
  opened.onclose = () => {
    if (opened !== socket || closedForGood) return;
    joined = false;
    veil("lost", "The connection is lost. Trying again.");
    setTimeout(connect, patience);
    patience = Math.min(5000, patience * 2);
  };
}

function send(type, fields = {}) {
  const id = `${prefix}-${++count}`;
  const message = { type, id, ...fields };
  asked.set(id, { id, message, kind: type, at: performance.now(), seen: frame });
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  return id;
}

const heard = {
  queue({ position, length }) { veil("queue", position === 1 ? "Others are playing. You are next." : `Others are playing. You are ${position} of ${length} in line.`); },
  loading({ model, seconds }) { veil("loading", `Loading ${model} · ${seconds.toFixed(0)} s`); },

  welcome(message) {
    const other = welcome?.session !== message.session;
    welcome = message;
    session = message.session;
    patience = 500;
    joined = true;
    if (other) { takes.clear(); kept = null; frame = -1; awaited.length = 0; desk.glass.length = 0; stalls = []; }
    const goesOn = !other && player.goOn(message.codec, message.frame);
    if (!goesOn) {
      try { player.open(message.codec); } catch (error) { return end(error.message); }
      $("tolive").hidden = true;
    }
    window.history.replaceState(null, "", `#${new URLSearchParams({ token, session })}`);
    document.documentElement.style.setProperty("--aspect", `${message.width} / ${message.height}`);
    document.documentElement.style.setProperty("--ratio", message.width / message.height);
    $("model").textContent = `${message.model.split("/").pop()} · ${message.width}×${message.height}`;
    for (const name of ["cut", "prompt", "retake", "undo", "branch"]) $(name).disabled = !message.asks.includes(name);
    $("box").hidden = !message.asks.length;
    $("picture").hidden = !message.images || !message.asks.includes("cut");
    pictures.fit(message);
    $("share").hidden = !message.viewer_token;
    drawMemory();
    drawStrip();
    if (!message.begun && !takes.size) hint(message.suggestions);
    else if (goesOn && player.last >= 0) $("veil").hidden = true;
    else veil("loading", "Waiting for the picture");
    for (const { message: again } of asked.values()) socket.send(JSON.stringify(again));
    listFilms();
  },

  take(message) { takes.set(`${message.shot}.${message.take}`, message); drawStrip(); },
  takes({ takes: past }) { for (const take of past) takes.set(`${take.shot}.${take.take}`, take); drawStrip(); },
  kept(message) { kept = message.takes; drawStrip(); },
  memory(message) { remembered = message.frames; drawMemory(); },

  accepted({ id, frame: sent, notes }) {
    const ask = asked.get(id);
    if (!ask) return;
    ask.sent = sent;
    if (["cut", "prompt", "check"].includes(ask.kind)) showNotes(notes);
    if (!["cut", "prompt", "retake", "undo"].includes(ask.kind)) asked.delete(id);
  },

  applied({ id, frame: first }) {
    const ask = asked.get(id);
    if (ask) { asked.delete(id); awaited.push({ ...ask, frame: first }); }
  },

  over({ id, state, message }) {
    const ask = asked.get(id);
    asked.delete(id);
    if (ask && state !== "superseded") toast(`${ask.kind}: ${message || state}`, state === "failed");
  },

  branched({ id, session: other }) {
    if (!asked.delete(id)) return listFilms();
    toast("A second film goes on from here.");
    join(other);
  },

  stats({ state: now, viewers }) {
    playing = now === "playing";
    const watching = viewers > 1 ? ` · ${viewers} watch` : "";
    state(now, { playing: "live", waiting: "ready", paused: "paused" }[now] + watching);
    const lost = stalls.reduce((sum, [, gap]) => sum + gap, 0);
    const span = stalls.length > 1 ? stalls.at(-1)[0] - stalls[0][0] : 0;
    $("ratio").textContent = span > 1000 ? `${Math.round(100 * (1 - Math.min(1, lost / span)))} %` : "–";
  },

  failed({ message }) { toast(message, true); },

  // A film that was not closed goes on, perhaps on another server, for who comes back to it.
  ended({ message, reason }) { if (reason === "closed") end(`The film has ended: ${message}.`); },

  error({ id, code, message }) {
    const ask = asked.get(id);
    asked.delete(id);
    if (ask?.kind === "glass") return;
    if (code === "unauthorized") return end("Open the address that the server printed: it carries the token.");
    if (code === "not_found") { session = null; return toast(message, true); }
    toast(message, true);
  },
};

function end(text) {
  closedForGood = true;
  joined = false;
  veil("lost", text);
}

function join(other) {
  session = other;
  asked.clear();
  socket.onclose = null;
  socket.close();
  connect();
}

// ---- drawing ----------------------------------------------------------------------------------------

// What is said again and again is read out only when it changes.
function say(id, text) { if ($(id).textContent !== text) $(id).textContent = text; }

function state(name, text) { $("state").dataset.state = name; say("state", text); }

function veil(name, text) {
  state(name, { lost: "not connected", queue: "in line", loading: "loading" }[name]);
  $("veil").dataset.state = name;
  $("veil").hidden = false;
  $("hint").hidden = true;
  say("veil-text", text);
}

function hint(suggestions) {
  $("veil").hidden = true;
  $("hint").hidden = false;
  $("suggestions").replaceChildren(...suggestions.map((text) => make("button", { type: "button", textContent: text, onclick: () => {
    $("text").value = text;
    direct("cut");
  } })));
}

function showPlace() {
  let now = null;
  for (const take of takes.values()) if (take.frame <= frame && (!now || take.frame > now.frame)) now = take;
  if (!now || now === showPlace.last) return;
  showPlace.last = now;
  $("badge").hidden = $("caption").hidden = false;
  $("badge-shot").textContent = `Shot ${now.shot + 1}`;
  $("badge-take").textContent = now.take ? `take ${now.take + 1}` : "";
  $("caption").textContent = now.caption;
  for (const node of document.querySelectorAll(".shot")) node.classList.toggle("now", +node.dataset.shot === now.shot);
  glow();
}

function drawStrip() {
  const shots = new Map();
  for (const take of takes.values()) shots.set(take.shot, [...(shots.get(take.shot) || []), take]);
  const isKept = (take) => kept ? kept.some((k) => k.shot === take.shot && k.take === take.take) || take.frame > frame && take === [...takes.values()].at(-1) : take === shots.get(take.shot).at(-1);
  const ordered = [...shots].sort(([a], [b]) => a - b);
  $("strip").replaceChildren(...ordered.map(([shot, list]) => {
    list.sort((a, b) => a.take - b.take);
    const best = list.find(isKept);
    const cards = list.map((take) => make("button", {
      type: "button", className: `card ${take === (best || list.at(-1)) ? "kept" : "gone"}`,
      title: "Put this text into the box", onclick: () => { $("text").value = take.caption; $("text").focus(); resize(); },
    }, make("img", { src: take.picture, alt: `Shot ${shot + 1}, take ${take.take + 1}: ${take.caption}` })));
    const inside = [make("div", { className: "takes" }, ...cards),
      make("p", {}, make("b", { textContent: `${shot + 1} ` }), (best || list.at(-1)).caption)];
    if (best && welcome.asks.includes("undo")) inside.push(make("button", {
      type: "button", className: "back", textContent: "Undo to here", onclick: () => send("undo", { shot }),
    }));
    const item = make("li", { className: `shot${best ? "" : " undone"}` }, ...inside);
    item.dataset.shot = shot;
    return item;
  }));
  showPlace.last = null;
  if (!drawStrip.held) $("strip").scrollLeft = 1e6;
}

function drawMemory() {
  $("remembered").hidden = !remembered.length && !welcome.asks.includes("pin");
  const pins = welcome.asks.includes("pin");
  const cells = remembered.map((seen, at) => {
    const inside = [make("img", { src: seen.picture, alt: `Frame ${seen.index + 1} of shot ${seen.shot + 1}` }),
      make("small", { textContent: `shot ${seen.shot + 1}` })];
    if (pins) {
      const button = make("button", { type: "button", title: `${seen.pinned ? "Let go" : "Keep"} (Alt+${at + 1})`, onclick: () => pin(at) });
      button.setAttribute("aria-pressed", seen.pinned);
      button.setAttribute("aria-label", `Keep frame ${seen.index + 1} of shot ${seen.shot + 1}`);
      button.innerHTML = '<svg viewBox="0 0 20 20" aria-hidden="true"><path d="M7 3h6l-1 5 3 3H5l3-3zM10 11v6"/></svg>';
      inside.push(button);
    }
    return make("li", { className: seen.pinned ? "pinned" : "" }, ...inside);
  });
  while (cells.length < SLOTS) cells.push(make("li", {}, make("span", { className: "blank" })));
  const focused = [...$("memory").querySelectorAll("button")].indexOf(document.activeElement);
  $("memory").replaceChildren(...cells);
  $("memory").querySelectorAll("button")[focused]?.focus();
}

function pin(at) {
  const seen = remembered[at];
  if (seen) send(seen.pinned ? "unpin" : "pin", { index: seen.index });
}

function showNotes(notes) {
  const chips = notes.flatMap((note) => {
    const known = note.match(/does not know: (.*?)(?: \(|$)/);
    return known ? known[1].split(", ").map((word) => `${word} · not known`) : [note];
  });
  $("notes").replaceChildren(...chips.map((text) => make("li", { textContent: text })));
}

function toast(text, bad = false) {
  const node = make("p", { textContent: text, className: bad ? "bad" : "" });
  $("toasts").append(node);
  while ($("toasts").childElementCount > 3) $("toasts").firstChild.remove();
  setTimeout(() => node.remove(), bad ? 7000 : 3500);
}

const glowPen = $("glow").getContext("2d");
function glow() {
  if ($("video").readyState > 1 && !document.hidden) glowPen.drawImage($("video"), 0, 0, 8, 5);
}
setInterval(() => { if (!still.matches) glow(); }, 400);

async function listFilms() {
  const answer = await fetch("/v1/sessions", { headers: { Authorization: `Bearer ${token}` } });
  if (!answer.ok) return;
  const { sessions } = await answer.json();
  $("films").hidden = sessions.length < 2;
  $("films").replaceChildren(...sessions.map(({ id }, at) => {
    const tab = make("button", { type: "button", textContent: `Film ${at + 1}`, onclick: () => id !== session && join(id) });
    tab.setAttribute("aria-pressed", id === session);
    return tab;
  }));
}

// ---- directing -----------------------------------------------------------------------------------------

function direct(kind) {
  const button = $(kind), text = $("text").value.trim();
  if (button.disabled) return;
  button.classList.remove("asked");
  void button.offsetWidth;
  button.classList.add("asked");
  if (kind === "cut" || kind === "prompt") {
    if (!text) return $("text").focus();
    history.push(text);
    if (!$("hint").hidden) { $("hint").hidden = true; veil("loading", "Making the first shot"); }
    const images = kind === "cut" ? pictures.take() : [];
    send(kind, images.length ? { text, images } : { text });
    $("text").select();
  } else send(kind, kind === "undo" ? { chunks: 1 } : {});
  player.live();
  $("tolive").hidden = true;
}

async function download() {
  const answer = await fetch(`/v1/sessions/${session}/film.mp4`, { headers: { Authorization: `Bearer ${token}` } });
  if (!answer.ok) return toast(`The film cannot be downloaded (${answer.status}).`, true);
  const link = make("a", { href: URL.createObjectURL(await answer.blob()), download: `film-${session}.mp4` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

async function share() {
  const link = `${location.origin}/#${new URLSearchParams({ token: welcome.viewer_token, session })}`;
  try { await navigator.clipboard.writeText(link); toast("Copied a link that only watches."); } catch { window.prompt("A link that only watches:", link); }
}

function review(seconds) { player.review(seconds); $("tolive").hidden = false; }
function toLive() { player.live(); $("tolive").hidden = true; }

const KEYS = [
  ["Enter", "cut: begin a new shot now"], ["Shift+Enter", "steer: change the running shot"],
  ["Alt+R", "retake: the same shot once more"], ["Alt+Z", "undo: take the last chunk back"],
  ["Alt+B", "branch: go on in a second film"], ["Alt+1 … Alt+6", "keep a remembered frame, or let it go"],
  ["Alt+P", "let the next cut see a picture"], ["Alt+D", "download the film"], ["Alt+← and Alt+→", "look back, and forward again"],
  ["Alt+L", "back to live"], ["Alt+F", "full screen"], ["↑", "in the empty box: the last text"],
  ["Esc", "back to the box"],
].map(([keys, what]) => [apple ? keys.replaceAll("Alt+", "⌥") : keys, what]);

const shortcuts = {
  KeyR: () => direct("retake"), KeyZ: () => direct("undo"), KeyB: () => direct("branch"),
  KeyP: () => $("picture").hidden || $("files").click(), KeyD: download, KeyL: toLive, ArrowLeft: () => review(-1), ArrowRight: () => review(1),
  KeyF: () => document.fullscreenElement ? document.exitFullscreen() : $("video").parentElement.requestFullscreen(),
};

addEventListener("keydown", (event) => {
  const digit = event.code.match(/^Digit([1-6])$/);
  if (event.altKey && !event.ctrlKey && !event.metaKey && (digit || shortcuts[event.code])) {
    event.preventDefault();
    if (digit) pin(digit[1] - 1); else shortcuts[event.code]();
  } else if (event.key === "Escape" && !$("keys").open) $("text").focus();
  else if (event.key === "?" && event.target !== $("text")) $("keys").showModal();
});

$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.isComposing) { event.preventDefault(); direct(event.shiftKey ? "prompt" : "cut"); }
  if (event.key === "ArrowUp" && !$("text").value && history.length) { $("text").value = history.at(-1); resize(); }
});

let thinking;
function resize() { $("text").style.height = "auto"; $("text").style.height = `${Math.min(120, $("text").scrollHeight + 3)}px`; }
$("text").addEventListener("input", () => {
  resize();
  clearTimeout(thinking);
  const text = $("text").value.trim();
  if (!text) return showNotes([]);
  thinking = setTimeout(() => { if (welcome?.asks.includes("check")) send("check", { text }); }, 350);
});

$("box").addEventListener("submit", (event) => { event.preventDefault(); direct("cut"); });
for (const kind of ["prompt", "retake", "undo", "branch"]) $(kind).addEventListener("click", () => direct(kind));
$("picture").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", async () => { await pictures.add($("files").files); $("files").value = ""; $("text").focus(); });
const picturesIn = (list) => welcome?.images ? [...list].filter((file) => file.type.startsWith("image/")) : [];
$("text").addEventListener("paste", (event) => {
  const files = picturesIn(event.clipboardData.files);
  if (files.length) { event.preventDefault(); pictures.add(files); }
});
$("box").addEventListener("dragover", (event) => { if (welcome?.images && event.dataTransfer.types.includes("Files")) event.preventDefault(); });
$("box").addEventListener("drop", (event) => {
  const files = picturesIn(event.dataTransfer.files);
  if (files.length) { event.preventDefault(); pictures.add(files); }
});
$("download").addEventListener("click", download);
$("share").addEventListener("click", share);
$("tolive").addEventListener("click", toLive);
$("help").addEventListener("click", () => $("keys").showModal());
$("strip").addEventListener("pointerenter", () => { drawStrip.held = true; });
$("strip").addEventListener("pointerleave", () => { drawStrip.held = false; });
$("keylist").replaceChildren(...KEYS.flatMap(([keys, what]) => [make("dt", { textContent: keys }), make("dd", { textContent: what })]));
if (!apple) for (const key of document.querySelectorAll("kbd")) key.textContent = key.textContent.replace("⌥", "Alt ");
$("video").addEventListener("error", () => socket?.close());  // a new connection begins with a whole head
document.addEventListener("visibilitychange", () => { lastShown = 0; stalls = []; if (document.hidden) hiddenAt = performance.now(); else player.work(); });

if (token) connect();
else veil("lost", "Open the address that the server printed: it carries the token.");
$("text").focus();
