// The query, its results, and their history.
"use strict";

const TITLE = document.title;
const words = get("words"); // null if the model ignores texts
const crop = new Crop(() => run());
const filters = new Filters(() => run());
const why = new Why((found) => searchLike(found));
// The picture and the item of the query; a URL cannot hold a picture.
let picture = null, item = null;
let pending = null, pages = new Map(), page = 0;

/* The query. */

// Shows the picture of the query; returns once its size is known.
function showPicture(content) {
  const image = get("picture");
  picture = content;
  crop.set(null);
  URL.revokeObjectURL(image.src);
  if (!content) image.removeAttribute("src");
  else image.src = URL.createObjectURL(content);
  showQuery();
  return content ? image.decode().catch(() => {}) : null;
}

function showQuery() {
  const isEmpty = !picture && !item;
  get("stage").classList.toggle("empty", isEmpty);
  get("invitation").hidden = !isEmpty;
  get("frame").hidden = !picture;
  get("tools").hidden = isEmpty;
  get("mark").hidden = !picture;
  get("stand-in").hidden = isEmpty || Boolean(picture);
  get("stand-in").textContent = item?.text || item?.id || "";
  get("origin").hidden = !item;
  get("origin").replaceChildren("Items like ");
  make("b", get("origin"), item?.text || item?.id || "");
}

async function take(content) {
  if (!content) return;
  if (!content.type.startsWith("image/")) {
    fail(`${content.name || "This"} is not a picture.`);
    return;
  }
  item = null;
  await showPicture(content);
  run();
}

async function searchLike(found) {
  item = { id: found.id, text: found.text, image: found.image };
  if (words) words.value = "";
  showPicture(null);
  run();
  scrollTo({ top: 0 });
  await loadItem(item);
}

// Shows the picture of an item, so that words or a frame can be added.
async function loadItem(wanted) {
  try {
    if (wanted.image === undefined) {
      const path = `items/${encodeURIComponent(wanted.id)}`;
      Object.assign(wanted, await read(await ask(path)));
    }
    const content = wanted.image && await load(wanted.image);
    if (item !== wanted) return;
    await showPicture(content || null);
    if (pages.has(page)) pages.get(page).picture = picture;
  } catch { /* The search reports what is wrong. */ }
}

function remove() {
  item = null;
  showPicture(null);
  get("choose").focus();
  run();
}

// Returns what the controls say, or null if there is nothing to search for.
function query() {
  const text = words?.value.trim() || "", box = crop.pixels();
  // An item is a query of its own; with words or a frame, its picture is one.
  const byItem = item && !(picture && (text || box));
  if (!item && !picture && !text) return null;
  const asked = new URLSearchParams({ k: get("k").value });
  if (byItem && !text) asked.set("id", item.id);
  if (text) asked.set("text", text);
  if (box) asked.set("box", box);
  if (get("group").value) asked.set("group_by", get("group").value);
  const where = filters.get();
  if (Object.keys(where).length) asked.set("where", JSON.stringify(where));
  return { asked, body: byItem || !picture ? "" : picture };
}

/* Searching. */

async function run({ remember = true, offset = 0 } = {}) {
  const wanted = query();
  pending?.abort();
  const mine = pending = new AbortController();
  get("error").hidden = true;
  if (remember) push(wanted);
  if (!wanted) return clear();
  if (wanted.body.size > OPTIONS.limit) {
    fail(`The picture is larger than ${OPTIONS.limit_text}.`);
    return;
  }
  if (offset) wanted.asked.set("offset", offset);
  wait(offset);
  try {
    const response = await ask(`search?${wanted.asked}`,
      { method: "POST", body: wanted.body, signal: mine.signal });
    const body = await read(response);
    if (mine === pending) showResults(body, offset);
  } catch (problem) {
    if (mine === pending) fail(message(problem));
  }
}

function wait(offset) {
  get("status").textContent = "Searching …";
  get("progress").hidden = false;
  get("welcome").hidden = get("nothing").hidden = get("more").hidden = true;
  const results = get("results");
  results.setAttribute("aria-busy", "true");
  results.classList.toggle("old", !offset);
  if (results.children.length) return;
  for (let blank = 0; blank < 12; ++blank) make("li", results, "", "card blank");
}

function settle() {
  get("progress").hidden = true;
  get("results").removeAttribute("aria-busy");
  get("results").classList.remove("old");
}

function clear() {
  settle();
  get("results").replaceChildren();
  get("status").textContent = "";
  get("welcome").hidden = false;
  get("nothing").hidden = get("more").hidden = true;
}

function fail(text) {
  clear();
  get("welcome").hidden = true;
  get("error").firstElementChild.textContent = text;
  get("error").hidden = false;
}

function showResults(body, offset) {
  settle();
  const results = get("results"), found = body.results;
  if (!offset) results.replaceChildren();
  found.forEach((one, place) => card(one, offset + place, body.search_id));
  filters.learn(found);
  const count = results.children.length;
  get("nothing").hidden = count > 0;
  get("more").hidden = found.length < Number(get("k").value)
    || count >= OPTIONS.max_offset;
  get("status").textContent = !count ? "No items"
    : `The ${count === 1 ? "nearest item" : `${count} nearest items`}, `
      + `found in ${body.milliseconds} ms`;
  if (offset) results.children[offset]?.querySelector("button").focus();
}

/* Results. */

