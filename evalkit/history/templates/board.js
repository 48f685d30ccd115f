"use strict";
(() => {
  const form = document.getElementById("controls");
  const metric = document.getElementById("metric");
  const filter = document.getElementById("filter");
  const status = document.getElementById("status");
  const sections = [...document.querySelectorAll(".metric")];
  const rows = [...document.querySelectorAll(".metric tbody tr")];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  let sorted = null; // the column that all tables are sorted by, and where to

  const named = (section) => section.dataset.name;

  function show() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const section of sections) {
      section.hidden = metric.value !== "" && section.id !== metric.value;
      for (const table of section.querySelectorAll("table")) {
        let here = 0;
        for (const row of table.tBodies[0].rows) {
          row.hidden = !words.every((word) => texts.get(row).includes(word));
          here += !row.hidden;
        }
        table.parentElement.nextElementSibling.hidden = here > 0;
        if (!section.hidden) shown += here;
      }
    }
    status.textContent = `${shown} ${shown === 1 ? "entry" : "entries"}`;
  }

  function sort(column, direction) {
    for (const table of document.querySelectorAll(".metric table")) {
      const heads = table.tHead.rows[0].cells;
      for (const [number, head] of [...heads].entries()) {
        if (number === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      }
      table.classList.add("sorted");
      const numeric = heads[column].querySelector("button").dataset.kind === "number";
      const value = (row) => (numeric ? Number(row.cells[column].dataset.value) : row.cells[column].textContent.trim());
      const lines = [...table.tBodies[0].rows];
      lines.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        return direction * (numeric ? x - y : x.localeCompare(y, undefined, { numeric: true }));
      });
      table.tBodies[0].append(...lines);
      for (const line of lines) line.classList.remove("group"); // groups are lines between ranks, in their order
    }
    sorted = [column, direction];
  }

  function keep() {
    const state = new URLSearchParams();
    const section = sections.find((each) => each.id === metric.value);
    state.set("metric", section ? named(section) : "");
    if (filter.value) state.set("q", filter.value);
    if (sorted) state.set("sort", sorted.join(" "));
    history.replaceState(null, "", `#${state}`);
  }

  function restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    if (state.has("metric")) {
      const section = sections.find((each) => named(each) === state.get("metric"));
      metric.value = section ? section.id : "";
    }
    filter.value = state.get("q") ?? "";
    const [column, direction] = (state.get("sort") ?? "").split(" ").map(Number);
    const head = document.querySelector(".metric thead tr")?.cells[column];
    if (head?.querySelector("button") && Math.abs(direction) === 1) sort(column, direction);
    show();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("th button");
    if (!button) return;
    const head = button.closest("th");
    sort(head.cellIndex, head.getAttribute("aria-sort") === "ascending" ? -1 : 1);
    keep();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { show(); keep(); });
  window.addEventListener("hashchange", restore);
  form.hidden = false;
  restore();
})();
