// -- the same or not: one cell's panel at a time; its pairs open in the lightbox as the cards "p<index>"
const panels = new Map();
const isPair = (card) => typeof card === "string";
function ready(panel) {
  for (const item of all(".worst > li", panel)) {
    all("img", item).forEach((image, place) => { // one stop per pair
      Object.assign(image.dataset, { key: panel.dataset.cell, card: `p${item.dataset.index}`, view: place === 2 ? "difference" : "flip" });
      image.tabIndex = place === 0 ? 0 : -1;
      image.setAttribute("role", "button");
    });
  }
  return panel;
}
function panelOf(key) {
  if (!panels.has(key)) panels.set(key, data.lists.parity?.[key] ? ready(element(data.lists.parity[key])) : null);
  return panels.get(key);
}
const pairsOf = (key) => all(".worst > li", panelOf(key) || document.createElement("div")).map((item) => `p${item.dataset.index}`);
const pairItem = (key, card) => panelOf(key)?.querySelector(`.worst > li[data-index="${card.slice(1)}"]`) || null;
const pairPicture = (key, card, place) => { const item = pairItem(key, card); return item ? all("img", item)[place] : null; };
const pairText = (key, card, what) => pairItem(key, card)?.querySelector(what)?.textContent || "";
function showPanel(key) {
  if (!panelOf(key)) return;
  $("parity-cell").value = key;
  $("parity-panel").replaceChildren(panelOf(key));
}
if ($("parity-panel")) {
  for (const panel of all("#parity-panel > .panel")) panels.set(panel.dataset.cell, ready(panel));
  $("parity-cell").replaceChildren(...data.parity.keys.map((key) => new Option(`${key} ${data.names[key]}`, key)));
  const first = [...panels.keys()][0];
  $("parity-form").hidden = data.parity.keys.length < 2;
  $("parity-form").addEventListener("submit", (event) => event.preventDefault());
  $("parity-cell").addEventListener("change", () => { const key = $("parity-cell").value; showPanel(key); keep("pairs", key === first ? "" : key); });
  listeners.restored.push(() => showPanel(state.get("pairs") || first));
}
