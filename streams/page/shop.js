// The shop: search, products, and a list that is refreshed by the click that was made on it.

import { ask, follow, inBase64, newId, pictureFile } from "./api.js";
import { demo } from "./demo.js";
import { attempt, card, element, picture, priced, STARTING, tell } from "./page.js";
import { watch } from "./strip.js";

const SHOWN = 24;
const LISTED = 12;
const CAUSES = { click: "a click", push: "a new product", retraction: "something sold out" };
const SAMPLES = 4;
const AGAIN_MS = 1500; // while Freshet starts
const LATE_MS = 2500; // a list that comes later is spoken of
const $ = (id) => document.getElementById(id);
const user = sessionStorage.getItem("freshet-user") ?? `guest-${newId().slice(0, 8)}`;
sessionStorage.setItem("freshet-user", user);
const mine = `/v1/users/${encodeURIComponent(user)}`;
const clicked = new Map(); // event id -> when it was sent, of clicks whose list has not come
let listed = null; // the newest list
let counter = null; // in a demo, what its visitor does behind the counter
const cameFrom = new Map(); // product -> { list_id, position } of the list that it was opened from, if it was
let opened = null; // the product that is looked at: { id, from, isListable, draw }
let photo = null; // that is searched by
let asked = 0; // questions so far: an answer that comes after a later question is not shown

// --- products ---

function show(list, items, from) {
  list.replaceChildren(...items.map((item) => card(item, () => visit(item.product_id, from))));
  if (!items.length) list.append(element("li", { className: "faint" }, "nothing yet"));
}

function visit(productId, from) {
  cameFrom.set(productId, from);
  click(productId, from?.position === undefined ? "view_item" : "select_item", from);
  open(`#/p/${encodeURIComponent(productId)}`);
}

/** The place of the address, also if it is there already. */
function open(hash) {
  if (location.hash === hash) go();
  else location.hash = hash;
}

// --- the shelf of what was found ---

