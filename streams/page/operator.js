// How it runs: what each role says of itself, what went wrong, what is new.

import { ask } from "./api.js";
import { rowsOf } from "./experiments.js";
import { attempt, card, element, STARTING, tell } from "./page.js";
import { seconds, watch } from "./strip.js";

const EVERY_MS = 2000;
const LETTERS = "/v1/dead-letters";
const HOPS = [ // role, how the names of its details begin, and what they time
  ["clicks", "click_to_list", "from a click to its list"],
  ["index", "product_to_vectors", "from a product to where it is found by picture and words"],
  ["index", "product_to_offer", "from a new price or stock to the index"],
  ["catalog", "update_to_offer", "from an update to the offer on its topic"],
];
const $ = (id) => document.getElementById(id);
const drawn = new Map(); // by what was asked, the answer that is shown
const refusals = new Map(); // of letters, by topic and reason: why they were not replayed
let openLetters = null;
const number = (value, digits = 0) =>
  value === null || value === undefined ? "–" : value.toLocaleString(undefined, { maximumFractionDigits: digits });

function table(place, columns, rows) {
  const head = element("tr", {}, ...columns.map(([title, kind]) => element("th", { className: kind ?? "", scope: "col" }, title)));
  const body = rows.map((cells) => element(
    "tr", {}, ...cells.map((cell, at) => element("td", { className: columns[at][1] ?? "" }, cell ?? "")),
  ));
  place.replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
}

function figures(status) {
  const { roles, stores } = status;
  const shown = {
    "clicks a second": number(roles.clicks?.events_per_s, 1),
    "products for sale, retrievable": number(stores.vectors?.fused),
    "users": number(stores.users?.users),
    "waiting, of all roles": number(Object.values(roles).reduce((sum, role) => sum + (role.lag ?? 0), 0)),
    "age of the factors, s": number(status.factors_age_s, 1),
    "open dead letters": number(openLetters),
  };
  $("figures").replaceChildren(...Object.entries(shown).map(([name, value]) => element(
    "div", {}, element("dt", {}, name), element("dd", {}, value),
  )));
}

/** Of the last minutes, as the roles time themselves. */
function freshness(status) {
  const told = (role, name) => {
    const value = status.roles[role]?.details?.[name];
    return value === undefined ? "–" : seconds(value);
  };
  const columns = [["of the last five minutes, or since the role began"], ["half within", "number"], ["99 % within", "number"]];
  table($("freshness"), columns, HOPS.map(([role, name, what]) => [what, told(role, `${name}_p50_s`), told(role, `${name}_p99_s`)]));
}

function roles(status) {
  const columns = [["role"], ["state"], ["workers", "number"], ["events", "number"], ["a second", "number"],
    ["waiting", "number"], ["oldest, s", "number"], ["given up since it began", "number"], ["waits for"]];
  table($("roles"), columns, Object.entries(status.roles).map(([name, role]) => [
    name, element("span", { className: role.alive ? "" : "wrong" }, role.state), number(role.workers), number(role.events),
    number(role.events_per_s, 1), number(role.lag), number(role.oldest_unprocessed_s, 1), number(role.dead_letters), role.reason,
  ]));
  $("notes").replaceChildren(...status.notes.map((note) => element("li", {}, note)));
}

/** Draws the answer, if there is one, and another one than is shown: who is about to press a button there may. */
async function draw(path, query, drawing) {
  const answer = await attempt(path, () => ask(path, query));
  if (!answer || answer === STARTING) return;
  const told = JSON.stringify(answer);
  if (drawn.get(path) === told) return;
  drawn.set(path, told);
  const focused = document.activeElement.dataset.key;
  drawing(answer);
  if (focused) [...document.querySelectorAll("[data-key]")].find(({ dataset }) => dataset.key === focused)?.focus();
}

async function look() {
  if (!document.hidden) {
    await draw(LETTERS, {}, letters);
    await draw("/v1/status", {}, (status) => { figures(status); freshness(status); roles(status); });
  }
  setTimeout(look, EVERY_MS);
}

