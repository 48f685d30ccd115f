// -- plots: the table's filter and a colour per value of a swept axis
const seriesColour = (number) => `var(--s${number % 8 + 1})`;
function paintPlots(within = document) {
  const shown = new Set(visible.map((place) => rows[place].key));
  const filtered = shown.size < rows.length;
  const column = Number($("colour")?.value || 0);
  const values = column ? [...all(`#filters select[data-col="${column}"] option`)].map((o) => o.value).filter(Boolean) : [];
  for (const mark of all("svg [data-c]", within)) {
    const key = mark.dataset.c;
    mark.classList.toggle("off", !shown.has(key));
    const colour = column ? seriesColour(values.indexOf(rows[byKey.get(key)].values[column])) : "";
    if (mark.tagName === "path") { mark.style.fill = colour; mark.style.stroke = colour; }
  }
  for (const svg of all("#plots svg[role=img]", within)) svg.classList.toggle("faint", filtered || column > 0);
  if (!$("colours")) return;
  $("colour-legend").replaceChildren(...values.map((value, number) => {
    const item = document.createElement("li");
    const dot = document.createElement("span");
    dot.className = "dot";
    dot.style.background = seriesColour(number);
    item.append(dot, value);
    return item;
  }));
  $("plots-filtered").textContent = filtered ? `${shown.size} of ${rows.length} cells, as the table's filter says` : "";
}
if ($("colours")) {
  $("colours").hidden = rows.length < 2;
  $("colours").addEventListener("submit", (event) => event.preventDefault());
  $("colour").addEventListener("change", () => { keep("colour", $("colour").value); paintPlots(); });
  listeners.restored.push(() => { $("colour").value = state.get("colour") || ""; if ($("colour").selectedIndex < 0) $("colour").value = ""; painted = ""; });
}
let painted = "";
listeners.cells.push(() => { // sorting alone changes nothing here
  const now = [...visible].sort((a, b) => a - b).join();
  if (now !== painted) paintPlots();
  painted = now;
});
document.addEventListener("pointerover", (event) => {
  const mark = event.target.closest?.("[data-t]");
  if (!mark) return;
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = mark.dataset.t;
  mark.removeAttribute("data-t");
  mark.append(title);
});
listeners.inserted.push(paintPlots);
