// The live page: draws what /live sends each second, and says plainly when nothing comes any more.

import { element, latencyBar, sparkline, stageBar } from "./charts.js";

const STALE_SECONDS = 5;
const RECONNECT_SECONDS = 15;
const HISTORY_SECONDS = 300;
const STAGE_NAMES = ["bus", "queue", "batch", "engine", "other", "publish"];

const seen = { snapshot: null, points: [], at: performance.now(), triedAt: 0, isLost: false, isPaused: false, refusal: "" };
const drawn = new Map();
let source;

const byId = (id) => document.getElementById(id);

// The connection.

function connect() {
  source?.close();
  seen.triedAt = performance.now();
  source = new EventSource("live");
  source.addEventListener("history", (event) => { seen.points = JSON.parse(event.data); });
  source.addEventListener("refused", (event) => { seen.refusal = JSON.parse(event.data); });
  source.onmessage = (event) => receive(JSON.parse(event.data));
  source.onerror = lose;
}

function receive(snapshot) {
  const oldest = snapshot.point.t - HISTORY_SECONDS;
  seen.points = seen.points.filter(({ t }) => t >= oldest && t < snapshot.point.t).concat(snapshot.point);
  Object.assign(seen, { snapshot, at: performance.now(), isLost: false, refusal: "" });
  if (!seen.isPaused) draw();
}

// A browser tries again by itself, unless it was answered with a refusal: then the token is asked for anew.
async function lose() {
  seen.isLost = true;
  drawState();
  if (source.readyState !== EventSource.CLOSED) return;
  const answer = await fetch("./", { method: "HEAD" }).catch(() => null);
  if (answer?.status === 401) location.reload();
}

function tick() {
  if (secondsSince(seen.at) > STALE_SECONDS) seen.isLost = true;
  if (seen.isLost && secondsSince(seen.triedAt) > RECONNECT_SECONDS) connect();
  drawState();
}

const secondsSince = (moment) => (performance.now() - moment) / 1000;

// Figures in words. What is not known is a dash.

function number(value, digits = 0) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
}