function card(found, position, search) {
  const node = make("li", get("results"), "", "card");
  node.dataset.id = found.id;
  const name = found.text || found.id, score = found.score.toFixed(2);
  const look = make("button", node, "", "look");
  look.type = "button";
  look.setAttribute("aria-label", `Search for items like ${name}`);
  look.title = "Search for items like this one";
  look.onclick = () => {
    report(found, position, search);
    searchLike(found);
  };
  frame(found, make("span", look, "", "picture"));
  make("p", node, found.text || found.id, "text").title = found.text || found.id;
  const facts = [found.group, ...Object.entries(found.fields)
    .map(([field, value]) => `${field} ${value}`)].filter(Boolean).join(" · ");
  make("p", node, facts, "facts").title = `${found.id} · ${facts}`;
  const foot = make("div", node, "", "foot");
  const likely = found.probability ?? undefined; // null if not calibrated
  const shown = make("b", foot, likely === undefined ? score : percent(likely));
  shown.title = likely === undefined ? `cosine ${found.score.toFixed(4)}`
    : `probability of a match; cosine ${found.score.toFixed(4)}`;
  const bar = make("i", make("span", foot, "", "bar"));
  bar.style.width = `${100 * clamp(likely ?? found.score)}%`;
  const button = make("button", foot, "Why?", "ask");
  button.type = "button";
  button.setAttribute("aria-label", `Why ${name}?`);
  button.onclick = () => why.open(found);
}

function frame(found, node) {
  if (!found.image) {
    node.textContent = "no picture";
    return;
  }
  const image = make("img", node);
  image.alt = "";
  image.loading = "lazy";
  image.onerror = () => {
    node.textContent = "picture missing";
    ask(found.image).then(read)
      .catch((problem) => { node.title = message(problem); });
  };
  show(image, found.image);
}

// Records a click, if the service records searches.
function report(found, position, search) {
  if (!OPTIONS.records) return;
  ask("events", { method: "POST", keepalive: true, body: JSON.stringify(
    { search_id: search, item_id: found.id, position }) }).catch(() => {});
}

/* History: words, item and options are in the URL, a picture in memory. */

function push(wanted) {
  const asked = new URLSearchParams(wanted?.asked);
  asked.delete("box");
  if (item) asked.set("id", item.id);
  if (asked.get("k") === String(OPTIONS.default_k)) asked.delete("k");
  const saved = { picture, item, box: crop.box };
  const before = pages.get(page);
  const url = `${location.pathname}${asked.size ? `?${asked}` : ""}`;
  const isSame = before && url === location.pathname + location.search
    && before.picture === picture && String(before.box) === String(crop.box);
  const state = { page: page + 1, picture: Boolean(picture && !item) };
  if (!isSame) {
    history.pushState(state, "", url);
    ++page;
  }
  pages.set(page, saved);
  const about = item?.text || item?.id || words?.value.trim();
  document.title = about && wanted ? `${about} · ${TITLE}` : TITLE;
}

// Sets the controls to the state of the history.
async function restore() {
  const asked = new URLSearchParams(location.search);
  const state = history.state ?? { page };
  page = state.page;
  if (words) words.value = asked.get("text") || "";
  const k = asked.get("k") || OPTIONS.default_k;
  get("k").value = k;
  if (!get("k").value) get("k").value = OPTIONS.default_k;
  get("group").value = asked.get("group_by") || "";
  if (!get("group").value) get("group").value = "";
  filters.set(parse(asked.get("where")));
  const saved = pages.get(page), id = asked.get("id");
  item = saved?.item || (id ? { id } : null);
  await showPicture(saved?.picture || null);
  // Together with words, the item's picture is part of the query.
  if (item && !picture && words?.value) await loadItem(item);
  if (page !== state.page) return; // The user went on meanwhile.
  if (saved?.box) crop.set(saved.box);
  pages.set(page, { picture, item, box: crop.box });
  run({ remember: false });
  if (state.picture && !picture) {
    get("status").textContent = "The picture was lost when the page was "
      + "reloaded; choose it again.";
  }
  if (item && !picture) await loadItem(item);
}

function parse(text) {
  try {
    return Object(JSON.parse(text || "{}"));
  } catch {
    return {};
  }
}

/* Controls. */

for (const [button, input] of [["choose", "file"], ["replace", "file"],
  ["photograph", "camera"]]) {
  get(button).onclick = () => get(input).click();
  get(input).onchange = () => {
    take(get(input).files[0]);
    get(input).value = "";
  };
}
get("picture").onerror = () => {
  get("frame").hidden = get("mark").hidden = true;
  get("stand-in").textContent = "This browser cannot show the picture.";
  get("stand-in").hidden = false;
};
get("picture").onload = ({ target }) => get("frame").style.setProperty(
  "--shape", target.naturalWidth / target.naturalHeight);
document.querySelector(".skip").onclick = (event) => {
  event.preventDefault(); // A fragment would be a new entry of the history.
  get("results").focus();
};
get("mark").onclick = () => crop.toggle();
get("remove").onclick = remove;
get("again").onclick = () => run({ remember: false });
get("more").onclick = () => run(
  { remember: false, offset: get("results").children.length });
get("k").onchange = get("group").onchange = () => run();
get("query").onsubmit = (event) => {
  event.preventDefault();
  run();
};

// Accept drops anywhere: a file dropped outside would replace the page.
const dropping = (is) => document.body.classList.toggle("dropping", is);
addEventListener("dragover", (event) => {
  event.preventDefault();
  dropping(event.dataTransfer.types.includes("Files"));
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) dropping(false);
});
addEventListener("drop", (event) => {
  event.preventDefault();
  dropping(false);
  take(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => take(event.clipboardData.files[0]));
addEventListener("keydown", (event) => {
  const isTyping = event.target.matches?.("input, select, textarea");
  if (event.key !== "/" || isTyping || document.querySelector("dialog[open]")) {
    return;
  }
  event.preventDefault();
  (words || get("choose")).focus();
});
addEventListener("popstate", restore);

get("filters").open = matchMedia("(min-width: 861px)").matches;
history.replaceState(history.state ?? { page: 0 }, "");
restore();
