"use strict";
// One page, no framework: the server holds what was said, the page shows its last answer.

const $ = (id) => document.getElementById(id);
const make = (tag, kind, text) => {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  if (text !== undefined) node.textContent = text;
  return node;
};
const TOP = 20;
let about = null, answer = null, before = new Map(), user = null, chosen = -1, options = [], asked = 0;

function newUser() {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  user = "page-" + Array.from(bytes, (b) => b.toString(36)).join("");
  try { localStorage.setItem("metajax-user", user); } catch { /* a private window forgets */ }
}

async function call(path, body) {
  const given = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, given);
  } catch {
    throw new Error("The server does not answer. What you said before is kept; try again.");
  }
  const found = await response.json().catch(() => ({ error: "The server answers with an error." }));
  if (!response.ok) throw new Error(found.error || "The server answers with an error.");
  return found;
}

function told(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
  clearTimeout(told.timer);
  told.timer = setTimeout(() => { $("error").hidden = true; }, 6000);
}

const path = (end = "") => `api/users/${encodeURIComponent(user)}${end}`;

async function update(send) {
  const mine = ++asked;
  try {
    const found = await send();
    if (mine !== asked) return;  // a later click has been answered already
    before = new Map((answer ? answer.items : []).map((one, i) => [one.id, i]));
    const focus = remembered();
    answer = found;
    show();
    restore(focus);
    $("error").hidden = true;
  } catch (error) { told(error); }
}

const how = { top: TOP, why: true, curve: true };
const rate = (id, value) => {
  const shown = answer.items.concat(answer.events).find((one) => one.id === id);
  const what = shown ? shown.title : "it";
  $("status").textContent = value === null ? `Took ${what} back.` : `Noted: ${what}.`;
  return update(() => call(path("/events"), { events: [{ item: `id:${id}`, value }], ...how }));
};
const undo = () => {
  if (!answer.events.length && !undo.taken) return;
  $("status").textContent = "Took the last step back.";
  update(() => call(path("/undo"), how));
};
const load = () => update(() => call(path(`?top=${TOP}&why=1&curve=1`)));

function steps() {
  const { low, high } = about;
  if (about.kind !== "ratings" || !Number.isInteger(low) || !Number.isInteger(high)) return [];
  return high - low > 10 ? [] : Array.from({ length: high - low + 1 }, (_, i) => low + i);
}

function rater(one, value) {
  const box = make("div", "rate"), all = steps();
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", `Rate ${one.title}`);
  const add = (text, label, call, kind) => {
    const button = make("button", kind, text);
    button.type = "button";
    button.setAttribute("aria-label", label);
    button.addEventListener("click", call);
    box.append(button);
  };
  if (about.kind !== "ratings") {
    if (value === undefined) add("+ add", `Add ${one.title}`, () => rate(one.id, 1), "met");
  } else if (all.length) {
    const stars = all.length <= 5 && all[0] > 0;
    if (!stars) box.classList.add("many");
    for (const step of all) {
      const on = value !== undefined && (stars ? step <= value : step === value) ? "on" : "";
      add(stars ? "★" : String(step), `${step} of ${about.high}`, () => rate(one.id, step), on);
    }
  } else {
    const input = make("input");
    Object.assign(input, { type: "number", min: about.low, max: about.high, step: "any" });
    input.placeholder = `${about.low} to ${about.high}`;
    if (value !== undefined) input.value = value;
    input.setAttribute("aria-label", `Rate ${one.title}`);
    input.addEventListener("change", () => { if (input.value !== "") rate(one.id, Number(input.value)); });
    box.append(input);
  }
  if (value !== undefined) add("✕", `Take ${one.title} back`, () => rate(one.id, null), "off");
  return box;
}

function row(one, kind) {
  const node = make("li", "row");
  node.tabIndex = -1;
  node.dataset.id = `${kind}:${one.id}`;
  return node;
}

const number = (x) => about.kind === "ratings" ? x.toFixed(2) : x.toFixed(3);

