// The strip of what just happened: one event stream, drawn once a second, so that it can be read.

import { follow } from "./api.js";
import { element, tell } from "./page.js";

const DRAWN_EVERY_MS = 1000;
const QUIET_AFTER_MS = 5000;
const DEEDS = { view_item: "looked at", select_item: "chose", add_to_cart: "put into the cart:", purchase: "bought" };
const WHERE = { catalog: "the catalogue", encode: "the encoder", index: "the index", clicks: "the lists", learner: "the learner", api: "the api" };
const $ = (id) => document.getElementById(id);

/** Shows what happens for as long as the page is looked at, and hands each happening on. */
export function watch(user, happened) {
  let waiting = [];
  let listening = null;
  let livelyAt = 0;

  function listen() {
    if (document.hidden) { // a browser has few connections: those that nobody looks at would take them
      listening?.abort();
      listening = null;
    } else if (!listening) {
      listening = new AbortController();
      follow(`/v1/events/stream${user ? `?user=${encodeURIComponent(user)}` : ""}`, (one) => {
        waiting.push(one);
        happened?.(one);
      }, listening.signal);
    }
  }

  function draw() {
    const all = waiting;
    waiting = [];
    const of = (kind) => all.filter((one) => one.kind === kind);
    rows(of("indexed"), (one) => `can be found, ${seconds(one.after_s)} after it was published`, "products can be found");
    rows(of("sold_out"), () => "sold out", "products sold out");
    rows(of("restored"), () => "is back", "products are back");
    for (const one of of("worker")) tell(`${WHERE[one.role] ?? one.role} ${one.what}`, one.what === "started" ? "" : "worker");
    const own = (one) => user && one.user === user;
    for (const one of of("click").filter(own)) tell([`you ${DEEDS[one.event] ?? "clicked"} `, link(one)], "own");
    for (const one of of("list").filter(own)) if (one.took_ms !== null) tell(`your list was made in ${seconds(one.took_ms / 1000)}`, "own");
    pulse(of("click").filter((one) => !own(one)), of("list").filter((one) => !own(one) && one.took_ms !== null));
  }

  function pulse(clicks, lists) {
    const now = performance.now();
    if (clicks.length) livelyAt = now;
    $("pulse").hidden = !livelyAt || now - livelyAt > QUIET_AFTER_MS;
    if (!clicks.length) return;
    const last = clicks.at(-1);
    const took = lists.map((one) => one.took_ms).sort((one, other) => one - other)[lists.length >> 1];
    const speed = took === undefined ? "" : `, lists in ${took} ms`;
    $("pulse").replaceChildren(
      element("span", { className: "dot", ariaHidden: "true" }),
      element("b", {}, `${clicks.length} click${clicks.length > 1 ? "s" : ""} a second${speed}`),
      element("span", { className: "last" }, ` · ${last.user} ${DEEDS[last.event] ?? "clicked"} `, link(last)),
    );
  }

  document.addEventListener("visibilitychange", listen);
  setInterval(draw, DRAWN_EVERY_MS);
  $("more").addEventListener("click", () => {
    const isOpen = $("more").closest("footer").classList.toggle("open");
    $("more").setAttribute("aria-expanded", isOpen);
    $("more").textContent = isOpen ? "Less" : "More";
  });
  listen();
}

/** A row for each product; of many at once, one for all. */
function rows(happenings, what, whatAll) {
  if (happenings.length > 2) {
    const last = happenings.at(-1);
    const when = last.after_s === undefined ? "" : `, the last ${seconds(last.after_s)} after it was published`;
    tell([`${happenings.length} ${whatAll}${when}: `, link(last)]);
  } else {
    for (const one of happenings) tell([link(one), ` ${what(one)}`]);
  }
}

function link({ product_id, title }) {
  return element("a", { href: `/#/p/${encodeURIComponent(product_id)}` }, title);
}

export function seconds(value) {
  return value < 1 ? `${Math.round(value * 1000)}\u00a0ms` : `${value.toFixed(value < 10 ? 1 : 0)}\u00a0s`;
}
