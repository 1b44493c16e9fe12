// Your list: made anew by every click, and what told so.

import { ask, follow, newId } from "./api.js";
import { attempt, element, ids, picture, STARTING, tell } from "./page.js";
import { seconds } from "./strip.js";

const LISTED = 12;
const CAUSES = { click: "a click", push: "a new product", retraction: "something sold out" };
const LATE_MS = 2500; // a list that comes later is spoken of
const $ = (id) => document.getElementById(id);
export const user = sessionStorage.getItem("freshet-user") ?? `guest-${newId().slice(0, 8)}`;
sessionStorage.setItem("freshet-user", user);
const mine = `/v1/users/${encodeURIComponent(user)}`;
const clicked = new Map(); // event id -> when it was sent, of clicks whose list has not come
let listed = null; // the newest list
let visit = null; // what opens a product

/** Shows each list as it comes; visited opens the product of an item. */
export function listen(visited) {
  visit = visited;
  follow(`${mine}/recommendations/stream`, yours, new AbortController().signal);
}

/** True if there is room for more products. */
export const isShort = () => (listed?.items.length ?? 0) < LISTED;

export const holds = (productId) => Boolean(listed?.items.some((item) => item.product_id === productId));

/** True once the broker has it. */
export async function click(productId, event, from = {}) {
  const eventId = newId();
  clicked.set(eventId, performance.now());
  setTimeout(() => clicked.has(eventId) && ($("you").textContent = `${user}, your click waits for its list`), LATE_MS);
  const made = { event_id: eventId, user_id: user, product_id: productId, event };
  if (from.position !== undefined) Object.assign(made, { list_id: from.list_id, position: from.position });
  const body = { ...made, occurred_at: new Date().toISOString() };
  const answer = await attempt("click", () => ask("/v1/events/clicks", { body }));
  return answer !== null && answer !== STARTING;
}

/** Her list as of now: who has not clicked gets none by herself. */
export async function refresh() {
  const list = await attempt("yours", () => ask(`${mine}/recommendations`, { limit: LISTED }));
  if (list && list !== STARTING && (!listed || ids(list) !== ids(listed))) yours(list);
}

/** Why an item stands in the list, and how long after the click that tells so it came. */
const because = ({ reason, rules = [], took }) =>
  [reason, ...rules.map((name) => `by the rule “${name}”`), ...(took ? [seconds(took)] : [])].join(" · ");

function yours(list) {
  const before = new Map((listed?.items ?? []).map((item) => [item.product_id, item]));
  listed = list;
  const sent = (list.event_ids ?? []).map((id) => clicked.get(id)).filter(Boolean);
  (list.event_ids ?? []).forEach((id) => clicked.delete(id));
  const took = sent.length ? (performance.now() - Math.max(...sent)) / 1000 : null; // s
  const why = CAUSES[list.cause];
  const when = took !== null ? `${seconds(took)} after your click` : why ? `after ${why}` : "as of now";
  $("you").textContent = `${user}, ${when}`;
  if (why && took === null) tell(`your list came ${when}`);
  for (const item of list.items) {
    const known = before.get(item.product_id);
    item.took = (known?.reason === item.reason && known.took) || took;
  }
  const focused = document.activeElement.closest("#yours li")?.dataset.product;
  $("yours").replaceChildren(...list.items.slice(0, LISTED).map((item, at) => {
    const button = element("button", { type: "button" }, picture(item), element(
      "span", {}, item.title ?? item.product_id, element("br"), element("small", { className: "faint" }, because(item)),
    ));
    button.addEventListener("click", () => visit(item.product_id, { list_id: list.list_id, position: at }));
    const made = element("li", { className: before.size && !before.has(item.product_id) ? "new" : "" }, button);
    made.dataset.product = item.product_id;
    return made;
  }));
  if (focused) [...$("yours").children].find((made) => made.dataset.product === focused)?.firstChild.focus();
}
