"use strict";
// Without this script the page holds everything, unsorted: it adds sorting, filtering, paging, copying and the theme.
(() => {
  const $ = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = JSON.parse($("data").textContent);
  const say = (text) => { $("status").textContent = text; };
  const minus = (text) => text.replace("-", "−");

  // -- theme
  const root = document.documentElement;
  const themes = ["automatic", "light", "dark"];
  const remembered = () => { try { return localStorage.getItem("evalkit-theme"); } catch { return null; } };
  const setTheme = (name) => {
    if (name === "automatic") delete root.dataset.theme; else root.dataset.theme = name;
    $("theme").textContent = { automatic: "Auto", light: "Light", dark: "Dark" }[name];
    $("theme").setAttribute("aria-label", `Theme: ${name}`);
  };
  $("theme").hidden = false;
  setTheme(themes.includes(remembered()) ? remembered() : "automatic");
  $("theme").addEventListener("click", () => {
    const name = themes[(themes.indexOf(root.dataset.theme || "automatic") + 1) % themes.length];
    setTheme(name);
    try { localStorage.setItem("evalkit-theme", name); } catch { /* a page from a file may have no storage */ }
  });

  // -- the table: sorting and filtering
  const table = $("scores");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[1].cells];
  const valueOf = (row, column) => row.cells[column].dataset.v;

  function compare(column, kind, direction) {
    return (a, b) => {
      const [x, y] = [valueOf(a, column), valueOf(b, column)];
      if (kind !== "text") {
        // Missing values come last; those of another protocol after the others, never among them.
        const rank = (row, v) => (v === undefined ? 2 : "apart" in row.cells[column].dataset ? 1 : 0);
        const order = rank(a, x) - rank(b, y);
        return order || (x === undefined ? 0 : direction * (Number(x) - Number(y)));
      }
      const [p, q] = [Number(x), Number(y)];
      return direction * (x !== "" && y !== "" && !isNaN(p) && !isNaN(q) ? p - q : x.localeCompare(y));
    };
  }

  function sortBy(column) {
    const head = heads[column];
    const kind = head.dataset.kind;
    const first = kind === "high" ? "descending" : "ascending"; // the best first
    const second = first === "ascending" ? "descending" : "ascending";
    const now = head.getAttribute("aria-sort");
    const next = now === first ? second : now === second ? "none" : first;
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", next);
    const sorted = next === "none" ? rows : [...rows].sort(compare(column, kind, next === "ascending" ? 1 : -1));
    body.append(...sorted);
    say(next === "none" ? "In the run's order" : `Sorted by ${head.textContent.trim()}, ${next}`);
  }

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sortBy(column));
  });

  const filters = $("filters");
  filters.hidden = false;
  function filter() {
    const chosen = all("select", filters).filter((s) => s.value !== "").map((s) => [Number(s.dataset.col), s.selectedOptions[0].value]);
    const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = `${row.dataset.find} ${row.textContent.toLowerCase()}`;
      row.hidden = !(chosen.every(([column, value]) => valueOf(row, column) === value) && words.every((w) => text.includes(w)));
      shown += !row.hidden;
    }
    $("count").textContent = shown === rows.length ? "" : `${shown} of ${rows.length} cells`;
  }
  filters.addEventListener("input", filter);
  filters.addEventListener("reset", () => setTimeout(filter));
  filters.addEventListener("submit", (event) => event.preventDefault());

  // -- copying: the clipboard where there is one, else the text is shown and selected
  function show(source) {
    const details = source.closest("details");
    if (details) details.open = true;
    if (source.select) { source.focus(); source.select(); } else getSelection().selectAllChildren(source);
    say("Selected: copy it with the keyboard");
  }
  for (const button of all("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = $(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.value ?? source.textContent);
        const label = button.textContent;
        button.textContent = "Copied";
        say("Copied");
        setTimeout(() => { button.textContent = label; }, 1500);
      } catch { show(source); }
    });
  }

  // -- side by side
  const list = $("cards");
  if (list) {
    const PAGE = 8;
    const { cards, scales } = data.gallery;
    const items = [...list.children];
    const hiddenCells = new Set();
    let page = 0;
    let order = cards.map((_, i) => i);
    const scoreOf = (scale, key, card) => (scale.scores[key] || [])[card] ?? null;
    // How much worse than the base a sample is; null where they do not share prompt and seed.
    const dropOf = (scale, key, card) => {
      const [value, base] = [scoreOf(scale, key, card), scoreOf(scale, scale.base, card)];
      return value === null || base === null || !scale.paired.includes(key) ? null : scale.sign * (base - value);
    };
    const chosen = () => {
      const [way, number] = $("by").value.split(" ");
      return { way, scale: scales[Number(number || 0)] };
    };

    function badness(card) { // the largest comes first
      const { way, scale } = chosen();
      const keys = ($("in").value ? [$("in").value] : Object.keys(scale.scores)).filter((key) => !hiddenCells.has(key));
      const values = keys.map((key) => {
        if (way === "drop") return dropOf(scale, key, card);
        const score = scoreOf(scale, key, card);
        return score === null ? null : -scale.sign * score;
      }).filter((value) => value !== null);
      return values.length ? Math.max(...values) : -Infinity;
    }

    function caption(figure, card) {
      const { scale } = chosen();
      if (!scale) return;
      const key = figure.dataset.cell;
      const [score, drop] = [scoreOf(scale, key, card), dropOf(scale, key, card)];
      const at = figure.querySelector(".score");
      if (at) at.textContent = score === null ? "" : minus(score.toPrecision(4));
      const mark = figure.querySelector(".drop");
      const gap = drop === null ? 0 : -scale.sign * drop;
      mark.textContent = drop === null ? "" : `${gap > 0 ? "+" : ""}${minus(gap.toFixed(Math.abs(gap) >= 100 ? 0 : Math.abs(gap) >= 10 ? 1 : 2))}`;
      mark.className = `num drop ${drop > 0 ? "worse" : drop < 0 ? "better" : ""}`;
      figure.classList.toggle("base-cell", key === scale.base && scale.paired.length > 0);
    }

    function render() {
      const pages = Math.max(1, Math.ceil(order.length / PAGE));
      page = Math.min(Math.max(page, 0), pages - 1);
      const shown = order.slice(page * PAGE, (page + 1) * PAGE);
      for (const item of items) item.hidden = true;
      for (const card of shown) {
        const item = items[card];
        item.hidden = false;
        for (const figure of all("figure", item)) {
          figure.hidden = hiddenCells.has(figure.dataset.cell);
          caption(figure, card);
        }
      }
      list.append(...shown.map((card) => items[card]));
      $("page").textContent = `page ${page + 1} of ${pages}`;
      $("previous").disabled = page === 0;
      $("next").disabled = page === pages - 1;
      const { scale } = chosen();
      if (scale && $("shown-metric")) $("shown-metric").textContent = scale.label;
      if (scale && $("shown-base")) $("shown-base").textContent = scale.base ?? "none";
    }

    function reorder() {
      const { way } = chosen();
      order = cards.map((_, i) => i);
      if (way !== "index") {
        const by = order.map(badness);
        order.sort((a, b) => (by[a] === by[b] ? a - b : by[b] > by[a] ? 1 : -1));
      }
      page = 0;
      render();
    }

    $("order").hidden = false;
    $("order").addEventListener("submit", (event) => event.preventDefault());
    $("by").addEventListener("change", reorder);
    $("in").addEventListener("change", reorder);
    $("previous").addEventListener("click", () => { page -= 1; render(); });
    $("next").addEventListener("click", () => { page += 1; render(); });
    for (const box of all("#cells input")) {
      box.hidden = false;
      box.checked = true;
      box.addEventListener("change", () => {
        if (box.checked) hiddenCells.delete(box.value); else hiddenCells.add(box.value);
        reorder();
      });
    }
    $("by").value = "index";
    reorder();
  }

  // -- a link into closed details opens them; print opens what belongs on paper
  function openTarget() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
  }
  addEventListener("hashchange", openTarget);
  openTarget();
  addEventListener("beforeprint", () => all("details.print").forEach((d) => { d.open = true; }));
})();
