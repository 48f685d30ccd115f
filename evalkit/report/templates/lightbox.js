// -- the lightbox: one image large, or two of one prompt held against each other
const box = $("lightbox");
if (box) { // an <img> without a source is no image: they are made here
  $("box-stage").tabIndex = -1;
  for (const id of ["box-under", "box-over"]) $("box-stage").append(Object.assign(document.createElement("img"), { id, alt: "" }));
}
const looking = { key: "", card: 0, other: "", mode: "one", flipped: false };
const fullOf = (key, card) => data.gallery.full?.[key]?.[card] || "";
const cardFrom = (text) => (text?.startsWith("p") ? text : Number(text)); // a pair's, or the place of a card of side by side
const numberOf = (card) => (isPair(card) ? card.slice(1) : cards[card]);
// What one of the two is seen by: of a pair the baseline's picture stands next to the cell's.
const seen = (one, card) => (isPair(card) && one === looking.other ? pairPicture(looking.key, card, 0) : pictureOf(one, card));

function showBox() {
  const { key, card, other, mode, flipped } = looking;
  const [under, over] = [$("box-under"), $("box-over")];
  const pair = isPair(card);
  const two = mode !== "one" && other && other !== key && seen(other, card);
  const whole = pair && two && mode === "difference"; // its difference was made from the pixels themselves
  const alike = Boolean(fullOf(key, card)) && (!two || Boolean(fullOf(other, card))); // like is held against like
  const sourceOf = (one) => (alike && fullOf(one, card)) || seen(one, card)?.src || "";
  const shown = mode === "flip" && flipped && two ? other : key;
  under.src = whole ? pairPicture(key, card, 2).src : sourceOf(shown);
  under.alt = whole ? pairPicture(key, card, 2).alt : `${shown}, sample ${numberOf(card)}`;
  over.hidden = !two || mode === "flip" || whole;
  if (!over.hidden) { over.src = sourceOf(other); over.alt = `${other}, sample ${numberOf(card)}`; }
  $("box-stage").dataset.mode = two && !whole ? mode : "one";
  $("box-stage").classList.toggle("px", Boolean(pictureOf(key, card)?.classList.contains("px")));
  $("box-cut-label").hidden = !(two && mode === "slider");
  $("box-stage").style.setProperty("--cut", `${$("box-cut").value}%`);
  all("[data-mode]", box).filter((b) => b.tagName === "BUTTON").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.mode === mode)));
  $("box-title").textContent = `${key} ${data.names[key]}`;
  const { scale } = wanted();
  const value = scale && !pair ? scoreOf(scale, key, card) : null;
  const score = pair ? `${data.parity.by} ${pairText(key, card, ".value")}` : value === null ? "" : `${scale.label} ${minus(value.toPrecision(4))}`;
  const which = two ? { flip: flipped ? `shown: ${other}; space flips to ${key}` : `shown: ${key}; space flips to ${other}`, slider: `left ${key}, right ${other}`, difference: `what differs between ${key} and ${other}${whole ? `, ${pairText(key, card, "figure:last-child figcaption").replace("difference ", "")}` : ""}` }[mode] : "";
  const size = alike ? "full size" : pictureOf(key, card)?.classList.contains("px") ? "every pixel" : fullOf(key, card) ? `thumbnails: ${other} has no full size here` : "thumbnail";
  $("box-caption").textContent = [`sample ${numberOf(card)}`, score, which, size].filter(Boolean).join(" · ");
  $("box-prompt").textContent = pair ? pairText(key, card, "bdi") : data.gallery.texts[card];
  const file = data.gallery.files?.[key]?.[card];
  $("box-file").hidden = !file;
  if (file) $("box-file").href = file; else $("box-file").removeAttribute("href");
  keep("view", `${key}.${card}.${mode}.${other}`);
}

