// What a demo lets its visitor do behind the counter: publish, sell out, restore, and stop parts of the system.

import { ask, inBase64 } from "./api.js";
import { attempt, element } from "./page.js";
import { seconds } from "./strip.js";

const LOOKED_EVERY_MS = 1500;
const PARTS = {
  catalog: ["Catalogue", "takes products in"],
  encode: ["Encoder", "looks at pictures and words"],
  clicks: ["Lists", "one for each click"],
  learner: ["Learner", "learns from the clicks"],
};
const MANY = 100; // events that wait: fewer are done, but not acknowledged yet
const WIDE = matchMedia("(min-width: 60rem)");
const $ = (id) => document.getElementById(id);
const changing = new Map(); // process -> what it is asked to become
const queued = new Map(); // process -> what it is to become after that
let own = null; // the product that was published last: { id, file, isFound }
let file = null; // its picture to be

/** Draws the controls if a demo runs here; then there is one with `happened`, `counter` and `take`. */
export async function demo({ visit, search }) {
  const told = await firstTold();
  if (!told) return null;
  for (const place of [$("publish"), $("processes")]) {
    place.hidden = false;
    place.open = WIDE.matches;
  }
  $("own-drop").hidden = !told.takes_pictures;
  $("own-picture").addEventListener("change", () => take($("own-picture").files[0]));
  $("publish").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    publish();
  });
  processes(told);
  look({ visit, search });
  return { happened: (one) => happened(one, { visit, search }), counter, take: told.takes_pictures ? take : null };
}

/** What a demo tells first, waited for while it starts; null if this is none. */
async function firstTold() {
  for (;;) {
    try {
      return await ask("/v1/demo");
    } catch (error) {
      if (error.status === 404) return null;
      await new Promise((done) => setTimeout(done, LOOKED_EVERY_MS));
    }
  }
}

// --- a product of one's own ---

function take(chosen) {
  if (!chosen) return;
  file = chosen;
  const shown = element("img", { alt: "", src: URL.createObjectURL(file) });
  $("own-drop").replaceChildren(shown, element("span", {}, element("b", {}, file.name), element("br"), "another one?"));
  $("publish").open = true;
  if (!$("own-title").value) $("own-title").focus();
}

let isPublishing = false;

async function publish() {
  if (isPublishing) return;
  $("own-title").value = $("own-title").value.trim();
  if (!$("own-title").reportValidity()) return;
  isPublishing = true;
  await published().finally(() => (isPublishing = false));
}

async function published() {
  const body = { title: $("own-title").value };
  if ($("own-price").value) body.price = Number($("own-price").value);
  if (file) body.picture = await inBase64(file);
  say("Publishing it");
  const answer = await attempt("publish", () => ask("/v1/demo/products", { body }));
  if (!answer?.product_id) return say();
  own = { id: answer.product_id, file, isFound: false };
  say("Published. The encoder looks at it");
  file = null;
  $("publish").querySelector("form").reset();
  $("own-drop").replaceChildren(
    element("span", { className: "sign", ariaHidden: "true" }, "+"),
    element("span", {}, element("b", {}, "Another photo"), element("br"), "choose, or drop it here"),
  );
}

function say(...what) {
  $("published").replaceChildren(...what);
}

function found(when, { visit, search }) {
  const { id, file: picture } = own;
  own.isFound = true;
  const look = element("button", { type: "button", className: "main" }, "Look at it");
  look.addEventListener("click", () => visit(id));
  const buttons = [look];
  if (picture) {
    const again = element("button", { type: "button" }, "Search with its photo");
    again.addEventListener("click", () => search("", picture));
    buttons.push(again);
  }
  say(element("p", {}, `Shoppers can find it${when}.`), element("div", { className: "row" }, ...buttons));
}

function happened(one, shop) {
  if (own && one.kind === "indexed" && one.product_id === own.id) found(`, ${seconds(one.after_s)} after you published it`, shop);
}

// --- what is for sale ---

/** A button that sells the product out or restores it, as the shop would. */
function counter(productId, isListable) {
  const button = element("button", { type: "button", className: "behind", title: "as the shop's own system would" },
    isListable ? "Sell it out" : "Restore it");
  let isAsked = false; // not disabled: it would lose the focus
  button.addEventListener("click", async () => {
    if (isAsked) return;
    isAsked = true;
    const patch = { op: "patch", product_id: productId, availability: isListable ? "out_of_stock" : "in_stock" };
    isAsked = Boolean(await attempt("counter", () => ask("/v1/events/catalog", { body: patch })));
  });
  return button;
}

// --- the processes ---

async function look(shop) {
  if (!document.hidden && !$("welcome").hidden) {
    const told = await attempt("demo", () => ask("/v1/demo"));
    if (told?.processes) {
      processes(told);
      if (own && !own.isFound) await waits(told, shop);
    }
  }
  setTimeout(look, LOOKED_EVERY_MS, shop);
}

/** Says what an own product waits for; that it was found may have been missed. */
async function waits(told, shop) {
  const stopped = told.processes.find(({ name, at_work }) => !at_work && (name === "catalog" || name === "encode"));
  if (stopped) say(`Published, and it waits for the ${PARTS[stopped.name][0].toLowerCase()}.`);
  const { id } = own;
  const similar = await ask(`/v1/products/${encodeURIComponent(id)}/similar`, { limit: 1 }).catch(() => null);
  if (similar?.items.length && own.id === id && !own.isFound) found(" now", shop);
}

function processes(told) {
  const list = $("processes").querySelector("ul");
  for (const one of told.processes) {
    const row = [...list.children].find((child) => child.dataset.name === one.name) ?? added(list, one.name);
    const wanted = queued.get(one.name) ?? changing.get(one.name);
    const isOn = wanted ? wanted === "start" : one.state !== "held";
    row.querySelector("button").setAttribute("aria-checked", isOn);
    const waiting = one.waiting ? `, ${one.waiting} waiting` : "";
    const state = wanted === "stop" ? "stopping" : one.state === "held" ? "stopped" : one.at_work ? "" : "starting";
    row.querySelector("output").textContent = state ? state + waiting : one.waiting > MANY ? `${one.waiting} waiting` : "at work";
    row.classList.toggle("held", Boolean(state));
  }
}

function added(list, name) {
  const [title, does] = PARTS[name] ?? [name, ""];
  const knob = element("button", { type: "button", role: "switch", ariaLabel: `${title} runs` });
  const row = element("li", {}, knob, element("span", {}, element("b", {}, title), " ", element("small", { className: "faint" }, does)), element("output"));
  row.dataset.name = name;
  knob.addEventListener("click", () => order(name, knob.getAttribute("aria-checked") === "true" ? "stop" : "start"));
  list.append(row);
  return row;
}

async function order(name, what) {
  const row = [...$("processes").querySelectorAll("li")].find((child) => child.dataset.name === name);
  row.querySelector("button").setAttribute("aria-checked", what === "start");
  if (changing.has(name)) {
    queued.set(name, what);
    return;
  }
  changing.set(name, what);
  row.querySelector("output").textContent = what === "stop" ? "stopping" : "starting";
  const told = await attempt("demo", () => ask(`/v1/demo/processes/${name}/${what}`, { body: {} }));
  changing.delete(name);
  const next = queued.get(name);
  queued.delete(name);
  if (told?.processes) processes(told);
  if (next && next !== what) await order(name, next);
}
