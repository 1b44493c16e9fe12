// Asking Freshet: JSON over /v1 with the tab's key, if one is needed, and events as they come.

const SENT_MAX_BYTES = 2_000_000; // of a picture as it is
const SENT_MAX_PIXELS = 1_600; // of the longer side of a larger one

const keyed = () => {
  const key = sessionStorage.getItem("freshet-key");
  return key ? { Authorization: `Bearer ${key}` } : {};
};

/** True once another key was told; one that several questions wait for is asked for once. */
async function askForKey(why) {
  const dialog = document.getElementById("key-needed");
  const before = sessionStorage.getItem("freshet-key");
  dialog.querySelector("[role=alert]").textContent = why;
  if (!dialog.open) dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  const told = new FormData(dialog.querySelector("form")).get("key").trim();
  if (dialog.returnValue !== "told" || !told || told === before) return false;
  sessionStorage.setItem("freshet-key", told);
  return true;
}

async function send(path, options = {}) {
  for (;;) {
    const answer = await fetch(path, { ...options, headers: { ...options.headers, ...keyed() } });
    const isRefused = answer.status === 401 || (answer.status === 403 && sessionStorage.getItem("freshet-key"));
    if (!isRefused || !(await askForKey((await answer.clone().json()).detail))) return answer;
  }
}

/** The JSON of an answer. Throws Error with the problem's detail. */
export async function ask(path, { body, method, ...query } = {}) {
  const known = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const url = known.length ? `${path}?${new URLSearchParams(known)}` : path;
  const options = body === undefined ? { method } : {
    method: method ?? "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  };
  let answer;
  try {
    answer = await send(url, options);
  } catch {
    throw new Error("Freshet does not answer: is it running? `make demo` or `freshet up` starts it.");
  }
  const value = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw Object.assign(new Error(value?.detail ?? `the answer was ${answer.status}`), { status: answer.status });
  return value;
}

/** Calls told(event) with the JSON of each server-sent event until `signal` ends it; connects again when it breaks. */
export async function follow(path, told, signal) {
  for (let pause = 500; !signal.aborted; pause = Math.min(2 * pause, 8000)) {
    try {
      const answer = await send(path, { signal });
      if (!answer.ok) throw new Error(String(answer.status));
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        pause = 500;
        const events = (rest + value.replaceAll("\r", "")).split("\n\n");
        rest = events.pop();
        for (const event of events) {
          const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5));
          if (data.length) told(JSON.parse(data.join("\n")));
        }
      }
    } catch {
      // It broke or could not begin: the pause, then once more.
    }
    if (!signal.aborted) await new Promise((done) => setTimeout(done, pause));
  }
}

/** Where an <img> finds a product's picture: on the web, or here; with a key, as a blob that was fetched with it. */
export async function pictureOf(productId, link) {
  if (/^https?:/i.test(link ?? "")) return link;
  const path = `/v1/products/${encodeURIComponent(productId)}/picture`;
  if (!sessionStorage.getItem("freshet-key")) return path;
  const answer = await send(path);
  return answer.ok ? URL.createObjectURL(await answer.blob()) : "";
}

/** The picture of a product that is stored here, as a file. */
export async function pictureFile(productId, name) {
  const answer = await send(`/v1/products/${encodeURIComponent(productId)}/picture`);
  if (!answer.ok) throw new Error(`there is no picture of ${name}`);
  return new File([await answer.blob()], name);
}

/** 32 hex digits of chance; crypto.randomUUID is only there over TLS and on this machine. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A picture's bytes in base64; of a large one those of a smaller one. */
export async function inBase64(picture) {
  const sent = picture.size > SENT_MAX_BYTES ? await smaller(picture) : picture;
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => failed(new Error(`${picture.name} cannot be read`));
    reader.readAsDataURL(sent);
  });
}

async function smaller(picture) {
  try {
    const whole = await createImageBitmap(picture);
    const scale = Math.min(1, SENT_MAX_PIXELS / Math.max(whole.width, whole.height));
    const canvas = new OffscreenCanvas(Math.round(whole.width * scale), Math.round(whole.height * scale));
    canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
    return await canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
  } catch {
    return picture; // which the browser cannot read: Freshet says what is wrong with it
  }
}
