// The page: one question about one image or video, answered with a plan and by the full model, as the words come.
import { framesOf, load, paint } from "./draw.js";

const at = (id) => document.getElementById(id);
let media = null; // { type, url }: what was chosen, as a data URI
let chosen = Promise.resolve(); // settled when the chosen file was read
let served = { id: "", foveate: {} };
let running = null; // AbortController of the questions on their way
let answered = false;
let frames = [];

function headers() {
  const key = at("key").value.trim();
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function look() {
  const reply = await fetch("v1/models", { headers: headers() });
  if (reply.status === 401) {
    at("key-row").hidden = false;
    at("served").textContent = "This server wants an API key.";
    return;
  }
  served = (await reply.json()).data[0];
  const own = served.foveate;
  at("served").textContent = `${served.id}, plan ${own.plan}${own.trained ? "" : "; its weights are random, so its words mean nothing"}`;
  at("plan").placeholder = own.plan;
  at("frames").max = own.most_frames;
  at("frames").value = own.frames;
}

function say(text) { at("problem").textContent = text; }

function take(file) {
  if (!file) return;
  const moving = file.type.startsWith("video/");
  if (!moving && !file.type.startsWith("image/")) return say("That is neither an image nor a video.");
  if (served.foveate.media_bytes && file.size > served.foveate.media_bytes) return say("That file is larger than this server takes.");
  const reader = new FileReader();
  let read;
  chosen = new Promise((done) => { read = done; });
  reader.onloadend = () => read();
  reader.onerror = () => say("That file cannot be read.");
  reader.onload = () => {
    media = { type: moving ? "video_url" : "image_url", url: reader.result };
    for (const [id, here] of [["still", !moving], ["moving", moving]]) {
      at(id).hidden = !here;
      if (here) at(id).src = id === "moving" ? URL.createObjectURL(file) : reader.result;
      else at(id).removeAttribute("src");
    }
    say("");
  };
  reader.readAsDataURL(file);
}

function request(plan, keep, overlay) {
  const content = [...(media ? [{ type: media.type, [media.type]: { url: media.url } }] : []), { type: "text", text: at("question").value }];
  // nothing that an earlier question left: the figures of both sides are those of whole answers
  const own = { overlay, frames: Number(at("frames").value) || 16, reuse: false };
  if (plan) own.plan = plan;
  if (keep) own.keep = keep;
  const messages = [{ role: "user", content }];
  return { model: served.id, messages, stream: true, stream_options: { include_usage: true }, foveate: own };
}

/** Asks, and calls `tell` with every piece that comes. */
async function stream(body, signal, tell) {
  const reply = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!reply.ok) throw new Error((await reply.json()).error.message);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
      const piece = JSON.parse(event.slice(6));
      if (piece.error) throw new Error(piece.error.message);
      tell(piece);
    }
  }
}

async function one(side, body, signal) {
  const out = { foveate: null, usage: null };
  at(`${side}-text`).textContent = "";
  await stream(body, signal, (piece) => {
    at(`${side}-text`).textContent += piece.choices[0]?.delta?.content ?? "";
    if (piece.foveate?.overlay) show(piece.foveate.overlay);
    if (piece.foveate) out.foveate = piece.foveate;
    if (piece.usage) out.usage = piece.usage;
  });
  return out;
}

async function ask() {
  running?.abort();
  const mine = (running = new AbortController());
  say("");
  at("stop").disabled = false;
  at("seen").hidden = at("numbers").hidden = true;
  const both = at("both").checked;
  at("full").hidden = !both;
  await chosen;
  const plan = at("plan").value.trim();
  const keep = media && plan !== "none" && !(served.foveate.plan === "none" && !plan) ? Number(at("keep").value) / 100 : 0;
  try {
    // one after the other, so that neither takes time from the other
    const reduced = await one("reduced", request(plan, keep, Boolean(media)), mine.signal);
    tabulate(reduced, null);
    if (both) tabulate(reduced, await one("full", request("none", 0, false), mine.signal));
    answered = true;
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
  } finally {
    if (running === mine) at("stop").disabled = true;
  }
}

const FIGURES = [
  ["Visual tokens", (a) => a.usage.visual_tokens_after, (v) => v.toLocaleString("en")],
  ["First token, s", (a) => a.foveate.first_token_seconds, (v) => v.toFixed(3)],
  ["Whole answer, s", (a) => a.foveate.seconds, (v) => v.toFixed(3)],
  ["Tokens a second after the first", (a) => a.foveate.tokens_per_second, (v) => v.toFixed(1)],
  ["Keys and values, MiB", (a) => a.foveate.kv_bytes / 2 ** 20, (v) => v.toFixed(2)],
  ["Tokens written", (a) => a.usage.completion_tokens, (v) => v.toLocaleString("en")],
];

function tabulate(reduced, full) {
  const rows = FIGURES.map(([name, get, text]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    const values = [reduced, full].map((a) => (a ? get(a) : null));
    const told = values.map((v) => (v === null || v === undefined || Number.isNaN(v) ? "–" : text(v)));
    const share = values.every((v) => typeof v === "number") && values[1] > 0 ? `${Math.round((100 * values[0]) / values[1])} %` : "–";
    for (const cell of [...told, share]) row.append(Object.assign(document.createElement("td"), { textContent: cell }));
    return row;
  });
  at("rows").replaceChildren(...rows);
  at("numbers").hidden = false;
}

async function show(overlay) {
  frames = framesOf(overlay);
  if (!frames.length) return;
  await Promise.all(frames.map(async (f) => { f.picture = await load(f.url); }));
  at("time").max = frames.length - 1;
  const buttons = frames.map((f, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", f.told);
    const small = document.createElement("canvas");
    paint(small, f.picture, f.kept, f.rows, f.cols, 96);
    button.append(small, f.when);
    button.onclick = () => turn(i);
    return button;
  });
  at("strip").replaceChildren(...buttons);
  at("seen").hidden = false;
  turn(Math.min(Number(at("time").value), frames.length - 1));
}

function turn(i) {
  const f = frames[i];
  paint(at("frame"), f.picture, f.kept, f.rows, f.cols, 640);
  at("frame-told").textContent = f.told;
  at("time").value = i;
  at("time").setAttribute("aria-valuetext", f.when);
  [...at("strip").children].forEach((b, k) => b.setAttribute("aria-pressed", String(k === i)));
}

at("ask").onsubmit = (event) => { event.preventDefault(); ask(); };
at("stop").onclick = () => running?.abort();
at("file").onchange = () => take(at("file").files[0]);
at("time").oninput = () => turn(Number(at("time").value));
at("keep").oninput = () => { at("keep-shown").textContent = `${at("keep").value} %`; };
at("keep").onchange = () => { if (answered) ask(); };
at("key").onchange = look;
for (const [name, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  at("drop").addEventListener(name, (event) => { event.preventDefault(); at("drop").classList.toggle("over", over); });
}
at("drop").addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
look().catch(() => { at("served").textContent = "The server does not answer."; });
