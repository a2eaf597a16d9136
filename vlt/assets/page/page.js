"use strict";

const $ = (id) => document.getElementById(id);
const list = $("found");
let latest = 0; // of the searches, whose answer alone is shown
let running = new AbortController(); // of the latest search
let talking = new AbortController(); // of questions about the open clip
let shown = null; // the clip that is open

const clock = (seconds) => {
  const whole = Math.floor(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const [two, rest] = [(n) => String(n).padStart(2, "0"), Math.floor((seconds % 1) * 10)];
  return `${hours ? `${hours}:${two(minutes)}` : minutes}:${two(whole % 60)}.${rest}`;
};

const say = (text, error = false) => {
  $("status").textContent = text;
  $("status").className = error ? "error" : "";
};

const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function ask(path, options = {}, tries = 4) {
  const response = await fetch(path, { ...options, headers: { "x-vlt": "1" } });
  if (response.status === 503 && tries) {
    await pause(Number(response.headers.get("retry-after")) || 2);
    return ask(path, options, tries - 1);
  }
  let answer = {};
  try { answer = await response.json(); } catch { /* told below */ }
  if (!response.ok) throw new Error(answer.error || `the server answered ${response.status}`);
  return answer;
}

const told = (error) => (error instanceof TypeError ? "The server does not answer." : error.message);

async function find(what, path, options) {
  const number = ++latest;
  running.abort();
  running = new AbortController();
  say("Searching…");
  list.setAttribute("aria-busy", "true");
  try {
    const { found } = await ask(path, { ...options, signal: running.signal });
    if (number === latest) show(what, found);
  } catch (error) {
    if (number === latest) {
      list.replaceChildren();
      say(told(error), true);
    }
  } finally {
    if (number === latest) list.removeAttribute("aria-busy");
  }
}

function show(what, found) {
  list.replaceChildren(...found.map(card));
  if (!found.length) return say("Nothing found. Is the filter of paths too narrow?");
  const chance = found[0].chance;
  const doubt = chance !== null && chance > 0.05
    ? ` Nothing stands out: by chance alone, ${Math.round(100 * chance)}% of queries score as high.` : "";
  say(`${found.length} ranges for ${what}.${doubt}`);
}

function card(found) {
  const item = $("card").content.cloneNode(true).firstElementChild;
  const article = item.querySelector("article");
  const [image, film] = [item.querySelector("img"), item.querySelector("video")];
  const middle = (found.start + found.end) / 2;
  const name = found.path.split("/").pop();
  const range = `${clock(found.start)} to ${clock(found.end)}`;
  image.src = `/frame/${found.video}/${Math.round(10 * middle)}`;
  image.alt = `${name} at ${clock(middle)}`;
  image.onerror = () => { image.onerror = null; setTimeout(() => { image.src += "?again"; }, 2000); };
  item.querySelector(".bar span").style.width = `${100 * Math.max(0, Math.min(1, found.score))}%`;
  item.querySelector(".name").textContent = name;
  item.querySelector(".name").title = found.path;
  item.querySelector(".range").textContent = range;
  item.querySelector(".score").textContent = found.score.toFixed(3);
  article.setAttribute("aria-label", `${name}, ${range}, score ${found.score.toFixed(2)}`);
  const play = () => {
    film.src ||= `/video/${found.video}#t=${found.start},${found.end}`;
    film.currentTime = found.start;
    film.play().then(() => article.classList.add("plays"), () => {});
  };
  const stop = () => { film.pause(); article.classList.remove("plays"); };
  film.addEventListener("timeupdate", () => { if (film.currentTime >= found.end) film.currentTime = found.start; });
  article.addEventListener("mouseenter", play);
  article.addEventListener("mouseleave", stop);
  article.addEventListener("click", () => open(found));
  const similar = () => find(`what looks like ${name} at ${clock(middle)}`,
    `/api/similar?video=${found.video}&at=${middle}&within=${encodeURIComponent($("within").value)}`);
  item.querySelector(".similar").addEventListener("click", (event) => { event.stopPropagation(); similar(); });
  article.addEventListener("keydown", (event) => {
    if (event.target !== article) return;
    if (event.key === "Enter") open(found);
    if (event.key.toLowerCase() === "s") similar();
  });
  return item;
}

function open(found) {
  const film = $("film");
  shown = found;
  $("said").replaceChildren();
  $("tokens").hidden = true;
  film.onerror = () => say("This browser cannot play that file; its pictures and times are right.", true);
  film.ontimeupdate = () => { if (!film.seeking && film.currentTime >= found.end) film.currentTime = found.start; };
  film.src = `/video/${found.video}#t=${found.start},${found.end}`;
  $("where").textContent = `${found.path}, ${clock(found.start)} to ${clock(found.end)}`;
  $("player").showModal();
  film.play().catch(() => {});
}

$("player").addEventListener("close", () => {
  $("film").pause();
  $("film").removeAttribute("src");
  talking.abort();
});

$("show-tokens").addEventListener("click", () => {
  const image = $("tokens");
  image.alt = `Which patches of ${shown.path.split("/").pop()} became one token`;
  image.onload = () => { image.hidden = false; };
  image.onerror = () => say("The picture of tokens could not be made.", true);
  image.src = `/tokens/${shown.video}?start=${shown.start}&end=${shown.end}`;
});

$("chat").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question) return;
  $("question").value = "";
  const line = (text, kind) => {
    const item = document.createElement("li");
    item.textContent = text;
    item.className = kind;
    $("said").append(item);
    item.scrollIntoView({ block: "nearest" });
    return item;
  };
  line(question, "asked");
  const answer = line("…", "answer");
  talking.abort();
  talking = new AbortController();
  const { signal } = talking;
  const clip = `video=${shown.video}&start=${shown.start}&end=${shown.end}`;
  try {
    answer.textContent = (await ask(`/api/ask?${clip}`, { method: "POST", body: question, signal })).answer;
  } catch (error) {
    answer.className = "error";
    answer.textContent = signal.aborted ? "given up" : told(error);
  }
});

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = $("query").value.trim();
  if (!query) return say("Type what you are looking for, or give a clip or a picture.");
  const words = new URLSearchParams({ query, within: $("within").value });
  find(`“${query}”`, `/api/search?${words}`);
});