const rate = (value) => `${number(value, value < 100 && value > 0 ? 1 : 0)}/s`;
const percent = (share, digits = 0) => (share === null ? "–" : `${number(share * 100, digits)}%`);
const few = (share) => (share > 0 && share < 0.001 ? "<0.1%" : percent(share, 1));
const bytes = (value) => (value < 2 ** 20 ? `${number(value / 2 ** 10)} KiB` : `${number(value / 2 ** 20)} MiB`);
const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds === 0) return "0 ms";
  if (seconds < 0.01) return `${number(seconds * 1000, 1)} ms`;
  if (seconds < 1) return `${number(seconds * 1000)} ms`;
  if (seconds < 60) return `${number(seconds, Number.isInteger(seconds) ? 0 : 1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

// The head: is it ready, and are these figures of now?

function drawState() {
  const [words, tone] = state();
  say("state", words);
  byId("state").className = `state ${tone}`;
  byId("age").textContent = ageInWords();
  document.body.classList.toggle("lost", seen.isLost);
  document.title = `${words} · stream-infer`;
}

function state() {
  if (seen.isLost) return [seen.refusal ? "Not let in" : "Connection lost", "bad"];
  if (seen.snapshot === null) return ["Connecting", "warn"];
  return seen.snapshot.ready ? ["Ready", "good"] : ["Not ready", "bad"];
}

function ageInWords() {
  if (seen.isLost && seen.refusal) return `${seen.refusal}; trying again`;
  if (seen.snapshot === null) return "";
  if (seen.isPaused) return `paused; figures of ${clock(drawn.get("at"))}`;
  return seen.isLost ? `figures are ${duration(Math.ceil(secondsSince(seen.at)))} old; trying again` : "live";
}

// A screen reader hears a text when it is set, so an equal one is not set again.
function say(id, words) {
  if (byId(id).textContent !== words) byId(id).textContent = words;
}

function drawReasons({ reasons }) {
  byId("reasons").hidden = reasons.length === 0;
  fill("reasons", reasons, () => reasons.map((reason) => element("li", {}, reason)));
}

function drawAbout({ about, uptime, streams }) {
  const partitions = streams.reduce((sum, { partitions: count }) => sum + count, 0);
  byId("about").textContent = `group ${about.group} · ${plural(partitions, "partition")} · up ${duration(Math.floor(uptime))}`;
}

// At a glance.

function drawGlance(snapshot) {
  fill("glance", snapshot.point, () => [
    tile("Results", rate(sum(snapshot, "results")), `${rate(sum(snapshot, "received"))} came in`),
    latencyTile(snapshot),
    lateTile(snapshot),
    tile("Records behind", number(sum(snapshot, "lag_records")), behindInWords(snapshot)),
    deadLettersTile(snapshot),
  ]);
}

const sum = ({ streams }, name) => streams.reduce((total, stream) => total + stream[name], 0);

function latencyTile({ streams }) {
  const known = streams.filter(({ p99 }) => p99 !== null);
  if (known.length === 0) return tile("p99 against the budget", "–", "no results in the last 10 s");
  const worst = known.reduce((most, each) => (each.p99 / each.budget > most.p99 / most.budget ? each : most));
  const isOver = worst.p99 > worst.budget;
  const detail = `${isOver ? "over" : "within"} the budget of ${duration(worst.budget)} (${worst.name})`;
  return tile("p99 against the budget", duration(worst.p99), detail, isOver ? "bad" : "good");
}

function lateTile(snapshot) {
  const results = sum(snapshot, "results");
  const late = snapshot.streams.reduce((total, each) => total + (each.late_share ?? 0) * each.results, 0);
  const share = results ? late / results : null;
  return tile("Late", few(share), `${rate(late)} after the deadline`, share > 0 ? "warn" : "");
}

function behindInWords(snapshot) {
  if (sum(snapshot, "lag_records") === 0) return "nothing waits";
  const oldest = Math.max(0, ...snapshot.streams.map(({ lag_seconds }) => lag_seconds));
  return `oldest ${duration(oldest)}, about ${plural(sum(snapshot, "lag_tokens"), "token")}`;
}

function deadLettersTile(snapshot) {
  const total = snapshot.dead_letter_reasons.reduce((count, reason) => count + reason.total, 0);
  const now = sum(snapshot, "dead_letters");
  return tile("Dead letters", number(total), now > 0 ? `${rate(now)} now` : "since the start", now > 0 ? "bad" : "");
}

function tile(title, value, detail, tone = "") {
  return element("dl", { class: "tile panel" },
    element("dt", {}, title),
    element("dd", { class: `value ${tone}` }, value),
    element("dd", { class: "detail" }, detail));
}

// Streams.

function drawStreams({ streams, point }) {
  fill("streams", point, () => streams.map(streamRow));
}

function streamRow(stream) {
  return element("article", { class: "stream panel", "data-stream": stream.name },
    element("div", {}, element("h3", {}, stream.name), muted(plural(stream.partitions, "partition"))),
    ratePart(stream), latencyPart(stream), behindPart(stream));
}

function ratePart(stream) {
  return element("div", {},
    element("div", { class: "pair" },
      element("p", { class: "figure", "data-figure": "results" }, rate(stream.results)),
      muted(`in ${rate(stream.received)} · dead ${rate(stream.dead_letters)}`)),
    chart(history(stream.name, 0), "results", rate));
}

function latencyPart(stream) {
  const isOver = stream.p99 !== null && stream.p99 > stream.budget;
  const words = `p50 ${duration(stream.p50)} · p95 ${duration(stream.p95)} · p99 ${duration(stream.p99)}`;
  return element("div", {},
    element("div", { class: "pair" },
      element("p", { class: isOver ? "bad" : "" }, words), muted(`budget ${duration(stream.budget)}`)),
    latencyBar(stream, `${words}; the budget is ${duration(stream.budget)}`),
    chart(history(stream.name, 1), "p99", duration, stream.budget));
}

// A line over the last minutes, or as much as there is of them, and in words how high it went.
function chart(points, name, inWords, limit = null) {
  const seconds = Math.min(Math.max(points.at(-1)[0] - points[0][0], 60), HISTORY_SECONDS);
  const known = points.map(([, value]) => value).filter((value) => value !== null);
  const most = known.length ? Math.max(...known) : null;
  const words = `${name} of the last ${number(seconds / 60)} min, at most ${inWords(most)}`;
  return element("div", { class: "chart" }, sparkline(points, seconds, words, limit),
    muted(limit === null ? words : `${words}; dashes: budget`));
}

function behindPart(stream) {
  return element("div", {},
    element("p", {}, `${plural(stream.lag_records, "record")} behind`),
    muted(stream.lag_records === 0 ? "nothing waits"
      : `oldest ${duration(stream.lag_seconds)} · ${plural(stream.lag_tokens, "token")} · ${number(stream.in_flight)} in flight`),
    element("p", { class: stream.late_share > 0 ? "warn" : "muted" },
      stream.late_share === null ? "" : `${few(stream.late_share)} late`));
}

const history = (stream, place) => seen.points.map(({ t, streams }) => [t, streams[stream]?.[place] ?? null]);
const muted = (words) => element("p", { class: "muted" }, words);

// Late events and dead letters.

function drawLate({ late }) {
  fill("late", late, () => (late.length ? [element("ul", {}, ...late.map(lateEvent))] : [empty("None was late.")]));
}

function lateEvent(event) {
  const words = `${duration(event.total)} of a budget of ${duration(event.budget)}`;
  return element("li", { class: "event" },
    element("div", { class: "pair" },
      element("p", {}, time(event.at_ms), " ", element("strong", {}, event.stream), ` ${event.place}`),
      element("p", { class: "warn" }, words)),
    ...producersOwn(event),
    stageBar(event.stages, event.total, event.budget, `${words}, by stage; the numbers follow`),
    element("ul", { class: "stages" }, ...STAGE_NAMES.map((name) =>
      element("li", { class: name }, `${name} ${duration(event.stages[name])}`))));
}

// What producers wrote, which is only sent if the settings say so.
function producersOwn({ id, text }) {
  return id === undefined ? [] : [element("p", { class: "muted" }, `${id}${text === null ? "" : `: ${text}`}`)];
}

function drawDeadLetters({ dead_letter_reasons: reasons, dead_letters: latest, about }) {
  fill("dead-letter-reasons", reasons, () => (reasons.length ? [reasonTable(reasons)] : [empty("There was none.")]));
  fill("dead-letters-latest", latest, () => (latest.length ? [letterTable(latest, about.shows_text)] : []));
}

// One row a reason, with the streams it befell.
function reasonTable(reasons) {
  const rows = [...new Set(reasons.map(({ reason }) => reason))].map((name) => {
    const those = reasons.filter(({ reason }) => reason === name);
    const add = (key) => those.reduce((total, each) => total + each[key], 0);
    const streams = those.map(({ stream, total }) => `${stream} ${number(total)}`).join(", ");
    return [name, number(add("total")), rate(add("rate")), streams];
  });
  return table("By reason, since the start", ["reason", "#total", "#now", "streams"], rows);
}

function letterTable(letters, showsText) {
  const headings = ["reason", "time", "place", "stage", "fault", "stream", "#attempts"];
  const rows = letters.map((letter) => [
    letter.reason, time(letter.at_ms), letter.place, letter.stage, letter.fault, letter.stream, number(letter.attempts),
    ...(showsText ? [letter.id, letter.text ?? "–"] : []),
  ]);
  return table("The latest", showsText ? [...headings, "id", "text"] : headings, rows);
}

const time = (ms) => element("time", { datetime: new Date(ms).toISOString() }, clock(ms));
const empty = (words) => element("p", { class: "empty" }, words);

// Models, runtime, quality.

function drawModels({ models }) {
  const headings = ["model", "revision", "precision", "device", "#agreement", "#batches", "#texts a batch", "#tokens",
    "#time a batch", "#busy", "#tokens waiting", "#failures"];
  fill("models", models, () => [table("busy: share of one replica's time", headings,
    models.map(modelRow))]);
}

function modelRow(model) {
  return [model.name, model.revision?.slice(0, 12) ?? "–", model.precision ?? "loading", model.device ?? "–", percent(model.agreement, 1),
    rate(model.batches), number(model.texts_a_batch, 1), rate(model.tokens), duration(model.batch_seconds),
    percent(model.busy), number(model.waiting_tokens), number(model.failures)];
}

function drawRuntime({ cache, runtime }) {
  fill("runtime", [cache, runtime], () => [element("div", { class: "facts" },
    tile("Cache hits", percent(cache.hit_share), cacheInWords(cache)),
    tile("Transactions", rate(runtime.transactions), `${duration(runtime.transaction_seconds)} each`),
    tile("Aborted", number(runtime.aborted), `${number(runtime.lost)} lost with their partition`, runtime.aborted ? "warn" : ""),
    tile("Replica restarts", number(runtime.replica_restarts), "since the start", runtime.replica_restarts ? "bad" : ""),
    tile("Rebalances", number(runtime.rebalances), "joining included"),
    tile("Passages", number(runtime.passages), "to answer from"))]);
}

function cacheInWords({ look_ups, joins, entries, bytes: size }) {
  return `of ${rate(look_ups)}, joins ${rate(joins)}; ${number(entries)} kept in ${bytes(size)}`;
}

function drawQuality({ quality }) {
  byId("quality-section").hidden = quality.length === 0;
  const rows = quality.map(({ model, accuracy, macro_f1, pairs }) =>
    [model, percent(accuracy, 1), number(macro_f1, 3), number(pairs)]);
  fill("quality", quality, () => [table("Over the window of feedback", ["model", "#accuracy", "#macro F1", "#pairs"], rows)]);
}

// Returns a table; a heading with # is of numbers, the first cell of a row is its heading.
function table(caption, headings, rows) {
  const kinds = headings.map((heading) => (heading.startsWith("#") ? "number" : ["fault", "text", "streams"].includes(heading) ? "wide" : ""));
  const head = headings.map((heading, place) => element("th", { scope: "col", class: kinds[place] }, heading.replace("#", "")));
  const body = rows.map(([first, ...cells]) => element("tr", {}, element("th", { scope: "row" }, first),
    ...cells.map((cell, place) => element("td", { class: kinds[place + 1] }, cell))));
  return element("table", {}, element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}

// Redraws a part only when its data changed: what stands still can be selected and read.
function fill(id, data, children) {
  const text = JSON.stringify(data);
  if (drawn.get(id) === text) return;
  drawn.set(id, text);
  byId(id).replaceChildren(...children());
}

function draw() {
  const { snapshot } = seen;
  drawn.set("at", snapshot.at_ms);
  const parts = [drawReasons, drawAbout, drawGlance, drawStreams, drawLate, drawDeadLetters, drawModels, drawRuntime, drawQuality];
  for (const part of parts) part(snapshot);
  drawState();
}

byId("pause").addEventListener("click", ({ currentTarget: button }) => {
  seen.isPaused = !seen.isPaused;
  button.setAttribute("aria-pressed", String(seen.isPaused));
  button.textContent = seen.isPaused ? "Resume" : "Pause";
  if (!seen.isPaused && seen.snapshot) draw();
  drawState();
});

connect();
setInterval(tick, 1000);