function letters({ open, reasons }) {
  openLetters = open;
  const columns = [["topic"], ["reason"], ["letters", "number"], [""]];
  table($("letters"), columns, reasons.map((kind) => [kind.topic, reasonOf(kind), number(kind.open), buttonsOf(kind)]));
  if (!reasons.length) $("letters").append(element("caption", { className: "faint" }, "none: everything could be used"));
}

/** Why they were given up, the newest of them, and why they were not replayed. */
function reasonOf({ topic, reason, newest }) {
  const lines = newest.map(({ place, key, at }) => element("li", {}, `${key ?? "no key"} · ${at} · ${place}`));
  const told = element("div", {}, reason, element("ul", { className: "faint" }, ...lines));
  const refused = refusals.get(topic + reason);
  if (refused) told.append(element("p", { className: "wrong" }, refused));
  return told;
}

function buttonsOf({ topic, reason, open }) {
  const settle = async (what, body, say) => {
    const path = `${LETTERS}/${what}`;
    const done = await attempt(path, () => ask(path, { body: { topic, reason, ...body } }));
    if (!done || done === STARTING) return;
    say(done);
    drawn.delete(LETTERS);
    draw(LETTERS, {}, letters);
  };
  const replay = (anyway) => settle("replay", { anyway }, ({ replayed, refused }) => {
    tell(`${replayed.length} replayed, ${refused.length} refused`);
    if (refused.length) refusals.set(topic + reason, `${refused.length} not replayed: ${refused[0].why}`);
    else refusals.delete(topic + reason);
  });
  const drop = () => {
    if (confirm(`Drop ${open} of ${topic}? Nothing is published, and they are counted no more.`)) {
      settle("drop", {}, ({ dropped }) => tell(`${dropped.length} dropped`));
    }
  };
  const deeds = [["Replay", () => replay(false)], ["Drop", drop]];
  if (refusals.has(topic + reason)) deeds.splice(1, 0, ["Replay anyway", () => replay(true)]);
  return element("div", { className: "row" }, ...deeds.map(([label, pressed]) => {
    const button = element("button", { type: "button" }, label);
    button.dataset.key = `${label} ${topic} ${reason}`;
    button.addEventListener("click", pressed);
    return button;
  }));
}

let isDue = false;
/** The new products once more, not more often than they can be read. */
function soon() {
  if (isDue) return;
  isDue = true;
  setTimeout(() => { isDue = false; products(); }, EVERY_MS);
}

function products() {
  draw("/v1/newcomers", { limit: 12 }, ({ products: count, clicked, items }) => {
    $("new-count").textContent = count ? `${number(count)} came, ${number(clicked)} of them were clicked` : "none came";
    $("new").replaceChildren(...items.map((item) => {
      const made = card(item, () => (location.href = `/#/p/${encodeURIComponent(item.product_id)}`));
      made.firstChild.dataset.key = item.product_id;
      made.querySelector("span").append(element("br"), element("small", { className: "first" }, firstClick(item)));
      return made;
    }));
  });
}

/** The experiment that runs, or else the last one. */
function experiments() {
  draw("/v1/experiments", {}, ({ experiments: all }) => {
    $("experiment-none").hidden = all.length > 0;
    if (all.length) draw(`/v1/experiments/${encodeURIComponent(all[0].name)}`, {}, experiment);
  });
}

function experiment(report) {
  const { columns, rows, caption } = rowsOf(report);
  table($("experiment"), columns, rows);
  $("experiment").prepend(element("caption", { className: "faint" }, caption));
  $("experiment-warnings").replaceChildren(...report.warnings.map((warning) => element("li", {}, warning)));
}

function firstClick({ created_at, first_click_at, is_clicked, is_retrievable }) {
  if (first_click_at !== null) return `clicked after ${seconds(Math.max(0, first_click_at - created_at))}`;
  if (is_clicked) return "clicked";
  return is_retrievable ? "no click yet" : "waits for the encoder";
}

look();
for (const slowly of [products, experiments]) {
  slowly();
  setInterval(() => document.hidden || slowly(), 5 * EVERY_MS);
}
watch(null, ({ kind }) => { if (kind === "indexed") soon(); });