function openBox(key, card, mode = looking.mode, other = looking.other) {
  if (!box || !pictureOf(key, card)) return;
  const keys = isPair(card) ? [data.parity.base] : data.gallery.cells;
  if (!keys.includes(other)) other = keys.includes(data.gallery.base) && data.gallery.base !== key ? data.gallery.base : keys.find((one) => one !== key) || "";
  if (isPair(card)) other = data.parity.base;
  Object.assign(looking, { key, card, mode, other, flipped: false });
  $("box-other").replaceChildren(...keys.map((one) => new Option(`${one} ${data.names[one]}`, one, false, one === other)));
  if (!box.open) box.showModal();
  showBox();
  $("box-stage").focus();
}

const at = (values, value, step) => values[(values.indexOf(value) + step + values.length) % values.length];

function walkPairs(cells, prompts) {
  const keys = data.parity.keys.filter((key) => pairsOf(key).length);
  const key = cells ? at(keys, looking.key, cells) : looking.key;
  const mine = pairsOf(key);
  const card = prompts ? at(mine, looking.card, prompts) : mine.includes(looking.card) ? looking.card : mine[0];
  Object.assign(looking, { key, card, flipped: false });
  showPanel(key);
  showBox();
}

function walk(cells, prompts) {
  if (isPair(looking.card)) { walkPairs(cells, prompts); return; }
  const keys = shownCells().includes(looking.key) ? shownCells() : data.gallery.cells;
  const order = cardOrder.includes(looking.card) ? cardOrder : cards.map((_, card) => card);
  let [key, card] = [looking.key, looking.card];
  for (let tries = keys.length + order.length; tries > 0; tries -= 1) { // past holes
    if (cells) key = at(keys, key, cells); else card = at(order, card, prompts);
    if (pictureOf(key, card)) break;
  }
  Object.assign(looking, { key, card, flipped: false });
  showBox();
}

const setMode = (mode) => { looking.mode = mode; looking.flipped = false; showBox(); };
const flip = () => { if (looking.mode !== "flip") looking.mode = "flip"; looking.flipped = !looking.flipped; showBox(); };

if (box) {
  document.addEventListener("click", (event) => {
    const image = event.target.closest("img[data-key]");
    if (image) openBox(image.dataset.key, cardFrom(image.dataset.card), image.dataset.view);
  });
  document.addEventListener("keydown", (event) => {
    const image = event.target.closest?.("img[data-key]");
    if (image && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); openBox(image.dataset.key, cardFrom(image.dataset.card), image.dataset.view); }
  });
  document.addEventListener("keydown", (event) => { // of the page: a click on the image takes the focus from the box
    if (!box.open || ["SELECT", "INPUT"].includes(event.target.tagName)) return;
    const act = { ArrowLeft: () => walk(-1, 0), ArrowRight: () => walk(1, 0), ArrowUp: () => walk(0, -1), ArrowDown: () => walk(0, 1),
      1: () => setMode("one"), 2: () => setMode("flip"), 3: () => setMode("slider"), 4: () => setMode("difference"),
      " ": event.target.tagName === "BUTTON" ? undefined : flip, f: flip }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  box.addEventListener("close", () => keep("view", ""));
  all("button[data-mode]", box).forEach((button) => button.addEventListener("click", () => (button.dataset.mode === "flip" && looking.mode === "flip" ? flip() : setMode(button.dataset.mode))));
  $("box-other").addEventListener("change", () => { looking.other = $("box-other").value; if (looking.mode === "one") looking.mode = "flip"; showBox(); });
  $("box-cut").addEventListener("input", () => $("box-stage").style.setProperty("--cut", `${$("box-cut").value}%`));
  for (const [id, cells, prompts] of [["box-left", -1, 0], ["box-right", 1, 0], ["box-up", 0, -1], ["box-down", 0, 1]]) {
    $(id).addEventListener("click", () => walk(cells, prompts));
  }
  for (const image of all("img[data-index]")) { // the first screen's
    image.dataset.card = cards.indexOf(Number(image.dataset.index));
    image.tabIndex = 0;
    image.setAttribute("role", "button");
  }
  listeners.restored.push(() => setTimeout(() => {
    const [key, card, mode, other] = (state.get("view") || "").split(".");
    if (data.names[key]) openBox(key, cardFrom(card), ["one", "flip", "slider", "difference"].includes(mode) ? mode : "one", other); else if (box.open) box.close();
  }));
}