function upload(file) {
  if (!file) return;
  if (file.size > 64 * 2 ** 20) return say("At most 64 MB can be uploaded.", true);
  find(`what looks like ${file.name}`, `/api/upload?within=${encodeURIComponent($("within").value)}`,
    { method: "POST", body: file });
}

$("file").addEventListener("change", () => { upload($("file").files[0]); $("file").value = ""; });
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").hidden = false; });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").hidden = true;
  upload(event.dataTransfer.files[0]);
});

addEventListener("keydown", (event) => {
  if (event.target.matches("input") || $("player").open || event.ctrlKey || event.metaKey) return;
  if (event.key === "/") { event.preventDefault(); $("query").select(); return; }
  const cards = [...list.querySelectorAll("article")];
  const at = cards.indexOf(document.activeElement);
  const across = cards.filter((one) => one.offsetTop === cards[0].offsetTop).length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
  if (!step || !cards.length) return;
  event.preventDefault();
  cards[Math.max(0, Math.min(cards.length - 1, at + step))].focus();
});

ask("/api/about").then(
  (about) => {
    $("show-tokens").hidden = !about.merges;
    $("chat").hidden = !about.chats;
    const size = `${about.videos.toLocaleString()} videos, ${about.hours.toFixed(2)} hours, ` +
      `${about.windows.toLocaleString()} windows`;
    $("about").textContent = [size, about.index, about.model].filter(Boolean).join(" · ");
  },
  (error) => say(error.message, true),
);
