// Keeps a page alive: patches what the server rendered, lets ages grow, and says so when nobody is heard any more.
// The page is complete without it; what is lost then is liveness, and times stay clock times.
"use strict";

const SILENCE_MS = 4000; // the server speaks once a second; four missed is no hiccup
const QUIET_S = 25; // snapshots come at least every ten seconds
const body = document.body;
const speed = Number(body.dataset.speed) || 1;
const clock = { serverUs: Number(body.dataset.now), at: performance.now() };

const nowUs = () => clock.serverUs + (performance.now() - clock.at) * 1000 * speed;
const two = (number) => String(number).padStart(2, "0");
const hoursMinutes = (date) => `${two(date.getHours())}:${two(date.getMinutes())}`;
const withSeconds = (date) => `${hoursMinutes(date)}:${two(date.getSeconds())}`;
const dateOf = (microseconds) => new Date(Number(microseconds) / 1000);
const isoDay = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;

function ageText(seconds) {
  if (seconds < -90) return `${ageText(-seconds)} ahead`;
  if (seconds < 60) return "<1 min";
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${two(minutes % 60)}`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function setText(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

function grow(root) {
  const now = nowUs();
  for (const element of root.querySelectorAll("[data-at]")) {
    const seconds = (now - Number(element.dataset.at)) / 1e6;
    setText(element.querySelector(".ago"), ageText(seconds));
    // What the server called stale stays so; here it can only become stale, never fresh again.
    const { valid, validReal, silent } = element.dataset;
    const limit = valid ?? silent ?? (validReal === undefined ? undefined : Number(validReal) * speed);
    if (limit !== undefined && seconds > Number(limit)) element.classList.add("stale");
  }
}

function localise(root) {
  for (const element of root.querySelectorAll("[data-clock]")) {
    setText(element, (element.dataset.before ?? "") + hoursMinutes(dateOf(element.dataset.clock)));
  }
  for (const element of root.querySelectorAll("[data-moment]")) {
    const date = dateOf(element.dataset.moment);
    setText(element, `${isoDay(date)} ${withSeconds(date)}`);
  }
}

function dress(root) {
  localise(root);
  grow(root);
}

// The board -----------------------------------------------------------------------------------------------------------

const beds = document.getElementById("beds");

function order() {
  const key = body.dataset.sort;
  const wanted = [...beds.children].sort((a, b) => (a.dataset[key] < b.dataset[key] ? -1 : 1));
  wanted.forEach((row, index) => {
    if (beds.children[index] !== row) beds.insertBefore(row, beds.children[index] ?? null);
  });
}

function patchBeds(patch) {
  const known = patch.everyone && new Set(patch.everyone.map((id) => `bed-${id}`));
  if (known) [...beds.children].forEach((row) => known.has(row.id) || row.remove());
  for (const id of patch.gone) document.getElementById(`bed-${id}`)?.remove();
  for (const { id, html } of patch.beds) {
    const holder = document.createElement("template");
    holder.innerHTML = html.trim();
    const row = holder.content.firstElementChild;
    const before = document.getElementById(`bed-${id}`);
    if (before) {
      const wasFocused = before.contains(document.activeElement);
      const band = (bed) => bed.querySelector(".score .word")?.textContent;
      row.classList.toggle("changed", band(before) !== band(row));
      before.replaceWith(row);
      if (wasFocused) row.querySelector("a")?.focus();
    } else {
      beds.append(row);
    }
    dress(row);
  }
  order();
  const empty = document.getElementById("empty");
  empty.hidden = beds.children.length > 0;
  document.getElementById("board").hidden = !empty.hidden;
  if (empty.hidden) setText(empty, empty.dataset.emptied); // for when the last one leaves
  const shared = document.getElementById("shared");
  setText(shared, patch.shared);
  shared.hidden = !patch.shared;
  // Which model speaks, and under which conditions: the column is there only while one does.
  const models = document.getElementById("models");
  if (models.dataset.html !== patch.risk.html) {
    models.dataset.html = patch.risk.html;
    models.innerHTML = patch.risk.html;
    models.hidden = !patch.risk.html;
    document.getElementById("board").classList.toggle("with-risk", Boolean(patch.risk.html));
    setText(document.getElementById("risk-model"), patch.risk.model);
  }
}

// A patient's page ----------------------------------------------------------------------------------------------------

function patchParts(parts) {
  for (const [name, html] of Object.entries(parts)) {
    const part = document.getElementById(`part-${name}`);
    if (!part) continue;
    const focused = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    part.innerHTML = html;
    dress(part);
    if (focused) part.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }
}

// Being heard ---------------------------------------------------------------------------------------------------------

const banner = document.getElementById("banner");
let heardAt = performance.now();
let heardWall = new Date();
let pulse = null;
let brokenSince = null;

function warn(text) {
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = !text;
  body.classList.toggle("unheard", Boolean(text));
}

function judge() {
  if (!body.dataset.stream) return;
  if (performance.now() - heardAt > SILENCE_MS) {
    warn(`No connection since ${withSeconds(heardWall)} – values may be old`);
  } else if (pulse && !pulse.is_connected) {
    brokenSince ??= new Date();
    warn(`No twins heard since ${withSeconds(brokenSince)}: the bus is not connected – values may be old`);
  } else if (pulse && pulse.quiet_s > QUIET_S && pulse.has_beds) {
    const since = new Date(Date.now() - pulse.quiet_s * 1000);
    warn(`No new snapshot since ${withSeconds(since)} – values may be old`);
  } else {
    brokenSince = null;
    warn("");
  }
}

function onPulse(data) {
  pulse = data;
  heardAt = performance.now();
  heardWall = new Date();
  clock.serverUs = data.now_us;
  clock.at = heardAt;
  const log = document.getElementById("log");
  if (log) setText(log, data.log_us ? withSeconds(dateOf(data.log_us)) : "–");
  judge();
}

let source = null;
let left = false;

// The server says that this page is not ours any more: signed out, the patient moved away, the glass closed.
function leave({ to }) {
  if (left) return;
  left = true;
  source?.close();
  if (to) {
    location.replace(to);
    return;
  }
  // Should page and stream ever disagree, the page must not load itself again and again without a pause.
  const sinceMs = Date.now() - Number(sessionStorage.getItem("left-at") ?? 0);
  setTimeout(() => {
    sessionStorage.setItem("left-at", String(Date.now()));
    location.reload();
  }, sinceMs < 5000 ? 5000 : 0);
}

// A stream was refused. Why, it does not say: ask, so that a page nobody may see any more does not stay.
async function comeBack() {
  const stopped = new AbortController();
  try {
    const answer = await fetch(body.dataset.stream, { signal: stopped.signal, cache: "no-store" });
    stopped.abort();
    if (answer.status === 401 || answer.status === 404) return leave({ to: "" });
  } catch {
    // The server is away; it comes back.
  }
  if (!left) setTimeout(listen, 2000);
}

function listen() {
  source = new EventSource(body.dataset.stream);
  const on = (name, take) => source.addEventListener(name, (event) => take(JSON.parse(event.data)));
  on("pulse", onPulse);
  if (beds) on("beds", patchBeds);
  on("parts", patchParts);
  on("leave", leave);
  on("house", ({ html }) => {
    const house = document.getElementById("house");
    if (!house) return;
    house.innerHTML = html;
    dress(house);
  });
  source.onerror = () => {
    // After an answer that is not a stream the browser gives up; a server that restarts answers so for a moment.
    if (source.readyState === EventSource.CLOSED && !left) comeBack();
  };
}

// Who is signed in ------------------------------------------------------------------------------------------------------

// Somebody who reads and scrolls is there, though no request says so: tell the server, at most once a minute.
let toldAt = performance.now();
async function tell() {
  if (performance.now() - toldAt < 60_000) return;
  toldAt = performance.now();
  const answer = await fetch("/auth/me", { cache: "no-store" }).catch(() => null);
  if (answer?.status === 401) leave({ to: "" });
}
if ("signedIn" in body.dataset) {
  for (const kind of ["pointerdown", "keydown", "wheel"]) addEventListener(kind, tell, { passive: true });
}
// A page taken from the browser's own memory may be somebody else's by now.
addEventListener("pageshow", (event) => event.persisted && location.reload());

const glass = document.querySelector("[data-left-s]");
const openedAt = performance.now();
function countDown() {
  const minutes = Math.ceil((Number(glass.dataset.leftS) - (performance.now() - openedAt) / 1000) / 60);
  setText(glass, minutes > 0 ? ` (${minutes} min left)` : " (over)");
}
if (glass) {
  countDown();
  setInterval(countDown, 5000);
}

dress(document);
setText(document.getElementById("zone"), `Times are local (${Intl.DateTimeFormat().resolvedOptions().timeZone}).`);
if (body.dataset.stream) {
  listen();
  setInterval(judge, 500);
}
setInterval(() => grow(document), 1000);