function shownItem(one, rank, range) {
  const node = row(one, "item"), title = make("span", "title", one.title);
  const was = before.get(one.id);
  if (before.size && was !== rank && answer.events.length) {
    const text = was === undefined ? "new" : was > rank ? `▲ ${was - rank}` : `▼ ${rank - was}`;
    title.append(make("span", `moved ${was === undefined || was > rank ? "up" : "down"}`, text));
  }
  const predicted = make("span", "predicted"), bar = make("span", "bar"), fill = make("i");
  const [low, high] = range;
  fill.style.width = `${100 * Math.min(1, Math.max(0.02, (one.score - low) / (high - low || 1)))}%`;
  bar.append(fill);
  predicted.append(bar, number(one.score));
  predicted.title = about.kind === "ratings" ? "predicted rating" : "score to compare by";
  const why = make("span", "why");
  if (one.why.length) {
    const rated = about.kind === "ratings";
    why.append(rated ? "because you rated " : "because of ");
    one.why.forEach((reason, i) => {
      if (i) why.append(", ");
      const sign = reason.moved >= 0 ? "+" : "−";
      why.append(reason.title, rated ? ` ${reason.value} ` : " ");
      why.append(make("b", reason.moved >= 0 ? "up" : "down", sign + number(Math.abs(reason.moved))));
    });
  } else {
    why.textContent = `known from ${one.count.toLocaleString("en")} ${one.count === 1 ? "person" : "people"}`;
  }
  node.append(make("span", "rank", rank + 1), title, predicted, why, rater(one));
  return node;
}

function shownEvent(one) {
  const node = row(one, "event");
  node.append(make("span", "title", one.title), rater(one, one.value));
  if (about.kind === "ratings") {
    const off = Math.abs(one.value - one.expected);
    node.append(make("span", "why", `expected ${number(one.expected)} before you said it, off by ${off.toFixed(2)}`));
  }
  return node;
}

function show() {
  const { events, items } = answer, scores = items.map((one) => one.score);
  const range = about.kind === "ratings" ? [about.low, about.high] : [Math.min(...scores, 0), Math.max(...scores)];
  $("items").replaceChildren(...items.map((one, i) => shownItem(one, i, range)));
  $("said").replaceChildren(...events.slice().reverse().map(shownEvent));
  $("empty").hidden = events.length > 0;
  $("undo").disabled = events.length === 0;
  $("you-title").textContent = events.length ? `You · ${events.length}` : "You";
  $("list-title").textContent = events.length ? "For you" : "For somebody new";
  $("hint").textContent = !items.length ? "You have met every item there is."
    : events.length ? "" : "Nothing is known of you: this is what an average person is offered.";
  draw();
}

// The k-shot curve: what validation users got after so many events, and where this person stands.
function draw() {
  const { curve } = about, events = answer.events, svg = $("plot");
  const known = curve.events.map((k) => k === "all" ? null : k);
  const ks = known.map((k, i) => k === null ? Math.max(30, 2 * known[i - 1]) : k);
  const own = [];
  if (about.kind === "ratings") {
    let sum = 0;
    events.forEach((one, i) => { sum += Math.abs(one.value - one.expected); own.push(sum / (i + 1)); });
  }
  const values = [...curve.saved, ...curve.plain, ...own];
  const low = Math.min(...values), high = Math.max(...values), last = Math.max(ks[ks.length - 1], events.length);
  const x = (k) => 46 + 304 * Math.log1p(k) / Math.log1p(last);  // left of it stand the numbers
  const y = (v) => 14 + 140 * (1 - (v - low) / (high - low || 1));
  const add = (tag, given, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(given)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    svg.append(node);
  };
  const line = (vs, at, kind) => add("polyline", { points: vs.map((v, i) => `${x(at[i])},${y(v)}`).join(" "), class: kind });
  svg.replaceChildren();
  for (const v of [low, high]) {
    add("line", { x1: 46, x2: 350, y1: y(v), y2: y(v), class: "axis" });
    add("text", { x: 34, y: y(v) + 3, "text-anchor": "end" }, v.toFixed(2));
  }
  ks.forEach((k, i) => add("text", { x: x(k), y: 170, "text-anchor": "middle" }, curve.events[i]));
  add("text", { x: 198, y: 186, "text-anchor": "middle" }, "events");
  line(curve.plain, ks, "plain");
  line(curve.saved, ks, "saved");
  const k = events.length;
  let at = ks.findIndex((one) => one >= k);
  if (at < 0) at = ks.length - 1;
  const from = Math.max(at - 1, 0), span = Math.log1p(ks[at]) - Math.log1p(ks[from]);
  const share = span > 0 ? Math.min(1, (Math.log1p(k) - Math.log1p(ks[from])) / span) : 0;
  if (own.length) {
    line(own, own.map((_, i) => i + 1), "own");
    own.forEach((v, i) => add("circle", { cx: x(i + 1), cy: y(v), r: 3, class: "mine" }));
  }
  add("circle", { cx: x(k), cy: y(curve.saved[from] + share * (curve.saved[at] - curve.saved[from])), r: 6, class: "here" });
  const better = about.kind === "ratings" ? "lower is better" : "higher is better";
  $("caption").textContent = `${curve.metric} of ${curve.users} people the model had not seen (${better}): `
    + `blue ${about.arm}, dashed ${curve.plain_name}; the dot is where you are`
    + (about.kind === "ratings" ? ", orange your own mean error so far." : ".");
  $("curve").hidden = false;
}

