// -- side by side: cards of one prompt, a figure per shown cell; they become elements when they are shown
const list = $("cards");
const { cards = [], scales = [] } = data.gallery;
const items = list ? [...list.children] : [];
const figures = new Map(list ? all("figure", list).map((f) => [`${f.closest("li").dataset.card} ${f.dataset.cell}`, f]) : []);
let cardPage = 0;
let cardOrder = cards.map((_, card) => card);

const scoreOf = (scale, key, card) => (scale.scores[key] || [])[card] ?? null;
// How much worse than the base a sample is; null where they do not share prompt and seed.
const dropOf = (scale, key, card) => {
  const [value, base] = [scoreOf(scale, key, card), scoreOf(scale, scale.base, card)];
  return value === null || base === null || !scale.paired.includes(key) ? null : scale.sign * (base - value);
};
const wanted = () => {
  const [way, number] = $("by").value.split(" ");
  return { way, scale: scales[Number(number || 0)] };
};
const signed = (gap) => `${gap > 0 ? "+" : ""}${minus(gap.toFixed(Math.abs(gap) >= 100 ? 0 : Math.abs(gap) >= 10 ? 1 : 2))}`;

function offered() { // the cells that may be ticked: the first of the table's, the base, and those chosen
  const known = new Set(data.gallery.cells);
  const keys = visible.map((place) => rows[place].key).filter((key) => known.has(key));
  const front = keys.slice(0, data.gallery.front);
  const { base } = data.gallery;
  if (base && keys.includes(base) && !front.includes(base)) front.splice(0, front.length, base, ...keys.filter((k) => k !== base).slice(0, data.gallery.front - 1));
  return [...new Set([...front, ...[...chosen].filter((key) => known.has(key))])];
}
const shownCells = () => { const keys = offered(); const ticked = keys.filter((key) => chosen.has(key)); return ticked.length ? ticked : keys; };

function figureOf(card, key) {
  const name = `${card} ${key}`;
  if (!figures.has(name)) figures.set(name, data.lists.figures?.[name] ? element(data.lists.figures[name]) : null);
  return figures.get(name);
}
function cardOf(card) {
  if (!items[card]) {
    items[card] = element(`<li data-card="${card}"><div class="images"></div></li>`);
    items[card].prepend(element(data.lists.heads[card]));
  }
  return items[card];
}
const pictureOf = (key, card) => (isPair(card) ? pairPicture(key, card, 1) : figureOf(card, key)?.querySelector("img") || null);

function badness(card) { // the largest comes first
  const { way, scale } = wanted();
  const keys = $("in").value ? [$("in").value] : shownCells();
  const values = keys.map((key) => {
    if (way === "drop") return dropOf(scale, key, card);
    const score = scoreOf(scale, key, card);
    return score === null ? null : -scale.sign * score;
  }).filter((value) => value !== null);
  return values.length ? Math.max(...values) : -Infinity;
}

function caption(figure, card) {
  const { scale } = wanted();
  if (!scale) return;
  const key = figure.dataset.cell;
  const [score, drop] = [scoreOf(scale, key, card), dropOf(scale, key, card)];
  const at = figure.querySelector(".score");
  if (at) at.textContent = score === null ? "" : minus(score.toPrecision(4));
  const mark = figure.querySelector(".drop");
  mark.textContent = drop === null ? "" : signed(-scale.sign * drop);
  mark.className = `num drop ${drop > 0 ? "worse" : drop < 0 ? "better" : ""}`;
  figure.classList.toggle("base-cell", key === scale.base && scale.paired.length > 0);
}

