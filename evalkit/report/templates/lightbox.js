// -- the lightbox: one image large, or two of one prompt held against each other
const box = $("lightbox");
if (box) { // an <img> without a source is no image: they are made here
  $("box-stage").tabIndex = -1;
  for (const id of ["box-under", "box-over"]) $("box-stage").append(Object.assign(document.createElement("img"), { id, alt: "" }));
}
const looking = { key: "", card: 0, other: "", mode: "one", flipped: false };
const fullOf = (key, card) => data.gallery.full?.[key]?.[card] || "";

function showBox() {
  const { key, card, other, mode, flipped } = looking;
  const [under, over] = [$("box-under"), $("box-over")];
  const two = mode !== "one" && other && other !== key && pictureOf(other, card);
  const alike = Boolean(fullOf(key, card)) && (!two || Boolean(fullOf(other, card))); // like is held against like
  const sourceOf = (one) => (alike && fullOf(one, card)) || pictureOf(one, card)?.src || "";
  under.src = sourceOf(mode === "flip" && flipped && two ? other : key);
  under.alt = `${mode === "flip" && flipped && two ? other : key}, sample ${cards[card]}`;
  over.hidden = !two || mode === "flip";
  if (!over.hidden) { over.src = sourceOf(other); over.alt = `${other}, sample ${cards[card]}`; }
  $("box-stage").dataset.mode = two ? mode : "one";
  $("box-stage").classList.toggle("px", Boolean(pictureOf(key, card)?.classList.contains("px")));
  $("box-cut-label").hidden = !(two && mode === "slider");
  $("box-stage").style.setProperty("--cut", `${$("box-cut").value}%`);
  all("[data-mode]", box).filter((b) => b.tagName === "BUTTON").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.mode === mode)));
  $("box-title").textContent = `${key} ${data.names[key]}`;
  const { scale } = wanted();
  const score = scale ? scoreOf(scale, key, card) : null;
  const which = two ? { flip: flipped ? `shown: ${other}; space flips to ${key}` : `shown: ${key}; space flips to ${other}`, slider: `left ${key}, right ${other}`, difference: `what differs between ${key} and ${other}` }[mode] : "";
  const size = alike ? "full size" : pictureOf(key, card)?.classList.contains("px") ? "every pixel" : fullOf(key, card) ? `thumbnails: ${other} has no full size here` : "thumbnail";
  $("box-caption").textContent = [`sample ${cards[card]}`, score === null ? "" : `${scale.label} ${minus(score.toPrecision(4))}`, which, size].filter(Boolean).join(" · ");
  $("box-prompt").textContent = data.gallery.texts[card];
  const file = data.gallery.files?.[key]?.[card];
  $("box-file").hidden = !file;
  if (file) $("box-file").href = file; else $("box-file").removeAttribute("href");
  keep("view", `${key}.${card}.${mode}.${other}`);
}

function openBox(key, card, mode = looking.mode, other = looking.other) {
  if (!box || !pictureOf(key, card)) return;
  const keys = data.gallery.cells;
  if (!keys.includes(other)) other = keys.includes(data.gallery.base) && data.gallery.base !== key ? data.gallery.base : keys.find((one) => one !== key) || "";
  Object.assign(looking, { key, card, mode, other, flipped: false });
  $("box-other").replaceChildren(...keys.map((one) => new Option(`${one} ${data.names[one]}`, one, false, one === other)));
  if (!box.open) box.showModal();
  showBox();
  $("box-stage").focus();
}

function walk(cells, prompts) {
  const keys = shownCells().includes(looking.key) ? shownCells() : data.gallery.cells;
  const at = (values, value, step) => values[(values.indexOf(value) + step + values.length) % values.length];
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
    if (image) openBox(image.dataset.key, Number(image.dataset.card));
  });
  document.addEventListener("keydown", (event) => {
    const image = event.target.closest?.("img[data-key]");
    if (image && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); openBox(image.dataset.key, Number(image.dataset.card)); }
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
    if (data.names[key]) openBox(key, Number(card), ["one", "flip", "slider", "difference"].includes(mode) ? mode : "one", other); else if (box.open) box.close();
  }));
}
