// How it runs: what each role says of itself, what went wrong, what is new.

import { ask } from "./api.js";
import { attempt, card, element, STARTING, tell } from "./page.js";
import { seconds, watch } from "./strip.js";

const EVERY_MS = 2000;
const HOPS = [ // role, how the names of its details begin, and what they time
  ["clicks", "click_to_list", "from a click to its list"],
  ["index", "product_to_vectors", "from a product to where it is found by picture and words"],
  ["index", "product_to_offer", "from a new price or stock to the index"],
  ["catalog", "update_to_offer", "from an update to the offer on its topic"],
];
const $ = (id) => document.getElementById(id);
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
    "dead letters": number(status.dead_letters),
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
  const columns = [["of the last five minutes"], ["half within", "number"], ["99 % within", "number"]];
  table($("freshness"), columns, HOPS.map(([role, name, what]) => [what, told(role, `${name}_p50_s`), told(role, `${name}_p99_s`)]));
}

function roles(status) {
  const columns = [["role"], ["state"], ["workers", "number"], ["events", "number"], ["a second", "number"],
    ["waiting", "number"], ["oldest, s", "number"], ["dead letters", "number"], ["waits for"]];
  table($("roles"), columns, Object.entries(status.roles).map(([name, role]) => [
    name, element("span", { className: role.alive ? "" : "wrong" }, role.state), number(role.workers), number(role.events),
    number(role.events_per_s, 1), number(role.lag), number(role.oldest_unprocessed_s, 1), number(role.dead_letters), role.reason,
  ]));
  $("notes").replaceChildren(...status.notes.map((note) => element("li", {}, note)));
}

/** Draws the answer, if there is one. */
async function draw(path, query, drawn) {
  const answer = await attempt(path, () => ask(path, query));
  if (answer && answer !== STARTING) drawn(answer);
}

async function look() {
  if (!document.hidden) {
    await draw("/v1/status", {}, (status) => { figures(status); freshness(status); roles(status); });
    await draw("/v1/dead-letters", {}, letters);
  }
  setTimeout(look, EVERY_MS);
}

function letters({ reasons }) {
  const columns = [["topic"], ["reason"], ["letters", "number"], [""]];
  table($("letters"), columns, reasons.map(({ topic, reason, open }) => {
    const replay = element("button", { type: "button" }, "Replay");
    replay.addEventListener("click", () => draw(
      "/v1/dead-letters/replay", { body: { topic, reason } },
      (done) => tell(`${done.replayed.length} replayed, ${done.refused.length} refused: ${done.refused[0]?.why ?? reason}`),
    ));
    return [topic, reason, number(open), replay];
  }));
  if (!reasons.length) $("letters").append(element("caption", { className: "faint" }, "none: everything could be used"));
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
      made.querySelector("span").append(element("br"), element("small", { className: "first" }, firstClick(item)));
      return made;
    }));
  });
}

function firstClick({ created_at, first_click_at, is_clicked, is_retrievable }) {
  if (first_click_at !== null) return `clicked after ${seconds(Math.max(0, first_click_at - created_at))}`;
  if (is_clicked) return "clicked";
  return is_retrievable ? "no click yet" : "waits for the encoder";
}

look();
products();
setInterval(products, 5 * EVERY_MS);
watch(null, ({ kind }) => { if (kind === "indexed") soon(); });