function showCards() {
  const pages = Math.max(1, Math.ceil(cardOrder.length / data.gallery.page));
  cardPage = Math.min(Math.max(cardPage, 0), pages - 1);
  const keys = shownCells();
  list.replaceChildren(...cardOrder.slice(cardPage * data.gallery.page, (cardPage + 1) * data.gallery.page).map((card) => {
    const item = cardOf(card);
    const found = keys.map((key) => figureOf(card, key)).filter(Boolean);
    found.forEach((figure) => caption(figure, card));
    item.querySelector(".images").replaceChildren(...found);
    found.map((figure) => figure.querySelector("img")).filter(Boolean).forEach((image, place) => { // one stop per card
      image.tabIndex = place === 0 ? 0 : -1;
      image.setAttribute("role", "button");
      image.dataset.key = image.closest("figure").dataset.cell;
      image.dataset.card = card;
    });
    return item;
  }));
  $("page").textContent = cardOrder.length ? `page ${cardPage + 1} of ${pages}` : "no prompt has these words";
  $("previous").disabled = cardPage === 0;
  $("next").disabled = cardPage === pages - 1;
  const { scale } = wanted();
  if (scale && $("shown-metric")) $("shown-metric").textContent = scale.label;
  if (scale && $("shown-base")) $("shown-base").textContent = scale.base ?? "none";
}

function orderCards() {
  const words = $("prompt").value.toLowerCase().split(/\s+/).filter(Boolean);
  const category = $("category")?.value || "";
  cardOrder = cards.map((_, card) => card).filter((card) => words.every((word) => data.gallery.prompts[card].includes(word))
    && (!category || data.gallery.categories[card] === category));
  if (wanted().way !== "index") {
    const by = new Map(cardOrder.map((card) => [card, badness(card)]));
    cardOrder.sort((a, b) => (by.get(a) === by.get(b) ? a - b : by.get(b) > by.get(a) ? 1 : -1));
  }
  showCards();
}

function tickCells() {
  const [keys, shown] = [offered(), new Set(shownCells())];
  const legend = $("cells").querySelector("legend");
  $("cells").replaceChildren(legend, ...keys.map((key) => {
    const label = document.createElement("label");
    const box = document.createElement("input");
    Object.assign(box, { type: "checkbox", value: key, checked: shown.has(key) });
    box.addEventListener("change", () => {
      const ticked = all("input:checked", $("cells")).map((one) => one.value);
      chosen.clear();
      if (ticked.length < keys.length || keys.some((one) => !offered().includes(one))) ticked.forEach((one) => chosen.add(one));
      keep("cells", [...chosen].join(","));
      all("input", body).forEach((one) => { one.checked = false; });
      visible.filter((place) => lines[place]).forEach(lineOf);
      tell("cells");
      $("cells").querySelector(`input[value="${key}"]`)?.focus();
    });
    const name = document.createElement("bdi");
    name.textContent = data.names[key];
    const letters = document.createElement("b");
    letters.textContent = key;
    label.append(box, " ", letters, " ", name);
    return label;
  }));
  const many = data.gallery.cells.length > keys.length;
  $("cells-note").textContent = many ? `${shown.size} of ${data.gallery.cells.length} cells: the first of the table, sorted and filtered as it is; tick lines there to see others.` : "";
}

if (list) {
  for (const form of ["order"]) { $(form).hidden = false; $(form).addEventListener("submit", (event) => event.preventDefault()); }
  const change = (name, id) => () => { cardPage = 0; keep(name, $(id).value === "index" ? "" : $(id).value); keep("page", ""); orderCards(); };
  for (const [name, id, event] of [["by", "by", "change"], ["in", "in", "change"], ["prompt", "prompt", "input"], ["category", "category", "change"]]) {
    $(id)?.addEventListener(event, change(name, id));
  }
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    $(id).addEventListener("click", () => { cardPage += step; showCards(); keep("page", cardPage ? cardPage + 1 : ""); });
  }
  list.addEventListener("keydown", (event) => { // arrows walk along a card's images
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || event.target.tagName !== "IMG") return;
    const images = all("img", event.target.closest("li"));
    const next = images[images.indexOf(event.target) + step];
    if (next) { event.target.tabIndex = -1; next.tabIndex = 0; next.focus(); event.preventDefault(); }
  });
  listeners.restored.push(() => {
    for (const id of ["by", "in", "prompt", "category"]) {
      if ($(id)) $(id).value = state.get(id) || (id === "by" ? "index" : "");
      if ($(id)?.selectedIndex < 0) $(id).selectedIndex = 0;
    }
    cardPage = Number(state.get("page")) - 1 || 0;
  });
  listeners.cells.push(() => { tickCells(); orderCards(); });
}