// Keyboard and focus.
function remembered() {
  const node = document.activeElement && document.activeElement.closest(".row");
  if (!node) return null;
  const rows = [...document.querySelectorAll("#items .row")];
  return { id: node.dataset.id, place: rows.indexOf(node) };
}

function restore(focus) {
  if (!focus) return;
  const same = [...document.querySelectorAll(".row")].find((node) => node.dataset.id === focus.id);
  const rows = document.querySelectorAll("#items .row");
  const next = same || rows[Math.min(Math.max(focus.place, 0), rows.length - 1)];
  if (next) next.focus({ preventScroll: true });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.tagName === "INPUT";
  if (typing) return;
  if (event.key === "/") { event.preventDefault(); $("search").focus(); return; }
  if (event.key === "u") { undo(); return; }
  const rows = [...document.querySelectorAll("#items .row")];
  const at = rows.indexOf(document.activeElement.closest(".row"));
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    const next = rows[Math.min(rows.length - 1, Math.max(0, at + (event.key === "ArrowDown" ? 1 : -1)))];
    if (next) next.focus();
  } else if (/^\d$/.test(event.key)) {
    const node = document.activeElement.closest(".row"), value = Number(event.key);
    const one = node && answer.items.concat(answer.events).find((x) => node.dataset.id.endsWith(`:${x.id}`));
    if (one && steps().includes(value)) rate(one.id, value);
  } else if (event.key === "Enter" && about.kind !== "ratings") {
    const node = document.activeElement.closest("#items .row");
    const one = node && document.activeElement === node && answer.items.find((x) => node.dataset.id === `item:${x.id}`);
    if (one) rate(one.id, 1);
  }
});

// Search.
function showFound() {
  const list = $("found"), open = $("search").value.trim() !== "";
  list.hidden = !open;
  document.querySelector(".search").setAttribute("aria-expanded", String(open));
  list.replaceChildren(...options.map((one, i) => {
    const node = make("li", "", one.title);
    node.id = `option-${i}`;
    node.setAttribute("role", "option");
    node.setAttribute("aria-selected", String(i === chosen));
    node.addEventListener("mousedown", (event) => { event.preventDefault(); pick(one); });
    return node;
  }));
  if (open && !options.length) list.append(make("li", "none", "Nothing is called so."));
  $("search").setAttribute("aria-activedescendant", chosen >= 0 ? `option-${chosen}` : "");
}

let typed = 0;
async function search() {
  const text = $("search").value.trim(), mine = ++typed;
  options = [];
  chosen = -1;
  if (!text) { showFound(); return; }
  try {
    const found = await call(`api/search?q=${encodeURIComponent(text)}`);
    if (mine !== typed) return;
    options = found.items;
    chosen = options.length ? 0 : -1;
    showFound();
  } catch (error) { told(error); }
}

function pick(one) {
  $("search").value = "";
  options = [];
  showFound();
  if (about.kind !== "ratings") { rate(one.id, 1); return; }
  const node = row(one, "picked");
  const old = document.querySelector("#said .picked");
  if (old) old.remove();
  node.classList.add("picked");
  const known = answer.events.find((x) => x.id === one.id);
  node.append(make("span", "title", one.title), rater(one, known ? known.value : undefined), make("span", "why", "How was it?"));
  $("said").prepend(node);
  $("empty").hidden = true;
  const first = node.querySelector("button, input");
  if (first) first.focus();
}

$("search").addEventListener("input", search);
$("search").addEventListener("blur", () => { options = []; $("found").hidden = true; });
$("search").addEventListener("focus", () => { if ($("search").value) search(); });
$("search").addEventListener("keydown", (event) => {
  if (event.key === "Escape") { $("search").value = ""; search(); $("search").blur(); }
  else if (event.key === "Enter" && chosen >= 0) { event.preventDefault(); pick(options[chosen]); }
  else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && options.length) {
    event.preventDefault();
    chosen = (chosen + (event.key === "ArrowDown" ? 1 : options.length - 1)) % options.length;
    showFound();
  }
});
$("undo").addEventListener("click", undo);
$("fresh").addEventListener("click", () => { newUser(); answer = null; before = new Map(); load(); });

async function begin() {
  try { user = localStorage.getItem("metajax-user"); } catch { user = null; }
  if (!user) newUser();
  try {
    about = await call("api/model");
  } catch (error) { told(error); return; }
  document.title = `${about.name} · metajax`;
  $("name").textContent = about.name;
  $("about").textContent = `${about.items.toLocaleString("en")} items · ${about.arm}`;
  const all = steps();
  document.querySelector(".digits").textContent = all.length ? `${all[0]}–${Math.min(9, all[all.length - 1])}` : "↵";
  await load();
}
begin();
