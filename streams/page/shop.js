// The shop: search, products, and a list that is refreshed by the click that was made on it.

import { ask, inBase64, newId, pictureFile } from "./api.js";
import { demo } from "./demo.js";
import { click, holds, isShort as isListShort, listen, refresh, user } from "./list.js";
import { attempt, card, element, ids, picture, priced, STARTING, tell } from "./page.js";
import { watch } from "./strip.js";

const TITLE = document.title;
const SHOWN = 24;
const SAMPLES = 4;
const AGAIN_MS = 1500; // while Freshet starts
const DONE_MS = 1500; // that a button says so
const $ = (id) => document.getElementById(id);
let counter = null; // in a demo, what its visitor does behind the counter
const cameFrom = new Map(); // product -> { list_id, position } of the list that it was opened from, if it was
let opened = null; // the product that is looked at: { id, from, isListable, draw }
let photo = null; // that is searched by
const photos = new Map(); // by the last part of their searches' address, which no reload brings back
let isShort = false; // what is shown could be longer
let isFilling = false; // that is looked after already
let asked = 0; // questions so far: an answer that comes after a later question is not shown

// --- products ---

function show(list, items, nothing = "nothing yet") {
  list.replaceChildren(...items.map((item) => card(item, () => visit(item.product_id))));
  if (!items.length) list.append(element("li", { className: "faint" }, nothing));
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
  lookedFor();
  $("words").value = "";
  $("welcome").hidden = false;
  const question = () => ask("/v1/trending", { limit: SHOWN });
  let answer = await found("Rising now", question, "nothing yet");
  let shown = answer;
  while (answer) { // a shop that has just opened fills while one looks on
    if ($("samples").hidden) samples(answer.items);
    if (answer.items.length && isListShort()) refresh();
    if (answer.items.length >= SHOWN) return;
    const turn = asked;
    await pause(2 * AGAIN_MS);
    if (turn !== asked) return;
    answer = await latest(question);
    if (answer && ids(answer) !== ids(shown)) show($("found"), (shown = answer).items);
  }
}

/** A shop that has just opened fills, also while one looks at what was found, or at an empty list. */
async function fill() {
  if (isFilling || !(isShort || isListShort())) return;
  isFilling = true;
  await pause(2 * AGAIN_MS);
  isFilling = false;
  if (isShort) go();
  refresh();
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Nothing is opened any more. */
function leave() {
  $("product").hidden = true;
  $("taste").hidden = true;
  opened = null;
  document.title = TITLE;
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

async function found(title, question, nothing = "nothing found") {
  $("found-title").textContent = title;
  $("found").ariaBusy = "true"; // what stands there was found before
  $("found-note").hidden = true;
  const answer = await latest(question);
  if (answer === undefined) return null;
  $("found").ariaBusy = "false";
  show($("found"), answer?.items ?? [], answer ? nothing : "no answer");
  return answer;
}

/** The answer, waited for while Freshet starts; null if there is none, undefined if something else was asked meanwhile. */
async function latest(question) {
  const turn = ++asked;
  let answer = await attempt("shown", question);
  while (answer === STARTING && turn === asked) {
    await pause(AGAIN_MS);
    answer = await attempt("shown", question);
  }
  return turn === asked && answer !== STARTING ? answer : undefined;
}

/** The address of what these words find, and this picture. */
function search(words, file) {
  if (!words && !file) return open("#/");
  const key = file ? newId() : "";
  if (file) photos.set(key, file);
  open(`#/s/${encodeURIComponent(words)}${file ? `/${key}` : ""}`);
}

async function lookFor(words, file) {
  leave();
  lookedFor(file);
  $("words").value = words;
  $("welcome").hidden = true;
  scrollTo({ top: 0 });
  const began = performance.now();
  const title = words ? `“${words}”` : "Like your picture";
  $("taste").hidden = false;
  document.title = `${title} · Freshet`;
  const answer = await found(title, async () => {
    const body = { q: words, limit: SHOWN };
    if ($("by-taste").checked) body.user = user;
    if (file) body.picture = await inBase64(file);
    return ask("/v1/search", { body });
  });
  if (!answer) return;
  isShort = !answer.items.length;
  const corrected = Object.entries(answer.corrected).map(([word, taken]) => `“${word}” was read as ${taken.join(", ")}`);
  const unknown = answer.unknown.length ? [`no product says ${answer.unknown.join(", ")}: these come near what it means`] : [];
  $("found-note").textContent = [...corrected, ...unknown].join("; ");
  $("found-note").hidden = !$("found-note").textContent;
  const count = answer.items.length === SHOWN ? `the best ${SHOWN}` : answer.items.length;
  tell(`${count} found in ${Math.round(performance.now() - began)} ms`);
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
  if (offer === null) leave();
  if (!offer) return;
  document.title = `${offer.title} · Freshet`;
  $("taste").hidden = true; // what was found stays below, and is not asked again from here
  const stock = element("p");
  const buttons = element("div", { className: "buttons" });
  opened = { id: productId, from: cameFrom.get(productId), isListable: offer.listable, draw(isListable) {
    this.isListable = isListable;
    stock.className = isListable ? "faint" : "wrong";
    stock.textContent = isListable ? "in stock" : "sold out";
    const deeds = [["add_to_cart", "Into the cart"], ["purchase", "Buy"]].map(([event, label], at) => {
      const button = element("button", { type: "button", className: at ? "" : "main", disabled: !isListable }, label);
      button.addEventListener("click", async () => {
        if (!(await click(productId, event, this.from))) return;
        button.textContent = `✓ ${label}`;
        setTimeout(() => (button.textContent = label), DONE_MS);
      });
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

// --- the page ---

function go() {
  const [kind, first = "", second] = location.hash.slice(2).split("/").map(decoded);
  const file = photos.get(second);
  isShort = false;
  if (kind === "p" && first) product(first);
  else if (kind === "s" && (first || file)) lookFor(first, file);
  else start();
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // written by hand
  }
}

const isForPublication = (event) => Boolean(counter?.take && event.target.closest?.("#publish"));

/** What happened, as far as it shows in what stands here. */
function happened(one) {
  counter?.happened(one);
  if (one.kind === "indexed") fill();
  if (one.kind !== "sold_out" && one.kind !== "restored") return;
  const isListable = one.kind === "restored";
  if (opened?.id === one.product_id) opened.draw(isListable);
  if (!isListable && holds(one.product_id)) refresh();
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
    open("#/");
  });
}
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // its address would be a place of the shop
  $("found").querySelector("button")?.focus();
});
$("by-taste").addEventListener("change", go);
addEventListener("hashchange", go);
demo({ visit, search }).then((there) => {
  counter = there;
  opened?.draw(opened.isListable);
});
go();
watch(user, happened);
listen(visit);
