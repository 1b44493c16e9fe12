// What both views draw with.

import { pictureOf } from "./api.js";

/** In place of an answer: it will be there soon. */
export const STARTING = {};
const problems = new Map(); // by what was asked

/** The answer; null if there is none, and then the page says why until the same question succeeds. */
export async function attempt(name, question) {
  let answer = null;
  try {
    answer = await question();
    problems.delete(name);
  } catch (error) {
    problems.set(name, error.message);
    if (error.status === 503) answer = STARTING;
  }
  const place = document.getElementById("problem");
  place.textContent = [...new Set(problems.values())].join(" · ");
  place.hidden = !problems.size;
  return answer;
}

/** An element with these properties and children; texts are never read as HTML. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Which products these are, and in which order. */
export const ids = ({ items }) => items.map((item) => item.product_id).join("\n");

/** A price as the browser's language writes it; empty where there is none. */
export function priced(offer) {
  if (!offer?.price) return "";
  const { amount, currency } = offer.price;
  return new Intl.NumberFormat(undefined, { style: "currency", currency }).format(amount);
}

/** One more line in the strip of what just happened, the newest first; of texts and elements. */
export function tell(what, kind = "") {
  const strip = document.getElementById("happened");
  strip.querySelector(".nothing")?.remove();
  const at = element("time", {}, new Date().toLocaleTimeString());
  strip.prepend(element("li", { className: kind }, at, " ", ...[what].flat()));
  while (strip.children.length > 40) strip.lastChild.remove();
}

/** A product's picture, or a sign that it has none. */
export function picture(item) {
  const none = element("div", { className: "none", ariaHidden: "true" }, "▧");
  if (item.offer && !item.offer.image_link) return none;
  const image = element("img", { alt: "", loading: "lazy", width: 200, height: 200, title: item.title ?? "" });
  image.addEventListener("error", () => image.replaceWith(none));
  image.addEventListener("load", () => image.src.startsWith("blob:") && URL.revokeObjectURL(image.src));
  pictureOf(item.product_id, item.offer?.image_link).then((source) => (image.src = source), () => image.dispatchEvent(new Event("error")));
  return image;
}

/** A product to choose. */
export function card(item, chosen) {
  const words = element("span", {}, item.title ?? item.product_id, element("br"), element("small", {}, priced(item.offer)));
  const button = element("button", { className: "card", type: "button" }, picture(item), words);
  button.addEventListener("click", chosen);
  const made = element("li", {}, button);
  made.dataset.product = item.product_id;
  return made;
}