async function start() {
  leave();
  $("welcome").hidden = false;
  const question = () => ask("/v1/trending", { limit: SHOWN });
  let answer = await found("Rising now", question);
  let shown = answer;
  while (answer) { // a shop that has just opened fills while one looks on
    if ($("samples").hidden) samples(answer.items);
    if (answer.items.length && (listed?.items.length ?? 0) < LISTED) refresh();
    if (answer.items.length >= SHOWN) return;
    const turn = asked;
    await pause(2 * AGAIN_MS);
    if (turn !== asked) return;
    answer = await latest(question);
    if (answer && ids(answer) !== ids(shown)) show($("found"), (shown = answer).items);
  }
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const ids = ({ items }) => items.map((item) => item.product_id).join("\n");

/** Nothing is opened any more. */
function leave() {
  $("product").hidden = true;
  opened = null;
}

/** Pictures to search by, for who has none at hand. */
function samples(items) {
  const here = items.filter(({ offer }) => offer.image_link && !/^https?:/i.test(offer.image_link));
  const spread = here.filter((_, at) => at % Math.max(1, Math.floor(here.length / SAMPLES)) === 0).slice(0, SAMPLES);
  $("samples").hidden = !spread.length;
  $("samples").querySelector(".row").replaceChildren(...spread.map((item) => {
    const button = element("button", { type: "button", className: "sample", ariaLabel: `Search with the picture of ${item.title}` }, picture(item));
    button.addEventListener("click", async () => {
      const file = await attempt("sample", () => pictureFile(item.product_id, item.title));
      if (file) search("", file);
    });
    return button;
  }));
}

async function found(title, question) {
  $("found-title").textContent = title;
  $("found").ariaBusy = "true"; // what stands there was found before
  const answer = await latest(question);
  if (!answer) return null;
  $("found").ariaBusy = "false";
  show($("found"), answer.items);
  return answer;
}

/** The answer, waited for while Freshet starts; null if there is none, or something else was asked meanwhile. */
async function latest(question) {
  const turn = ++asked;
  let answer = await attempt("shown", question);
  while (answer === STARTING && turn === asked) {
    await pause(AGAIN_MS);
    answer = await attempt("shown", question);
  }
  return turn === asked && answer !== STARTING ? answer : null;
}

async function search(words, file) {
  history.replaceState(null, "", "#/"); // what is found is no product's page
  leave();
  lookedFor(file);
  if (!words && !file) return start();
  $("welcome").hidden = true;
  scrollTo({ top: 0 });
  const began = performance.now();
  const body = { q: words, limit: SHOWN, user };
  if (file) body.picture = await inBase64(file);
  const answer = await found(words ? `“${words}”` : "Like your picture", () => ask("/v1/search", { body }));
  if (answer) tell(`${answer.items.length} found in ${Math.round(performance.now() - began)} ms`);
}

function lookedFor(file) {
  photo = file ?? null;
  const shown = $("looked-for");
  shown.hidden = !file;
  if (!file) return;
  const without = element("button", { type: "button" }, "Without it");
  without.addEventListener("click", () => search($("words").value.trim()));
  const image = element("img", { alt: "your picture", src: URL.createObjectURL(file) });
  shown.replaceChildren(image, element("span", {}, file.name), without);
}

// --- one product ---

async function product(productId) {
  const place = $("product");
  const path = `/v1/products/${encodeURIComponent(productId)}`;
  const offer = await latest(() => ask(`${path}/offer`));
  if (!offer) return;
  const stock = element("p");
  const buttons = element("div", { className: "buttons" });
  opened = { id: productId, from: cameFrom.get(productId), isListable: offer.listable, draw(isListable) {
    this.isListable = isListable;
    stock.className = isListable ? "faint" : "wrong";
    stock.textContent = isListable ? "in stock" : "sold out";
    const deeds = [["add_to_cart", "Into the cart"], ["purchase", "Buy"]].map(([event, label], at) => {
      const button = element("button", { type: "button", className: at ? "" : "main", disabled: !isListable }, label);
      button.addEventListener("click", () => click(productId, event, this.from));
      return button;
    });
    const focused = [...buttons.children].indexOf(document.activeElement);
    buttons.replaceChildren(...deeds, ...(counter ? [counter.counter(productId, isListable)] : []));
    buttons.children[focused]?.focus(); // whoever uses the keyboard stays where she was
  } };
  opened.draw(offer.listable);
  $("welcome").hidden = true;
  const { brand, category, attributes } = offer.offer;
  const facts = [brand, category.join(" › "), ...Object.values(attributes)];
  const shelves = [
    ["Similar", `${path}/similar`, {}], ["Other brands", `${path}/across-brands`, {}],
    ["Bought together", `${path}/similar`, { by: "together" }],
  ].map(([title, from, query]) => ({ title, from, query, list: element("ul", { className: "products short" }) }));
  place.replaceChildren(
    element("div", { className: "one" }, picture(offer), element(
      "div", {}, element("h2", { id: "product-title" }, offer.title), element("p", {}, priced(offer.offer)),
      element("p", { className: "faint" }, facts.filter(Boolean).join(" · ")),
      stock, buttons,
    )),
    ...shelves.flatMap(({ title, list }) => [element("h3", {}, title), list]),
  );
  place.hidden = false;
  $("main").focus({ preventScroll: false });
  scrollTo({ top: 0 });
  for (const { from, query, list } of shelves) {
    ask(from, { limit: 6, ...query }).then(({ items }) => show(list, items), () => show(list, []));
  }
}

// --- your list ---

async function click(productId, event, from = {}) {
  const eventId = newId();
  clicked.set(eventId, performance.now());
  setTimeout(() => clicked.has(eventId) && ($("you").textContent = `${user}, your click waits for its list`), LATE_MS);
  const made = { event_id: eventId, user_id: user, product_id: productId, event };
  if (from.position !== undefined) Object.assign(made, { list_id: from.list_id, position: from.position });
  await attempt("click", () => ask("/v1/events/clicks", { body: { ...made, occurred_at: new Date().toISOString() } }));
}

/** Her list as of now: who has not clicked gets none by herself. */
async function refresh() {
  const list = await attempt("yours", () => ask(`${mine}/recommendations`, { limit: LISTED }));
  if (list && list !== STARTING && (!listed || ids(list) !== ids(listed))) yours(list);
}

/** Why an item stands in the list, and how many milliseconds after the click that tells so. */
const because = ({ reason, rules = [], took }) =>
  [reason, ...rules.map((name) => `by the rule “${name}”`), ...(took ? [`${took}\u00a0ms`] : [])].join(" · ");

function yours(list) {
  const before = new Map((listed?.items ?? []).map((item) => [item.product_id, item]));
  listed = list;
  const sent = (list.event_ids ?? []).map((id) => clicked.get(id)).filter(Boolean);
  (list.event_ids ?? []).forEach((id) => clicked.delete(id));
  const took = sent.length ? Math.round(performance.now() - Math.max(...sent)) : null;
  const why = CAUSES[list.cause];
  const when = took !== null ? `${took} ms after your click` : why ? `after ${why}` : "as of now";
  $("you").textContent = `${user}, ${when}`;
  if (why && took === null) tell(`your list came ${when}`);
  for (const item of list.items) {
    const known = before.get(item.product_id);
    item.took = (known?.reason === item.reason && known.took) || took;
  }
  $("yours").replaceChildren(...list.items.slice(0, LISTED).map((item, at) => {
    const button = element("button", { type: "button" }, picture(item), element(
      "span", {}, item.title ?? item.product_id, element("br"), element("small", { className: "faint" }, because(item)),
    ));
    button.addEventListener("click", () => visit(item.product_id, { list_id: list.list_id, position: at }));
    return element("li", { className: before.size && !before.has(item.product_id) ? "new" : "" }, button);
  }));
}

// --- the page ---

function go() {
  const [, kind, id] = location.hash.match(/^#\/(p)\/(.+)$/) ?? [];
  if (kind) product(decodeURIComponent(id));
  else start();
}

const isForPublication = (event) => Boolean(counter?.take && event.target.closest?.("#publish"));

/** What happened, as far as it shows in what stands here. */
function happened(one) {
  counter?.happened(one);
  if (one.kind !== "sold_out" && one.kind !== "restored") return;
  const isListable = one.kind === "restored";
  if (opened?.id === one.product_id) opened.draw(isListable);
  if (!isListable && listed?.items.some((item) => item.product_id === one.product_id)) refresh();
  for (const item of document.querySelectorAll("main .products li")) {
    if (item.dataset.product === one.product_id) item.classList.toggle("gone", !isListable);
  }
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  search($("words").value.trim(), photo);
});
$("picture").addEventListener("change", () => {
  const [file] = $("picture").files;
  $("picture").value = ""; // so that the same one can be chosen again
  if (file) search($("words").value.trim(), file);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
  document.body.classList.toggle("publishing", isForPublication(event));
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (!file) return;
  if (isForPublication(event)) counter.take(file);
  else search($("words").value.trim(), file);
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) search($("words").value.trim(), file);
});
for (const link of document.querySelectorAll('a[href="#/"]')) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    $("search").reset();
    lookedFor();
    open("#/");
  });
}
addEventListener("hashchange", go);
demo({ visit, search }).then((there) => {
  counter = there;
  opened?.draw(opened.isListable);
});
go();
watch(user, happened);
follow(`${mine}/recommendations/stream`, yours, new AbortController().signal);
