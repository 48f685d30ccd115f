// -- the table: sorting, filtering and paging over data; a line becomes elements when it is shown
const table = $("scores");
const body = table.tBodies[0];
const rows = data.rows;
const heads = [...table.tHead.rows[1].cells];
const lines = [...body.rows]; // by place in the run's order; those that are not there yet are made
const byKey = new Map(rows.map((row, place) => [row.key, place]));
const chosen = new Set(); // cells ticked to be seen side by side; none: the first of the table
let sorted = rows.map((_, place) => place);
let visible = sorted;
let rowPage = 0;

function lineOf(place) {
  const line = lines[place] ??= element(data.lists.rows[place].replace(/^\s*<tr/, "<table><tr")).rows[0];
  if (data.gallery.cards?.length && !line.querySelector("input")) {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.title = "Show its pictures side by side";
    box.setAttribute("aria-label", `Show pictures of ${rows[place].key}`);
    box.addEventListener("change", () => choose(rows[place].key, box.checked));
    line.cells[0].append(" ", box);
  }
  const box = line.querySelector("input");
  if (box) box.checked = chosen.has(rows[place].key);
  return line;
}

function choose(key, on) {
  if (on) chosen.add(key); else chosen.delete(key);
  keep("cells", [...chosen].join(","));
  tell("cells");
}

function compare(column, kind, direction) {
  return (p, q) => {
    const [x, y] = [rows[p].values[column], rows[q].values[column]];
    if (kind !== "text") {
      // Missing values come last; those of another protocol after the others, never among them.
      const rank = (row, v) => (v === null ? 2 : row.apart.includes(column) ? 1 : 0);
      return rank(rows[p], x) - rank(rows[q], y) || (x === null ? 0 : direction * (x - y));
    }
    const [a, b] = [Number(x), Number(y)];
    return direction * (x !== "" && y !== "" && !isNaN(a) && !isNaN(b) ? a - b : String(x).localeCompare(String(y)));
  };
}

function order(column, way) {
  heads.forEach((head) => head.setAttribute("aria-sort", "none"));
  sorted = rows.map((_, place) => place);
  if (heads[column] && way !== "none") {
    heads[column].setAttribute("aria-sort", way);
    sorted.sort(compare(column, heads[column].dataset.kind, way === "ascending" ? 1 : -1));
  }
}

function sortBy(column) {
  const head = heads[column];
  const first = head.dataset.kind === "high" ? "descending" : "ascending"; // the best first
  const second = first === "ascending" ? "descending" : "ascending";
  const now = head.getAttribute("aria-sort");
  const next = now === first ? second : now === second ? "none" : first;
  order(column, next);
  rowPage = 0;
  showRows();
  keep("sort", next === "none" ? "" : `${column}.${next}`);
  say(next === "none" ? "In the first order" : `Sorted by ${head.textContent.trim()}, ${next}`);
}

const filters = $("filters");
function showRows() {
  const picked = all("select", filters).filter((s) => s.value !== "").map((s) => [Number(s.dataset.col), s.value]);
  const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  visible = sorted.filter((place) => picked.every(([column, value]) => rows[place].values[column] === value)
    && words.every((word) => rows[place].find.includes(word)));
  const pages = Math.max(1, Math.ceil(visible.length / data.row_page));
  rowPage = Math.min(Math.max(rowPage, 0), pages - 1);
  body.replaceChildren(...visible.slice(rowPage * data.row_page, (rowPage + 1) * data.row_page).map(lineOf));
  $("count").textContent = visible.length === rows.length ? "" : `${visible.length} of ${rows.length} cells`;
  $("row-pages").hidden = rows.length <= data.row_page;
  $("rows-page").textContent = `page ${rowPage + 1} of ${pages}`;
  $("rows-previous").disabled = rowPage === 0;
  $("rows-next").disabled = rowPage === pages - 1;
  tell("cells");
}

function filter() {
  rowPage = 0;
  for (const select of all("select", filters)) keep(`f${select.dataset.col}`, select.value);
  keep("find", $("find").value);
  showRows();
}

function reveal(key) { // a link to a cell's line, wherever it is
  if (!byKey.has(key)) return;
  let at = visible.indexOf(byKey.get(key));
  if (at < 0) { filters.reset(); showRows(); at = visible.indexOf(byKey.get(key)); }
  rowPage = Math.floor(at / data.row_page);
  showRows();
  all("tr.found", body).forEach((line) => line.classList.remove("found"));
  lineOf(byKey.get(key)).classList.add("found");
  lineOf(byKey.get(key)).scrollIntoView({ block: "center" });
}

function restoreTable() {
  const [column, way] = (state.get("sort") || "").split(".");
  order(Number(column || 0), ["ascending", "descending"].includes(way) ? way : "none");
  for (const select of all("select", filters)) {
    select.value = state.get(`f${select.dataset.col}`) || "";
    if (select.selectedIndex < 0) select.value = "";
  }
  $("find").value = state.get("find") || "";
  chosen.clear();
  (state.get("cells") || "").split(",").filter((key) => byKey.has(key)).forEach((key) => chosen.add(key));
  rowPage = Number(state.get("rows")) - 1 || 0;
}

heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => sortBy(column));
});
filters.hidden = false;
if ($("first-rows")) $("first-rows").hidden = true;
filters.addEventListener("input", filter);
filters.addEventListener("reset", () => setTimeout(filter));
filters.addEventListener("submit", (event) => event.preventDefault());
for (const [id, step] of [["rows-previous", -1], ["rows-next", 1]]) {
  $(id).addEventListener("click", () => { rowPage += step; showRows(); keep("rows", rowPage ? rowPage + 1 : ""); });
}
listeners.restored.push(restoreTable);
